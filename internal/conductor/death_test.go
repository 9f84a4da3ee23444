package conductor_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// newLongLease is a world on PostgreSQL in which nothing happens for the end of a lease.
func newLongLease(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	st, err := store.Open(t.Context(), store.Options{URL: storetest.Postgres(t),
		ConductorLease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	w.store, w.o.Store = st, st
	return w
}

// A conductor that was killed is known to be dead as soon as its heartbeat is late and its port
// refuses connections; one that is silent has the whole of its lease.
func TestAKilledConductorIsTakenOverBeforeItsLeaseEnds(t *testing.T) {
	t.Parallel()
	w := newLongLease(t)
	one := w.second("host1")
	w.run(one)

	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for host, l := range map[string]net.Listener{"silent": listening, "killed": closed} {
		err := w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: host, Incarnation: host,
			Services: map[string]string{ingot.ServiceBoot: "http://" + l.Addr().String()}})
		if err != nil {
			t.Fatal(err)
		}
	}
	nodes := map[string]*ingot.Node{}
	for _, host := range []string{"silent", "killed"} {
		n := w.enroll(one, host, "available")
		n, err := w.store.Reserve(t.Context(), n.UUID, host)
		if err != nil {
			t.Fatal(err)
		}
		n.ProvisionState, n.TargetProvisionState = "verifying", "manageable"
		n.Steps = []ingot.Step{{Interface: "power", Name: "verify"}}
		if err := w.store.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		nodes[host] = n
	}
	w.until("killed", "manageable", func(n *ingot.Node) bool {
		return n.ProvisionState == "manageable" && n.Reservation == ""
	})
	if n := w.node("silent"); n.Reservation != "silent" {
		t.Errorf("the node of a conductor that may live was taken: %+v", n)
	}
	err = w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "killed", Incarnation: "killed"})
	if ingot.KindOf(err) != ingot.Conflict {
		t.Errorf("who was found dead goes on: %v", err)
	}
}

// What is on record of a machine decides whether it is started again when a server is no more.
func TestAMachineThatADeadServerSentToItselfIsBootedAgain(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.o.Incarnation = "me"
	keys := x.mute(1)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.state("n1", "wait call-back")
	n := x.node("n1")
	for _, last := range []struct {
		source string
		data   ingot.Object
		again  bool
	}{
		{"dhcp", ingot.Object{"file": "http://me", ingot.DataServer: "me"}, false},
		{"tftp", ingot.Object{"path": "a", ingot.DataServer: "gone"}, true},
		{"dhcp", ingot.Object{"file": "", ingot.DataServer: "gone"}, false}, // an operating system
		{"script", ingot.Object{"trace": "a"}, false},                       // which names several
		{"dhcp", ingot.Object{"file": "http://gone", ingot.DataServer: "gone"}, true},
	} {
		e := ingot.Entry{Node: n.UUID, Attempt: n.Attempt.ID, Source: last.source, Level: "info",
			Text: "sent on", Data: last.data, Time: x.store.Now().Add(-time.Minute)}
		if err := x.store.AppendJournal(t.Context(), []ingot.Entry{e}); err != nil {
			t.Fatal(err)
		}
		if why, err := conductor.Stranded(t.Context(), c, n); err != nil || (why != "") != last.again {
			t.Fatalf("%s %v: started again because %q, %v", last.source, last.data, why, err)
		}
	}
	changed := *n // after a change of its firmware
	changed.Steps, changed.Step = append([]ingot.Step{{Interface: "bios", Name: "factory_reset"}}, n.Steps...), n.Step+1
	if why, err := conductor.Stranded(t.Context(), c, &changed); err != nil || why == "" {
		t.Errorf("after a step before: started again because %q, %v", why, err)
	}
	c.Wake()
	x.deployed()
	if len(keys()) != 1 || strings.Count(x.journal("n1"), " ago has died (sent on)") != 1 {
		t.Errorf("keys of %d boots\n%s", len(keys()), x.journal("n1"))
	}
}

// What a conductor had no time to put into the journal others do, once.
func TestWhatADeadConductorDidNotWriteOthersPutOnRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	w.enroll(c, "n1", "available")
	n, err := w.store.Reserve(t.Context(), "n1", "killed")
	if err != nil {
		t.Fatal(err)
	}
	n.ProvisionState = "active"
	err = w.store.ChangeNode(t.Context(), n, nil, []ingot.Entry{{Node: n.UUID, Source: "state",
		Text: "available → active", Time: w.store.Now().Add(-time.Minute)}})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "its change is on record", func() bool {
		c.Wake()
		return strings.Count(w.journal("n1"), "available → active") == 1
	})
}

// A reservation whose answer was lost with the connection to the store is nobody's, and is given back soon.
func TestAReservationThatNobodyHeardOfIsGivenBack(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	n := w.enroll(c, "n1", "available")
	if _, err := w.store.Reserve(t.Context(), "n1", "host1"); err != nil {
		t.Fatal(err)
	}
	conductor.Doubt(c, n.UUID)
	w.until("n1", "a free node", func(n *ingot.Node) bool { return n.Reservation == "" })
}

// A conductor that starts again where its life before listened need not wait for that one's lease.
func TestAConductorThatWasKilledStartsAgainAtOnce(t *testing.T) {
	t.Parallel()
	w := newLongLease(t)
	w.o.Services = map[string]string{ingot.ServiceBoot: "http://10.77.0.9:8080"}
	err := w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "host1", Incarnation: "killed",
		Services: w.o.Services})
	if err != nil {
		t.Fatal(err)
	}
	w.run(w.second("host1")) // returns when it is ready
	c, err := w.store.Conductor(t.Context(), "host1")
	if err != nil || !c.Alive || c.Incarnation == "killed" {
		t.Errorf("%+v, %v", c, err)
	}
}
