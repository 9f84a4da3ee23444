package dhcp

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
)

// A Pool is a range of IPv4 addresses, both ends included.
type Pool struct {
	First, Last netip.Addr
}

// Size is the number of addresses; 0 for a range that is none.
func (p Pool) Size() uint64 {
	if !p.First.Is4() || !p.Last.Is4() || p.Last.Less(p.First) {
		return 0
	}
	return uint64(number(p.Last)-number(p.First)) + 1
}

// Contains tells whether an address is of the pool.
func (p Pool) Contains(a netip.Addr) bool {
	return p.Size() > 0 && a.Is4() && !a.Less(p.First) && !p.Last.Less(a)
}

// Pick chooses the address for a MAC: the first one not taken, counted from a place that only
// the MAC decides. Servers that agree on what is taken therefore offer the same address, and a
// machine gets its old one back as long as nobody else needed it. It is false when all are
// taken.
func (p Pool) Pick(mac net.HardwareAddr, taken func(netip.Addr) bool) (netip.Addr, bool) {
	size := p.Size()
	if size == 0 {
		return netip.Addr{}, false
	}
	h := fnv.New64a()
	h.Write(mac)
	start := h.Sum64() % size
	for i := range size {
		n := number(p.First) + uint32((start+i)%size)
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n)
		if a := netip.AddrFrom4(b); !taken(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// String returns "first-last".
func (p Pool) String() string { return fmt.Sprintf("%s-%s", p.First, p.Last) }

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
