package conductor_test

import (
	"strings"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/testkit"
)

// asked is something that a conductor is asked for: it is killed at each of its writes, and another
// one that lives has to bring it to an end.
type asked struct {
	name string
	// begin brings about the state from which it is asked for, by a conductor that lives on.
	begin func(x *metal, two *conductor.Conductor)
	ask   func(x *metal, c *conductor.Conductor) error
	// over tells whether it has ended, of one that was accepted.
	over func(n *ingot.Node) bool
	// check looks at the end; killed tells whether the one that was asked died on the way.
	check func(x *metal, two *conductor.Conductor, killed bool)
	// least is how many writes there are at least.
	least int64
}

func verb(event string) func(x *metal, c *conductor.Conductor) error {
	return func(x *metal, c *conductor.Conductor) error {
		return c.Provision(x.t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: event})
	}
}

func in(state string) func(n *ingot.Node) bool {
	return func(n *ingot.Node) bool { return n.ProvisionState == state }
}

// put writes a resting state into the row.
func put(state string) func(x *metal, two *conductor.Conductor) {
	return func(x *metal, _ *conductor.Conductor) {
		testkit.Eventually(x.t, "nobody is at work on the node", func() bool { // power sync may be
			n := x.node("n1")
			n.ProvisionState, n.LastError = state, ""
			return n.Reservation == "" && x.store.UpdateNode(x.t.Context(), n) == nil
		})
	}
}

// wait deploys a machine that never calls, until it is waited for.
func wait(x *metal, two *conductor.Conductor) {
	x.silent()
	x.provision(two, "n1", "deploy")
	if n := x.state("n1", "wait call-back"); n.WaitUntil == nil {
		x.t.Error("it waits without a deadline")
	}
}

func deploy(x *metal, two *conductor.Conductor) {
	if x.wiped(); x.node("n1").ProvisionState == "active" {
		return
	}
	x.provision(two, "n1", "deploy")
	x.deployed()
	x.wiped() // for a rebuild
}

// rests checks that a verb is over and left nothing behind.
func rests(state string) func(x *metal, two *conductor.Conductor, _ bool) {
	return func(x *metal, _ *conductor.Conductor, _ bool) {
		n := x.state("n1", state)
		if n.LastError != "" || len(n.Steps) != 0 || n.WaitUntil != nil || n.TargetPowerState != "" {
			x.t.Errorf("%s: %+v", state, n)
		}
	}
}

// switching asks for a power action from a state of the machine.
func switching(from, target ingot.PowerState, least int64) asked {
	return asked{name: string(target), least: least,
		begin: func(x *metal, two *conductor.Conductor) {
			x.reaches(two, from)
			put("available")(x, two)
		},
		ask: func(x *metal, c *conductor.Conductor) error {
			return c.SetPower(x.t.Context(), "n1", rpc.PowerRequest{Target: target})
		},
		over: func(n *ingot.Node) bool { return n.TargetPowerState == "" },
		check: func(x *metal, two *conductor.Conductor, killed bool) {
			n := x.until("n1", "agreement of row and machine", func(n *ingot.Node) bool {
				return n.Reservation == "" && n.TargetPowerState == "" && n.PowerState == x.m.power()
			})
			switch {
			case n.LastError == "" && n.PowerState == to(target):
			case killed && strings.Contains(n.LastError, "interrupted"):
			default:
				x.t.Errorf("the machine is %s, last error %q", n.PowerState, n.LastError)
			}
			x.reaches(two, to(target)) // whoever asks again gets it
		}}
}

func to(target ingot.PowerState) ingot.PowerState {
	if target == ingot.Rebooting {
		return ingot.PowerOn
	}
	return target
}

// reaches switches the machine by a conductor that lives.
func (x *metal) reaches(c *conductor.Conductor, s ingot.PowerState) {
	x.t.Helper()
	testkit.Eventually(x.t, "the machine is "+string(s), func() bool {
		n := x.node("n1")
		if n.Reservation == "" && n.TargetPowerState == "" && n.PowerState == s && x.m.power() == s {
			return true
		}
		_ = c.SetPower(x.t.Context(), "n1", rpc.PowerRequest{Target: s}) // refused while one is at work
		return false
	})
}

// TestWhateverIsAskedForAnotherConductorEnds is S0.2 for all that is not a deployment.
func TestWhateverIsAskedForAnotherConductorEnds(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	for _, a := range []asked{
		{name: "manage", least: 3, begin: put("enroll"), ask: verb("manage"),
			over: in("manageable"), check: rests("manageable")},
		{name: "provide", least: 2, begin: put("manageable"), ask: verb("provide"),
			over: in("available"), check: rests("available")},
		{name: "rebuild", least: 4, begin: deploy, ask: verb("rebuild"), over: in("active"),
			check: func(x *metal, _ *conductor.Conductor, _ bool) { x.deployed() }},
		{name: "delete", least: 3, begin: deploy, ask: verb("delete"), over: in("available"),
			check: func(x *metal, two *conductor.Conductor, _ bool) { x.undeployed(two) }},
		{name: "delete while the machine is waited for", least: 3, begin: wait, ask: verb("delete"),
			over:  in("available"),
			check: func(x *metal, two *conductor.Conductor, _ bool) { x.undeployed(two) }},
		{name: "abort", least: 3, begin: wait, ask: verb("abort"), over: in("deploy failed"),
			check: func(x *metal, _ *conductor.Conductor, _ bool) { x.failed("aborted by request") }},
		switching(ingot.PowerOff, ingot.PowerOn, 3),
		switching(ingot.PowerOn, ingot.PowerOff, 3),
		switching(ingot.PowerOn, ingot.Rebooting, 3),
	} {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			x := newMetal(t)
			x.o.PowerSyncInterval = 50 * time.Millisecond
			at := int64(1)
			for ; x.endsBeside(at, a); at++ {
				if t.Failed() {
					t.Fatalf("killed before write %d; the machine did %v\n%s", at, x.m.story(),
						x.journal("n1"))
				}
			}
			if at <= a.least {
				t.Errorf("only %d writes", at-1)
			}
			t.Logf("it takes less than %d writes", at)
		})
	}
}

