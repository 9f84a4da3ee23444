package bootd

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/dhcp"
	"ingot/internal/ingot"
)

// handleDHCP answers port 67.
func (s *Server) handleDHCP(ctx context.Context, q *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	m, err := s.machine(ctx, q.ClientHWAddr)
	if err != nil || s.leavesToOther(q, m) {
		return nil, err
	}
	if m.Node == nil && !s.AnswerUnknown {
		s.warnUnknown(m)
		return nil, nil
	}
	if s.site.Mode == ModeProxy {
		if q.MessageType() != dhcpv4.MessageTypeDiscover {
			return nil, nil // requests are for the server that gives addresses
		}
		return s.proxy(q, m, dhcpv4.MessageTypeOffer)
	}
	network, by := s.site.network(q)
	if network == nil {
		s.warnNetwork(m, by)
		return nil, nil
	}
	w := want{Machine: m, network: network, wish: ipv4(q.RequestedIPAddress())}
	switch q.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.offer(ctx, q, w)
	case dhcpv4.MessageTypeRequest:
		return s.request(ctx, q, w)
	case dhcpv4.MessageTypeDecline:
		return nil, s.decline(ctx, q, w)
	case dhcpv4.MessageTypeRelease:
		return nil, s.release(ctx, q, w)
	case dhcpv4.MessageTypeInform:
		return s.answer(q, m, Offer{Kind: dhcpv4.MessageTypeAck, Network: network})
	default:
		return nil, nil
	}
}

// writes tells whether a request may have to wait for a store: to change a lease, which all do but
// those for a young one, for a boot file, and for what comes without an address; or to be looked up
// on another host.
func (s *Server) writes(q *dhcpv4.DHCPv4) bool {
	if s.Store.Shared() {
		return true
	}
	switch q.MessageType() {
	case dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease:
		return true
	case dhcpv4.MessageTypeRequest:
		return s.site.Mode == ModeServer && !s.leases.isYoung(q.ClientHWAddr, wish(q))
	default:
		return false
	}
}

// handleProxy answers port 4011: the second question of PXE ROMs to a boot server, which has
// given no address and gets asked as if it had (PXE 2.1 section 2.2.5). Some ROMs make it an
// INFORM.
func (s *Server) handleProxy(ctx context.Context, q *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	m, err := s.machine(ctx, q.ClientHWAddr)
	if err != nil {
		return nil, err
	}
	if m.Node == nil {
		s.warnUnknown(m)
		return nil, nil
	}
	switch q.MessageType() {
	case dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform:
		return s.proxy(q, m, dhcpv4.MessageTypeAck)
	default:
		return nil, nil
	}
}

// proxy answers with a boot file and no address, or not at all.
func (s *Server) proxy(q *dhcpv4.DHCPv4, m Machine, kind dhcpv4.MessageType) (
	*dhcpv4.DHCPv4, error,
) {
	boot := decide(m, dhcp.Identify(q), s.URL())
	if boot.File == "" {
		return nil, nil
	}
	return s.send(q, m, Offer{Kind: kind, Boot: boot})
}

// answer makes a reply with what the machine boots, and remembers it in the journal.
func (s *Server) answer(q *dhcpv4.DHCPv4, m Machine, o Offer) (*dhcpv4.DHCPv4, error) {
	o.Boot = decide(m, dhcp.Identify(q), s.URL())
	return s.send(q, m, o)
}

func (s *Server) send(q *dhcpv4.DHCPv4, m Machine, o Offer) (*dhcpv4.DHCPv4, error) {
	r, err := s.site.reply(q, o)
	if err != nil {
		return nil, err
	}
	if o.Address.IsValid() {
		s.seen.put(o.Address, m)
	}
	text := fmt.Sprintf("DHCP %s answered with %s: %s (%s)", q.MessageType(), o.Kind,
		describe(r, o.Boot), o.Boot.Why)
	s.note(m, ingot.LevelInfo, "dhcp", text, ingot.Object{"request": q.MessageType().String(),
		"answer": o.Kind.String(), "address": addressText(o.Address), "file": o.Boot.shown(),
		ingot.DataServer: s.Life})
	s.onRecord(m, o.Boot)
	return r, nil
}

// flushTimeout is how long an answer waits for the journal.
const flushTimeout = time.Second

