package store_test

import (
	"testing"
	"time"

	"ingot/internal/ingot"
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
