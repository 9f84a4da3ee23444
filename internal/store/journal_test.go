package store_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

func texts(entries []ingot.Entry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Text)
	}
	return all
}

func TestJournalEntriesAreReadInOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	entries := []ingot.Entry{
		{Time: at, Node: "n1", MAC: macA, Attempt: "0a", Source: "dhcp", Level: "info", Text: "a",
			Data: ingot.Object{"url": "http://x"}},
		{Time: at.Add(-time.Hour), Node: "n2", Text: "b"},
		{Time: at, MAC: macB, Text: "c"},
		{Time: at, Node: "n1", Text: "d"},
	}
	if err := s.AppendJournal(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	for i := range entries[1:] {
		if entries[i].Seq >= entries[i+1].Seq {
			t.Errorf("entry %d has Seq %d, the next %d", i, entries[i].Seq, entries[i+1].Seq)
		}
	}
	all, err := s.Journal(t.Context(), store.JournalQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(entries, all); diff != "" {
		t.Errorf("entries (-appended +read):\n%s", diff)
	}
	for name, c := range map[string]struct {
		query store.JournalQuery
		want  []string
	}{
		"node":   {store.JournalQuery{Node: "n1"}, []string{"a", "d"}},
		"MAC":    {store.JournalQuery{MAC: macB}, []string{"c"}},
		"after":  {store.JournalQuery{After: entries[1].Seq}, []string{"c", "d"}},
		"limit":  {store.JournalQuery{Limit: 2}, []string{"a", "b"}},
		"last":   {store.JournalQuery{Last: 2}, []string{"c", "d"}},
		"no one": {store.JournalQuery{Node: "n3"}, nil},
	} {
		got, err := s.Journal(t.Context(), c.query)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, texts(got)); diff != "" {
			t.Errorf("query by %s (-want +got):\n%s", name, diff)
		}
	}
	if err := s.AppendJournal(t.Context(), nil); err != nil {
		t.Errorf("append nothing: %v", err)
	}
}

func TestTheJournalOfANodeIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	const keep = 50
	var last int64
	for life := range 3 { // the bound holds across restarts
		s, err := store.Open(t.Context(), store.Options{Path: path, JournalKeep: keep})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 60 {
			err := s.AppendJournal(t.Context(), []ingot.Entry{
				{Node: "busy", Text: fmt.Sprint(life, i)}, {Text: "unknown machine"}})
			if err != nil {
				t.Fatal(err)
			}
		}
		if life == 0 {
			err := s.AppendJournal(t.Context(), []ingot.Entry{{Node: "quiet", Text: "kept"}})
			if err != nil {
				t.Fatal(err)
			}
		}
		all, err := s.Journal(t.Context(), store.JournalQuery{})
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, e := range all {
			count[e.Node]++
		}
		if count["quiet"] != 1 {
			t.Errorf("life %d: the quiet node lost its entry to a busy one", life)
		}
		for _, node := range []string{"busy", ""} {
			if c := count[node]; c < keep || c > keep+keep/10+1 {
				t.Errorf("life %d: node %q has %d entries, want %d and few more",
					life, node, c, keep)
			}
		}
		newest := all[len(all)-1].Seq
		if newest <= last {
			t.Errorf("life %d: newest Seq %d is not after %d", life, newest, last)
		}
		last = newest
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
