package store_test

import (
	"slices"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// change writes a node with what its journal is to say, and returns that.
func change(t *testing.T, s *store.Store, n *ingot.Node, at time.Time, texts ...string) []ingot.Entry {
	t.Helper()
	var entries []ingot.Entry
	for _, text := range texts {
		entries = append(entries, ingot.Entry{Node: n.UUID, Time: at, Source: "state", Level: "info",
			Text: text, Data: ingot.Object{"to": text}})
	}
	if err := s.ChangeNode(t.Context(), n, nil, entries); err != nil {
		t.Fatal(err)
	}
	return entries
}

func wantJournal(t *testing.T, s *store.Store, n *ingot.Node, want ...string) {
	t.Helper()
	got, err := s.Journal(t.Context(), store.JournalQuery{Node: n.UUID})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(texts(got), want) {
		t.Errorf("journal %q, want %q", texts(got), want)
	}
}

// Whatever a change of a node is to tell comes into the journal once and in order, whoever puts it
// there, and however often.
func TestWhatAChangeTellsComesIntoTheJournalOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	n, other := create(t, s, newNode(1)), create(t, s, newNode(2))
	now := s.Now()
	lost := change(t, s, n, now, "a", "b") // by a process that was killed then
	change(t, s, other, now, "not yours")
	mine := change(t, s, n, now, "c", "d")
	later := change(t, s, n, now, "e")
	wantJournal(t, s, n)

	batch := append([]ingot.Entry{{Node: n.UUID, Time: now, Text: "1"}}, mine[0],
		ingot.Entry{Node: n.UUID, Time: now, Text: "2"}, mine[1])
	if err := s.AppendJournal(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	for i, e := range batch {
		if e.Seq == 0 || i > 0 && e.Seq <= batch[i-1].Seq {
			t.Errorf("%q has Seq %d", e.Text, e.Seq)
		}
	}
	// The first process was not dead after all, and this one is told twice.
	for _, again := range [][]ingot.Entry{lost, mine, later, append(lost, later...)} {
		if err := s.AppendJournal(t.Context(), again); err != nil {
			t.Fatal(err)
		}
	}
	wantJournal(t, s, n, "1", "a", "b", "c", "2", "d", "e")
	wantJournal(t, s, other)
	// The second change is told before the first one.
	f, g := change(t, s, n, now, "f"), change(t, s, n, now, "g")
	batch = []ingot.Entry{g[0], {Node: n.UUID, Time: now, Text: "3"}, f[0]}
	if err := s.AppendJournal(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	wantJournal(t, s, n, "1", "a", "b", "c", "2", "d", "e", "f", "g", "3")
	if batch[2].Seq == 0 || batch[2].Seq >= batch[0].Seq {
		t.Errorf("numbers %d and %d", batch[2].Seq, batch[0].Seq)
	}
}

func TestWhatNobodyPutIntoTheJournalIsPutThere(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	now := s.Now()
	old := change(t, s, n, now.Add(-time.Minute), "a", "b")
	change(t, s, n, now, "c")
	for _, want := range []int{2, 0} {
		if got, err := s.RecordPending(t.Context(), now); err != nil || got != want {
			t.Errorf("%d entries, %v, want %d", got, err, want)
		}
	}
	wantJournal(t, s, n, "a", "b")
	if err := s.AppendJournal(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	wantJournal(t, s, n, "a", "b", "c")
	got, err := s.Journal(t.Context(), store.JournalQuery{Node: n.UUID, Limit: 1})
	if err != nil || !got[0].Time.Equal(now.Add(-time.Minute)) || got[0].Data["to"] != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	// Nothing is told of a change that was not made, nor of a node that is no more.
	stale := *n
	stale.Generation--
	wantKind(t, s.ChangeNode(t.Context(), &stale, nil, []ingot.Entry{{Node: n.UUID, Text: "x"}}),
		ingot.Stale)
	if err := s.DeleteNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if got, err := s.RecordPending(t.Context(), now.Add(time.Hour)); err != nil || got != 0 {
		t.Errorf("%d entries, %v", got, err)
	}
}
