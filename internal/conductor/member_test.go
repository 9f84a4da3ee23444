package conductor_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// second is another host with the same store and hardware.
func (w *world) second(name string) *conductor.Conductor {
	o := w.o
	o.Host, o.HeartbeatInterval = name, 50*time.Millisecond
	o.Log = slog.New(slog.NewTextHandler(w.log, nil))
	return conductor.New(o)
}

// TestS0_2_EveryNodeHasOneOwner: of conductors that live each node has exactly one, whoever asks,
// and one that goes leaves its nodes, and no others, to those that stay.
func TestS0_2_EveryNodeHasOneOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	all := map[string]*conductor.Conductor{}
	stops := map[string]func(){}
	for i := range 3 {
		host := fmt.Sprintf("host%d", i)
		all[host] = w.second(host)
		stops[host] = w.run(all[host])
	}
	var nodes []*ingot.Node
	for i := range 60 {
		nodes = append(nodes, w.enroll(all["host0"], fmt.Sprintf("n%d", i), "available"))
	}
	// owners returns who owns each node once all agree that each has one owner.
	owners := func() map[string]string {
		t.Helper()
		var found map[string]string
		testkit.Eventually(t, "each node has one owner", func() bool {
			found = map[string]string{}
			count := 0
			for host, c := range all {
				for _, n := range nodes {
					if conductor.Owns(c, n) {
						found[n.UUID] = host
						count++
					}
				}
			}
			return len(found) == len(nodes) && count == len(nodes)
		})
		return found
	}
	before := owners()
	shares := map[string]int{}
	for _, host := range before {
		shares[host]++
	}
	if len(shares) != 3 {
		t.Errorf("shares %v", shares)
	}
	stops["host1"]()
	delete(all, "host1")
	for uuid, host := range owners() {
		if was := before[uuid]; was != "host1" && was != host {
			t.Errorf("node %s moved from %s, which lives, to %s", uuid, was, host)
		}
	}
}

// A conductor works by itself on its own nodes only:
// abandoned operations go on where they belong.
func TestConductorsWorkOnTheirOwnNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.second("host1"), w.second("host2")
	w.run(one)
	w.run(two)
	var nodes []*ingot.Node
	for i := range 20 {
		nodes = append(nodes, w.enroll(one, fmt.Sprintf("n%d", i), "available"))
	}
	testkit.Eventually(t, "both know of both", func() bool {
		for _, n := range nodes {
			if conductor.Owns(one, n) == conductor.Owns(two, n) {
				return false
			}
		}
		return true
	})
	// Abandoned in the middle by a third one, which lives until then.
	if err := w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "host3"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n, err := w.store.Reserve(t.Context(), n.UUID, "host3")
		if err != nil {
			t.Fatal(err)
		}
		n.ProvisionState, n.TargetProvisionState = "verifying", "manageable"
		n.Steps = []ingot.Step{{Interface: "power", Name: "verify"}}
		if err := w.store.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.store.RemoveConductor(t.Context(), "host3"); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		w.until(n.UUID, "manageable", func(n *ingot.Node) bool {
			return n.ProvisionState == "manageable" && n.Reservation == ""
		})
	}
	text := w.log.String()
	for _, n := range nodes {
		owner := "host1"
		if conductor.Owns(two, n) {
			owner = "host2"
		}
		resumed := 0
		for line := range strings.Lines(text) {
			if strings.Contains(line, "operation continues") && strings.Contains(line, n.UUID) {
				resumed++
				if !strings.Contains(line, "conductor="+owner) {
					t.Errorf("node %s is of %s: %s", n.UUID, owner, line)
				}
			}
		}
		if resumed != 1 {
			t.Errorf("node %s was taken up %d times", n.UUID, resumed)
		}
	}
}

// Of two processes with one name the second is refused; one that follows a crash waits until the
// lease of the first has ended.
func TestTwoConductorsOfOneNameAreRefused(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	w := newWorld(t)
	var err error
	if w.store, err = store.Open(t.Context(), store.Options{URL: storetest.Postgres(t),
		ConductorLease: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	w.o.Store = w.store
	stop := w.run(w.second("host1"))
	err = w.second("host1").Run(t.Context())
	if ingot.KindOf(err) != ingot.Conflict || !strings.Contains(err.Error(), "[conductor] host") {
		t.Errorf("the second one: %v", err)
	}
	stop()
	err = w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "host1", Incarnation: "crashed"})
	if err != nil {
		t.Fatal(err)
	}
	w.run(w.second("host1")) // fails the test if it is refused
}
