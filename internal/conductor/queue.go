package conductor

import (
	"context"
	"fmt"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// Why an operation goes on that stood still.
const (
	interrupted = "the conductor was interrupted"
	workerFree  = "a worker is free"
	itsTurn     = "it is this node's turn"
)

// carryOn hands a reserved node to a worker; the caller has entered the pool. When all workers
// are busy, or others wait for one already, the node is given back: its row says what is to be
// done, and resumeAbandoned takes it up in the order of age.
func (c *Conductor) carryOn(ctx context.Context, t *task) {
	switch {
	case t.node.CurrentStep() == nil: // a mere change of state
		t.spawn(t.advance)
		return
	case !c.backlog.Load() && c.pool.hire():
		c.employ(t)
		return
	default:
		t.note(ingot.Entry{Source: "step", Text: fmt.Sprintf("waiting for a free worker: all %d "+
			"are busy (workers_pool_size)", c.o.Workers)})
		c.activeMu.Lock()
		c.deferred[t.node.UUID] = true
		c.activeMu.Unlock()
		c.backlog.Store(true)
	}
	t.release(ctx)
	c.pool.leave()
}

// employ lets a worker that was hired go on with the operation.
func (c *Conductor) employ(t *task) {
	t.spawn(func(ctx context.Context) {
		defer c.dismiss()
		t.advance(ctx)
	})
}

// dismiss gives a worker back; who waits for one gets it.
func (c *Conductor) dismiss() {
	c.pool.dismiss()
	if c.backlog.Load() {
		c.resumer.wake()
	}
}

// forgetDeferred tells whether the node was waiting for a worker.
func (c *Conductor) forgetDeferred(uuid string) bool {
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	was := c.deferred[uuid]
	delete(c.deferred, uuid)
	return was
}

// copies tells whether the node's step on record moves an image through this conductor.
func (c *Conductor) copies(n *ingot.Node) bool {
	step := n.CurrentStep()
	if step == nil || n.ProvisionState != string(lifecycle.Deploying) {
		return false
	}
	d, err := c.o.Table.Compose(n)
	if err != nil {
		return false // running the step tells
	}
	copier, ok := d.Deploy.(driver.Copier)
	return ok && copier.Copies(*step)
}

// giveBack ends a task: the node, its place in the line, and, if it has to wait there, its
// wait begins, which holds nothing.
func (t *task) giveBack(ctx context.Context) {
	t.c.leaveLine(t.node.UUID)
	t.release(ctx)
	if t.queued && !t.c.isClaimed(t.node.UUID) {
		t.c.queue(t.node)
	}
}

// queue makes a node wait in the line, and says so now and then.
func (c *Conductor) queue(n *ingot.Node) {
	before, news := c.line.join(newTicket(n))
	if news {
		c.o.Journal.Add(ingot.Entry{Node: n.UUID, Source: "step", Level: ingot.LevelInfo,
			Text: fmt.Sprintf("waiting for a free place: %d before it (%d images are written at "+
				"a time, max_concurrent_deploy)", before, c.o.Copies),
			Data: ingot.Object{"before": before}})
	}
	c.usher.wake() // a place may have become free in between
}

func (c *Conductor) leaveLine(uuid string) {
	if c.line.leave(uuid) {
		c.usher.wake()
	}
}

// letIn gives the free places of the line to those whose turn it is.
func (c *Conductor) letIn(ctx context.Context) error {
	for {
		uuid, ok := c.line.next()
		if !ok {
			return nil
		}
		if err := c.resume(ctx, uuid, itsTurn); err != nil {
			return err
		}
		if c.backlog.Load() {
			return nil
		}
	}
}
