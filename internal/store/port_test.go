package store_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

func newPort(i int, n *ingot.Node, mac string) *ingot.Port {
	return &ingot.Port{UUID: uuid(1000 + i), NodeUUID: n.UUID, Address: mac, PXEEnabled: true}
}

func createPort(t testing.TB, s *store.Store, p *ingot.Port) *ingot.Port {
	t.Helper()
	if err := s.CreatePort(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPortIsReadAsItWasStored(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	want := newPort(1, n, "52:54:00:AA:00:01")
	want.Name, want.PhysicalNetwork, want.IsSmartNIC = "eth0", "net1", true
	want.LocalLinkConnection = ingot.Object{"port_id": "1"}
	want.Extra, want.InternalInfo = ingot.Object{"a": "b"}, ingot.Object{"c": "d"}
	createPort(t, s, want)
	if want.Address != "52:54:00:aa:00:01" || want.NodeID != n.ID || want.Generation != 1 {
		t.Errorf("created %+v", want)
	}
	for name, read := range map[string]func() (*ingot.Port, error){
		"UUID": func() (*ingot.Port, error) { return s.Port(t.Context(), want.UUID) },
		"name": func() (*ingot.Port, error) { return s.Port(t.Context(), want.Name) },
	} {
		got, err := read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("port by %s (-stored +read):\n%s", name, diff)
		}
	}
}

func TestDuplicatePortsAreConflicts(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	first := newPort(1, n, "52:54:00:00:00:01")
	first.Name = "p"
	createPort(t, s, first)
	err := s.CreatePort(t.Context(), newPort(2, n, "52:54:00:00:00:01"))
	wantKind(t, err, ingot.Conflict, "A port with MAC address 52:54:00:00:00:01 already exists.")
	err = s.CreatePort(t.Context(), newPort(1, n, "52:54:00:00:00:02"))
	wantKind(t, err, ingot.Conflict, "A port with UUID "+uuid(1001)+" already exists.")
	second := createPort(t, s, newPort(2, n, "52:54:00:00:00:02"))
	second.Address = "52:54:00:00:00:01"
	err = s.UpdatePort(t.Context(), second)
	wantKind(t, err, ingot.Conflict, "A port with MAC address 52:54:00:00:00:01 already exists.")
	second.Address, second.Name = "52:54:00:00:00:02", "p"
	err = s.UpdatePort(t.Context(), second)
	wantKind(t, err, ingot.Conflict, "A port with name p already exists.")
}

func TestAPortNeedsItsNode(t *testing.T) {
	t.Parallel()
	s := open(t)
	err := s.CreatePort(t.Context(), newPort(1, newNode(9), "52:54:00:00:00:01"))
	wantKind(t, err, ingot.Invalid, "Node "+uuid(9)+" could not be found.")
	err = s.CreatePort(t.Context(), &ingot.Port{UUID: uuid(1)})
	wantKind(t, err, ingot.Invalid)
}

func TestPortsMoveAndGoWithTheirNodes(t *testing.T) {
	t.Parallel()
	s := open(t)
	a, b := create(t, s, newNode(1)), create(t, s, newNode(2))
	p := createPort(t, s, newPort(1, a, "52:54:00:00:00:01"))
	createPort(t, s, newPort(2, a, "52:54:00:00:00:02"))
	p.NodeUUID, p.PXEEnabled = b.UUID, false
	if err := s.UpdatePort(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if p.NodeID != b.ID || p.Generation != 2 {
		t.Errorf("moved %+v", p)
	}
	for name, f := range map[string]store.PortFilter{
		"UUID of the node": {NodeUUID: b.UUID},
		"ID of the node":   {NodeID: b.ID},
		"address":          {Address: "52:54:00:00:00:01"},
	} {
		list, err := s.Ports(t.Context(), f, store.Page{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]*ingot.Port{p}, list); diff != "" {
			t.Errorf("ports by %s (-want +got):\n%s", name, diff)
		}
	}
	if err := s.DeleteNode(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	left, err := s.Ports(t.Context(), store.PortFilter{}, store.Page{SortKey: "address"})
	if err != nil || len(left) != 1 || left[0].NodeUUID != a.UUID {
		t.Errorf("ports left: %v, %v", left, err)
	}
}

func TestAStalePortWriterFails(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	mine := createPort(t, s, newPort(1, n, "52:54:00:00:00:01"))
	theirs := *mine
	if err := s.UpdatePort(t.Context(), &theirs); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.UpdatePort(t.Context(), mine), ingot.Stale)
	wantKind(t, s.DeletePort(t.Context(), mine), ingot.Stale)
	if err := s.DeletePort(t.Context(), &theirs); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.UpdatePort(t.Context(), &theirs), ingot.NotFound,
		"Port "+mine.UUID+" could not be found.")
	wantKind(t, s.DeletePort(t.Context(), &theirs), ingot.NotFound)
}

func TestPortsOfAReservedNodeStayAsTheyAre(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	p := &ingot.Port{UUID: uuid(2), NodeUUID: n.UUID, Address: "52:54:00:00:00:01"}
	if err := s.CreatePort(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	held, err := s.Reserve(t.Context(), n.UUID, "c1")
	if err != nil {
		t.Fatal(err)
	}
	p.Address = "52:54:00:00:00:02"
	for what, err := range map[string]error{
		"update": s.UpdatePort(t.Context(), p), "delete": s.DeletePort(t.Context(), p),
	} {
		if ingot.KindOf(err) != ingot.Locked || !strings.Contains(err.Error(), "host c1") {
			t.Errorf("%s: %v, want that the node is locked by c1", what, err)
		}
	}
	if err := s.Release(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdatePort(t.Context(), p); err != nil {
		t.Errorf("after the release: %v", err)
	}
	if err := s.DeletePort(t.Context(), p); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestWhoeverHasReservedTheNodeWritesItsPorts(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	p := createPort(t, s, newPort(1, n, "52:54:00:00:00:01"))
	mine, err := s.Reserve(t.Context(), n.UUID, "c1")
	if err != nil {
		t.Fatal(err)
	}
	p.InternalInfo = ingot.Object{"tenant_vif_port_id": "v"}
	lost := *p
	wantKind(t, s.SavePort(t.Context(), n, &lost), ingot.Stale)
	if err := s.SavePort(t.Context(), mine, p); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateNode(t.Context(), mine); err != nil {
		t.Fatalf("the node after its port: %v", err)
	}
	now, err := s.Port(t.Context(), p.UUID)
	if err != nil || now.InternalInfo["tenant_vif_port_id"] != "v" || now.Generation != p.Generation {
		t.Errorf("%+v, %v", now, err)
	}
}
