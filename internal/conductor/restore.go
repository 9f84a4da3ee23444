package conductor

import (
	"context"
	"fmt"
	"maps"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/store"
)

// restoreMedia takes over the media of machines that have not called, and of those that boot them at each start,
// from servers that live no more (S3.5).
func (c *Conductor) restoreMedia(ctx context.Context) error {
	free, no := false, false
	waiting, err := c.o.Store.Nodes(ctx, store.NodeFilter{Reserved: &free, Maintenance: &no,
		ProvisionState: string(lifecycle.WaitCallBack)}, store.Page{})
	if err != nil {
		return err
	}
	for _, n := range c.owned(waiting) {
		if c.restorer(n) == nil {
			continue
		}
		// A machine that has begun to boot from a medium is started again if it does not come (retryStranded):
		// another medium in its drive would not help it.
		switch last, err := c.lostAt(ctx, n); {
		case err != nil:
			return err
		case last != nil && readsMedium(*last) && last.Time.After(n.Attempt.BootedAt):
			continue
		}
		free, err := c.attend(ctx, n.UUID, func(ctx context.Context, t *task) {
			defer t.release(ctx)
			t.restoreMedia(ctx)
		})
		if !free {
			return err
		}
	}
	// A machine in use may have the medium mounted: to insert another one ends that, and a server that is only
	// restarted serves it again.
	gone := c.o.Store.Now().Sub(later(time.UnixMicro(c.bereaved.Load()), c.began)) > restartTime
	return c.eachNode(ctx, store.NodeFilter{Reserved: &free, Netboots: true}, func(n *ingot.Node) {
		if n.PowerState != ingot.PowerOff && !gone {
			return
		}
		if n.Maintenance || n.ProvisionState != string(lifecycle.Active) || c.restorer(n) == nil {
			return
		}
		c.change(ctx, n, (*task).restoreRunning)
	})
}

// restartTime is how long the restart of a server, or of its host, may take.
const restartTime = 10 * time.Minute

// restoreRunning is restoreMedia for a machine in use, which needs it when it starts again. What fails is tried
// again each time, and told once an hour.
func (t *task) restoreRunning() {
	r := t.c.restorer(t.node)
	if r == nil {
		return
	}
	before := maps.Clone(t.node.DriverInternalInfo)
	if err := r.Restore(t.work, t.dt); err != nil {
		t.node.DriverInternalInfo = before // whoever changes a node saves it
		t.untaken(err)
		return
	}
	t.later(takenOver)
	if err := t.save(t.work); err != nil {
		t.log.Error("save node failed", "error", err)
	}
}

// takenOver tells that the machine boots from another server.
var takenOver = ingot.Entry{Source: "bmc", Text: "took over what the machine boots; its server is gone"}

// untaken tells why it does not.
func (t *task) untaken(err error) {
	if !t.c.told.First("media of " + t.node.UUID) {
		return
	}
	t.log.Warn("the server of what a machine boots is gone, and it could not be taken over", "error", err)
	t.note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: fmt.Sprintf(
		"the server of what the machine boots is gone, and it could not be taken over: %v", err)})
}

func (t *task) restoreMedia(ctx context.Context) {
	r := t.c.restorer(t.node) // only now the row cannot change any more
	if r == nil {
		return
	}
	err := r.Restore(ctx, t.dt)
	if saveErr := t.save(ctx); saveErr != nil {
		t.log.Error("save node failed", "error", saveErr)
		return
	}
	if err != nil {
		t.log.Warn("the server of what a machine boots is gone, and it could not be taken over", "error", err)
		t.note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"the server of what the machine boots is gone, and it could not be taken over: %v", err)})
		return
	}
	t.note(takenOver)
}

// restorer is the boot interface of a node whose media are bereft; nil if they are not.
func (c *Conductor) restorer(n *ingot.Node) driver.Restorer {
	d, err := c.o.Table.Compose(n)
	if err != nil || givenUp(n) {
		return nil
	}
	if r, ok := d.Boot.(driver.Restorer); ok && r.Bereft(n) {
		return r
	}
	return nil
}
