package bootd

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/dhcp"
	"ingot/internal/ingot"
)

// handleDHCP answers port 67.
func (s *Server) handleDHCP(ctx context.Context, q *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	m, err := s.machine(ctx, q.ClientHWAddr)
	if err != nil {
		return nil, err
	}
	if m.Node == nil && !s.AnswerUnknown {
		s.warnUnknown(q)
		return nil, nil
	}
	if s.site.Mode == ModeProxy {
		if q.MessageType() != dhcpv4.MessageTypeDiscover {
			return nil, nil // requests are for the server that gives addresses
		}
		return s.proxy(q, m, dhcpv4.MessageTypeOffer)
	}
	if !s.reachable(q) {
		s.note(m, ingot.LevelWarning, "dhcp", fmt.Sprintf("no answer: asks through the relay %s, "+
			"and boot.dhcp.range has no addresses of that network", q.GatewayIPAddr), nil)
		return nil, nil
	}
	switch q.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.offer(ctx, q, m)
	case dhcpv4.MessageTypeRequest:
		return s.request(ctx, q, m)
	case dhcpv4.MessageTypeDecline:
		return nil, s.decline(ctx, q, m)
	case dhcpv4.MessageTypeRelease:
		return nil, s.release(ctx, q, m)
	case dhcpv4.MessageTypeInform:
		return s.answer(q, m, dhcpv4.MessageTypeAck, netip.Addr{})
	default:
		return nil, nil
	}
}

// handleProxy answers port 4011: the second question of PXE ROMs to a boot server, which has
// given no address and gets asked as if it had (PXE 2.1 section 2.2.5).
func (s *Server) handleProxy(ctx context.Context, q *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	m, err := s.machine(ctx, q.ClientHWAddr)
	if err != nil {
		return nil, err
	}
	if m.Node == nil {
		s.warnUnknown(q)
		return nil, nil
	}
	if q.MessageType() != dhcpv4.MessageTypeRequest {
		return nil, nil
	}
	return s.proxy(q, m, dhcpv4.MessageTypeAck)
}

// proxy answers with a boot file and no address, or not at all.
func (s *Server) proxy(q *dhcpv4.DHCPv4, m Machine, kind dhcpv4.MessageType) (
	*dhcpv4.DHCPv4, error,
) {
	boot := decide(m, dhcp.Identify(q), s.URL())
	if boot.File == "" {
		return nil, nil
	}
	return s.send(q, m, kind, netip.Addr{}, boot)
}

// answer makes a reply with what the machine boots, and remembers it in the journal.
func (s *Server) answer(q *dhcpv4.DHCPv4, m Machine, kind dhcpv4.MessageType, a netip.Addr) (
	*dhcpv4.DHCPv4, error,
) {
	return s.send(q, m, kind, a, decide(m, dhcp.Identify(q), s.URL()))
}