// endsBeside asks a conductor that is killed before its write number at, beside a second one. It
// tells whether the first one lived to be killed.
func (x *metal) endsBeside(at int64, a asked) (killed bool) {
	x.t.Helper()
	two := x.second("host2")
	defer x.run(two)()
	x.m.set(func(m *machine) { m.tweak, m.cond = nil, two })
	a.begin(x, two)
	before := x.node("n1").ProvisionState
	one, stop, died := x.mortal(at)
	defer stop()
	x.m.set(func(m *machine) { m.events, m.cond = nil, one })
	err := a.ask(x, one)
	if err != nil && !conductor.Crashed(one) {
		x.t.Fatal(err)
	}
	testkit.Eventually(x.t, "it is over, or the one that was asked is killed", func() bool {
		select {
		case <-died:
			killed = true
			return true
		default:
		}
		n := x.node("n1")
		return err == nil && n.Reservation == "" && a.over(n)
	})
	// Also if it lives: what it does next, such as a look at the power, would be killed before that write.
	x.m.set(func(m *machine) { m.cond = two })
	stop()
	if err != nil { // whoever got an error asks the other one, unless it is done all the same
		testkit.Eventually(x.t, "the other one takes it", func() bool {
			n := x.node("n1")
			return n.ProvisionState != before || a.ask(x, two) == nil
		})
	}
	a.check(x, two, killed)
	return killed
}

// TestABMCIsToldByOneConductorAtATime: whatever is done with a node needs its reservation, so no two
// conductors tell its BMC anything at the same time.
func TestABMCIsToldByOneConductorAtATime(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	w := newWorld(t)
	w.power.gate = make(chan struct{})
	w.o.PowerTimeout = time.Minute
	one, two := w.second("host1"), w.second("host2")
	w.run(one)
	w.run(two)
	w.enroll(one, "n1", "available")
	on := rpc.PowerRequest{Target: ingot.PowerOn}
	if err := one.SetPower(t.Context(), "n1", on); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "its BMC is told", func() bool { return w.power.calls() == 1 })
	testkit.Eventually(t, "others see that it is busy", func() bool {
		c, err := w.store.Conductor(t.Context(), "host1")
		return err == nil && c.Load == ingot.Load{Busy: 1, Workers: 300, Copies: 16}
	})
	for what, err := range map[string]error{
		"power":                 two.SetPower(t.Context(), "n1", on),
		"boot device":           two.SetBootDevice(t.Context(), "n1", rpc.BootDevice{Device: "disk"}),
		"deploy":                two.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy"}),
		"power by the same one": one.SetPower(t.Context(), "n1", on),
	} {
		if ingot.KindOf(err) != ingot.Locked || !strings.Contains(err.Error(), "host1") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := w.power.calls(); n != 1 {
		t.Errorf("its BMC was told %d times", n)
	}
	close(w.power.gate)
	w.until("n1", "on", func(n *ingot.Node) bool {
		return n.Reservation == "" && n.PowerState == ingot.PowerOn
	})
	if err := two.SetPower(t.Context(), "n1", on); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Of two of one name the second is refused, unless it is told to take the name: then the first one
// ends with words, and the second begins when the first one's lease is over.
func TestASecondConductorOfOneNameIsRefusedUnlessItIsForced(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	w, way := newShared(t)
	one, power := w.remote(t, "host1", way)
	power.gate = make(chan struct{}) // only the end of the lease ends its step
	ended := make(chan error, 1)
	go func() { ended <- one.Run(t.Context()) }()
	<-one.Ready()
	w.enroll(one, "n1", "available")
	w.provision(one, "n1", "deploy")
	testkit.Eventually(t, "the step is at work", func() bool { return power.calls() == 1 })

	two, _ := w.remote(t, "host1", way)
	if err := two.Run(t.Context()); ingot.KindOf(err) != ingot.Conflict ||
		!strings.Contains(err.Error(), "ingot serve --force") {
		t.Errorf("the second: %v", err)
	}
	w.o.TakeName = true
	two, _ = w.remote(t, "host1", way)
	w.run(two)
	if n := conductor.Running(one); n != 0 {
		t.Errorf("%d tasks of the first one are at work", n)
	}
	select {
	case err := <-ended:
		if ingot.KindOf(err) != ingot.Conflict || !strings.Contains(err.Error(), "taken for dead") {
			t.Errorf("the first one ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the first one goes on")
	}
	w.state("n1", "active")
	c, err := w.store.Conductor(t.Context(), "host1")
	if err != nil || !c.Alive {
		t.Errorf("the row: %+v, %v", c, err)
	}
	if !strings.Contains(w.log.String(), "took the name of a conductor that is alive") {
		t.Error(w.log)
	}
}
