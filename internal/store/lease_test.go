package store_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
)

const (
	macA = "52:54:00:00:00:0a"
	macB = "52:54:00:00:00:0b"
)

func TestAnAddressHasOneHolderUntilItExpires(t *testing.T) {
	t.Parallel()
	s := open(t)
	future := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	past := future.Add(-2 * time.Hour)
	take := func(mac, address string, expires time.Time) error {
		return s.TakeLease(t.Context(), ingot.Lease{MAC: mac, Address: address, Expires: expires})
	}
	if err := take("52:54:00:00:00:0A", "10.0.0.1", future); err != nil {
		t.Fatal(err)
	}
	wantKind(t, take(macB, "10.0.0.1", future), ingot.Conflict)
	if err := take(macA, "10.0.0.1", past); err != nil { // renewed, badly
		t.Errorf("renew: %v", err)
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
		if err := s.FreeLease(t.Context(), "52:54:00:00:00:0B"); err != nil {
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
			err := s.TakeLease(t.Context(), ingot.Lease{Address: "10.0.0.1",
				MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), Expires: time.Now().Add(time.Hour)})
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
