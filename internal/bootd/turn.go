package bootd

import (
	"context"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/ring"
)

// leavesToOther tells whether another server is to answer, as RFC 3074 does it: of those that live
// and can serve the machine (S0.11) the MAC chooses one, and the others answer a client that asks for longer or again, so that a server
// that lives and does not answer costs one retransmission. It is false for
//   - anything but DISCOVER: requests name their server, or are for anybody;
//   - what a relay sends, which may know none but this one;
//   - a site whose addresses come from others: its client has one offer and does not ask again.
func (s *Server) leavesToOther(q *dhcpv4.DHCPv4, m Machine) bool {
	if s.Servers == nil || s.site.Mode != ModeServer {
		return false
	}
	now := time.Now()
	switch q.MessageType() {
	case dhcpv4.MessageTypeRequest:
		s.heard.forget(q.ClientHWAddr)
		return false
	case dhcpv4.MessageTypeDiscover:
	default:
		return false
	}
	again := s.heard.before(q.ClientHWAddr, now)
	if again || q.NumSeconds > 0 || isSet(ipv4(q.GatewayIPAddr)) {
		return false
	}
	driver := ""
	if m.Node != nil {
		driver = m.Node.Driver
	}
	first := ring.Owner(m.MAC.String(), s.Servers(driver))
	return first != "" && first != s.URL()
}

// standsIn tells whether this conductor answers a REQUEST that is for another one, which has not:
// the machine repeats it and gives up in the end, having no address (iPXE after 10 s). All of them
// give the same address, and an answer carries the name of the server that was asked, for clients
// take no other (RFC 2131 section 4.3.2, iPXE). The MAC decides who answers the first repetition,
// or the first request where the other one is known to be dead; with each further one there is one
// more who does, so that none of them has to live.
func (s *Server) standsIn(ctx context.Context, q *dhcpv4.DHCPv4, m Machine) (bool, error) {
	if s.Servers == nil || s.site.Mode != ModeServer {
		return false, nil
	}
	named := ipv4(q.ServerIdentifier())
	if ours, err := s.leases.isServer(ctx, named); !ours || err != nil {
		return false, err
	}
	turn := s.pending.count(q.ClientHWAddr, q.TransactionID)
	driver := ""
	if m.Node != nil {
		driver = m.Node.Driver
	}
	others := s.Servers(driver)
	living := len(others)
	others = slices.DeleteFunc(others, func(u string) bool { return hostOf(u) == named.String() })
	if len(others) < living {
		turn-- // the first one is for whom it names
	}
	place := slices.Index(ring.Rank(m.MAC.String(), others), s.URL())
	return place >= 0 && place <= turn, nil
}

// hostOf is the host of a server's URL.
func hostOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// requests counts how often a REQUEST has come. The zero value is empty.
type requests struct {
	mu   sync.Mutex // guards seen
	seen map[[6]byte]requested
}

type requested struct {
	id    dhcpv4.TransactionID
	times int
}

// count is how often the same request came before. Beyond maxAsking everything is forgotten, and
// costs retransmissions.
func (r *requests) count(mac net.HardwareAddr, id dhcpv4.TransactionID) int {
	key := [6]byte(mac)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil || len(r.seen) >= maxAsking {
		r.seen = map[[6]byte]requested{}
	}
	last := r.seen[key]
	if last.id != id {
		last = requested{id: id}
	}
	r.seen[key] = requested{id, last.times + 1}
	return last.times
}

// asking remembers who asked for an address and has taken none yet. The zero value is empty.
type asking struct {
	mu    sync.Mutex // guards since
	since map[[6]byte]time.Time
}

// maxAsking bounds the memory; beyond it everything is forgotten, and costs retransmissions.
const maxAsking = 65536

// before tells whether a client asked within the time of an offer, and notes that it asks.
func (a *asking) before(mac net.HardwareAddr, now time.Time) bool {
	key := [6]byte(mac)
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.since[key]
	if a.since == nil || len(a.since) >= maxAsking {
		a.since = map[[6]byte]time.Time{}
	}
	a.since[key] = now
	return ok && now.Sub(last) < hold
}

// forget notes that a client has an offer.
func (a *asking) forget(mac net.HardwareAddr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.since, [6]byte(mac))
}
