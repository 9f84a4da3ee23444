package conductor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// membership is who the conductors are, and what this one owns of the nodes.
type membership struct {
	all []*ingot.Conductor
	// shares are the buckets in which it owns nodes, in parts for one query each. A nil part is
	// all nodes, of which it may own some only.
	shares [][]string
}

// shareSize is how many buckets one query asks for: of 100,000 nodes 24 are in each, so what one
// query finds is one page; of what is more, each page is found, and sorted, anew.
const shareSize = 20

// join waits until the name is free: after a crash the lease of the life before has to end. It is
// taken if that goes on to beat. Where no other process has the store that life is over.
func (c *Conductor) join(ctx context.Context) error {
	if !c.o.Store.Shared() {
		err := c.o.Store.RemoveConductor(ctx, c.o.Host)
		if err != nil && ingot.KindOf(err) != ingot.NotFound {
			return err
		}
	}
	if err := c.takeName(ctx); err != nil {
		return err
	}
	if err := c.buryFormer(ctx); err != nil {
		return err
	}
	started, told := time.Now(), false
	for {
		err := c.heartbeat(ctx)
		if ingot.KindOf(err) != ingot.Conflict || time.Since(started) > c.o.Store.ConductorLease()+time.Second {
			return err
		}
		if !told {
			told = true
			c.o.Log.Info("waiting for the lease of a conductor of the same name to end",
				"at_most", c.o.Store.ConductorLease())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(c.o.HeartbeatInterval, time.Second) / 4):
		}
	}
}

// buryFormer ends the lease of the life before this one, if that served machines where this process
// listens now: the kernel lets one process do so at a time. On loopback each host has such a place.
func (c *Conductor) buryFormer(ctx context.Context) error {
	u, err := url.Parse(c.o.Services[ingot.ServiceBoot])
	if err != nil || !c.o.Store.Shared() {
		return nil
	}
	if a, err := netip.ParseAddr(u.Hostname()); err != nil || a.IsLoopback() {
		return nil
	}
	former, err := c.o.Store.Conductor(ctx, c.o.Host)
	if ingot.KindOf(err) == ingot.NotFound {
		return nil
	}
	if err != nil || !former.Alive || former.Services[ingot.ServiceBoot] != u.String() {
		return err
	}
	_, err = c.o.Store.Bury(ctx, former)
	return err
}

// takeName ends another process of this name that is alive, if that was asked for. That one is refused
// at its next heartbeat, and has ended its work when its lease has: until then nothing is begun here.
func (c *Conductor) takeName(ctx context.Context) error {
	if !c.o.TakeName || !c.o.Store.Shared() {
		return nil
	}
	other, err := c.o.Store.Conductor(ctx, c.o.Host)
	if ingot.KindOf(err) == ingot.NotFound || err == nil && !other.Alive {
		return nil
	}
	if err == nil {
		err = c.o.Store.TakeName(ctx, c.o.Host, c.incarnation, c.o.Address)
	}
	if err != nil {
		return err
	}
	c.o.Log.Warn("took the name of a conductor that is alive; it ends. Waiting until its lease is over",
		"address", other.Address, "at_most", c.o.Store.ConductorLease())
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(c.o.Store.ConductorLease()):
		return nil
	}
}

// beat sends heartbeats until ctx ends, or until one is refused because another process has the
// name: two of one name would take each other's nodes for their own.
func (c *Conductor) beat(ctx context.Context) error {
	tick, watch := time.NewTicker(c.o.HeartbeatInterval), time.NewTicker(c.o.HeartbeatInterval/6)
	defer tick.Stop()
	defer watch.Stop()
	left := c.left
	for failed := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-watch.C:
			if err := c.watchOthers(ctx); err != nil && ctx.Err() == nil {
				c.o.Log.Warn("cannot look after a conductor whose heartbeat is late", "error", err)
			}
			continue
		case <-tick.C:
		case <-left:
			left = nil
		}
		err := c.tryHeartbeat(ctx)
		switch {
		case ingot.KindOf(err) == ingot.Conflict:
			return fmt.Errorf("this conductor was taken for dead: %w", err)
		case err != nil && ctx.Err() == nil && !failed:
			c.o.Log.Error("heartbeat failed; it is tried again and again",
				"after", c.o.HeartbeatInterval, "error", err)
		}
		failed = err != nil
	}
}

