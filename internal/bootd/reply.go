package bootd

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/dhcp"
)

// Site is what every DHCP answer says about the network.
type Site struct {
	Mode    Mode
	Address netip.Addr   // ours, IPv4: server identifier and next server
	Prefix  netip.Prefix // of the machines' network; gives the subnet mask
	Pool    dhcp.Pool    // addresses to give out; may be empty: reservations only
	Router  netip.Addr   // invalid: none is told
	DNS     []netip.Addr
	Lease   time.Duration
}

// maxFile is the longest name that fits the file field of the header with its terminator.
const maxFile = 127

// reply makes the answer of one kind to a request. address is yiaddr and may be invalid (proxy,
// INFORM): then there is no lease time either.
func (s Site) reply(q *dhcpv4.DHCPv4, kind dhcpv4.MessageType, address netip.Addr, b Boot) (
	*dhcpv4.DHCPv4, error,
) {
	r, err := dhcpv4.NewReplyFromRequest(q, dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(s.Address.AsSlice())))
	if err != nil {
		return nil, fmt.Errorf("make DHCP reply: %w", err)
	}
	if kind == dhcpv4.MessageTypeNak {
		return r, nil
	}
	// The machine's identity is echoed, PXE 2.1 table 2-1; some ROMs check it.
	if id := q.Options.Get(dhcpv4.OptionClientMachineIdentifier); id != nil {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
	if s.Mode == ModeServer {
		s.addNetwork(r, address)
	}
	s.addBoot(r, dhcp.Identify(q), b)
	return r, nil
}

// addNetwork adds what a host needs to use the network, RFC 2132.
func (s Site) addNetwork(r *dhcpv4.DHCPv4, address netip.Addr) {
	if address.IsValid() {
		r.YourIPAddr = address.AsSlice()
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(s.Lease))
	}
	mask := netMask(s.Prefix)
	r.UpdateOption(dhcpv4.OptSubnetMask(mask))
	if s.Router.IsValid() {
		r.UpdateOption(dhcpv4.OptRouter(s.Router.AsSlice()))
	}
	if len(s.DNS) > 0 {
		r.UpdateOption(dhcpv4.OptDNS(slices4(s.DNS)...))
	}
}

// addBoot adds what firmware needs to load its next program.
func (s Site) addBoot(r *dhcpv4.DHCPv4, c dhcp.Client, b Boot) {
	if c.IPXE && s.Mode == ModeServer {
		dhcp.WithoutProxyWait(r)
	}
	if b.File == "" {
		return
	}
	// The header and the options say the same: BIOS ROMs look into the header, EDK2 prefers
	// the options.
	if len(b.File) <= maxFile {
		r.BootFileName = b.File
	}
	r.UpdateOption(dhcpv4.OptBootFileName(b.File))
	if b.TFTP {
		r.ServerIPAddr = s.Address.AsSlice()
		r.UpdateOption(dhcpv4.OptTFTPServerName(s.Address.String()))
	}
	switch {
	case c.Class == dhcp.ClassHTTP:
		r.UpdateOption(dhcpv4.OptClassIdentifier(string(dhcp.ClassHTTP)))
	case s.Mode == ModeProxy:
		// Option 60 marks an offer without address as one of a boot server; option 43 keeps
		// the ROM from looking for more of them.
		r.UpdateOption(dhcpv4.OptClassIdentifier(string(dhcp.ClassPXE)))
		dhcp.WithBootNow(r)
		r.ServerIPAddr = s.Address.AsSlice()
	default:
		// A DHCP server that gives the address and the file sends no option 60: a ROM would
		// take it for "and there is a boot server on port 4011 of me", and would ask there.
	}
}

// describe says in one clause what an answer told the machine.
func describe(r *dhcpv4.DHCPv4, b Boot) string {
	if r.MessageType() == dhcpv4.MessageTypeNak {
		return "ask again"
	}
	var parts []string
	if !r.YourIPAddr.IsUnspecified() {
		parts = append(parts, r.YourIPAddr.String())
	}
	if b.File != "" {
		parts = append(parts, b.File)
	}
	if len(parts) == 0 {
		return "nothing to boot"
	}
	return strings.Join(parts, ", ")
}