func (s *Server) send(q *dhcpv4.DHCPv4, m Machine, kind dhcpv4.MessageType, a netip.Addr,
	b Boot,
) (*dhcpv4.DHCPv4, error) {
	r, err := s.site.reply(q, kind, a, b)
	if err != nil {
		return nil, err
	}
	if a.IsValid() {
		s.seen.put(a, m)
	}
	text := fmt.Sprintf("DHCP %s answered with %s: %s (%s)", q.MessageType(), kind,
		describe(r, b), b.Why)
	s.note(m, ingot.LevelInfo, "dhcp", text, ingot.Object{"request": q.MessageType().String(),
		"answer": kind.String(), "address": addressText(a), "file": b.File})
	return r, nil
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// offer answers DISCOVER: the address is held for a minute, so that two machines that start
// together are not offered the same one.
func (s *Server) offer(ctx context.Context, q *dhcpv4.DHCPv4, m Machine) (*dhcpv4.DHCPv4, error) {
	wish, _ := netip.AddrFromSlice(q.RequestedIPAddress().To4())
	a, err := s.leases.offer(ctx, m, wish)
	switch ingot.KindOf(err) {
	case "":
	case ingot.Unavailable, ingot.Conflict:
		// The pool is exhausted, or the reserved address is leased to another machine: a
		// person has to act, and reads why in the log and at the node.
		s.Log.Error("no address to offer", "mac", m.MAC, "pool", s.site.Pool, "error", err)
		s.note(m, ingot.LevelError, "dhcp", "no address to offer: "+err.Error(), nil)
		return nil, nil
	default:
		return nil, fmt.Errorf("choose address for %s: %w", m.MAC, err)
	}
	return s.answer(q, m, dhcpv4.MessageTypeOffer, a)
}

// request answers REQUEST, RFC 2131 section 4.3.2. A machine we know is ours to refuse, also
// when another server gave it the address: two servers for one machine are a fault of the site.
func (s *Server) request(ctx context.Context, q *dhcpv4.DHCPv4, m Machine) (
	*dhcpv4.DHCPv4, error,
) {
	if id := q.ServerIdentifier(); id != nil && !id.Equal(s.site.Address.AsSlice()) {
		// The client took another server's offer. The hold on ours ends by itself.
		return nil, nil
	}
	wish, _ := netip.AddrFromSlice(q.RequestedIPAddress().To4())
	if !wish.IsValid() || wish.IsUnspecified() {
		wish, _ = netip.AddrFromSlice(q.ClientIPAddr.To4()) // renewing or rebinding
	}
	err := s.leases.confirm(ctx, m, wish)
	switch ingot.KindOf(err) {
	case "":
		return s.answer(q, m, dhcpv4.MessageTypeAck, wish)
	case ingot.Conflict, ingot.Unavailable:
		return s.send(q, m, dhcpv4.MessageTypeNak, netip.Addr{},
			Boot{Why: fmt.Sprintf("asked for %s: %s", cmp.Or(addressText(wish), "no address"), err)})
	default:
		return nil, fmt.Errorf("lease %s to %s: %w", addressText(wish), m.MAC, err)
	}
}

// decline takes an address out of use that the machine found taken by somebody else.
func (s *Server) decline(ctx context.Context, q *dhcpv4.DHCPv4, m Machine) error {
	if id := q.ServerIdentifier(); id != nil && !id.Equal(s.site.Address.AsSlice()) {
		return nil
	}
	a, _ := netip.AddrFromSlice(q.RequestedIPAddress().To4())
	if err := s.leases.decline(ctx, m, a); err != nil {
		return fmt.Errorf("take declined address %s out of use: %w", addressText(a), err)
	}
	s.note(m, ingot.LevelWarning, "dhcp", fmt.Sprintf("declined %s: another host uses it; "+
		"find that host, or take the address out of boot.dhcp.range", addressText(a)), nil)
	return nil
}

// release ends a lease at the machine's wish.
func (s *Server) release(ctx context.Context, q *dhcpv4.DHCPv4, m Machine) error {
	if id := q.ServerIdentifier(); id != nil && !id.Equal(s.site.Address.AsSlice()) {
		return nil
	}
	if err := s.leases.release(ctx, m); err != nil {
		return fmt.Errorf("end lease of %s: %w", m.MAC, err)
	}
	s.note(m, ingot.LevelInfo, "dhcp", "address released", nil)
	return nil
}

// reachable tells whether our addresses are of the network a request comes from.
func (s *Server) reachable(q *dhcpv4.DHCPv4) bool {
	relay, _ := netip.AddrFromSlice(q.GatewayIPAddr.To4())
	return !relay.IsValid() || relay.IsUnspecified() || s.site.Prefix.Contains(relay)
}

// machine looks up who has a MAC. An unknown one is no error.
func (s *Server) machine(ctx context.Context, mac net.HardwareAddr) (Machine, error) {
	m := Machine{MAC: mac}
	port, err := s.Store.PortByMAC(ctx, mac.String())
	if ingot.KindOf(err) == ingot.NotFound {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("look up port %s: %w", mac, err)
	}
	node, err := s.Store.Node(ctx, port.NodeUUID)
	if ingot.KindOf(err) == ingot.NotFound {
		return m, nil // deleted between the two look-ups
	}
	if err != nil {
		return m, fmt.Errorf("look up node of port %s: %w", mac, err)
	}
	m.Port, m.Node = port, node
	return m, nil
}

// warnUnknown tells of a machine nobody enrolled: once an hour each, for machines repeat their
// requests for ever and the operator needs one line to act on.
func (s *Server) warnUnknown(q *dhcpv4.DHCPv4) {
	if !s.unknown.First(q.ClientHWAddr.String()) {
		return
	}
	s.Log.Warn("unknown machine asks for DHCP", "mac", q.ClientHWAddr)
	m := Machine{MAC: q.ClientHWAddr}
	s.note(m, ingot.LevelWarning, "dhcp", fmt.Sprintf("unknown machine %s; to manage it create "+
		"a port with this address", q.ClientHWAddr), nil)
}
