package bootd

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/dhcp"
	"ingot/internal/ingot"
)

// Site6 is what every DHCPv6 answer says about us. There are no leases: an address is the
// network's 64 bits and the MAC (EUI-64), so it is nobody else's and the same at every server.
type Site6 struct {
	Address  netip.Addr     // ours; invalid: no DHCPv6
	MAC      []byte         // of our interface, for the server identifier
	Networks []netip.Prefix // of 64 bits; the first one is that of our interface
}

// network tells on which network a client is. false: on none of ours.
func (s Site6) network(q *dhcp.Request6) (netip.Prefix, bool) {
	if !isSet(q.Link) {
		return s.Networks[0], true
	}
	for _, n := range s.Networks {
		if n.Contains(q.Link) {
			return n, true
		}
	}
	return netip.Prefix{}, false
}

func (s Site6) id() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: s.MAC}
}

// meant tells whether a message is for us, RFC 8415 section 16: some name their server, some
// must not.
func (s Site6) meant(q *dhcp.Request6) bool {
	server := q.Options.ServerID()
	ours := server != nil && server.Equal(s.id())
	switch q.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return server == nil && q.Options.ClientID() != nil
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease,
		dhcpv6.MessageTypeDecline:
		return ours && q.Options.ClientID() != nil
	case dhcpv6.MessageTypeInformationRequest:
		return (server == nil || ours) && len(q.Options.IANA()) == 0
	default:
		return false
	}
}

// handleDHCP6 answers port 547.
func (s *Server) handleDHCP6(ctx context.Context, q *dhcp.Request6) (*dhcpv6.Message, error) {
	if !s.site6.meant(q) {
		return nil, nil
	}
	m, err := s.machine6(ctx, q)
	if err != nil || m.MAC == nil {
		return nil, err
	}
	if m.Node == nil && !s.AnswerUnknown {
		s.warnUnknown(m)
		return nil, nil
	}
	network, ok := s.site6.network(q)
	if !ok {
		s.warnNetwork(m, q.Link)
		return nil, nil
	}
	address := dhcp.EUI64(network, m.MAC)
	boot := s.decide6(q, m)
	r := s.reply6(q, boot)
	switch q.MessageType {
	case dhcpv6.MessageTypeConfirm:
		if !confirm6(q, r, network) {
			return nil, nil
		}
	case dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		r.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
	default:
		s.addIdentities(q, r, address)
		s.seen.put(address, m)
	}
	s.note6(q, r, m, boot)
	return r, nil
}

// machine6 is the machine of the first MAC that a port has, else nobody's with the first MAC; no
// MAC if the message shows none.
func (s *Server) machine6(ctx context.Context, q *dhcp.Request6) (Machine, error) {
	var first Machine
	for i, mac := range q.MACs {
		m, err := s.machine(ctx, mac)
		if err != nil || m.Node != nil {
			return m, err
		}
		if i == 0 {
			first = m
		}
	}
	return first, nil
}

// decide6 decides as for IPv4, and writes a file of our TFTP server as a URL.
func (s *Server) decide6(q *dhcp.Request6, m Machine) Boot {
	host := "[" + s.site6.Address.String() + "]"
	b := decide(m, dhcp.Identify6(q.Message), fmt.Sprintf("http://%s:%d", host, port(s.http)))
	if b.TFTP {
		b.File = "tftp://" + host + "/" + b.File
	}
	return b
}

// reply6 makes the answer, without what it says about addresses.
func (s *Server) reply6(q *dhcp.Request6, b Boot) *dhcpv6.Message {
	r := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: q.TransactionID}
	r.AddOption(dhcpv6.OptServerID(s.site6.id()))
	if id := q.GetOneOption(dhcpv6.OptionClientID); id != nil {
		r.AddOption(id)
	}
	if q.MessageType == dhcpv6.MessageTypeSolicit {
		if rapid := q.GetOneOption(dhcpv6.OptionRapidCommit); rapid != nil {
			r.AddOption(rapid)
		} else {
			r.MessageType = dhcpv6.MessageTypeAdvertise
			// The greatest preference ends the client's wait for other servers, section 18.2.1.
			r.AddOption(dhcpv6.OptPreference(255))
		}
	}
	if b.File != "" {
		r.AddOption(dhcpv6.OptBootFileURL(b.File))
		if dhcp.Identify6(q.Message).Class == dhcp.ClassHTTP {
			// EDK2's HTTP boot drops an answer without "HTTPClient". Its PXE takes "PXEClient" for
			// the offer of a boot server, and asks that for the file on port 4011.
			for _, class := range q.Options.VendorClasses() {
				r.AddOption(class)
			}
		}
	}
	return r
}

