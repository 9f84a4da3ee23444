package conductor_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

// TestPowerStatesOfInstancesAreTold: of what users ask for and of what is found, and neither of what a
// deployment does nor of machines without an instance.
func TestPowerStatesOfInstancesAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.PowerSyncInterval = time.Hour
	w.power.state = ingot.PowerOff
	const instance = "99999999-2222-4333-8444-555555555555"
	var mu sync.Mutex
	var told []string
	w.o.Powered = func(node, of string, s ingot.PowerState) {
		if n := w.node(node); n.PowerState != s {
			t.Errorf("told %q before it is on record, which says %q", s, n.PowerState)
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, of+" "+string(s))
	}
	c, _ := w.start()
	switchTo := func(ident string, s ingot.PowerState) {
		t.Helper()
		if err := c.SetPower(t.Context(), ident, rpc.PowerRequest{Target: s}); err != nil {
			t.Fatal(err)
		}
		w.until(ident, string(s), func(n *ingot.Node) bool {
			return n.PowerState == s && n.Reservation == ""
		})
	}
	w.enroll(c, "free", "manageable")
	switchTo("free", ingot.PowerOn)
	n := w.enroll(c, "n1", "available")
	n.InstanceUUID = instance
	if _, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.provision(c, "n1", "deploy")
	w.state("n1", "active")
	switchTo("n1", ingot.PowerOff)
	w.power.set(func(p *power) { p.state = ingot.PowerOn }) // by its button
	c.Wake()
	w.until("n1", "correction", func(n *ingot.Node) bool {
		return n.PowerState == ingot.PowerOn && n.Reservation == ""
	})
	w.provision(c, "n1", "delete")
	w.state("n1", "available")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{instance + " power off", instance + " power on"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
