package bootd

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

const (
	// hold is how long an offered address waits for the machine's request. Firmware answers
	// within seconds; EDK2 takes four.
	hold = time.Minute
	// declinedFor is how long an address that somebody else was found to use is given to nobody.
	declinedFor = time.Hour
	// readFor is how old our picture of reservations and of the leases of others may be when an
	// address is chosen. The store refuses a choice that was made from an old picture.
	readFor = 5 * time.Second
)

// A want is a machine's request for an address.
type want struct {
	Machine
	network *Network
	wish    netip.Addr // may be invalid
}

// leases chooses addresses and keeps them in the store, where every conductor sees them.
type leases struct {
	store *store.Store
	site  Site

	mu       sync.Mutex                 // guards the next ones; held while an address is chosen
	taken    map[netip.Addr]ingot.Lease // what is leased, with the choices not yet written
	reserved map[netip.Addr]string      // address -> MAC, from ports' extra.ip_address
	readAt   time.Time                  // of taken and reserved; zero: not yet
	next     *commit                    // takes changes; nil: there is none

	writing sync.Mutex // held by who writes a commit
}

// A commit is changes that are written together.
type commit struct {
	changes []store.LeaseChange
	errs    []error // one for each, when done
	done    bool    // guarded by leases.writing
}

// offer chooses the address of a machine and holds it for a while. Unavailable if there is
// none.
func (l *leases) offer(ctx context.Context, w want) (netip.Addr, error) {
	for try := 0; ; try++ {
		a, err := l.choose(ctx, w)
		if err != nil {
			return netip.Addr{}, err
		}
		if old := w.Lease; old.Address == a.String() && old.Expires.After(time.Now()) {
			return a, nil // leased to it already: nothing to write
		}
		err = l.take(ctx, w.lease(a, hold), w.Lease.Address)
		if err == nil || ingot.KindOf(err) != ingot.Conflict || try == 3 {
			return a, err
		}
		l.forget() // another conductor was at it: look again
		now, err := l.store.Client(ctx, w.MAC.String())
		if err != nil {
			return netip.Addr{}, err
		}
		w.Lease = now.Lease
	}
}

// confirm leases the wish to the machine and tells for how long, or tells by Conflict that it
// has to ask anew. A lease of which more than a half is left is told as it is: a machine that
// asks again and again costs no write.
func (l *leases) confirm(ctx context.Context, w want) (time.Duration, error) {
	a, err := l.choose(ctx, w)
	if err != nil {
		return 0, err
	}
	if a != w.wish {
		return 0, ingot.Errorf(ingot.Conflict, "its address is %s", a)
	}
	old := w.Lease
	left := time.Until(old.Expires).Truncate(time.Second)
	if old.Address == a.String() && left > l.site.Lease/2 {
		return left, nil
	}
	return l.site.Lease, l.take(ctx, w.lease(a, l.site.Lease), old.Address)
}

func (w want) lease(a netip.Addr, d time.Duration) ingot.Lease {
	return ingot.Lease{Address: a.String(), MAC: w.MAC.String(), Expires: time.Now().Add(d)}
}

// take writes a change. All that come while a commit is written wait for the next one together:
// a herd of machines costs few flushes of the disk.
func (l *leases) take(ctx context.Context, lease ingot.Lease, had string) error {
	l.mu.Lock()
	if l.next == nil {
		l.next = &commit{}
	}
	mine, place := l.next, len(l.next.changes)
	mine.changes = append(mine.changes, store.LeaseChange{Lease: lease, Had: had})
	l.mu.Unlock()

	l.writing.Lock()
	defer l.writing.Unlock()
	if !mine.done {
		l.mu.Lock()
		l.next = nil
		l.mu.Unlock()
		mine.errs, mine.done = l.store.TakeLeases(ctx, mine.changes), true
	}
	return mine.errs[place]
}

