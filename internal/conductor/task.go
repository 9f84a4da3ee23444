package conductor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/store"
)

const (
	// lockWait is how long a request waits for a node on which someone is at work.
	lockWait  = 3 * time.Second
	lockRetry = 50 * time.Millisecond
	// writeTimeout bounds a write of the row. Writes outlast the task's context: what was done
	// has to be on record also when the process is about to end. Hundreds of nodes that are
	// started at once queue up for the store, on a slow disk for many seconds.
	writeTimeout = time.Minute
	// maxLastError is what Ironic keeps of an error (log_in_db_max_size).
	maxLastError = 4096
)

// errLost says that the row is not this task's any more. The task stops where it is and writes
// nothing: someone else continues.
var errLost = errors.New("the node's reservation is lost")

// task is work on one reserved node.
type task struct {
	c    *Conductor
	node *ingot.Node
	dt   *driver.Task
	log  *slog.Logger
	// work is the context of what is done with the reservation; it ends with the lease under which
	// the node was reserved.
	work context.Context
	// attempt marks entries also after the node has dropped its Attempt. Steps have several goroutines that add some.
	noting  sync.Mutex
	attempt string // guarded by noting
	// intent and powered are the boot intent and the power state on record.
	intent  ingot.BootIntent
	powered ingot.PowerState
	// notes wait for the write that makes them true, and are on record with it.
	notes []ingot.Entry
	// history waits for the next write, too.
	history []ingot.History
	lost    bool
	// resumed tells that the machine has called back: the next step is not run for the first
	// time.
	resumed bool
	// queued tells that the task ends because its node has to wait in the line.
	queued bool
	// bootsInstance tells that the machine still had its instance when the step began.
	bootsInstance bool
}

// driver of the node.
func (t *task) driver() driver.Driver { return t.dt.Driver }

// reserve takes the node, waiting a little if someone else has it. The caller ends with
// release, or with a task that does.
func (c *Conductor) reserve(ctx context.Context, ident string) (*task, error) {
	return c.reserveWithin(ctx, lockWait, func() (*task, error) {
		return c.tryReserve(ctx, ident)
	})
}

func (c *Conductor) reserveWithin(ctx context.Context, wait time.Duration,
	try func() (*task, error)) (*task, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		t, err := try()
		if ingot.KindOf(err) != ingot.Locked && ingot.KindOf(err) != ingot.Stale {
			return t, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-deadline.C:
			return nil, err
		case <-time.After(lockRetry):
		}
	}
}

func (c *Conductor) tryReserve(ctx context.Context, ident string) (*task, error) {
	if err := c.alive(); err != nil {
		return nil, err
	}
	if err := c.lease.check(); err != nil {
		return nil, err
	}
	work := c.lease.present()
	n, err := c.o.Store.Reserve(ctx, ident, c.o.Host)
	if err != nil {
		if store.Unreachable(err) {
			c.doubt(ident)
		}
		return nil, err
	}
	c.setActive(n.UUID, true)
	t, err := c.newTask(ctx, n)
	if err != nil {
		c.release(ctx, n)
		return nil, err
	}
	t.work, t.dt.Save, t.dt.SavePort, t.dt.May = work, t.save, t.savePort, t.may
	if err := t.may(); errors.Is(err, errLeaseEnded) {
		// The process was stopped meanwhile; whoever has asked has gone elsewhere.
		t.release(ctx)
		return nil, ingot.Errorf(ingot.Unavailable, "%w", err)
	}
	return t, nil
}

// newTask is a task that may read; with a reservation it may also write. A node whose driver
// is not enabled here gets a task with an empty composition, see compose.
func (c *Conductor) newTask(ctx context.Context, n *ingot.Node) (*task, error) {
	ports, err := c.o.Store.Ports(ctx, store.PortFilter{NodeID: n.ID}, store.Page{})
	if err != nil {
		return nil, err
	}
	t := &task{c: c, node: n, log: c.o.Log.With("node", n.UUID), intent: n.BootIntent,
		powered: n.PowerState}
	if n.Attempt != nil {
		t.attempt = n.Attempt.ID
	}
	t.dt = &driver.Task{
		Node: n, Ports: ports, Log: t.log, PowerTimeout: c.o.PowerTimeout, FirmwareTimeout: c.o.FirmwareTimeout,
		Now: c.o.Store.Now,
		Save: func(context.Context) error {
			return ingot.Errorf(ingot.Internal, "node %s was changed without reservation", n.UUID)
		},
		Note: t.note,
	}
	t.dt.Driver, _ = c.o.Table.Compose(n)
	return t, nil
}

// compose tells why the node's driver cannot be used, if it cannot.
func (t *task) compose() error {
	_, err := t.c.o.Table.Compose(t.node)
	return err
}

// read returns a task that only reads.
func (c *Conductor) read(ctx context.Context, ident string) (*task, error) {
	n, err := c.o.Store.Node(ctx, ident)
	if err != nil {
		return nil, err
	}
	t, err := c.newTask(ctx, n)
	if err != nil {
		return nil, err
	}
	return t, t.compose()
}

// note adds to the node's journal.
func (t *task) note(e ingot.Entry) { t.c.o.Journal.Add(t.entry(e)) }

// entry is e as an entry of the node's journal.
func (t *task) entry(e ingot.Entry) ingot.Entry {
	e.Node, e.Time = t.node.UUID, t.c.o.Store.Now()
	t.noting.Lock()
	if t.node.Attempt != nil {
		t.attempt = t.node.Attempt.ID
	}
	e.Attempt = t.attempt
	t.noting.Unlock()
	if e.Level == "" {
		e.Level = ingot.LevelInfo
	}
	return e
}