// onRecord returns when it is on record that a machine which is being deployed was sent to this
// server, where there are others: if this one dies, they know that the machine finds nobody here.
// An answer that is late for it is no loss, and neither is a record.
func (s *Server) onRecord(m Machine, b Boot) {
	if b.File == "" || !s.Store.Shared() || m.Node == nil || m.Node.Attempt == nil ||
		m.Node.BootIntent != ingot.BootDeploy {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	_ = s.Journal.Flush(ctx)
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// offer answers DISCOVER: the address is held for a minute, so that two machines that start
// together are not offered the same one.
func (s *Server) offer(ctx context.Context, q *dhcpv4.DHCPv4, w want) (*dhcpv4.DHCPv4, error) {
	a, err := s.leases.offer(ctx, w)
	switch ingot.KindOf(err) {
	case "":
	case ingot.Unavailable, ingot.Conflict:
		// The pool is exhausted, or the reserved address is leased to another machine: a
		// person has to act, and reads why in the log and at the node.
		s.note(w.Machine, ingot.LevelError, "dhcp", "no address to offer: "+err.Error(), nil)
		if s.told.First("no address for " + w.MAC.String()) {
			s.Log.Error("no address to offer", "mac", w.MAC.String(), "pool", w.network.Pool, "error", err)
		}
		return nil, nil
	default:
		return nil, fmt.Errorf("choose address for %s: %w", w.MAC, err)
	}
	return s.answer(q, w.Machine, Offer{Kind: dhcpv4.MessageTypeOffer, Network: w.network,
		Address: a, Lease: s.site.Lease})
}

// request answers REQUEST, RFC 2131 section 4.3.2. A machine we know is ours to refuse, also
// when another server gave it the address: two servers for one machine are a fault of the site.
// One that nobody enrolled is refused only what it selected here: "no record of this client"
// means silence.
func (s *Server) request(ctx context.Context, q *dhcpv4.DHCPv4, w want) (
	*dhcpv4.DHCPv4, error,
) {
	var as netip.Addr
	if !s.meant(q) {
		s.leases.unhold(w.MAC) // it took another server's offer
		if yes, err := s.standsIn(ctx, q, w.Machine); !yes {
			return nil, err
		}
		as = ipv4(q.ServerIdentifier())
	}
	w.wish = wish(q)
	lease, err := s.leases.confirm(ctx, w)
	switch ingot.KindOf(err) {
	case "":
		return s.answer(q, w.Machine, Offer{Kind: dhcpv4.MessageTypeAck, Network: w.network,
			Address: w.wish, Lease: lease, As: as})
	case ingot.Conflict, ingot.Unavailable:
		if w.Node == nil && q.ServerIdentifier() == nil && w.network.Prefix.Contains(w.wish) {
			return nil, nil
		}
		why := fmt.Sprintf("asked for %s: %s", cmp.Or(addressText(w.wish), "no address"), err)
		return s.send(q, w.Machine, Offer{Kind: dhcpv4.MessageTypeNak, Boot: Boot{Why: why}, As: as})
	default:
		return nil, fmt.Errorf("lease %s to %s: %w", addressText(w.wish), w.MAC, err)
	}
}

// wish is the address that a REQUEST is for.
func wish(q *dhcpv4.DHCPv4) netip.Addr {
	if a := ipv4(q.RequestedIPAddress()); isSet(a) {
		return a
	}
	return ipv4(q.ClientIPAddr) // renewing or rebinding
}

// meant tells whether a message is for us: a client that speaks to one server names it. What ends a
// lease is also for those who share the leases, if the client has one of that address: the server
// that is named may be dead.
func (s *Server) meant(q *dhcpv4.DHCPv4) bool {
	id := q.ServerIdentifier()
	return id == nil || id.Equal(s.site.Address.AsSlice())
}

// decline takes an address out of use that the machine found taken by somebody else.
func (s *Server) decline(ctx context.Context, q *dhcpv4.DHCPv4, w want) error {
	if !s.meant(q) && !s.Store.Shared() {
		return nil
	}
	done, err := s.leases.decline(ctx, w.Machine, w.wish)
	if err != nil {
		return fmt.Errorf("take declined address %s out of use: %w", addressText(w.wish), err)
	}
	if done {
		s.note(w.Machine, ingot.LevelWarning, "dhcp", fmt.Sprintf("declined %s: another host uses "+
			"it; find that host, or take the address out of boot.dhcp.range", addressText(w.wish)), nil)
	}
	return nil
}

// release ends a lease at the machine's wish.
func (s *Server) release(ctx context.Context, q *dhcpv4.DHCPv4, w want) error {
	if !s.meant(q) && !s.Store.Shared() {
		return nil
	}
	done, err := s.leases.release(ctx, w.Machine, ipv4(q.ClientIPAddr))
	if err != nil {
		return fmt.Errorf("end lease of %s: %w", w.MAC, err)
	}
	if done {
		s.note(w.Machine, ingot.LevelInfo, "dhcp", "address released", nil)
	}
	return nil
}

// machine looks up who has a MAC. An unknown one is no error.
func (s *Server) machine(ctx context.Context, mac net.HardwareAddr) (Machine, error) {
	found, err := s.Store.Client(ctx, mac.String())
	return Machine{MAC: mac, Port: found.Port, Node: found.Node, Lease: found.Lease}, err
}

// warnUnknown tells of a machine nobody enrolled: once an hour each, for machines repeat their
// requests for ever and the operator needs one line to act on.
func (s *Server) warnUnknown(m Machine) {
	if !s.told.First(m.MAC.String()) {
		return
	}
	s.Log.Warn("unknown machine asks for DHCP", "mac", m.MAC)
	s.note(m, ingot.LevelWarning, "dhcp", fmt.Sprintf("unknown machine %s; to manage it create "+
		"a port with this address", m.MAC), nil)
}

// warnNetwork tells of a request from a network that is not ours to give addresses of, once an
// hour for each address of a relay: everybody who can reach us can make one up.
func (s *Server) warnNetwork(m Machine, by netip.Addr) {
	if !s.told.First("network of " + by.String()) {
		return
	}
	text := fmt.Sprintf("no answer: asks from the network of %s (relay or subnet option), which has "+
		"no subnet in boot.dhcp.network", by)
	s.Log.Warn("DHCP request from an unknown network", "mac", m.MAC, "network", by)
	s.note(m, ingot.LevelWarning, "dhcp", text, nil)
}
