package bootd

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// hold is how long an offered address waits for the machine's request. Firmware answers within
// seconds; EDK2 takes four.
const hold = time.Minute

// declinedFor is how long an address that somebody else was found to use is given to nobody.
const declinedFor = time.Hour

// reservedFor is how old the list of reserved addresses may be when an address is chosen.
const reservedFor = 10 * time.Second

// leases chooses addresses and keeps them in the store, where every conductor sees them.
type leases struct {
	store *store.Store
	site  Site

	mu       sync.Mutex            // guards reserved, readAt; held while an address is chosen
	reserved map[netip.Addr]string // address -> MAC, from ports' extra.ip_address
	readAt   time.Time
}

// offer chooses the address of a machine and holds it for a while. Unavailable if there is
// none.
func (l *leases) offer(ctx context.Context, m Machine, wish netip.Addr) (netip.Addr, error) {
	// One choice at a time: two machines would often choose the same free address. Another
	// conductor may still interfere; then the store refuses and the next round sees its lease.
	l.mu.Lock()
	defer l.mu.Unlock()
	for try := 0; ; try++ {
		a, until, err := l.choose(ctx, m, wish)
		if err != nil {
			return netip.Addr{}, err
		}
		if until.After(time.Now()) {
			return a, nil // leased to it already: nothing to write
		}
		err = l.take(ctx, m, a, hold)
		if err == nil || ingot.KindOf(err) != ingot.Conflict || try == 3 {
			return a, err
		}
	}
}

// confirm leases wish to the machine, or tells by Conflict that it has to ask anew.
func (l *leases) confirm(ctx context.Context, m Machine, wish netip.Addr) error {
	l.mu.Lock()
	a, _, err := l.choose(ctx, m, wish)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if a != wish {
		return ingot.Errorf(ingot.Conflict, "its address is %s", a)
	}
	return l.take(ctx, m, a, l.site.Lease)
}

func (l *leases) take(ctx context.Context, m Machine, a netip.Addr, d time.Duration) error {
	return l.store.TakeLease(ctx, ingot.Lease{Address: a.String(), MAC: m.MAC.String(),
		Expires: time.Now().Add(d)})
}

// choose tells the address of a machine, and until when it is leased to it already (zero: not).
// In order: the reservation of its port; the address it has or had; the address it wishes, if
// that is free (a machine that keeps its address over a loss of our rows disturbs nobody); else
// the pool's choice.
func (l *leases) choose(ctx context.Context, m Machine, wish netip.Addr) (
	netip.Addr, time.Time, error,
) {
	var until time.Time
	old, err := l.store.Lease(ctx, m.MAC.String())
	if err != nil && ingot.KindOf(err) != ingot.NotFound {
		return netip.Addr{}, until, err
	}
	had, _ := netip.ParseAddr(old.Address)
	if a, ok := reservation(m.Port); ok {
		if a == had {
			until = old.Expires
		}
		return a, until, nil
	}
	if err := l.readReservations(ctx); err != nil {
		return netip.Addr{}, until, err
	}
	usable := func(a netip.Addr) bool {
		return l.site.Pool.Contains(a) && a != l.site.Address && a != l.site.Router &&
			l.reserved[a] == ""
	}
	if usable(had) && old.Expires.After(time.Now()) {
		return had, old.Expires, nil
	}
	taken, err := l.taken(ctx, m)
	if err != nil {
		return netip.Addr{}, until, err
	}
	free := func(a netip.Addr) bool { return usable(a) && !taken[a] }
	switch {
	case free(had):
		return had, until, nil
	case free(wish):
		return wish, until, nil
	}
	a, ok := l.site.Pool.Pick(m.MAC, func(a netip.Addr) bool { return !free(a) })
	if !ok {
		return netip.Addr{}, until, ingot.Errorf(ingot.Unavailable,
			"no free address for %s in %s; widen boot.dhcp.range or shorten boot.dhcp.lease_time",
			m.MAC, l.site.Pool)
	}
	return a, until, nil
}

// taken is the set of addresses leased to others.
func (l *leases) taken(ctx context.Context, m Machine) (map[netip.Addr]bool, error) {
	all, err := l.store.Leases(ctx)
	if err != nil {
		return nil, err
	}
	taken := make(map[netip.Addr]bool, len(all))
	now := time.Now()
	for _, lease := range all {
		if a, err := netip.ParseAddr(lease.Address); err == nil && lease.Expires.After(now) &&
			lease.MAC != m.MAC.String() {
			taken[a] = true
		}
	}
	return taken, nil
}

// readReservations reads which addresses of the pool are set aside. It walks over all ports,
// so the answer is kept for a moment: machines often start in herds.
func (l *leases) readReservations(ctx context.Context) error {
	if l.reserved != nil && time.Since(l.readAt) < reservedFor {
		return nil
	}
	reserved := map[netip.Addr]string{}
	page := store.Page{Limit: 500}
	for {
		ports, err := l.store.Ports(ctx, store.PortFilter{}, page)
		if err != nil {
			return fmt.Errorf("read reservations: %w", err)
		}
		for _, p := range ports {
			if a, ok := reservation(p); ok {
				reserved[a] = p.Address
			}
		}
		if len(ports) < page.Limit {
			break
		}
		page.Marker = ports[len(ports)-1].UUID
	}
	l.reserved, l.readAt = reserved, time.Now()
	return nil
}

// decline ends the machine's lease of an address and leases it to nobody for a while. A
// reserved address stays reserved: that the site gives it to two hosts is for a person.
func (l *leases) decline(ctx context.Context, m Machine, a netip.Addr) error {
	old, err := l.store.Lease(ctx, m.MAC.String())
	if ingot.KindOf(err) == ingot.NotFound || err == nil && old.Address != addressText(a) {
		return nil // only its own address is a machine's to decline
	}
	if err != nil {
		return err
	}
	if err := l.release(ctx, m); err != nil {
		return err
	}
	if fixed, ok := reservation(m.Port); ok && fixed == a {
		return nil
	}
	return l.store.TakeLease(ctx, ingot.Lease{Address: a.String(), MAC: "declined " + a.String(),
		Expires: time.Now().Add(declinedFor)})
}

func (l *leases) release(ctx context.Context, m Machine) error {
	return l.store.FreeLease(ctx, m.MAC.String())
}
