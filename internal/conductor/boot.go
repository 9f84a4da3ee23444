package conductor

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/netboot"
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
		w, err := c.waitInLine(ctx, n, n.Attempt.BootedAt)
		if err != nil {
			return err
		}
		if c.o.Store.Now().Sub(w.heard) < c.o.BootRetryTimeout<<(n.Attempt.Boots-1) {
			continue
		}
		free, err := c.attend(ctx, n.UUID, func(ctx context.Context, t *task) {
			// Only now the row cannot change any more.
			if !c.bootDue(t.node, c.o.Store.Now()) || t.bootLate(ctx) != nil {
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
	case !boots(n) || a.BootedAt.IsZero() || a.Boots < 1 || a.Boots >= maxBoots:
		return false
	case now.Sub(later(a.BootedAt, c.began)) < retry<<(a.Boots-1):
		return false
	}
	return n.WaitUntil == nil || n.WaitUntil.Sub(now) >= retry
}

// boots tells whether a deployment waits for its ramdisk to call for the first time: what it does then is
// another step.
func boots(n *ingot.Node) bool {
	// What is done to the firmware before waits for nobody.
	first := slices.IndexFunc(n.Steps, func(s ingot.Step) bool { return s.Interface == "deploy" })
	return n.Attempt != nil && !n.Attempt.Called() && n.Step == max(first, 0)
}

// inLine is a machine's wait for its boot files, of which a conductor lets few load at a time
// (internal/bootd). It is no silence.
type inLine struct {
	// heard is until when the machine is known to wait, or when it was let in.
	heard time.Time
	// waited is the time that it was held up in all.
	waited time.Duration
}

// waitInLine reads the wait of a node's machine since a moment from the journal, where the conductor
// that the machine asks has written it.
func (c *Conductor) waitInLine(ctx context.Context, n *ingot.Node, since time.Time) (inLine, error) {
	var w inLine
	entries, err := c.o.Store.Journal(ctx, store.JournalQuery{Node: n.UUID, Last: 200})
	if err != nil {
		return w, err
	}
	for _, e := range entries {
		if e.Source != "script" || e.Time.Before(since) {
			continue
		}
		if n, ok := e.Data[ingot.DataWaited].(json.Number); ok {
			seconds, err := n.Float64()
			if err != nil {
				return w, fmt.Errorf("read the wait of node %s for its boot files: %w", e.Node, err)
			}
			w.heard = e.Time
			w.waited += time.Duration(seconds * float64(time.Second))
		} else if _, ok := e.Data[ingot.DataPlace]; ok {
			w.heard = e.Time.Add(netboot.TurnNews * 3 / 2)
		}
	}
	return w, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// bootLate starts a machine again that has taken too long.
func (t *task) bootLate(ctx context.Context) error {
	a := t.node.Attempt
	return t.bootAgain(ctx, fmt.Sprintf("the ramdisk has not called within %s of boot %d. %s Starting "+
		"the machine into the network again: boot %d of at most %d (boot_retry_timeout)",
		t.c.o.Store.Now().Sub(a.BootedAt).Round(time.Second), a.Boots, t.lastSeen(ctx, a.BootedAt),
		a.Boots+1, maxBoots))
}

// bootAgain ends the wait, so that the step which has started the machine is run once more. Its
// deadline stays on record, see wait.
func (t *task) bootAgain(ctx context.Context, text string) error {
	a := t.node.Attempt
	if err := t.enter(lifecycle.Resume); err != nil {
		return err
	}
	t.later(ingot.Entry{Source: "step", Level: ingot.LevelWarning, Text: text,
		Data: ingot.Object{"boots": a.Boots}})
	return t.save(ctx)
}

const (
	// strandedFor is how long after the death of a server machines are looked for that it has sent
	// on: longer than any lease it may have had.
	strandedFor = 2 * time.Minute
	// graceOfAnswer is how long a machine takes at most from a DHCP answer to its next sign, graceOfFile
	// from a boot program to that.
	graceOfAnswer = time.Second
	graceOfFile   = 10 * time.Second
	// graceOfMedium is that from the death of a medium's server: bootd tells of reads three times in it.
	graceOfMedium = 90 * time.Second
)

// retryStranded starts machines again that a server has sent to itself before it died: DHCP names one
// server, and who finds nobody there has nothing to boot. That is no fault of the machine and no
// boot of those that it may have.
func (c *Conductor) retryStranded(ctx context.Context) error {
	now := c.o.Store.Now()
	died := later(time.UnixMicro(c.bereaved.Load()), c.began)
	if now.Sub(died) > strandedFor {
		return nil
	}
	free, no := false, false
	waiting, err := c.o.Store.Nodes(ctx, store.NodeFilter{Reserved: &free, Maintenance: &no,
		ProvisionState: string(lifecycle.WaitCallBack)}, store.Page{})
	if err != nil {
		return err
	}
	for _, n := range c.owned(waiting) {
		why, err := c.stranded(ctx, n)
		if err != nil {
			return err
		}
		if why == "" {
			continue
		}
		free, err := c.attend(ctx, n.UUID, func(ctx context.Context, t *task) {
			why, err := c.stranded(ctx, t.node)
			if why == "" || err != nil {
				t.release(ctx)
				return
			}
			t.node.Attempt.Boots--
			if t.bootAgain(ctx, why) != nil {
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

// stranded tells why a machine will not come by itself, "" if it may: the last that is known of it is
// that it was sent to a server which is no more, and it should have been heard of since.
func (c *Conductor) stranded(ctx context.Context, n *ingot.Node) (why string, err error) {
	a := n.Attempt
	if !boots(n) || a.Boots < 1 || givenUp(n) ||
		n.ProvisionState != string(lifecycle.WaitCallBack) {
		return "", nil
	}
	last, err := c.lostAt(ctx, n)
	if last == nil || err != nil {
		return "", err
	}
	now := c.o.Store.Now()
	since, grace := now.Sub(last.Time), graceOfAnswer
	switch file, _ := last.Data["file"].(string); {
	case last.Source == "tftp":
		grace = graceOfFile
	case readsMedium(*last):
		// It may have been read to its end, or be read on from whoever has the service address now.
		since, grace = now.Sub(later(last.Time, time.UnixMicro(c.bereaved.Load()))), graceOfMedium
	case file == "":
		return "", nil // an operating system, which asks nobody for a file
	}
	if since < grace {
		return "", nil
	}
	return fmt.Sprintf("the server that the machine was sent to %s ago has died (%s). Starting the "+
		"machine into the network again", since.Round(100*time.Millisecond), last.Text), nil
}

// lostAt is the last sign of the machine of an attempt, if that had to do with a server which is no more; nil
// otherwise.
func (c *Conductor) lostAt(ctx context.Context, n *ingot.Node) (*ingot.Entry, error) {
	entries, err := c.o.Store.Journal(ctx, store.JournalQuery{Node: n.UUID, Last: 20})
	if err != nil {
		return nil, err
	}
	i := lastIndex(entries, func(e ingot.Entry) bool {
		return e.Attempt == n.Attempt.ID && (slices.Contains(machineSources, e.Source) || readsMedium(e))
	})
	if i < 0 {
		return nil, nil
	}
	server, _ := entries[i].Data[ingot.DataServer].(string)
	members := c.members.Load()
	if server == "" || members == nil || lives(members.all)[server] {
		return nil, nil
	}
	return &entries[i], nil
}

// readsMedium tells whether a BMC began to read a medium for its machine, or that machine by UEFI HTTP.
func readsMedium(e ingot.Entry) bool {
	return (e.Source == "bmc" || e.Source == "http") && e.Data[ingot.DataServer] != nil
}

// lastIndex is the index of the last entry for which f is true, -1 if there is none.
func lastIndex(entries []ingot.Entry, f func(ingot.Entry) bool) int {
	for i, e := range slices.Backward(entries) {
		if f(e) {
			return i
		}
	}
	return -1
}
