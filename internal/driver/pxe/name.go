package pxe

import "ingot/internal/ingot"

// The names of the boot interfaces.
const (
	Name      = "ipxe"
	PlainName = "pxe"
	MediaName = "redfish-virtual-media"
)

// Names are all names that boot interfaces have, each with the one that says what it does: the hardware type
// ilo has names of its own for the same.
var Names = map[string]string{
	Name: Name, PlainName: PlainName, MediaName: MediaName,
	"ilo-ipxe": Name, "ilo-pxe": PlainName, "ilo-virtual-media": MediaName,
}

// Kind is what the boot interface of a node does: Name, PlainName or MediaName; "" is another one.
func Kind(n *ingot.Node) string { return Names[n.Interfaces["boot"]] }
