package store

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot/internal/ingot"
)

var journal = table[ingot.Entry]{name: "journal", label: "Entry", key: "seq",
	columns: []column[ingot.Entry]{
		{name: "seq", use: given, at: func(e *ingot.Entry) any { return &e.Seq }},
		{name: "time", at: func(e *ingot.Entry) any { return moment{&e.Time} }},
		{name: "node", at: func(e *ingot.Entry) any { return &e.Node }},
		{name: "mac", at: func(e *ingot.Entry) any { return &e.MAC }},
		{name: "attempt", at: func(e *ingot.Entry) any { return &e.Attempt }},
		{name: "source", at: func(e *ingot.Entry) any { return &e.Source }},
		{name: "level", at: func(e *ingot.Entry) any { return &e.Level }},
		{name: "text", at: func(e *ingot.Entry) any { return &e.Text }},
		{name: "data", at: func(e *ingot.Entry) any { return document[ingot.Object]{&e.Data, ""} }},
	}}

// JournalQuery selects entries, in the order in which they were appended. It is an alias, so
// that who asks for a journal need not import the store.
type JournalQuery = struct {
	Node string // UUID; "" is any
	// MAC is a port's address, "" any. Without a node it selects entries of machines unknown then.
	MAC   string
	After int64 // entries with a greater Seq only
	// Limit is the greatest number of entries, the oldest ones first; 0 is no limit.
	Limit int
	// Last is the greatest number of entries, the newest ones; 0 is no limit. They come in the
	// same order as always.
	Last int
}

// AppendJournal stores entries in that order and sets their Seq; those that were pending and that
// somebody else has stored meanwhile are left out. Entries without a node share one bounded journal:
// anybody on the wire can cause them.
func (s *Store) AppendJournal(ctx context.Context, entries []ingot.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	due := s.dueForTrim(entries)
	all, at, seqs := entries, []int(nil), make([]int64, len(entries))
	waits := slices.ContainsFunc(entries, func(e ingot.Entry) bool { return e.Pending != 0 })
	err := s.writeBeside(ctx, "append to the journal", func(tx *tx) error {
		if err := s.lock(ctx, tx, lockJournal); err != nil {
			return err
		}
		if waits {
			var err error
			if all, at, err = settle(ctx, tx, entries); err != nil {
				return err
			}
			seqs = make([]int64, len(all))
		}
		if err := s.appendEntries(ctx, tx, all, seqs); err != nil {
			return err
		}
		for _, node := range due {
			if err := trimJournal(ctx, tx, node, s.keep); err != nil {
				return fmt.Errorf("trim the journal of node %q: %w", node, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for k, seq := range seqs {
		if !waits {
			entries[k].Seq = seq
		} else if at[k] >= 0 {
			entries[at[k]].Seq = seq
		}
	}
	return nil
}

// rowsOfInsert is how many entries one statement stores. Most of what an entry costs is per
// statement, and SQLite takes 32766 arguments.
const rowsOfInsert = 32

// insertEntries is a statement that stores so many entries and returns their numbers.
func (s *Store) insertEntries(count int) string {
	return s.insertSeveral("journal", []string{"time", "node", "mac", "attempt", "source", "level",
		"text", "data"}, count) + " RETURNING seq"
}

// insertSeveral is a statement that stores so many rows. For SQLite its places have no numbers:
// those count as names, and the driver looks up each in a list.
func (s *Store) insertSeveral(table string, columns []string, count int) string {
	insert, place := insertOrFail, func(int) string { return "?" }
	if s.shared {
		insert, place = "INSERT", func(n int) string { return "$" + strconv.Itoa(n) }
	}
	rows := make([]string, count)
	for i := range rows {
		places := make([]string, len(columns))
		for j := range places {
			places[j] = place(i*len(columns) + j + 1)
		}
		rows[i] = "(" + strings.Join(places, ", ") + ")"
	}
	return insert + " INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES " +
		strings.Join(rows, ", ")
}

// appendEntries stores entries and puts their numbers into seqs.
func (s *Store) appendEntries(ctx context.Context, tx *tx, entries []ingot.Entry,
	seqs []int64) error {
	many, one := tx.StmtContext(ctx, s.insertMany), tx.StmtContext(ctx, s.insertOne)
	for len(entries) > 0 {
		insert, count := one, 1
		if len(entries) >= rowsOfInsert {
			insert, count = many, rowsOfInsert
		}
		if err := insertRows(ctx, insert, tx.now, entries[:count], seqs); err != nil {
			return err
		}
		entries, seqs = entries[count:], seqs[count:]
	}
	return nil
}

func insertRows(ctx context.Context, insert *sql.Stmt, now time.Time, entries []ingot.Entry,
	seqs []int64) error {
	args := make([]any, 0, 8*len(entries))
	for _, e := range entries {
		if e.Time.IsZero() {
			e.Time = now
		}
		args = append(args, e.Time.UnixMicro(), e.Node, e.MAC, e.Attempt, e.Source, e.Level,
			storable(e.Text), document[ingot.Object]{&e.Data, ""})
	}
	rows, err := insert.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for i := 0; rows.Next(); i++ {
		if err := rows.Scan(&seqs[i]); err != nil {
			return err
		}
	}
	return rows.Err()
}

// maxUntrimmed bounds the count of nodes that are remembered, many of them long deleted.
const maxUntrimmed = 50_000

// dueForTrim counts the entries and returns the nodes whose journals shall be trimmed. Finding
// the oldest entry to keep costs a walk over all that are kept, so it is done once for many.
func (s *Store) dueForTrim(entries []ingot.Entry) []string {
	s.trimMu.Lock()
	defer s.trimMu.Unlock()
	if len(s.untrimmed) > maxUntrimmed {
		clear(s.untrimmed) // only makes the next trim of each node come early
	}
	var due []string
	for _, e := range entries {
		count, seen := s.untrimmed[e.Node]
		if !seen {
			count = rand.IntN(s.keep/10 + 1)
		}
		s.untrimmed[e.Node] = count + 1
		if count >= s.keep/10 && !slices.Contains(due, e.Node) {
			due = append(due, e.Node)
		}
	}
	for _, node := range due {
		s.untrimmed[node] = 0
	}
	return due
}

func trimJournal(ctx context.Context, tx *tx, node string, keep int) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM journal WHERE node = $1 AND seq <=
		(SELECT seq FROM journal WHERE node = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)`,
		node, keep)
	return err
}

// Journal returns the entries that match, in the order in which they were appended.
func (s *Store) Journal(ctx context.Context, q JournalQuery) ([]ingot.Entry, error) {
	var w where
	w.add("seq > ?", q.After)
	if q.Node != "" {
		w.add("node = ?", q.Node)
	}
	if q.MAC != "" {
		w.add("mac = ?", q.MAC)
	}
	if q.MAC != "" && q.Node == "" {
		w.add("node = ''")
	}
	order, limit := "seq", q.Limit
	if q.Last > 0 {
		order, limit = "seq DESC", q.Last
	}
	var entries []ingot.Entry
	err := s.read(ctx, "read the journal", func(tx *tx) error {
		rows, err := journal.collect(ctx, tx, nil, w, order, limit)
		if q.Last > 0 {
			slices.Reverse(rows)
		}
		entries = nil
		for _, e := range rows {
			entries = append(entries, *e)
		}
		return err
	})
	return entries, err
}
