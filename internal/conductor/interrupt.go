package conductor

import (
	"context"
	"errors"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// interruptWait is how long a request waits for a step that it has broken off: sessions are ended
// and BMCs are heard out.
const interruptWait = 15 * time.Second

// errInterrupted is why the context of a task ends whose node somebody wants for something else.
var errInterrupted = errors.New("broken off by request")

// interruptible makes the rest of a deployment end when a request interrupts it. Nothing of it is
// on record: the task gives the node back as it does when the process ends, and who has
// interrupted it puts on record what shall happen instead, before anybody is told that it will.
func (t *task) interruptible(ctx context.Context) (_ context.Context, done func()) {
	s := lifecycle.State(t.node.ProvisionState)
	if s != lifecycle.Deploying && s != lifecycle.WaitCallBack {
		return ctx, func() {}
	}
	ctx, stop := context.WithCancelCause(ctx)
	c, uuid := t.c, t.node.UUID
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	outer := c.running[uuid]
	c.running[uuid] = stop
	return ctx, func() {
		stop(nil)
		c.activeMu.Lock()
		defer c.activeMu.Unlock()
		if c.running[uuid] = outer; outer == nil {
			delete(c.running, uuid)
		}
	}
}

// seize takes a node from the deployment that is at work on it.
func (c *Conductor) seize(ctx context.Context, uuid string) (*task, error) {
	c.claim(uuid, 1)
	defer c.claim(uuid, -1)
	told := false
	return c.reserveWithin(ctx, interruptWait, func() (*task, error) {
		t, err := c.tryReserve(ctx, uuid)
		if ingot.KindOf(err) != ingot.Locked {
			return t, err
		}
		c.activeMu.Lock()
		stop := c.running[uuid]
		c.activeMu.Unlock()
		if stop == nil {
			return t, err
		}
		stop(errInterrupted)
		if !told {
			told = true
			c.o.Journal.Add(ingot.Entry{Node: uuid, Source: "api", Level: ingot.LevelWarning,
				Text: "undeploy was asked for in the middle of the deployment"})
		}
		return t, err
	})
}

func (c *Conductor) claim(uuid string, by int) {
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	if c.claimed[uuid] += by; c.claimed[uuid] == 0 {
		delete(c.claimed, uuid)
	}
}

// isClaimed tells whether a request is about to take the node.
func (c *Conductor) isClaimed(uuid string) bool {
	c.activeMu.Lock()
	defer c.activeMu.Unlock()
	return c.claimed[uuid] > 0
}
