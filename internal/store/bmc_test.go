package store_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestABMCOfTwoNodesIsFoundOut(t *testing.T) {
	t.Parallel()
	s := open(t)
	a, b := create(t, s, newNode(1)), create(t, s, newNode(2))
	shares := func(n *ingot.Node, address string) bool {
		t.Helper()
		yes, err := s.SharesBMC(t.Context(), n.ID, address)
		if err != nil {
			t.Fatal(err)
		}
		return yes
	}
	if shares(a, "bmc:443") || shares(b, "other:443") || shares(a, "bmc:443") {
		t.Error("shared though each has its own")
	}
	if !shares(b, "bmc:443") || !shares(a, "bmc:443") {
		t.Error("not shared though both have one")
	}
	if shares(a, "new:443") || shares(b, "bmc:443") {
		t.Error("shared though one has another one now")
	}
	now, err := s.Node(t.Context(), a.UUID)
	if err != nil || now.Generation != a.Generation {
		t.Errorf("generation %d was %d, %v", now.Generation, a.Generation, err)
	}
	// Whoever writes the node knows nothing of it.
	now.Description = "x"
	if err := s.ChangeNode(t.Context(), now, nil, nil); err != nil || shares(a, "new:443") || !shares(b, "new:443") {
		t.Errorf("it was forgotten: %v", err)
	}
	if _, err := s.SharesBMC(t.Context(), 999, "x"); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("of a node that is gone: %v", err)
	}
}
