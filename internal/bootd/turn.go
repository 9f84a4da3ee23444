package bootd

import (
	"net"
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