// tryHeartbeat gives up after a while where the way to the store may be cut off: what was sent into
// the void is not answered when the way is back, and a late answer renews the lease for a moment only.
func (c *Conductor) tryHeartbeat(ctx context.Context) error {
	if c.o.Store.Shared() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.o.Store.ConductorLease()/2)
		defer cancel()
	}
	return c.heartbeat(ctx)
}

// heartbeat says that this conductor lives, and looks who else does.
func (c *Conductor) heartbeat(ctx context.Context) error {
	sent := time.Now()
	me := ingot.Conductor{
		Hostname: c.o.Host, Group: c.o.Group, Drivers: c.o.Table.Describe(),
		Incarnation: c.incarnation, Address: c.o.Address, Services: c.o.Services,
		Version: c.o.Version, Load: c.load(),
	}
	if c.leaving.Load() && c.o.Store.Shared() {
		me.Drivers = nil // who knows no hardware owns no node
	}
	if c.o.BootTree != nil {
		me.BootTree = c.o.BootTree()
	}
	if err := c.o.Store.Heartbeat(ctx, me); err != nil {
		return err
	}
	c.lease.renew(sent)
	return c.lookAtOthers(ctx)
}

// lookAtOthers reads who the conductors are.
func (c *Conductor) lookAtOthers(ctx context.Context) error {
	all, err := c.o.Store.Conductors(ctx, store.Page{})
	if err != nil {
		return err
	}
	c.seen = all
	c.tellDrain(all)
	before := c.members.Load()
	if before != nil && slices.EqualFunc(before.all, all, sameMember) {
		return nil
	}
	if before != nil && lost(before.all, all) {
		c.bereaved.Store(c.o.Store.Now().UnixMicro())
	}
	c.members.Store(c.membership(all))
	if c.o.Changed != nil {
		c.o.Changed(all)
	}
	if before != nil {
		c.o.Log.Info("the conductors have changed; nodes have new owners", "now", working(all))
		c.look()
	}
	return nil
}

// lost tells whether a process that was alive is not any more.
func lost(before, now []*ingot.Conductor) bool {
	living := lives(now)
	return slices.ContainsFunc(before, func(m *ingot.Conductor) bool {
		return m.Alive && !living[m.Incarnation]
	})
}

// lives are the incarnations that are alive.
func lives(all []*ingot.Conductor) map[string]bool {
	living := map[string]bool{}
	for _, m := range all {
		if m.Alive {
			living[m.Incarnation] = true
		}
	}
	return living
}

const (
	// lateBy is by how much a heartbeat may be late.
	lateBy = time.Second
	// probeTimeout bounds the look at a port.
	probeTimeout = 500 * time.Millisecond
)

// watchOthers looks after conductors whose heartbeat is late. The lease of one whose boot socket
// refuses connections ends at once: a process that lives listens there, so it was killed, and its
// host lives. Of a host that is silent nobody knows; it has its lease.
func (c *Conductor) watchOthers(ctx context.Context) error {
	if !c.o.Store.Shared() || !slices.ContainsFunc(c.seen, c.late) || c.lease.check() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Store.ConductorLease()/2)
	defer cancel()
	// Others may have been heard of since the last heartbeat of this one.
	if err := c.lookAtOthers(ctx); err != nil {
		return err
	}
	buried := false
	for _, m := range c.seen {
		if !c.late(m) || !refuses(ctx, m) {
			continue
		}
		done, err := c.o.Store.Bury(ctx, m)
		if err != nil {
			return err
		}
		if done {
			c.o.Log.Warn("a conductor was killed: its heartbeat is late and its port refuses "+
				"connections; its lease ends now", "of", m.Hostname)
		}
		buried = true // by another one, if not by this
	}
	if !buried {
		return nil
	}
	return c.lookAtOthers(ctx)
}

