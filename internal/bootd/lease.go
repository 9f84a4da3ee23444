package bootd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

const (
	// hold is how long an offered address waits for the machine's request. Firmware answers
	// within seconds; EDK2 takes four.
	hold = time.Minute
	// maxHolds bounds the memory. Addresses that are offered beyond it are not held: a request
	// may then be refused, and the machine starts again.
	maxHolds = 65536
	// declinedFor is how long an address that somebody else was found to use is given to nobody.
	declinedFor = time.Hour
	// tries bounds the choices of an address that other conductors turn out to have given away. Each
	// is made from fresh rows, so that more of them means a crowd; the machine asks again.
	tries = 8
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

// leases chooses addresses. What is leased is in the store, where every conductor sees it. What is
// offered is held in memory only, as RFC 2131 section 3.1 allows, by a conductor that is alone;
// where several share the store an offer is a lease of a minute, so that all of them offer a machine
// one address and no two machines the same. The time is the store's: the clocks of hosts may differ
// by more than a lease.
type leases struct {
	store *store.Store
	site  Site

	mu       sync.Mutex                 // guards the next ones; held while an address is chosen
	taken    map[netip.Addr]ingot.Lease // what is leased
	reserved map[netip.Addr]string      // address -> MAC, from ports' extra.ip_address, or server
	servers  map[netip.Addr]bool        // addresses of who shares the leases, dead ones included
	readAt   time.Time                  // of taken and reserved; zero: not yet
	held     holds
	next     *commit // takes changes; nil: there is none

	writing sync.Mutex // held by who writes a commit
}

// A commit is changes that are written together.
type commit struct {
	changes []store.LeaseChange
	done    chan struct{} // closed when written
	errs    []error       // one for each, when done
}

// offer chooses the address of a machine and holds it for a while. Unavailable if there is
// none.
func (l *leases) offer(ctx context.Context, w want) (netip.Addr, error) {
	for try := 1; ; try++ {
		a, seen, err := l.choose(ctx, w)
		if err != nil {
			return a, err
		}
		if err := l.reservedFor(w, a); err != nil {
			return a, err
		}
		left := w.Lease.Expires.Sub(l.store.Now())
		if !l.store.Shared() || w.Lease.Address == a.String() && left > l.holdTime()/2 {
			return a, nil
		}
		err = l.take(ctx, w.change(a, l.store.Now().Add(l.holdTime())))
		if ingot.KindOf(err) != ingot.Conflict || try == tries {
			return a, err
		}
		if w.Lease, err = l.again(ctx, w.MAC, seen); err != nil {
			return a, err
		}
	}
}

// holdTime is how long an offer is a lease.
func (l *leases) holdTime() time.Duration { return min(hold, l.site.Lease) }

// reservedFor refuses an address that is another machine's, which only a reserved one can be: that
// one has it until its lease ends.
func (l *leases) reservedFor(w want, a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, ok := l.taken[a]; ok && other.MAC != w.MAC.String() &&
		other.Expires.After(l.store.Now()) && l.reserved[a] != "" {
		return ingot.Errorf(ingot.Conflict, "address %s, reserved for %s, is leased to %s", a, w.MAC,
			other.MAC)
	}
	return nil
}

// confirm leases the wish to the machine and tells for how long, or tells by Conflict that it
// has to ask anew. A lease of which more than a half is left is told as it is: a machine that
// asks again and again costs no write.
func (l *leases) confirm(ctx context.Context, w want) (time.Duration, error) {
	for try := 1; ; try++ {
		a, seen, err := l.choose(ctx, w)
		if err != nil {
			return 0, err
		}
		if a != w.wish {
			return 0, ingot.Errorf(ingot.Conflict, "its address is %s", a)
		}
		if left, ok := l.young(w.Lease, a); ok {
			return left, nil
		}
		err = l.take(ctx, w.change(a, l.store.Now().Add(l.site.Lease)))
		if ingot.KindOf(err) != ingot.Conflict || try == 2 {
			return l.site.Lease, err
		}
		// The same request at another conductor may have been a little earlier.
		if w.Lease, err = l.again(ctx, w.MAC, seen); err != nil {
			return 0, err
		}
	}
}

// again looks at the rows after a change that was refused: the lease of the machine is returned, the
// next choice reads the others if nobody has since they were seen.
func (l *leases) again(ctx context.Context, mac net.HardwareAddr, seen time.Time) (ingot.Lease, error) {
	l.mu.Lock()
	l.held.drop(mac.String())
	if l.readAt.Equal(seen) {
		l.readAt = time.Time{}
	}
	l.mu.Unlock()
	now, err := l.store.Client(ctx, mac.String())
	return now.Lease, err
}

// young tells how much of a lease is left if it is of that address and need not be written again.
func (l *leases) young(lease ingot.Lease, a netip.Addr) (time.Duration, bool) {
	left := lease.Expires.Sub(l.store.Now()).Truncate(time.Second)
	return left, left > l.site.Lease/2 && lease.Address == a.String()
}

// isYoung tells whether a machine has a young lease of an address, as far as we know.
func (l *leases) isYoung(mac net.HardwareAddr, a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease := l.taken[a]
	_, young := l.young(lease, a)
	return young && lease.MAC == mac.String()
}

func (w want) change(a netip.Addr, expires time.Time) store.LeaseChange {
	return store.LeaseChange{Had: w.Lease.Address,
		Lease: ingot.Lease{Address: a.String(), MAC: w.MAC.String(), Expires: expires}}
}

// take writes a change. All that come while a commit is written go into the next one together: a
// herd of machines costs few flushes of the disk.
func (l *leases) take(ctx context.Context, change store.LeaseChange) error {
	l.mu.Lock()
	first := l.next == nil
	if first {
		l.next = &commit{done: make(chan struct{})}
	}
	mine, place := l.next, len(l.next.changes)
	mine.changes = append(mine.changes, change)
	l.mu.Unlock()
	if first {
		l.write(ctx, mine)
	}
	<-mine.done
	return mine.errs[place]
}

// write writes the commit that takes changes, as soon as the one before is written.
func (l *leases) write(ctx context.Context, c *commit) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	l.next = nil
	l.mu.Unlock()
	c.errs = l.store.TakeLeases(ctx, c.changes)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, change := range c.changes {
		if c.errs[i] != nil {
			continue
		}
		if had, err := netip.ParseAddr(change.Had); err == nil && l.taken[had].MAC == change.MAC {
			delete(l.taken, had)
		}
		if a, err := netip.ParseAddr(change.Address); err == nil && l.taken != nil {
			l.taken[a] = change.Lease
		}
		l.held.drop(change.MAC)
	}
	close(c.done)
}

