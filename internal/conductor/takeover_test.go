package conductor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/testkit"
)

// TestS0_2_WhateverADeadConductorLeavesAnotherEnds: the one that was asked dies before each of its
// writes, while a second one lives on the same store. The machine calls one of them.
func TestS0_2_WhateverADeadConductorLeavesAnotherEnds(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	for _, called := range []string{"first", "second"} {
		t.Run("the machine calls the "+called, func(t *testing.T) {
			t.Parallel()
			x := newMetal(t)
			at := int64(1)
			for ; x.diesBeside(at, called == "second"); at++ {
				if t.Failed() {
					t.Fatalf("killed before write %d; the machine did %v\n%s", at, x.m.story(),
						x.journal("n1"))
				}
				x.freed()
			}
			if least := map[string]int64{"first": 10, "second": 4}[called]; at < least {
				t.Errorf("only %d writes", at)
			}
			t.Logf("it takes less than %d writes", at)
		})
	}
}

// diesBeside deploys by a conductor that is killed before its write number at, beside a second one
// that has to bring it to its end. It tells whether the first one lived to be killed.
func (x *metal) diesBeside(at int64, callSecond bool) bool {
	x.t.Helper()
	x.wiped()
	two := x.second("host2")
	defer x.run(two)()
	one, stop, died := x.mortal(at)
	defer stop()
	x.m.set(func(m *machine) {
		if m.events, m.cond = nil, one; callSecond {
			m.cond = two
		}
	})
	err := one.Provision(x.t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy"})
	if err != nil && !conductor.Crashed(one) {
		x.t.Fatal(err)
	}
	deadline := time.After(patience)
	for {
		select {
		case <-died:
			x.m.set(func(m *machine) { m.cond = two })
			stop()
			if err != nil && x.node("n1").ProvisionState == "available" {
				// The caller got an error, and asks the other one.
				testkit.Eventually(x.t, "the node is free", func() bool {
					return two.Provision(x.t.Context(), rpc.ProvisionRequest{Ident: "n1",
						Event: "deploy"}) == nil
				})
			}
			x.deployed()
			return true
		case <-deadline:
			x.t.Fatal("neither killed nor deployed")
		case <-time.After(10 * time.Millisecond):
			if n := x.node("n1"); n.ProvisionState == "active" && n.Reservation == "" {
				x.deployed()
				return false
			}
		}
	}
}

// TestS0_2_AWaitKeepsItsDeadlineWithItsNextOwner, who ends it when it is over.
func TestS0_2_AWaitKeepsItsDeadlineWithItsNextOwner(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.o.CallbackTimeout = time.Hour
	x.silent()
	one, stop := x.start()
	two := x.second("host2")
	x.run(two)
	x.provision(one, "n1", "deploy")
	n := x.state("n1", "wait call-back")
	stop()
	testkit.Eventually(t, "the second owns the node", func() bool { return conductor.Owns(two, n) })
	two.Wake()
	later := x.state("n1", "wait call-back")
	if n.WaitUntil == nil || later.WaitUntil == nil || !n.WaitUntil.Equal(*later.WaitUntil) ||
		later.Attempt == nil || later.Attempt.ID != n.Attempt.ID {
		t.Errorf("waited until %v, now until %v, attempt %+v", n.WaitUntil, later.WaitUntil,
			later.Attempt)
	}
	soon := x.store.Now().Add(50 * time.Millisecond)
	x.change("n1", func(n *ingot.Node) { n.WaitUntil = &soon })
	x.m.set(func(m *machine) { m.cond = two })
	x.failed("Timeout reached while waiting for callback")
}

// A power action of a conductor that was cut off is on record as interrupted, and what it comes to
// know of it later is not.
func TestS0_2_APowerActionOfADeadConductorIsInterrupted(t *testing.T) {
	t.Parallel()
	w, way := newShared(t)
	one, power := w.remote(t, "host1", way)
	power.gate = make(chan struct{})
	w.run(one)
	w.run(w.second("host2"))
	w.enroll(one, "n1", "available")
	if err := one.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: ingot.PowerOn}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the action is at work", func() bool { return power.calls() == 1 })
	way.gate.Lock()
	n := w.until("n1", "end", func(n *ingot.Node) bool {
		return n.TargetPowerState == "" && n.Reservation == ""
	})
	way.gate.Unlock()
	if !strings.Contains(n.LastError, "interrupted") {
		t.Errorf("last error %q", n.LastError)
	}
	testkit.Eventually(t, "it has its lease again", func() bool {
		return strings.Contains(w.log.String(), "the lease is renewed")
	})
	testkit.Eventually(t, "its task has ended", func() bool { return conductor.Running(one) == 0 })
	if later := w.node("n1"); later.Generation != n.Generation {
		t.Errorf("generation %d, was %d\n%s", later.Generation, n.Generation, w.journal("n1"))
	}
}

// One that stops hands its nodes over before its last step has ended; the step stays its own.
func TestS0_2_AConductorThatStopsHandsOverAtOnce(t *testing.T) {
	t.Parallel()
	w, way := newShared(t)
	w.o.GracePeriod = time.Hour
	one, power := w.remote(t, "host1", way)
	power.gate = make(chan struct{})
	two := w.second("host2")
	w.run(two)
	stop := w.run(one)
	var mine *ingot.Node
	for i := 0; mine == nil; i++ {
		n := w.enroll(one, fmt.Sprintf("n%d", i), "available")
		testkit.Eventually(t, "it has an owner", func() bool {
			return conductor.Owns(one, n) != conductor.Owns(two, n)
		})
		if conductor.Owns(one, n) {
			mine = n
		}
	}
	w.provision(one, mine.UUID, "deploy")
	testkit.Eventually(t, "the step is at work", func() bool { return power.calls() == 1 })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	testkit.Eventually(t, "the second owns the node", func() bool { return conductor.Owns(two, mine) })
	if n := w.node(mine.UUID); n.Reservation != "host1" || n.ProvisionState != "deploying" {
		t.Errorf("%s, reserved by %q", n.ProvisionState, n.Reservation)
	}
	close(power.gate)
	<-stopped
	w.state(mine.UUID, "active")
	if _, err := w.store.Conductor(t.Context(), "host1"); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("its row: %v", err)
	}
}

// One that is drained finishes what runs, owns nothing, and says when it is empty.
func TestADrainedConductorSaysWhenItIsEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.power.gate = make(chan struct{})
	one, two := w.second("host1"), w.second("host2")
	w.run(one)
	w.run(two)
	n := w.enroll(one, "n1", "available")
	w.provision(one, "n1", "deploy")
	told := func(text string) func() bool {
		return func() bool { return strings.Contains(w.log.String(), text) }
	}
	if err := w.store.Drain(t.Context(), "host1", true); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "draining is told", told("draining: no node is owned any more"))
	testkit.Eventually(t, "the second owns the node", func() bool {
		return conductor.Owns(two, n) && !conductor.Owns(one, n)
	})
	if told("drained: nothing runs here")() {
		t.Errorf("told to be empty while a step is at work\n%s", w.log)
	}
	close(w.power.gate)
	w.state("n1", "active")
	testkit.Eventually(t, "the end is told", told("drained: nothing runs here"))
	if err := w.store.Drain(t.Context(), "host1", false); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the end of draining is told", told("draining is over"))
}
