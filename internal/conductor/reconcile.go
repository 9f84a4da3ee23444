package conductor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/store"
)

// resumeAbandoned takes up work that nobody does: nodes in a transient state without a
// reservation, which a conductor that died or stopped has left, or which wait for a worker; the
// oldest first. Before, it frees nodes that are reserved for a conductor of another name which
// lives no more, and those that are reserved for this one without a task of it at work, which
// only a failed write can cause.
func (c *Conductor) resumeAbandoned(ctx context.Context) error {
	if err := c.freeDead(ctx); err != nil {
		return err
	}
	mine, err := c.o.Store.Nodes(ctx, store.NodeFilter{ReservedBy: c.o.Host}, store.Page{})
	if err != nil {
		return err
	}
	for _, n := range c.orphans(mine) {
		if err := c.forgetPower(ctx, n); err != nil {
			return err
		}
		c.o.Log.Warn("freed a node that nobody works on", "node", n.UUID)
		c.release(ctx, n)
	}
	var transient []string
	for _, s := range lifecycle.States() {
		if _, ok := operations[s]; ok {
			transient = append(transient, string(s))
		}
	}
	free := false
	left, err := c.o.Store.Nodes(ctx, store.NodeFilter{ProvisionStates: transient,
		Reserved: &free}, store.Page{})
	if err != nil {
		return err
	}
	// Here and not by the store: SQLite would read all nodes that never changed their state.
	slices.SortStableFunc(left, func(a, b *ingot.Node) int { return since(a).Compare(since(b)) })
	c.backlog.Store(false)
	for _, n := range c.owned(left) {
		if c.isClaimed(n.UUID) || c.line.has(n.UUID) {
			continue
		}
		if c.copies(n) && !c.line.enter(newTicket(n)) {
			c.queue(n)
			continue
		}
		if err := c.resume(ctx, n.UUID, interrupted); err != nil {
			return err
		}
		if c.backlog.Load() {
			return nil // the next free worker wakes this again
		}
	}
	return nil
}

// since is when the node came to its state, the zero time if it never had another one.
func since(n *ingot.Node) time.Time {
	if n.ProvisionUpdatedAt == nil {
		return time.Time{}
	}
	return *n.ProvisionUpdatedAt
}

// freeDead frees what other conductors have left reserved whose lease is over. That happens on
// one machine, too: when its host name changed. A conductor that was merely slow cannot write
// to those nodes any more (their generation).
func (c *Conductor) freeDead(ctx context.Context) error {
	yes := true
	reserved, err := c.o.Store.Nodes(ctx, store.NodeFilter{Reserved: &yes}, store.Page{})
	if err != nil {
		return err
	}
	seen := map[string]bool{c.o.Host: true}
	for _, n := range reserved {
		host := n.Reservation
		if seen[host] {
			continue
		}
		seen[host] = true
		owner, err := c.o.Store.Conductor(ctx, host)
		if err == nil && owner.Alive {
			continue
		}
		if err != nil && ingot.KindOf(err) != ingot.NotFound {
			return err
		}
		if err := c.free(ctx, host); err != nil {
			return err
		}
	}
	return nil
}

// suspect is a node that was found reserved for this conductor with no task at work on it. A generation
// of 0 is any: of one whose write was not answered, so that nobody knows whether it was made.
type suspect struct {
	generation int64
	since      time.Time
}

// doubt has a look at the nodes soon free one whose write was not answered, if it is reserved.
func (c *Conductor) doubt(uuid string) {
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	if c.suspects == nil {
		c.suspects = map[string]suspect{}
	}
	c.suspects[uuid] = suspect{since: time.Now()}
}

// suspect has the next look at the nodes free this one.
func (c *Conductor) suspect(n *ingot.Node) {
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	if c.suspects == nil {
		c.suspects = map[string]suspect{}
	}
	c.suspects[n.UUID] = suspect{generation: n.Generation}
}

// orphans returns the nodes without a task. One look is not enough, because a task comes to be
// a moment after its reservation: it has to stay so for a while, unchanged.
func (c *Conductor) orphans(mine []*ingot.Node) []*ingot.Node {
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	var out []*ingot.Node
	now := map[string]suspect{}
	for _, n := range mine {
		s, known := c.suspects[n.UUID]
		switch {
		case c.active[n.UUID]:
		case !known || s.generation != n.Generation && s.generation != 0:
			now[n.UUID] = suspect{n.Generation, time.Now()}
		case time.Since(s.since) > writeTimeout, s.generation == 0 && time.Since(s.since) > lockWait:
			out = append(out, n)
		default:
			now[n.UUID] = s
		}
	}
	c.suspects = now
	return out
}

// resume continues one operation that nobody works on, for a reason; someone else being quicker
// is no error. A place in the line that the node has is given back unless it comes to be used.
func (c *Conductor) resume(ctx context.Context, uuid, why string) error {
	if err := c.pool.enter(); err != nil {
		return err
	}
	begun := false
	defer func() {
		if !begun {
			c.leaveLine(uuid)
			c.pool.leave()
		}
	}()
	if !c.pool.hire() {
		c.backlog.Store(true)
		return nil
	}
	t, err := c.tryReserve(ctx, uuid)
	if err != nil {
		c.dismiss()
		if k := ingot.KindOf(err); k == ingot.Locked || k == ingot.Stale || k == ingot.NotFound {
			return nil
		}
		return err
	}
	if _, ok := operations[lifecycle.State(t.node.ProvisionState)]; !ok {
		t.release(ctx)
		c.dismiss()
		return nil
	}
	if c.forgetDeferred(uuid) {
		why = workerFree
	}
	level := ingot.LevelInfo
	if why == interrupted {
		level = ingot.LevelWarning
	}
	t.log.Info("operation continues", "state", t.node.ProvisionState, "position", t.position())
	t.note(ingot.Entry{Source: "step", Level: level, Text: fmt.Sprintf("%s; continuing %s at %s",
		why, t.node.ProvisionState, t.position())})
	begun = true
	c.employ(t)
	return nil
}

