package conductor

import (
	"context"
	"fmt"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/store"
)

// maxBoots is how often a deployment starts its machine into the ramdisk: what does not come up
// in three boots does not come up in the fourth.
const maxBoots = 3

// retryBoots starts machines again whose ramdisk has not called: network cards miss their one
// chance, firmware hangs, a DHCP answer was lost.
func (c *Conductor) retryBoots(ctx context.Context) error {
	if c.o.BootRetryTimeout <= 0 {
		return nil
	}
	// A boot begins where the wait does, so of many waiting machines only the late are read.
	free, no, late := false, false, c.o.Store.Now().Add(-c.o.BootRetryTimeout)
	waiting, err := c.o.Store.Nodes(ctx, store.NodeFilter{Reserved: &free, Maintenance: &no,
		ProvisionState: string(lifecycle.WaitCallBack), StateBefore: &late}, store.Page{})
	if err != nil {
		return err
	}
	for _, n := range c.owned(waiting) {
		if !c.bootDue(n, c.o.Store.Now()) {
			continue
		}
		free, err := c.attend(ctx, n.UUID, func(ctx context.Context, t *task) {
			// Only now the row cannot change any more.
			if !c.bootDue(t.node, c.o.Store.Now()) || t.bootAgain(ctx) != nil {
				t.release(ctx)
				return
			}
			t.advance(ctx)
		})
		if !free {
			return err
		}
	}
	return nil
}

// bootDue tells whether the machine is to be started again. Each boot may take twice as long as
// the one before, so that a machine which is merely slow arrives in the end; and none begins
// that would be cut short by the deadline, which is that of the whole deployment. While there was
// no conductor, a ramdisk that called was not heard: it calls again.
func (c *Conductor) bootDue(n *ingot.Node, now time.Time) bool {
	a, retry := n.Attempt, c.o.BootRetryTimeout
	switch {
	case retry <= 0 || n.ProvisionState != string(lifecycle.WaitCallBack) || givenUp(n):
		return false
	case a == nil || a.Target != nil || a.BootedAt.IsZero() || a.Boots < 1 || a.Boots >= maxBoots:
		return false
	case now.Sub(later(a.BootedAt, c.began)) < retry<<(a.Boots-1):
		return false
	}
	return n.WaitUntil == nil || n.WaitUntil.Sub(now) >= retry
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// bootAgain ends the wait, so that the step which has started the machine is run once more. Its
// deadline stays on record, see wait.
func (t *task) bootAgain(ctx context.Context) error {
	a := t.node.Attempt
	text := fmt.Sprintf("the ramdisk has not called within %s of boot %d. %s Starting the machine "+
		"into the network again: boot %d of at most %d (boot_retry_timeout)",
		t.c.o.Store.Now().Sub(a.BootedAt).Round(time.Second), a.Boots, t.lastSeen(ctx, a.BootedAt),
		a.Boots+1, maxBoots)
	if err := t.enter(lifecycle.Resume); err != nil {
		return err
	}
	t.later(ingot.Entry{Source: "step", Level: ingot.LevelWarning, Text: text,
		Data: ingot.Object{"boots": a.Boots}})
	return t.save(ctx)
}
