package bootd

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/dhcp"
)

// An Offer is what the reply to a request says; the zero value is nothing.
type Offer struct {
	Kind    dhcpv4.MessageType
	Network *Network      // nil: nothing about the network (proxy)
	Address netip.Addr    // yiaddr; invalid: none (proxy, INFORM)
	Lease   time.Duration // of Address
	Boot    Boot
	// As is the server in whose place the answer is given; invalid: this one.
	As netip.Addr
}

// maxFile is the longest name that fits the file field of the header with its terminator.
const maxFile = 127

// tftpServers is option 150, RFC 5859.
const tftpServers = dhcpv4.GenericOptionCode(150)

// reply makes the answer to a request. The options of the relay (82) and the client's own
// identifier (61, RFC 6842) go back as they came.
func (s Site) reply(q *dhcpv4.DHCPv4, o Offer) (*dhcpv4.DHCPv4, error) {
	id := s.Address
	if o.As.IsValid() {
		id = o.As
	}
	r, err := dhcpv4.NewReplyFromRequest(q, dhcpv4.WithMessageType(o.Kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(id.AsSlice())))
	if err != nil {
		return nil, fmt.Errorf("make DHCP reply: %w", err)
	}
	if relay := dhcpv4.OptionRelayAgentInformation; q.Options.Has(relay) { // an empty one, too
		r.UpdateOption(dhcpv4.OptGeneric(relay, q.Options.Get(relay)))
	}
	if o.Kind == dhcpv4.MessageTypeNak {
		if isSet(ipv4(q.GatewayIPAddr)) {
			r.SetBroadcast() // RFC 2131 section 4.3.2: the client has no address the relay could use
		}
		return r, nil
	}
	if o.Kind == dhcpv4.MessageTypeAck {
		r.ClientIPAddr = q.ClientIPAddr // table 3
	}
	// The machine's identity is echoed, PXE 2.1 table 2-1; some ROMs check it.
	if id := q.Options.Get(dhcpv4.OptionClientMachineIdentifier); id != nil {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
	if o.Network != nil {
		addNetwork(r, o)
	}
	s.addBoot(r, dhcp.Identify(q), o.Boot)
	asked := q.Options.Get(dhcpv4.OptionParameterRequestList)
	if o.Boot.TFTP && slices.Contains(asked, tftpServers.Code()) {
		r.UpdateOption(dhcpv4.OptGeneric(tftpServers, s.Address.AsSlice()))
	}
	fit(r, q)
	return r, nil
}

// addNetwork adds what a host needs to use the network, RFC 2132. It is told whether the client
// asks for it or not: firmware forgets to ask for things it then misses.
func addNetwork(r *dhcpv4.DHCPv4, o Offer) {
	if o.Address.IsValid() {
		r.YourIPAddr = o.Address.AsSlice()
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(o.Lease))
	}
	r.UpdateOption(dhcpv4.OptSubnetMask(netMask(o.Network.Prefix)))
	if o.Network.Router.IsValid() {
		r.UpdateOption(dhcpv4.OptRouter(o.Network.Router.AsSlice()))
	}
	if len(o.Network.DNS) > 0 {
		r.UpdateOption(dhcpv4.OptDNS(slices4(o.Network.DNS)...))
	}
}

// The sizes of an IP packet: what every client takes (RFC 2131 section 2), and what goes over an
// Ethernet in one piece.
const (
	leastPacket = 576
	mostPacket  = 1500
	ipAndUDP    = 28 // bytes of headers
)

// fit keeps a reply within what the client takes (option 57). Options go in this order: what the
// header says, too; what the client did not ask for; at last the relay's, which RFC 3046 section
// 2.2 prefers to no answer.
func fit(r, q *dhcpv4.DHCPv4) {
	most := leastPacket
	if size, err := q.MaxMessageSize(); err == nil {
		most = min(max(int(size), leastPacket), mostPacket)
	}
	most -= ipAndUDP
	if size(r) <= most {
		return
	}
	spare := []dhcpv4.OptionCode{}
	if r.BootFileName != "" {
		spare = append(spare, dhcpv4.OptionBootfileName)
	}
	if isSet(ipv4(r.ServerIPAddr)) {
		spare = append(spare, dhcpv4.OptionTFTPServerName, tftpServers)
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionDomainNameServer, dhcpv4.OptionRouter} {
		if !q.IsOptionRequested(code) {
			spare = append(spare, code)
		}
	}
	for _, code := range append(spare, dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionRelayAgentInformation) {
		r.Options.Del(code)
		if size(r) <= most {
			return
		}
	}
}

// size is the length of a packet, without the padding of short ones: fixed fields, cookie and end,
// and options of at most 255 bytes each (RFC 3396).
func size(p *dhcpv4.DHCPv4) int {
	n := 236 + 4 + 1
	for _, value := range p.Options {
		n += 2*max(1, (len(value)+254)/255) + len(value)
	}
	return n
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
		parts = append(parts, b.shown())
	}
	if len(parts) == 0 {
		return "nothing to boot"
	}
	return strings.Join(parts, ", ")
}