// choose tells the address of a machine. In order: the reservation of its port; the address it
// has or had; the address it wishes, if that is free (a machine that keeps its address over a
// loss of our rows disturbs nobody); else the pool's choice.
func (l *leases) choose(ctx context.Context, w want) (netip.Addr, error) {
	if a, ok := reservation(w.Port); ok && w.network.Prefix.Contains(a) {
		return a, nil
	}
	old := w.Lease
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.read(ctx); err != nil {
		return netip.Addr{}, err
	}
	now := time.Now()
	usable := func(a netip.Addr) bool {
		return w.network.Pool.Contains(a) && a != l.site.Address && a != w.network.Router &&
			l.reserved[a] == ""
	}
	had, _ := netip.ParseAddr(old.Address)
	if usable(had) && old.Expires.After(now) {
		return had, nil
	}
	free := func(a netip.Addr) bool {
		other, ok := l.taken[a]
		return usable(a) && (!ok || other.MAC == w.MAC.String() || !other.Expires.After(now))
	}
	a, ok := had, true
	switch {
	case free(had):
	case free(w.wish):
		a = w.wish
	default:
		a, ok = w.network.Pool.Pick(w.MAC, func(a netip.Addr) bool { return !free(a) })
	}
	if !ok {
		return netip.Addr{}, ingot.Errorf(ingot.Unavailable, "no free address for %s in %s; "+
			"widen boot.dhcp.range (of that network) or shorten boot.dhcp.lease_time", w.MAC, w.network.Pool)
	}
	l.taken[a] = w.lease(a, hold) // before it is written, so that the next choice sees it
	return a, nil
}

// read reads what is set aside and what is leased, if our picture of that is old.
func (l *leases) read(ctx context.Context) error {
	if time.Since(l.readAt) < readFor {
		return nil
	}
	began := time.Now()
	reserved, err := l.reservations(ctx)
	if err != nil {
		return fmt.Errorf("read reservations: %w", err)
	}
	all, err := l.store.Leases(ctx)
	if err != nil {
		return err
	}
	// Choices that are being written stay; one that was not written in the end blocks its
	// address for as long as a hold.
	taken := make(map[netip.Addr]ingot.Lease, len(all))
	for _, lease := range slices.Concat(l.unwritten(), all) {
		if a, err := netip.ParseAddr(lease.Address); err == nil && lease.Expires.After(began) {
			taken[a] = lease
		}
	}
	l.reserved, l.taken, l.readAt = reserved, taken, began
	return nil
}

// unwritten lists the choices of a short while ago.
func (l *leases) unwritten() []ingot.Lease {
	var list []ingot.Lease
	for _, lease := range l.taken {
		if time.Until(lease.Expires) > hold-readFor && time.Until(lease.Expires) <= hold {
			list = append(list, lease)
		}
	}
	return list
}

// forget makes the next choice read again.
func (l *leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readAt = time.Time{}
}

// reservations reads which addresses are set aside for whom.
func (l *leases) reservations(ctx context.Context) (map[netip.Addr]string, error) {
	reserved := map[netip.Addr]string{}
	page := store.Page{Limit: 500}
	for {
		ports, err := l.store.Ports(ctx, store.PortFilter{ExtraWord: reservationKey}, page)
		if err != nil {
			return nil, err
		}
		for _, p := range ports {
			if a, ok := reservation(p); ok {
				reserved[a] = p.Address
			}
		}
		if len(ports) < page.Limit {
			return reserved, nil
		}
		page.Marker = ports[len(ports)-1].UUID
	}
}

// decline ends the machine's lease of an address and leases it to nobody for a while. A
// reserved address stays reserved: that the site gives it to two hosts is for a person. It is
// false if the address was not the machine's to decline.
func (l *leases) decline(ctx context.Context, m Machine, a netip.Addr) (bool, error) {
	ended, err := l.release(ctx, m, a)
	if err != nil || !ended {
		return false, err
	}
	if fixed, ok := reservation(m.Port); ok && fixed == a {
		return true, nil
	}
	lease := ingot.Lease{Address: a.String(), MAC: "declined " + a.String(),
		Expires: time.Now().Add(declinedFor)}
	old, err := l.store.Lease(ctx, lease.MAC)
	if err != nil && ingot.KindOf(err) != ingot.NotFound {
		return false, err
	}
	err = l.take(ctx, lease, old.Address)
	if ingot.KindOf(err) == ingot.Conflict {
		return true, nil // it has a new holder already, who will find out
	}
	return err == nil, err
}

// release ends the lease of an address. It is false if the machine has no lease of it.
func (l *leases) release(ctx context.Context, m Machine, a netip.Addr) (bool, error) {
	if m.Lease.Address == "" || m.Lease.Address != addressText(a) {
		return false, nil
	}
	defer l.forget()
	return true, l.store.FreeLease(ctx, m.MAC.String())
}
