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
		if err := s.SaveInventory(t.Context(), n, want); err != nil {
			t.Fatal(err)
		}
		got, err := s.Inventory(t.Context(), n.ID)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if err := s.SaveInventory(t.Context(), &ingot.Node{ID: 12345}, ingot.Inventory{}); err == nil {
		t.Error("a node that is not there has an inventory")
	}
	if err := s.DeleteNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Inventory(t.Context(), n.ID); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("of a node that was deleted: %v", err)
	}
}

// Who has lost a node to another one writes nothing of what it has found in the machine.
func TestWhatWasFoundInAMachineIsWrittenByWhoeverHasTheNode(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	read, err := s.Node(t.Context(), n.UUID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(t.Context(), n.UUID, "other"); err != nil {
		t.Fatal(err)
	}
	port := func() *ingot.Port {
		return &ingot.Port{UUID: uuid(50), NodeID: n.ID, NodeUUID: n.UUID, Address: "52:54:00:00:00:01"}
	}
	if err := s.SaveInventory(t.Context(), read, ingot.Inventory{}); ingot.KindOf(err) != ingot.Stale {
		t.Errorf("the inventory of a node that another one has: %v", err)
	}
	if err := s.AddPort(t.Context(), read, port()); ingot.KindOf(err) != ingot.Stale {
		t.Errorf("a port of a node that another one has: %v", err)
	}
	if _, err := s.Inventory(t.Context(), n.ID); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("there is an inventory: %v", err)
	}
	now, err := s.Node(t.Context(), n.UUID)
	if err != nil {
		t.Fatal(err)
	}
	p := port()
	if err := s.AddPort(t.Context(), now, p); err != nil || p.ID == 0 || p.Generation != 1 {
		t.Errorf("who has the node gets port %+v, %v", p, err)
	}
	if again, err := s.Node(t.Context(), n.UUID); err != nil || again.Generation != now.Generation {
		t.Errorf("the node was changed: %v", err)
	}
}