// may returns an error if the reservation may be another's now: the lease under which it was taken
// has ended. The task's context has ended then, too.
func (t *task) may() error {
	if err := t.c.lease.check(); err != nil {
		return err
	}
	return context.Cause(t.work)
}

// spawn runs fn for a caller who has entered the pool, and leaves it.
func (t *task) spawn(fn func(ctx context.Context)) {
	t.c.pool.spawn(func() { fn(t.work) })
}

// later adds to the journal when the next write has succeeded.
func (t *task) later(e ingot.Entry) { t.notes = append(t.notes, e) }

// alive is for tests: an error when the process shall behave as if it were dead.
func (c *Conductor) alive() error {
	if c.crash == nil {
		return nil
	}
	return c.crash()
}

// save writes the row; an error ends the task.
func (t *task) save(ctx context.Context) error {
	if t.lost {
		return errLost
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	for i, e := range t.notes {
		t.notes[i] = t.entry(e)
	}
	err := t.c.alive()
	if err == nil {
		err = t.c.o.Store.ChangeNode(ctx, t.node, t.history, t.notes)
	}
	if err != nil {
		t.lose(err)
		return fmt.Errorf("%w: %w", errLost, err)
	}
	for _, e := range t.notes {
		t.c.o.Journal.Add(e)
	}
	t.notes, t.history = nil, nil
	if t.intent != t.node.BootIntent {
		t.intent = t.node.BootIntent
		if t.c.o.Switched != nil {
			t.c.o.Switched(t.node.UUID)
		}
	}
	if t.powered != t.node.PowerState {
		t.powered = t.node.PowerState
		if t.c.o.Powered != nil && t.node.InstanceUUID != "" && !t.node.Deploying() {
			t.c.o.Powered(t.node.UUID, t.node.InstanceUUID, t.powered)
		}
	}
	return nil
}

// savePort writes a port of the node; an error ends the task.
func (t *task) savePort(ctx context.Context, p *ingot.Port) error {
	if t.lost {
		return errLost
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	err := t.c.alive()
	if err == nil {
		err = t.c.o.Store.SavePort(ctx, t.node, p)
	}
	if err != nil {
		t.lose(err)
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return nil
}

// lose ends the task because of a write that failed.
func (t *task) lose(err error) {
	if store.Unreachable(err) {
		t.c.doubt(t.node.UUID)
	}
	t.lost = true
	t.log.Error("write of the node failed; its task stops", "error", err)
}

// release gives the node back.
func (t *task) release(ctx context.Context) { t.c.release(ctx, t.node) }

func (c *Conductor) release(ctx context.Context, n *ingot.Node) {
	// Before the write: after it the node may be another task's.
	c.setActive(n.UUID, false)
	if c.alive() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := c.o.Store.Release(ctx, n); err != nil {
		// resumeAbandoned tries again, at once: nobody else can be at work on this generation.
		c.suspect(n)
		c.o.Log.Error("release of the node failed", "node", n.UUID, "error", err)
		return
	}
	c.followUp(n.UUID)
}

func (c *Conductor) setActive(uuid string, active bool) {
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	if active {
		c.active[uuid] = true
	} else {
		delete(c.active, uuid)
	}
}

// enter moves the node to its next state. The change takes effect with the next save.
func (t *task) enter(e lifecycle.Event) error {
	n := t.node
	from := n.ProvisionState
	next, target, ok := lifecycle.Enter(lifecycle.State(from),
		lifecycle.State(n.TargetProvisionState), e)
	if !ok {
		return badState(n, string(e))
	}
	now := t.c.o.Store.Now()
	n.ProvisionState, n.TargetProvisionState = string(next), string(target)
	n.ProvisionUpdatedAt = &now
	level := ingot.LevelInfo
	if e == lifecycle.Fail {
		level = ingot.LevelError
	}
	t.later(ingot.Entry{Source: "state", Level: level, Text: fmt.Sprintf("%s → %s", from, next),
		Data: ingot.Object{"from": from, "to": string(next), "event": string(e)}})
	t.log.Info("state changed", "from", from, "to", string(next), "event", string(e))
	return nil
}

// badState is Ironic's answer to an action that a state does not allow.
func badState(n *ingot.Node, action string) error {
	return ingot.Errorf(ingot.Invalid, "The requested action %q can not be performed on node %q "+
		"while it is in state %q.", action, n.UUID, n.ProvisionState)
}

// plan makes steps the node's plan and forgets the one before.
func (t *task) plan(steps ...ingot.Step) {
	t.node.Steps, t.node.Step, t.node.WaitUntil = steps, 0, nil
}

// What an entry of a node's history is about, as in Ironic.
const (
	aboutProvisioning = "provisioning"
	aboutPower        = "power"
	aboutMonitoring   = "monitoring"
	aboutManagement   = "management"
)

// setError records why something failed, cut to what is kept. What is on record already, because
// its end was cut short, is told once in the history.
func (t *task) setError(about, text string) {
	// A rune that is cut in half is dropped.
	text = strings.ToValidUTF8(text[:min(len(text), maxLastError)], "")
	if t.node.LastError != text {
		t.remember(ingot.SeverityError, about, text)
	}
	t.node.LastError = text
}

// remember adds to the node's history with the next save.
func (t *task) remember(s ingot.Severity, about, event string) {
	t.history = append(t.history, ingot.History{Severity: s, Type: about, Event: event,
		Conductor: t.c.o.Host})
}