// choose tells the address of a machine, and holds it; seen is when the rows were read that tell what
// others have. In order: the reservation of its port; the address it has, was offered or had; the
// address it wishes, if that is free (a machine that keeps its address over a loss of our rows
// disturbs nobody); else the pool's choice.
func (l *leases) choose(ctx context.Context, w want) (a netip.Addr, seen time.Time, err error) {
	old := w.Lease
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.read(ctx); err != nil {
		return netip.Addr{}, seen, err
	}
	if a, ok := reservation(w.Port); ok && w.network.Prefix.Contains(a) {
		return a, l.readAt, nil
	}
	now := l.store.Now()
	usable := func(a netip.Addr) bool {
		return w.network.Pool.Contains(a) && a != l.site.Address && a != l.site.Service &&
			a != w.network.Router && l.reserved[a] == ""
	}
	mac := w.MAC.String()
	had, _ := netip.ParseAddr(old.Address)
	if usable(had) && old.Expires.After(now) {
		l.held.drop(mac)
		return had, l.readAt, nil
	}
	free := func(a netip.Addr) bool {
		other, ok := l.taken[a]
		return usable(a) && (!ok || other.MAC == mac || !other.Expires.After(now)) &&
			!l.held.byOther(a, mac, now)
	}
	a, ok := l.held.of(mac, now), true
	switch {
	case free(a):
	case free(had):
		a = had
	case free(w.wish):
		a = w.wish
	default:
		a, ok = w.network.Pool.Pick(w.MAC, func(a netip.Addr) bool { return !free(a) })
	}
	if !ok {
		return netip.Addr{}, seen, ingot.Errorf(ingot.Unavailable, "no free address for %s in %s; "+
			"widen boot.dhcp.range (of that network) or shorten boot.dhcp.lease_time", w.MAC, w.network.Pool)
	}
	l.held.put(a, mac, now)
	return a, l.readAt, nil
}

