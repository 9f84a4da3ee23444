package bootd

import (
	"net/netip"
	"time"
)

// holds remembers which address was offered to which machine, one for each, until the offer
// expires. The zero value is empty. It is not safe for concurrent use.
type holds struct {
	addresses map[string]netip.Addr // by MAC; as many as in offers
	offers    map[netip.Addr]offered
	swept     time.Time
}

type offered struct {
	mac   string
	until time.Time
}

// put holds an address for a machine, in place of the one it had.
func (h *holds) put(a netip.Addr, mac string, now time.Time) {
	h.drop(mac)
	if len(h.offers) >= maxHolds {
		h.sweep(now)
	}
	if len(h.offers) >= maxHolds {
		return
	}
	if h.offers == nil {
		h.addresses, h.offers = map[string]netip.Addr{}, map[netip.Addr]offered{}
	}
	if other, ok := h.offers[a]; ok { // an expired one
		delete(h.addresses, other.mac)
	}
	h.addresses[mac], h.offers[a] = a, offered{mac, now.Add(hold)}
}

// of tells what is held for a machine; an invalid address is none.
func (h *holds) of(mac string, now time.Time) netip.Addr {
	a := h.addresses[mac]
	if !h.offers[a].until.After(now) {
		return netip.Addr{}
	}
	return a
}

// byOther tells whether an address is held for somebody else.
func (h *holds) byOther(a netip.Addr, mac string, now time.Time) bool {
	o, ok := h.offers[a]
	return ok && o.mac != mac && o.until.After(now)
}

// drop ends the hold of a machine.
func (h *holds) drop(mac string) {
	if a, ok := h.addresses[mac]; ok {
		delete(h.addresses, mac)
		delete(h.offers, a)
	}
}

// sweep forgets what has expired. It looks once a second at most: in a flood there is little to find.
func (h *holds) sweep(now time.Time) {
	if now.Sub(h.swept) < time.Second {
		return
	}
	h.swept = now
	for a, o := range h.offers {
		if !o.until.After(now) {
			delete(h.addresses, o.mac)
			delete(h.offers, a)
		}
	}
}
