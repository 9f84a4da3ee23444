package pxe

import "strconv"

// Outage has n machines ask in vain, and tells how many are remembered and whether any is tired.
func Outage(n int) (kept int, tired bool) {
	var o outage
	for i := range n {
		tired = o.tired(strconv.Itoa(i)) || tired
	}
	return len(o.asking), tired
}