// late tells whether another conductor that counts as alive should have been heard of.
func (c *Conductor) late(m *ingot.Conductor) bool {
	return m.Alive && m.Hostname != c.o.Host && m.UpdatedAt != nil &&
		c.o.Store.Now().Sub(*m.UpdatedAt) > c.o.HeartbeatInterval+lateBy
}

// refuses tells whether nobody listens where a conductor serves boot files.
func refuses(ctx context.Context, m *ingot.Conductor) bool {
	u, err := url.Parse(m.Services[ingot.ServiceBoot])
	if err != nil || u.Port() == "" {
		return false
	}
	d := net.Dialer{Timeout: probeTimeout}
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// load is what others are told of the work here.
func (c *Conductor) load() ingot.Load {
	l := ingot.Load{Workers: c.pool.size, Copies: c.line.size}
	l.Busy = c.pool.working()
	l.Copying, l.Waiting = c.line.length()
	return l
}

// drain is what was told of being drained.
type drain struct{ begun, done bool }

// tellDrain says that an operator has this conductor drained, and when nothing runs here any more.
func (c *Conductor) tellDrain(all []*ingot.Conductor) {
	draining := slices.ContainsFunc(all, func(m *ingot.Conductor) bool {
		return m.Hostname == c.o.Host && m.Draining
	})
	running := c.pool.running()
	switch d := &c.drain; {
	case !draining && d.begun:
		c.o.Log.Info("draining is over; nodes are owned again")
		*d = drain{}
	case draining && !d.begun:
		c.o.Log.Info("draining: no node is owned any more, what runs is finished", "running", running)
		d.begun = true
	case draining && running > 0 && d.done: // a request that came here
		d.done = false
	case draining && running == 0 && !d.done && d.begun:
		c.o.Log.Info("drained: nothing runs here; this server can be stopped")
		d.done = true
	}
}

// Members returns the conductors there are, as of the last heartbeat, dead ones included. They must
// not be changed.
func (c *Conductor) Members() []*ingot.Conductor {
	if m := c.members.Load(); m != nil {
		return m.all
	}
	return nil
}

// sameMember tells whether two states of a conductor's row are one but for the heartbeat.
func sameMember(a, b *ingot.Conductor) bool {
	return a.Hostname == b.Hostname && a.Alive == b.Alive && a.Draining == b.Draining &&
		a.Group == b.Group && a.Incarnation == b.Incarnation && maps.Equal(a.Services, b.Services) &&
		slices.EqualFunc(a.Drivers, b.Drivers,
			func(x, y ingot.Driver) bool { return x.Name == y.Name })
}

func working(all []*ingot.Conductor) []string {
	var names []string
	for _, m := range all {
		switch {
		case !m.Alive:
		case m.Draining:
			names = append(names, fmt.Sprintf("%s (draining)", m.Hostname))
		default:
			names = append(names, m.Hostname)
		}
	}
	return names
}

// membership works out what this conductor owns.
func (c *Conductor) membership(all []*ingot.Conductor) *membership {
	_, shares := ingot.Shares(all, c.o.Host)
	var mine []string
	for _, s := range shares {
		if s.Buckets == nil {
			return &membership{all: all, shares: [][]string{nil}}
		}
		mine = append(mine, s.Buckets...)
	}
	slices.Sort(mine) // those of several hardware types overlap
	return &membership{all: all,
		shares: slices.Collect(slices.Chunk(slices.Compact(mine), shareSize))}
}

// owns tells whether this conductor is the one that works on a node by itself. What it is asked to
// do it does with any node that it can reserve.
func (c *Conductor) owns(n *ingot.Node) bool {
	m := c.members.Load()
	return m != nil && ingot.Owner(m.all, n) == c.o.Host
}

// owned drops the nodes that others own.
func (c *Conductor) owned(nodes []*ingot.Node) []*ingot.Node {
	return slices.DeleteFunc(nodes, func(n *ingot.Node) bool { return !c.owns(n) })
}
