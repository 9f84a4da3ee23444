package conductor

import (
	"context"
	"fmt"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

const (
	// unwritten is how long before its death a conductor may have changed a row without its journal
	// being written: that is gathered for a moment, and waits for a store that is slow.
	unwritten = 5 * time.Second
	// recordAfter is how long after a death the journals are looked at: those who live have written
	// theirs.
	recordAfter = 2 * unwritten
)

// recordStates completes the journals of nodes whose state a conductor changed that was killed before
// it wrote so. Who goes on with a node does that itself, see recordFrom; these are the others.
func (c *Conductor) recordStates(ctx context.Context) error {
	died := later(time.UnixMicro(c.bereaved.Load()), c.began)
	if !died.After(c.recorded) || c.o.Store.Now().Sub(died) < recordAfter {
		return nil
	}
	since := died.Add(-c.o.Store.ConductorLease() - unwritten)
	if died.Equal(c.began) {
		// It may have been long ago that somebody was at work here.
		newest, err := c.o.Store.Nodes(ctx, store.NodeFilter{}, store.Page{Limit: 1, Desc: true,
			SortKey: "provision_updated_at"})
		if err != nil {
			return err
		}
		if len(newest) > 0 && newest[0].ProvisionUpdatedAt != nil {
			since = newest[0].ProvisionUpdatedAt.Add(-unwritten)
		}
	}
	if err := c.recordBetween(ctx, since, died); err != nil {
		return err
	}
	c.recorded = died
	return nil
}

// recordBetween completes the journals of nodes that came to their state in that time.
func (c *Conductor) recordBetween(ctx context.Context, since, until time.Time) error {
	nodes, err := c.o.Store.Nodes(ctx, store.NodeFilter{StateAfter: &since, StateBefore: &until},
		store.Page{})
	if err != nil {
		return err
	}
	for _, n := range c.owned(nodes) {
		if err := c.recordState(ctx, n, n.ProvisionState); err != nil {
			return err
		}
	}
	return nil
}

// recordState adds to a node's journal how it came to be in a state, if that is missing.
func (c *Conductor) recordState(ctx context.Context, n *ingot.Node, state string) error {
	entries, err := c.o.Store.Journal(ctx, store.JournalQuery{Node: n.UUID, Last: 50})
	if err != nil {
		return err
	}
	i := lastIndex(entries, func(e ingot.Entry) bool { return e.Source == "state" && e.Data["to"] != nil })
	if i < 0 || entries[i].Data["to"] == state {
		return nil
	}
	e := ingot.Entry{Node: n.UUID, Source: "state", Level: ingot.LevelWarning,
		Text: fmt.Sprintf("%s → %s; whoever did it had not put it on record",
			entries[i].Data["to"], state),
		Data: ingot.Object{"from": entries[i].Data["to"], "to": state}}
	if n.Attempt != nil {
		e.Attempt = n.Attempt.ID
	}
	if n.ProvisionUpdatedAt != nil {
		e.Time = *n.ProvisionUpdatedAt
	}
	c.o.Journal.Add(e)
	return nil
}

// recordFrom does so for a node that is about to leave a state, as long as there may be something to
// do.
func (t *task) recordFrom(ctx context.Context) {
	c := t.c
	died := later(time.UnixMicro(c.bereaved.Load()), c.began)
	from := t.leaves()
	late := t.inState.After(died) || c.o.Store.Now().Sub(died) > strandedFor
	// Whoever does the work of another does so because that one does not answer.
	if from == "" || late && c.owns(t.node) {
		return
	}
	err := c.o.Journal.Flush(ctx) // what this conductor has done with the node
	if err == nil {
		err = c.recordState(ctx, t.node, from)
	}
	if err != nil {
		t.log.Warn("cannot look whether the journal is complete", "error", err)
	}
}

// leaves is the state that the node leaves with the next write, "" if it stays.
func (t *task) leaves() string {
	for _, e := range t.notes {
		if from, ok := e.Data["from"].(string); ok && e.Source == "state" {
			return from
		}
	}
	return ""
}