// read reads what is set aside and what is leased, if our picture of that is old. What is being
// written meanwhile is held.
func (l *leases) read(ctx context.Context) error {
	if time.Since(l.readAt) < readFor {
		return nil
	}
	began, now := time.Now(), l.store.Now()
	reserved, servers, err := l.reservations(ctx)
	if err != nil {
		return fmt.Errorf("read reservations: %w", err)
	}
	all, err := l.store.Leases(ctx)
	if err != nil {
		return err
	}
	taken := make(map[netip.Addr]ingot.Lease, len(all))
	for _, lease := range all {
		if a, err := netip.ParseAddr(lease.Address); err == nil && lease.Expires.After(now) {
			taken[a] = lease
		}
	}
	l.reserved, l.servers, l.taken, l.readAt = reserved, servers, taken, began
	return nil
}

// isServer tells whether an address is, or was, that of a server that shares the leases.
func (l *leases) isServer(ctx context.Context, a netip.Addr) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.read(ctx)
	return l.servers[a], err
}

// unhold ends the hold of a machine that took the offer of another server.
func (l *leases) unhold(mac net.HardwareAddr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held.drop(mac.String())
}

// reservations reads which addresses are set aside for whom: ports, and those who share the store.
func (l *leases) reservations(ctx context.Context) (reserved map[netip.Addr]string,
	servers map[netip.Addr]bool, err error) {
	reserved, servers = map[netip.Addr]string{}, map[netip.Addr]bool{}
	if l.store.Shared() {
		others, err := l.store.Conductors(ctx, store.Page{})
		if err != nil {
			return nil, nil, err
		}
		for _, o := range others { // dead ones still have their addresses
			if a, err := netip.ParseAddr(o.Address); err == nil {
				reserved[a], servers[a] = o.Hostname, true
			}
		}
	}
	page := store.Page{Limit: 500}
	for {
		ports, err := l.store.Ports(ctx, store.PortFilter{ExtraWord: reservationKey}, page)
		if err != nil {
			return nil, nil, err
		}
		for _, p := range ports {
			if a, ok := reservation(p); ok {
				reserved[a] = p.Address
			}
		}
		if len(ports) < page.Limit {
			return reserved, servers, nil
		}
		page.Marker = ports[len(ports)-1].UUID
	}
}

// decline ends the machine's lease of an address and leases it to nobody for a while. A
// reserved address stays reserved: that the site gives it to two hosts is for a person. It is
// false if the address was not the machine's to decline.
func (l *leases) decline(ctx context.Context, m Machine, a netip.Addr) (bool, error) {
	if fixed, ok := reservation(m.Port); ok && fixed == a {
		return l.release(ctx, m, a)
	}
	if m.Lease.Address == "" || m.Lease.Address != addressText(a) {
		return false, nil
	}
	// In one change: between two, another conductor would give the address away.
	err := l.take(ctx, store.LeaseChange{From: m.MAC.String(), Lease: ingot.Lease{
		Address: a.String(), MAC: "declined " + a.String(), Expires: l.store.Now().Add(declinedFor)}})
	if ingot.KindOf(err) == ingot.Conflict {
		return false, nil // another conductor heard it, too
	}
	l.unhold(m.MAC)
	return err == nil, err
}

// release ends the lease of an address. It is false if the machine has no lease of it, any more:
// of several conductors that hear one message one ends it.
func (l *leases) release(ctx context.Context, m Machine, a netip.Addr) (bool, error) {
	if m.Lease.Address == "" || m.Lease.Address != addressText(a) {
		return false, nil
	}
	ended, err := l.store.FreeLease(ctx, m.MAC.String(), m.Lease.Address)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held.drop(m.MAC.String())
	l.readAt = time.Time{}
	return ended, err
}
