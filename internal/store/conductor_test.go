package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

func TestAConductorIsAliveForALeaseAfterItsHeartbeat(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	s := openAt(t, path)
	impatient, err := store.Open(t.Context(),
		store.Options{Path: path, ConductorLease: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()

	drivers := []ingot.Driver{{Name: "ipmi", Default: map[string]string{"power": "ipmitool"},
		Enabled: map[string][]string{"power": {"ipmitool"}}}}
	if err := s.Heartbeat(t.Context(), ingot.Conductor{Hostname: "c1"}); err != nil {
		t.Fatal(err)
	}
	first, err := s.Conductor(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	err = s.Heartbeat(t.Context(), ingot.Conductor{Hostname: "c1", Group: "g", Drivers: drivers})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Conductor(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != first.ID || !got.CreatedAt.Equal(first.CreatedAt) ||
		got.UpdatedAt.Before(*first.UpdatedAt) {
		t.Errorf("second heartbeat made %+v of %+v", got, first)
	}
	if !got.Alive || got.Group != "g" {
		t.Errorf("after a heartbeat: %+v", got)
	}
	if diff := cmp.Diff(drivers, got.Drivers); diff != "" {
		t.Errorf("drivers (-want +got):\n%s", diff)
	}
	list, err := impatient.Conductors(t.Context(), store.Page{SortKey: "hostname"})
	if err != nil || len(list) != 1 || list[0].Alive {
		t.Errorf("after the lease: %+v, %v; want one that is dead", list, err)
	}
}

func TestConductorsAreForgottenOnRequest(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, host := range []string{"c2", "c1", "c3"} {
		if err := s.Heartbeat(t.Context(), ingot.Conductor{Hostname: host}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := s.Conductors(t.Context(), store.Page{SortKey: "hostname", Marker: "c1", Limit: 1})
	if err != nil || len(page) != 1 || page[0].Hostname != "c2" {
		t.Errorf("page after c1: %v, %v", page, err)
	}
	if err := s.RemoveConductor(t.Context(), "c2"); err != nil {
		t.Fatal(err)
	}
	gone := "Conductor c2 could not be found."
	wantKind(t, s.RemoveConductor(t.Context(), "c2"), ingot.NotFound, gone)
	_, err = s.Conductor(t.Context(), "c2")
	wantKind(t, err, ingot.NotFound, gone)
	wantKind(t, s.Heartbeat(t.Context(), ingot.Conductor{}), ingot.Invalid)
}

// TestS0_12_TheRowOfAConductorHasItsAddress: where machines and other conductors find it.
func TestS0_12_TheRowOfAConductorHasItsAddress(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := ingot.Conductor{Hostname: "c1", Incarnation: "1", Address: "10.77.0.2", Version: "v",
		BootTree: "ab", Services: map[string]string{ingot.ServiceBoot: "http://10.77.0.2:8080"},
		Load: ingot.Load{Busy: 1}}
	if err := s.Heartbeat(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.Load.Busy = 7
	c.Address, c.Services[ingot.ServiceBoot] = "10.77.0.3", "http://10.77.0.3:8080" // it has moved
	if err := s.Heartbeat(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	got, err := s.Conductor(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Load != c.Load || got.Address != c.Address || got.Version != "v" || got.BootTree != "ab" ||
		got.Services[ingot.ServiceBoot] != "http://10.77.0.3:8080" {
		t.Errorf("read %+v", got)
	}
	other := ingot.Conductor{Hostname: "c1", Incarnation: "2", Address: "10.77.0.9"}
	wantKind(t, s.Heartbeat(t.Context(), other), ingot.Conflict)
}

// Who knows that a process is no more ends its lease, and that process for good; not one that has
// beaten since.
func TestABuriedConductorIsDeadAtOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	me := ingot.Conductor{Hostname: "c1", Incarnation: "1"}
	beat := func() *ingot.Conductor {
		t.Helper()
		if err := s.Heartbeat(t.Context(), me); err != nil {
			t.Fatal(err)
		}
		c, err := s.Conductor(t.Context(), "c1")
		if err != nil || !c.Alive {
			t.Fatalf("%+v, %v", c, err)
		}
		return c
	}
	late := beat()
	*late.UpdatedAt = late.UpdatedAt.Add(-time.Second) // it has beaten since this was read
	if done, err := s.Bury(t.Context(), late); done || err != nil {
		t.Errorf("buried one that lives: %v, %v", done, err)
	}
	if done, err := s.Bury(t.Context(), beat()); !done || err != nil {
		t.Fatalf("not buried: %v, %v", done, err)
	}
	if c, err := s.Conductor(t.Context(), "c1"); err != nil || c.Alive {
		t.Errorf("%+v, %v", c, err)
	}
	wantKind(t, s.Heartbeat(t.Context(), me), ingot.Conflict)
	me.Incarnation = "2"
	beat()
}
