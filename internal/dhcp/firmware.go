package dhcp

import (
	"encoding/hex"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Class is what a client says it is in option 60.
type Class string

// The classes that boot over the network: PXE specification 2.1, UEFI specification section
// 24.7. Anything else is an operating system asking for an address.
const (
	ClassOther Class = ""
	ClassPXE   Class = "PXEClient"
	ClassHTTP  Class = "HTTPClient"
)

// OptionIPXE is the option iPXE encapsulates its own settings in.
const OptionIPXE = dhcpv4.GenericOptionCode(175)

// ipxeNoProxy is iPXE's setting no-pxedhcp, sub-option 176 of option 175: with the value 1 iPXE
// takes the first offer at once. Else it waits three seconds for a ProxyDHCP offer.
const ipxeNoProxy = 176

// A Client is the firmware or the operating system behind a request.
type Client struct {
	Class Class
	Arch  iana.Arch // RFC 4578 option 93; Intel x86 BIOS if absent
	IPXE  bool      // iPXE, from ROM or chain-loaded: the wire does not tell them apart
	UUID  string    // option 97, lower case with dashes; "" if absent
}

// Identify tells who sent a request. What real firmware sends:
//
//	iPXE ROM, BIOS   60 "PXEClient:Arch:00000:UNDI:002001", 77 "iPXE", 175
//	iPXE, UEFI       60 "PXEClient:Arch:00007:UNDI:003010", 77 "iPXE", 175
//	OVMF PXE         60 "PXEClient:Arch:00007:UNDI:003000"
//	OVMF HTTP boot   60 "HTTPClient:Arch:00016:UNDI:003000"
func Identify(p *dhcpv4.DHCPv4) Client {
	c := Client{Arch: iana.INTEL_X86PC}
	switch vendor := p.ClassIdentifier(); {
	case strings.HasPrefix(vendor, string(ClassPXE)):
		c.Class = ClassPXE
	case strings.HasPrefix(vendor, string(ClassHTTP)):
		c.Class = ClassHTTP
	}
	if arch := p.ClientArch(); len(arch) > 0 {
		c.Arch = arch[0]
	}
	// RFC 3004 wants length-prefixed strings in option 77; iPXE sends the bare word.
	user := string(p.Options.Get(dhcpv4.OptionUserClassInformation))
	c.IPXE = user == "iPXE" || user == "\x04iPXE" || p.Options.Has(OptionIPXE)
	// RFC 4578 section 2.3: type 0, then 16 bytes.
	if id := p.Options.Get(dhcpv4.OptionClientMachineIdentifier); len(id) == 17 && id[0] == 0 {
		c.UUID = machineUUID(id[1:])
	}
	return c
}

// machineUUID writes 16 bytes as UUID, in the order of the wire. Firmware is not of one mind
// about the byte order of the first three fields, so this is for people, not for look-ups.
func machineUUID(b []byte) string {
	h := hex.EncodeToString(b)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// WithoutProxyWait tells iPXE not to wait for a ProxyDHCP offer; without it every start of iPXE
// takes three seconds longer.
func WithoutProxyWait(p *dhcpv4.DHCPv4) {
	p.UpdateOption(dhcpv4.OptGeneric(OptionIPXE, []byte{ipxeNoProxy, 1, 1}))
}

// WithBootNow tells a PXE ROM to take the boot file of this offer and to look for no boot
// server: option 43, sub-option 6 (PXE_DISCOVERY_CONTROL) with bit 3, PXE 2.1 table 2-1.
func WithBootNow(p *dhcpv4.DHCPv4) {
	p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation,
		[]byte{6, 1, 8, 255}))
}