// checkDeadlines ends operations whose machine did not call back in time (S2.7).
func (c *Conductor) checkDeadlines(ctx context.Context) error {
	now, free, no := c.o.Store.Now(), false, false
	late, err := c.o.Store.Nodes(ctx, store.NodeFilter{WaitBefore: &now, Reserved: &free,
		Maintenance: &no}, store.Page{})
	if err != nil {
		return err
	}
	for _, n := range c.owned(late) {
		if lifecycle.State(n.ProvisionState) != lifecycle.WaitCallBack {
			continue
		}
		// The wait for boot files does not count, unless an operator has given up.
		w, err := c.waitInLine(ctx, n, n.WaitUntil.Add(-c.o.CallbackTimeout))
		if err != nil {
			return err
		}
		if !givenUp(n) && (w.heard.After(now) || n.WaitUntil.Add(w.waited).After(now)) {
			continue
		}
		free, err := c.attend(ctx, n.UUID, func(ctx context.Context, t *task) {
			defer t.release(ctx)
			// Only now the row cannot change any more.
			if u := t.node.WaitUntil; u == nil || u.After(now) ||
				t.node.ProvisionState != string(lifecycle.WaitCallBack) {
				return
			}
			why := t.node.LastError
			if !givenUp(t.node) {
				why = t.timeoutText(ctx)
			}
			t.failed(ctx, operations[lifecycle.Deploying], why)
		})
		if !free {
			return err
		}
	}
	return nil
}

// attend lets a worker do something about a node that waits; fn releases the node. Someone who
// has the node already, because its machine called at this moment, means that there is nothing
// to do. free tells whether there was a worker; if not, the next pass finds the node again.
func (c *Conductor) attend(ctx context.Context, uuid string,
	fn func(ctx context.Context, t *task)) (free bool, err error) {
	if err := c.pool.enter(); err != nil {
		return false, err
	}
	if !c.pool.hire() {
		c.pool.leave()
		return false, nil
	}
	t, err := c.tryReserve(ctx, uuid)
	if err != nil {
		c.dismiss()
		c.pool.leave()
		return true, nil
	}
	t.spawn(func(ctx context.Context) {
		defer c.dismiss()
		fn(ctx, t)
	})
	return true, nil
}

// machineSources are the journal's sources that speak of what a machine did itself.
var machineSources = []string{"dhcp", "tftp", "http", "script", "agent", "iscsi"}

// timeoutText says what was waited for, how long, what was seen last and what to check.
func (t *task) timeoutText(ctx context.Context) string {
	n := t.node
	what, check := "the machine to call back", "the console of the machine"
	if s := n.CurrentStep(); s != nil && t.driver().Deploy != nil {
		if w, ok := t.driver().Deploy.(driver.Waiter); ok {
			what, check = w.WaitsFor(n, *s)
		}
	}
	var since time.Time
	if n.ProvisionUpdatedAt != nil {
		since = *n.ProvisionUpdatedAt
	}
	boots := ""
	if n.Attempt != nil && n.Attempt.Boots > 1 {
		boots = fmt.Sprintf(" after boot %d of the machine", n.Attempt.Boots)
	}
	if n.SecureBoot != nil && *n.SecureBoot && (n.Attempt == nil || !n.Attempt.Called()) {
		check += "; Secure Boot is on, with which firmware starts only what is signed: have a signed ramdisk, or " +
			"switch it off ('baremetal node secure boot off " + n.Label() + "')"
	}
	now := t.c.o.Store.Now()
	return fmt.Sprintf("Timeout reached while waiting for callback: waited %s%s for %s (%s). %s "+
		"Check %s.", now.Sub(since).Round(time.Second), boots, what, t.position(),
		t.lastSeen(ctx, since), check)
}

// shortlyBefore is how much earlier a sign of life may be than the record of the wait.
const shortlyBefore = 10 * time.Second

// lastSeen tells the last sign of life of the machine in this wait or shortly before.
func (t *task) lastSeen(ctx context.Context, since time.Time) string {
	if a := t.node.Attempt; a != nil && a.Agent != nil && a.Agent.HeardAt.After(since.Add(-shortlyBefore)) {
		return fmt.Sprintf("The last heartbeat of its agent came %s ago.",
			t.c.o.Store.Now().Sub(a.Agent.HeardAt).Round(time.Second))
	}
	entries, err := t.c.o.Store.Journal(ctx, store.JournalQuery{Node: t.node.UUID, Last: 50})
	if err != nil {
		t.log.Warn("read journal for the timeout failed", "error", err)
		return "The journal could not be read."
	}
	for _, e := range slices.Backward(entries) {
		// A machine may be heard a little before its wait is on record.
		if e.Time.After(since.Add(-shortlyBefore)) && slices.Contains(machineSources, e.Source) {
			return fmt.Sprintf("The machine was last seen %s ago (%s: %s).",
				t.c.o.Store.Now().Sub(e.Time).Round(time.Second), e.Source, e.Text)
		}
	}
	return "Nothing was heard from the machine."
}
