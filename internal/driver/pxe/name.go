package pxe

import "ingot/internal/ingot"

// The names of the boot interfaces. HTTPName boots a medium by the HTTP client of UEFI, HTTPIPXEName iPXE.
const (
	Name         = "ipxe"
	PlainName    = "pxe"
	MediaName    = "redfish-virtual-media"
	HTTPName     = "http"
	HTTPIPXEName = "http-ipxe"
)

// strictHTTPName is HTTPName for BMCs that can have the machine boot so, and no others.
const strictHTTPName = "redfish-https"

// Names are all names that boot interfaces have, each with the one that says what it does: the hardware type
// ilo has names of its own for the same.
var Names = map[string]string{
	Name: Name, PlainName: PlainName, MediaName: MediaName,
	HTTPName: HTTPName, strictHTTPName: HTTPName, HTTPIPXEName: HTTPIPXEName,
	"ilo-ipxe": Name, "ilo-pxe": PlainName, "ilo-virtual-media": MediaName,
}

// Kind is what the boot interface of a node does: one of the names above; "" is another one.
func Kind(n *ingot.Node) string { return Names[n.Interfaces["boot"]] }

// byHTTP tells whether the firmware of a node's machine loads what it boots by its own HTTP client.
func byHTTP(n *ingot.Node) bool { return Kind(n) == HTTPName || Kind(n) == HTTPIPXEName }

// fromMedium tells whether a node's machine boots a medium.
func fromMedium(n *ingot.Node) bool { return Kind(n) == MediaName || Kind(n) == HTTPName }
