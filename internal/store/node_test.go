package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

func TestANodeIsReadAsItWasStored(t *testing.T) {
	t.Parallel()
	s := open(t)
	want := create(t, s, fullNode())
	if want.ID == 0 || want.Generation != 1 || want.CreatedAt.IsZero() {
		t.Errorf("id %d, generation %d, created at %v: not all are set",
			want.ID, want.Generation, want.CreatedAt)
	}
	for _, ident := range []string{want.UUID, want.Name} {
		got, err := s.Node(t.Context(), ident)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("node %s (-stored +read):\n%s", ident, diff)
		}
	}
	list, err := s.Nodes(t.Context(), store.NodeFilter{}, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*ingot.Node{want}, list); diff != "" {
		t.Errorf("list (-stored +read):\n%s", diff)
	}
}
