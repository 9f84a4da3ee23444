package conductor

import (
	"context"
	"fmt"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/rpc"
)

// errNoAgent is what whoever looks up a node is told that waits for no agent, or is not there: which of
// both is nobody's business.
var errNoAgent = ingot.Errorf(ingot.NotFound, "Resource could not be found.")

// awaitsAgent tells whether an agent of a ramdisk may look up a node.
func awaitsAgent(n *ingot.Node) bool {
	info, _ := lifecycle.InfoOf(lifecycle.State(n.ProvisionState))
	return info.Lookup && n.Attempt != nil && n.Attempt.Agent != nil
}

// AgentToken gives out the token of an agent to the first who asks. Whoever else asks in that boot is told
// that there is one: a machine's tenant must not learn it later, and an agent that was robbed of it is
// heard no more, which shows.
func (c *Conductor) AgentToken(ctx context.Context, uuid string) (string, error) {
	n, err := c.o.Store.Node(ctx, uuid)
	if ingot.KindOf(err) == ingot.NotFound {
		return "", errNoAgent
	}
	if err != nil {
		return "", err
	}
	switch {
	case !awaitsAgent(n):
		return "", errNoAgent
	case n.Attempt.Agent.Token != "":
		return ingot.Masked, c.tellMasked(ctx, n)
	}
	if err := c.pool.enter(); err != nil {
		return "", err
	}
	defer c.pool.leave()
	t, err := c.reserve(ctx, uuid)
	if err != nil {
		return "", err
	}
	defer t.release(ctx)
	switch { // only now the row cannot change any more
	case !awaitsAgent(t.node):
		return "", errNoAgent
	case t.node.Attempt.Agent.Token != "":
		return ingot.Masked, nil
	}
	token := driver.NewToken()
	t.node.Attempt.Agent.Token = token
	t.later(ingot.Entry{Source: "agent", Text: "the agent in the ramdisk has looked up its node, and got " +
		"its token"})
	if err := t.save(ctx); err != nil {
		return "", ingot.Errorf(ingot.Unavailable, "the token is not on record; ask again: %w", err)
	}
	return token.Reveal(), nil
}

// tellMasked tells the journal, once an hour, of an agent that asks for a token which is given out and has not
// been used: its answer was lost, or somebody else has it.
func (c *Conductor) tellMasked(ctx context.Context, n *ingot.Node) error {
	a := n.Attempt.Agent
	if a.OnMedium || a.URL != "" || !c.told.First(n.UUID+n.Attempt.ID+"masked") {
		return nil
	}
	t, err := c.newTask(ctx, n)
	if err == nil {
		t.note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: "an agent asks for the token of this " +
			"boot, which was given out before and has not been used: either that answer was lost, or another machine " +
			"has it. The machine is started again after boot_retry_timeout"})
	}
	return err
}

// Heartbeat records what an agent says of itself, and looks whether the step that waits goes on. While
// somebody is at work on the node it is kept in memory, and both are done when that ends: the next one may
// come minutes later.
func (c *Conductor) Heartbeat(ctx context.Context, uuid string, h rpc.Heartbeat) error {
	beat := driver.Heartbeat{Token: h.Token, URL: h.URL, Version: h.Version, CA: h.CA}
	t, err := c.read(ctx, uuid)
	if err != nil {
		return err
	}
	// Strangers get no further than this.
	if err := t.checkBeat(beat); err != nil {
		return err
	}
	if err := c.pool.enter(); err != nil {
		return err
	}
	defer c.pool.leave()
	c.asked.want(uuid, beat)
	t, err = c.tryReserve(ctx, uuid)
	if k := ingot.KindOf(err); k == ingot.Locked || k == ingot.Stale {
		return nil
	}
	if err != nil {
		return err
	}
	defer t.release(ctx)
	if err := t.takeBeat(ctx, beat); err != nil {
		return err
	}
	c.asked.recorded(uuid, beat)
	return nil
}

// followLeft looks after the heartbeats that nobody follows up, because another conductor has let the node go.
func (c *Conductor) followLeft(context.Context) error {
	for _, uuid := range c.asked.left() {
		c.followUp(uuid)
	}
	return nil
}

// followUp looks after a heartbeat whether the step that waits goes on, if there was one; the node was just let
// go. Nobody is kept waiting while the agent is asked something.
func (c *Conductor) followUp(uuid string) {
	if c.pool.enter() != nil {
		return // the conductor stops; another one hears the next heartbeat
	}
	if !c.asked.begin(uuid) {
		c.pool.leave()
		return
	}
	ctx := c.lease.present()
	c.pool.spawn(func() {
		for more := true; more; more = c.asked.more(uuid) {
			err := c.heard(ctx, uuid)
			k := ingot.KindOf(err)
			if err != nil && k != ingot.NotFound && k != ingot.Locked && k != ingot.Stale && ctx.Err() == nil {
				c.o.Log.Error("a heartbeat is not followed up", "node", uuid, "error", err)
			}
			switch {
			case err == nil:
			case k == ingot.NotFound, k == ingot.Invalid: // it is gone, or its driver is not enabled here any more
				c.asked.forget(uuid)
			default:
				c.asked.retry(uuid)
			}
		}
	})
}