// addIdentities answers each identity association, section 18.3.
func (s *Server) addIdentities(q *dhcp.Request6, r *dhcpv6.Message, a netip.Addr) {
	lease := s.site.Lease
	for i, ia := range q.Options.IANA() {
		answer := &dhcpv6.OptIANA{IaId: ia.IaId, T1: lease / 2, T2: lease * 4 / 5}
		if i == 0 {
			answer.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: lease,
				ValidLifetime: lease})
		} else {
			answer.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail,
				StatusMessage: "a machine has one address"})
		}
		for _, other := range ia.Options.Addresses() {
			if !other.IPv6Addr.Equal(a.AsSlice()) && q.MessageType != dhcpv6.MessageTypeSolicit {
				// Lifetimes of zero: it is not to be used any more.
				answer.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: other.IPv6Addr})
			}
		}
		r.AddOption(answer)
	}
	for _, ia := range q.Options.IAPD() {
		answer := &dhcpv6.OptIAPD{IaId: ia.IaId}
		answer.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail})
		r.AddOption(answer)
	}
}

// confirm6 tells whether the client's addresses are of its network, section 18.3.3. It is false
// if there is nothing to tell.
func confirm6(q *dhcp.Request6, r *dhcpv6.Message, network netip.Prefix) bool {
	status, asked := iana.StatusSuccess, false
	for _, ia := range q.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			asked = true
			if ip, ok := netip.AddrFromSlice(a.IPv6Addr); !ok || !network.Contains(ip) {
				status = iana.StatusNotOnLink
			}
		}
	}
	r.AddOption(&dhcpv6.OptStatusCode{StatusCode: status})
	return asked
}

func (s *Server) note6(q *dhcp.Request6, r *dhcpv6.Message, m Machine, b Boot) {
	said, address := "", ""
	if ia := r.Options.OneIANA(); ia != nil {
		if a := ia.Options.OneAddress(); a != nil {
			address = a.IPv6Addr.String()
			said = address + ", "
		}
	}
	if b.File == "" {
		said += "nothing to boot"
	} else {
		said += b.shown()
	}
	level, kind := ingot.LevelInfo, q.MessageType.String()
	if q.MessageType == dhcpv6.MessageTypeDecline {
		level = ingot.LevelWarning
		said = "the address is in use by another host, find that host"
	}
	s.note(m, level, "dhcp", fmt.Sprintf("DHCPv6 %s answered with %s: %s (%s)", kind,
		r.MessageType, said, b.Why), ingot.Object{"request": kind,
		"answer": r.MessageType.String(), "address": address, "file": b.shown()})
}

// setSite6 works out what DHCPv6 answers say. network is that of the interface, if configured.
func (s *Server) setSite6() error {
	prefixes, err := addresses(s.Interface, netip.Addr.Is6)
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "addresses of boot.interface %q: %w", s.Interface, err)
	}
	dev, err := net.InterfaceByName(s.Interface)
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "boot.interface %q: %w", s.Interface, err)
	}
	s.site6 = Site6{MAC: dev.HardwareAddr}
	local := s.Prefix6
	for _, p := range prefixes {
		if p.Addr().IsLinkLocalUnicast() || local.IsValid() && !local.Contains(p.Addr()) {
			continue
		}
		s.site6.Address = p.Addr()
		if !local.IsValid() {
			local = netip.PrefixFrom(p.Addr(), 64).Masked()
		}
		break
	}
	if !s.site6.Address.IsValid() {
		return ingot.Errorf(ingot.Invalid, "boot.interface %q has no IPv6 address%s besides its "+
			"link-local one; give it one or set boot.dhcp.ipv6 to false", s.Interface,
			map[bool]string{true: " of " + local.String()}[local.IsValid()])
	}
	s.site6.Networks = []netip.Prefix{local}
	for _, n := range s.Relayed {
		if n.Prefix6.IsValid() {
			s.site6.Networks = append(s.site6.Networks, n.Prefix6)
		}
	}
	return nil
}
