package store_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

const (
	macA = "52:54:00:00:00:0a"
	macB = "52:54:00:00:00:0b"
)

// take makes one change.
func take(t *testing.T, s *store.Store, l ingot.Lease, had string) error {
	return s.TakeLeases(t.Context(), []store.LeaseChange{{Lease: l, Had: had}})[0]
}

func TestAnAddressHasOneHolderUntilItExpires(t *testing.T) {
	t.Parallel()
	s := open(t)
	future := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	past := future.Add(-2 * time.Hour)
	take := func(mac, address string, expires time.Time) error {
		had, _ := s.Lease(t.Context(), mac)
		return take(t, s, ingot.Lease{MAC: mac, Address: address, Expires: expires}, had.Address)
	}
	if err := take("52:54:00:00:00:0A", "10.0.0.1", future); err != nil {
		t.Fatal(err)
	}
	wantKind(t, take(macB, "10.0.0.1", future), ingot.Conflict)
	wantKind(t, take(macA, "10.0.0.1", past), ingot.Conflict) // it was promised for longer
	if ended, err := s.FreeLease(t.Context(), macA, "10.0.0.9"); ended || err != nil {
		t.Errorf("free another address: %t, %v", ended, err)
	}
	if ended, err := s.FreeLease(t.Context(), macA, "10.0.0.1"); !ended || err != nil {
		t.Errorf("free: %t, %v", ended, err)
	}
	if err := take(macA, "10.0.0.1", past); err != nil {
		t.Errorf("take: %v", err)
	}
	if err := take(macB, "10.0.0.1", future); err != nil {
		t.Errorf("take an expired address: %v", err)
	}
	_, err := s.Lease(t.Context(), macA)
	wantKind(t, err, ingot.NotFound)
	if err := take(macB, "10.0.0.2", future); err != nil {
		t.Errorf("change the address: %v", err)
	}
	if err := take(macA, "10.0.0.1", future); err != nil {
		t.Errorf("take an address that was given up: %v", err)
	}
	all, err := s.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []ingot.Lease{{MAC: macA, Address: "10.0.0.1", Expires: future},
		{MAC: macB, Address: "10.0.0.2", Expires: future}}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	for range 2 {
		if _, err := s.FreeLease(t.Context(), "52:54:00:00:00:0B", "10.0.0.2"); err != nil {
			t.Errorf("free: %v", err)
		}
	}
	_, err = s.Lease(t.Context(), macB)
	wantKind(t, err, ingot.NotFound)
	wantKind(t, take("", "10.0.0.1", future), ingot.Invalid)
}

func TestOneOfManyGetsTheAddress(t *testing.T) {
	t.Parallel()
	s := open(t)
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			err := take(t, s, ingot.Lease{Address: "10.0.0.1",
				MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), Expires: time.Now().Add(time.Hour)}, "")
			switch {
			case err == nil:
				won.Add(1)
			case ingot.KindOf(err) != ingot.Conflict:
				t.Errorf("take: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d machines hold one address", won.Load())
	}
}

func TestOfTwoWhoDecideForOneMachineTheSecondOneLearns(t *testing.T) {
	t.Parallel()
	s := open(t)
	end := time.Now().Add(time.Hour)
	lease := func(mac, address, had string) store.LeaseChange {
		return store.LeaseChange{Lease: ingot.Lease{MAC: mac, Address: address, Expires: end}, Had: had}
	}
	if err := s.TakeLeases(t.Context(), []store.LeaseChange{lease(macA, "10.0.0.1", "")})[0]; err != nil {
		t.Fatal(err)
	}
	// One refusal does not cost the others of a batch.
	errs := s.TakeLeases(t.Context(), []store.LeaseChange{
		lease(macA, "10.0.0.2", ""), lease(macB, "10.0.0.1", ""), lease("", "10.0.0.3", ""),
		lease(macA, "10.0.0.2", "10.0.0.1"), lease(macB, "10.0.0.1", ""),
	})
	for i, want := range []ingot.Kind{ingot.Conflict, ingot.Conflict, ingot.Invalid, "", ""} {
		if got := ingot.KindOf(errs[i]); got != want {
			t.Errorf("change %d: %v, want kind %q", i, errs[i], want)
		}
	}
	if l, err := s.Lease(t.Context(), macA); err != nil || l.Address != "10.0.0.2" {
		t.Errorf("lease %+v, %v", l, err)
	}
	// An address goes over from one to another once.
	over := lease("declined", "10.0.0.2", "")
	over.From = macA
	for i, err := range s.TakeLeases(t.Context(), []store.LeaseChange{over, over}) {
		if want := []ingot.Kind{"", ingot.Conflict}[i]; ingot.KindOf(err) != want {
			t.Errorf("change of hands %d: %v, want kind %q", i, err, want)
		}
	}
	_, err := s.Lease(t.Context(), macA)
	wantKind(t, err, ingot.NotFound)
}
