package store

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"ingot/internal/ingot"
)

// pending are entries that are on record with the change of a node which they are about and still
// have to get their place in the journal: those who append to it take turns, and the changes of a
// thousand nodes are not to wait for that. Whoever made the change appends them a moment later; if
// it dies before, whoever appends something about the same node does, or RecordPending.
var pending = table[ingot.Entry]{name: "journal_pending", label: "Entry", key: "id",
	columns: append([]column[ingot.Entry]{
		{name: "id", use: given, at: func(e *ingot.Entry) any { return &e.Pending }},
	}, journal.columns[1:]...)}

// keepPending stores entries of a node and sets their Pending.
func keepPending(ctx context.Context, tx *tx, entries []ingot.Entry) error {
	for i := range entries {
		e := entries[i]
		e.Text = storable(e.Text)
		id, err := pending.insert(ctx, tx, &e)
		if err != nil {
			return fmt.Errorf("keep what its journal is to say: %w", err)
		}
		entries[i].Pending = id
	}
	return nil
}

// takePending removes the entries that match and returns them in the order in which they were made.
// The journal is locked.
func takePending(ctx context.Context, tx *tx, match where) (taken []*ingot.Entry, err error) {
	cond, args := match.clause(nil)
	names := make([]string, len(pending.columns))
	for i, c := range pending.columns {
		names[i] = c.name
	}
	rows, err := tx.QueryContext(ctx, "DELETE FROM journal_pending"+cond+" RETURNING "+
		strings.Join(names, ", "), args...)
	if err != nil {
		return nil, fmt.Errorf("look what else is to be put on record: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		e, err := pending.scan(rows)
		if err != nil {
			return nil, err
		}
		taken = append(taken, e)
	}
	slices.SortFunc(taken, func(a, b *ingot.Entry) int { return cmp.Compare(a.Pending, b.Pending) })
	return taken, rows.Err()
}

// settle returns what is to be appended in place of entries some of which are pending: these unless
// somebody has appended them, and what else is pending for their nodes; for each node in the order of
// the changes, which is not always that in which they are told. at has the index in entries of each,
// -1 for those that are not among them.
func settle(ctx context.Context, tx *tx, entries []ingot.Entry) (all []ingot.Entry, at []int,
	err error) {
	index := map[int64]int{}
	var nodes []any
	for i, e := range entries {
		if e.Pending != 0 {
			index[e.Pending] = i
			nodes = append(nodes, e.Node)
		}
	}
	var w where
	w.add("node IN (?"+strings.Repeat(", ?", len(nodes)-1)+")", nodes...)
	taken, err := takePending(ctx, tx, w)
	if err != nil {
		return nil, nil, err
	}
	of := map[string][]*ingot.Entry{}
	for _, e := range taken {
		of[e.Node] = append(of[e.Node], e)
	}
	// until appends those of a node up to a number.
	until := func(node string, number int64) {
		for len(of[node]) > 0 && of[node][0].Pending <= number {
			e := of[node][0]
			of[node] = of[node][1:]
			i, ours := index[e.Pending]
			if !ours {
				i = -1
			}
			all, at = append(all, *e), append(at, i)
		}
	}
	for i, e := range entries {
		if e.Pending == 0 {
			all, at = append(all, e), append(at, i)
		} else {
			until(e.Node, e.Pending)
		}
	}
	for _, e := range taken {
		until(e.Node, math.MaxInt64)
	}
	return all, at, nil
}

// RecordPending appends to the journal what is pending since before a time, and returns how much
// that was: who made it is dead, or slow.
func (s *Store) RecordPending(ctx context.Context, before time.Time) (count int, err error) {
	// Mostly there is nothing, and then nobody has to wait.
	err = s.read(ctx, "look what is to be put on record", func(tx *tx) error {
		return tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM journal_pending WHERE time < $1",
			before.UnixMicro()).Scan(&count)
	})
	if err != nil || count == 0 {
		return 0, err
	}
	err = s.writeBeside(ctx, "append to the journal", func(tx *tx) error {
		if err := s.lock(ctx, tx, lockJournal); err != nil {
			return err
		}
		var w where
		w.add("time < ?", before.UnixMicro())
		taken, err := takePending(ctx, tx, w)
		if err != nil {
			return err
		}
		entries := make([]ingot.Entry, len(taken))
		for i, e := range taken {
			entries[i] = *e
		}
		count = len(entries)
		return s.appendEntries(ctx, tx, entries, make([]int64, count))
	})
	return count, err
}