// recordKept puts on record what came while somebody was at work on the node.
func (c *Conductor) recordKept(ctx context.Context, uuid string) error {
	beat := c.asked.beat(uuid)
	if beat == (driver.Heartbeat{}) {
		return nil
	}
	t, err := c.tryReserve(ctx, uuid)
	if err != nil {
		return err
	}
	defer t.release(ctx)
	// The agent's boot may be over: it was not refused when it spoke, so nobody is told that it is now.
	if awaitsAgent(t.node) && beat.Check(t.node, c.o.LocalAgents) == nil {
		if err := t.takeBeat(ctx, beat); err != nil {
			return err
		}
	}
	c.asked.recorded(uuid, beat)
	return nil
}

// checkBeat refuses a heartbeat that is not the agent's, or not what it was. One with the right token tells
// of something that someone has to know.
func (t *task) checkBeat(beat driver.Heartbeat) error {
	if !awaitsAgent(t.node) {
		return ingot.Errorf(ingot.Invalid, "Invalid or missing agent token received.")
	}
	err := beat.Check(t.node, t.c.o.LocalAgents)
	if err != nil && t.c.told.First(t.node.UUID+t.node.Attempt.ID+err.Error()) {
		t.log.Warn("heartbeat refused", "error", err)
		t.note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"a heartbeat was refused: %v", err)})
	}
	return err
}

// takeBeat puts a heartbeat on record.
func (t *task) takeBeat(ctx context.Context, beat driver.Heartbeat) error {
	if err := t.checkBeat(beat); err != nil { // only now the row cannot change any more
		return err
	}
	if beat.Record(t.dt) {
		t.later(ingot.Entry{Source: "agent", Text: fmt.Sprintf("first heartbeat of the agent, version %q, "+
			"which is at %s", beat.Version, beat.URL), Data: ingot.Object{"url": beat.URL}})
	}
	if err := t.save(ctx); err != nil {
		return ingot.Errorf(ingot.Unavailable, "the heartbeat is not on record; send another: %w", err)
	}
	return nil
}

// listens tells whether the node waits for what its agent has to say.
func (t *task) listens() (driver.Listener, bool) {
	if t.node.ProvisionState != string(lifecycle.WaitCallBack) || t.node.Maintenance || givenUp(t.node) ||
		t.node.Attempt == nil || t.compose() != nil {
		return nil, false
	}
	l, ok := t.driver().Deploy.(driver.Listener)
	return l, ok
}

// heard looks after a heartbeat whether the step that waits goes on. The node is not reserved while its
// agent is asked: that may take its time, and an operator shall not wait for it. After an error, but
// NotFound and Invalid, it is to be done again; Locked says that somebody has the node.
func (c *Conductor) heard(ctx context.Context, uuid string) error {
	if err := c.recordKept(ctx, uuid); err != nil {
		return err
	}
	before, err := c.read(ctx, uuid)
	if err != nil {
		return err
	}
	if before.node.Reservation != "" { // what it waits for shows when it is let go
		return ingot.Errorf(ingot.Locked, "node %s is locked by host %s", uuid, before.node.Reservation)
	}
	l, ok := before.listens()
	if !ok {
		return nil
	}
	var h driver.Heard
	c.asked.one(ctx, func() { h = l.Heard(ctx, before.dt) })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if h == (driver.Heard{}) {
		return nil
	}
	if err := c.pool.enter(); err != nil {
		return nil // the conductor stops; another one hears the next heartbeat
	}
	t, err := c.reserve(ctx, uuid)
	if err != nil {
		c.pool.leave()
		return err
	}
	if t.follow(ctx, before.node, h) {
		c.carryOn(ctx, t)
		return nil
	}
	t.release(ctx)
	c.pool.leave()
	return nil
}

// sameAgent tells whether nobody has restarted the machine meanwhile.
func sameAgent(a, b *ingot.Agent) bool {
	return a != nil && b != nil && a.Token == b.Token && a.URL == b.URL
}

// follow does what comes of a heartbeat, if the node waits as it did before, and tells whether its step
// goes on.
func (t *task) follow(ctx context.Context, before *ingot.Node, h driver.Heard) bool {
	if _, ok := t.listens(); !ok || t.node.Step != before.Step || t.node.Attempt.ID != before.Attempt.ID ||
		!sameAgent(t.node.Attempt.Agent, before.Attempt.Agent) {
		return false
	}
	if h.Done > 0 {
		t.node.Attempt.Agent.Done = h.Done
	}
	if h.Wait > 0 {
		until := t.c.o.Store.Now().Add(h.Wait)
		t.node.WaitUntil = &until
	}
	if h.GoOn {
		if err := t.enter(lifecycle.Resume); err != nil {
			t.log.Error("a step does not go on after a heartbeat", "error", err)
			return false
		}
		t.resumed = true // with the time that is left, should it wait again
	}
	return t.save(ctx) == nil && h.GoOn
}
