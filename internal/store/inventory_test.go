package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

func TestTheLastInventoryOfANodeIsKept(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), storetest.Options(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := create(t, s, newNode(1))
	if _, err := s.Inventory(t.Context(), n.ID); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("of a node that nobody has looked at: %v", err)
	}
	yes := true
	for _, want := range []ingot.Inventory{
		{Vendor: ingot.InventoryVendor{Product: "with\x00null"}},
		{CPU: ingot.InventoryCPU{Count: 4}, Disks: []ingot.InventoryDisk{{Name: "sda", Size: 1, Rotational: &yes}}},
	} {
		if err := s.SaveInventory(t.Context(), n.ID, want); err != nil {
			t.Fatal(err)
		}
		got, err := s.Inventory(t.Context(), n.ID)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if err := s.SaveInventory(t.Context(), 12345, ingot.Inventory{}); err == nil {
		t.Error("a node that is not there has an inventory")
	}
	if err := s.DeleteNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Inventory(t.Context(), n.ID); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("of a node that was deleted: %v", err)
	}
}
