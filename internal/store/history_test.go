package store_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// events lists what happened to a node, oldest first.
func events(t *testing.T, s *store.Store, node int64) (texts []string) {
	t.Helper()
	list, err := s.History(t.Context(), node, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range list {
		texts = append(texts, h.Event)
	}
	return texts
}

func TestTheHistoryOfANodeIsBounded(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Options{HistoryKeep: 3,
		Path: filepath.Join(t.TempDir(), "ingot.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n, other := create(t, s, newNode(1)), create(t, s, newNode(2))
	for i := range 5 {
		add := []ingot.History{{Severity: ingot.SeverityError, Event: fmt.Sprint(i)}}
		if err := s.ChangeNode(t.Context(), n, add, nil); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := s.ChangeNode(t.Context(), other, add, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff([]string{"2", "3", "4"}, events(t, s, n.ID)); diff != "" {
		t.Error(diff)
	}
	if got := events(t, s, other.ID); len(got) != 1 {
		t.Errorf("another node lost its history: %v", got)
	}
	if err := s.DeleteNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if got := events(t, s, n.ID); got != nil {
		t.Errorf("the history outlives the node: %v", got)
	}
}

func TestTheHistoryIsWrittenWithTheNodeOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	stale := *n
	want := ingot.History{Severity: ingot.SeverityInfo, Type: "provisioning", Event: "deployed",
		Conductor: "c1"}
	if err := s.ChangeNode(t.Context(), n, []ingot.History{want}, nil); err != nil {
		t.Fatal(err)
	}
	err := s.ChangeNode(t.Context(), &stale, []ingot.History{{Event: "of a writer who came late"}}, nil)
	if ingot.KindOf(err) != ingot.Stale {
		t.Errorf("stale: %v", err)
	}
	list, err := s.History(t.Context(), n.ID, store.Page{SortKey: "created_at"})
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	got := *list[0]
	if got.UUID == "" || got.NodeID != n.ID || !got.CreatedAt.Equal(*n.UpdatedAt) {
		t.Errorf("%+v", got)
	}
	one, err := s.HistoryEntry(t.Context(), n.ID, got.UUID)
	if err != nil || *one != got {
		t.Errorf("%+v, %v", one, err)
	}
	if _, err := s.HistoryEntry(t.Context(), n.ID+1, got.UUID); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("entry of another node: %v", err)
	}
	got.ID, got.UUID, got.NodeID, got.CreatedAt = 0, "", 0, want.CreatedAt
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
