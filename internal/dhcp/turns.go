package dhcp

import (
	"net"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// maxWaiting bounds the packets of one client that wait for an earlier one of it; further ones are
// dropped, and clients repeat what is lost.
const maxWaiting = 8

// A datagram is a request as it was received.
type datagram struct {
	from    net.Addr
	mac     [6]byte // of the client
	request *dhcpv4.DHCPv4
}

// turns lets the packets of one client be handled one after the other, in the order in which they
// came: a DISCOVER after a RELEASE has to find the lease ended. The zero value works.
type turns struct {
	mu      sync.Mutex // guards waiting
	waiting map[[6]byte][]datagram
}

// begin tells whether a packet is to be handled now. Else it waits for its turn, or is dropped.
func (t *turns) begin(p datagram) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == nil {
		t.waiting = map[[6]byte][]datagram{}
	}
	list, busy := t.waiting[p.mac]
	switch {
	case !busy:
		t.waiting[p.mac] = nil
	case len(list) < maxWaiting:
		t.waiting[p.mac] = append(list, p)
	}
	return !busy
}

// next ends a turn and begins that of the packet which has waited longest; it is false if there is
// none.
func (t *turns) next(mac [6]byte) (datagram, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.waiting[mac]
	if len(list) == 0 {
		delete(t.waiting, mac)
		return datagram{}, false
	}
	t.waiting[mac] = list[1:]
	return list[0], true
}
