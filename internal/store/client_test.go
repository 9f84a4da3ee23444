package store_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// What is remembered never hides a write, and nothing of a port that is gone stays.
func TestAClientIsNeverOlderThanTheLastWrite(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	p := newPort(1, n, macA)
	createPort(t, s, p)
	for _, intent := range []ingot.BootIntent{ingot.BootDeploy, ingot.BootDisk} {
		n.BootIntent = intent
		if err := s.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		p.PXEEnabled = !p.PXEEnabled
		if err := s.UpdatePort(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			c, err := s.Client(t.Context(), "52:54:00:00:00:0A")
			if err != nil || c.Node.BootIntent != intent || c.Port.PXEEnabled != p.PXEEnabled {
				t.Fatalf("client %+v, %v", c, err)
			}
		}
	}
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	lease := ingot.Lease{MAC: macA, Address: "10.0.0.1", Expires: end}
	if err := take(t, s, lease, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.DeletePort(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	c, err := s.Client(t.Context(), macA)
	if err != nil || c.Node != nil || c.Port != nil || c.Lease != lease {
		t.Errorf("client without a port: %+v, %v", c, err)
	}
}

// Whatever is taken and freed, what is remembered of leases is what the rows have.
func TestLeasesOfClientsAreThoseOfTheRows(t *testing.T) {
	t.Parallel()
	s := open(t)
	macs := []string{macA, macB, "52:54:00:00:00:0c"}
	rapid.Check(t, func(t *rapid.T) {
		mac := rapid.SampledFrom(macs)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			var changes []store.LeaseChange
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				m := mac.Draw(t, "mac")
				c, err := s.Client(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				changes = append(changes, store.LeaseChange{Had: c.Lease.Address, Lease: ingot.Lease{
					MAC: m, Address: rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", ""}).Draw(t, "address"),
					Expires: time.Now().Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "hours")) * time.Hour)}})
			}
			s.TakeLeases(t.Context(), changes) // refusals are fine
			if rapid.Bool().Draw(t, "free") {
				m := mac.Draw(t, "freed")
				c, err := s.Client(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.FreeLease(t.Context(), m, c.Lease.Address); err != nil {
					t.Fatal(err)
				}
			}
			for _, m := range macs {
				c, err := s.Client(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				want, err := s.Lease(t.Context(), m)
				if c.Lease != want {
					t.Fatalf("%s has %+v in memory, %+v in its row (%v)", m, c.Lease, want, err)
				}
			}
		}
	})
}
