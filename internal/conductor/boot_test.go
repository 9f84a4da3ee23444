package conductor_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/testkit"
)

func TestWhenAMachineIsBootedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.BootRetryTimeout = 10 * time.Minute
	c := conductor.New(w.o)
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	after := func(minutes int) *time.Time {
		at := start.Add(time.Duration(minutes) * time.Minute)
		return &at
	}
	for _, tc := range []struct {
		name   string
		at     int // minutes after the start
		change func(n *ingot.Node)
		want   bool
	}{
		{"too early", 9, func(*ingot.Node) {}, false},
		{"in time", 10, func(*ingot.Node) {}, true},
		{"would be cut short by the deadline", 21, func(*ingot.Node) {}, false},
		{"no deadline", 1000, func(n *ingot.Node) { n.WaitUntil = nil }, true},
		{"second boot, too early", 19, func(n *ingot.Node) { n.Attempt.Boots = 2 }, false},
		{"second boot", 20, func(n *ingot.Node) { n.Attempt.Boots = 2 }, true},
		{"third boot", 1000, func(n *ingot.Node) { n.Attempt.Boots, n.WaitUntil = 3, nil }, false},
		{"has called", 10, func(n *ingot.Node) { n.Attempt.Target = &ingot.ISCSITarget{} }, false},
		{"another state", 10, func(n *ingot.Node) { n.ProvisionState = "deploying" }, false},
		{"no attempt", 10, func(n *ingot.Node) { n.Attempt = nil }, false},
		{"given up", 10, func(n *ingot.Node) { n.WaitUntil = n.ProvisionUpdatedAt }, false},
		{"row of an older binary", 10, func(n *ingot.Node) {
			n.Attempt.Boots, n.Attempt.BootedAt = 0, time.Time{}
		}, false},
	} {
		n := &ingot.Node{ProvisionState: "wait call-back", ProvisionUpdatedAt: after(0),
			WaitUntil: after(30), Attempt: &ingot.Attempt{Boots: 1, BootedAt: start}}
		tc.change(n)
		if got := conductor.BootDue(c, n, *after(tc.at)); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestACallThatNobodyCouldHearIsWaitedForAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.BootRetryTimeout = 10 * time.Minute
	c, _ := w.start()
	n := &ingot.Node{ProvisionState: "wait call-back", Attempt: &ingot.Attempt{Boots: 1,
		BootedAt: time.Now().Add(-time.Hour)}}
	if conductor.BootDue(c, n, time.Now()) {
		t.Error("a conductor that has just started does not know that the ramdisk was silent")
	}
	if !conductor.BootDue(c, n, time.Now().Add(time.Hour)) {
		t.Error("it waits for ever")
	}
}

// mute keeps the ramdisk silent in the first boots of its machine, and returns the keys that it
// was given in them.
func (x *metal) mute(boots int) (keys func() []string) {
	var mu sync.Mutex
	var silent []string
	x.m.set(func(m *machine) {
		m.tweak = func(_ string, args ingot.Object) ingot.Object {
			mu.Lock()
			defer mu.Unlock()
			if len(silent) == boots {
				return args
			}
			silent = append(silent, args["key"].(string))
			return nil
		}
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), silent...)
	}
}

func TestAMachineWhoseRamdiskDoesNotCallIsBootedAgain(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.o.BootRetryTimeout, x.o.CheckInterval = time.Second/2, 20*time.Millisecond
	keys := x.mute(2)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	if k := keys(); len(k) != 2 || k[0] == k[1] {
		t.Errorf("%d boots with different keys", len(k))
	}
	for _, want := range []string{" of boot 1. The machine was last seen ",
		"boot 2 of at most 3", "boot 3 of at most 3"} {
		if strings.Count(x.journal("n1"), want) != 1 {
			t.Errorf("not once %q in\n%s", want, x.journal("n1"))
		}
	}
}

func TestS2_7_BootsOfOneDeploymentShareItsDeadline(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.o.BootRetryTimeout, x.o.CheckInterval = 50*time.Millisecond, 20*time.Millisecond
	x.o.CallbackTimeout = time.Hour
	keys := x.mute(1000)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	waits := func(boots int) *ingot.Node {
		return x.until("n1", "boot", func(n *ingot.Node) bool {
			return n.ProvisionState == "wait call-back" && n.Reservation == "" &&
				n.Attempt.Boots >= boots
		})
	}
	first, last := waits(1), waits(3)
	if first.WaitUntil == nil || last.WaitUntil == nil || !first.WaitUntil.Equal(*last.WaitUntil) {
		t.Errorf("the deadline moved from %v to %v", first.WaitUntil, last.WaitUntil)
	}
	// The keys of earlier boots open nothing.
	for _, key := range keys()[:2] {
		_, err := c.CallNode(t.Context(), "n1", rpc.Call{Method: "pass_deploy_info",
			HTTPMethod: "POST", PublicOnly: true, Args: ingot.Object{"key": key, "iqn": "iqn.x",
				"address": "192.0.2.1"}})
		if ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("old key: %v", err)
		}
	}
	// There is no fourth boot, and the time of the third ends with the deployment's.
	n := x.node("n1")
	soon := time.Now().Add(100 * time.Millisecond)
	n.WaitUntil = &soon
	if err := x.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	x.failed("after boot 3 of the machine")
}

func TestABootRetrySurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	x := newMetal(t)
	x.o.BootRetryTimeout, x.o.CheckInterval = 50*time.Millisecond, 20*time.Millisecond
	for at := int64(1); at <= 8; at++ { // what follows is a deployment like any other
		x.wiped()
		x.m.set(func(m *machine) { m.events = nil })
		keys := x.mute(1)
		if !x.killedAt(at, "deploy") {
			t.Fatalf("it takes less than %d writes", at)
		}
		if len(keys()) != 1 {
			t.Errorf("killed before write %d: %d silent boots", at, len(keys()))
		}
		x.freed()
	}
}

func TestAWaitForBootFilesIsReadFromTheJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	n := w.enroll(c, "n1", "available")
	start := time.Now().Truncate(time.Millisecond)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	place := ingot.Object{ingot.DataPlace: 3}
	add := func(seconds int, source string, data ingot.Object) {
		t.Helper()
		if err := w.store.AppendJournal(t.Context(), []ingot.Entry{{Node: n.UUID, Time: at(seconds),
			Source: source, Level: ingot.LevelInfo, Text: "x", Data: data}}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(heard time.Time, waited time.Duration) {
		t.Helper()
		gotHeard, gotWaited, err := conductor.WaitInLine(t.Context(), c, n, start)
		if err != nil || !gotHeard.Equal(heard) || gotWaited != waited {
			t.Errorf("heard %v, waited %s, %v; want %v, %s", gotHeard, gotWaited, err, heard, waited)
		}
	}
	check(time.Time{}, 0)
	add(-5, "script", place) // of a boot before
	add(1, "dhcp", ingot.Object{"place": 1})
	add(2, "script", ingot.Object{"trace": "0badcafe"})
	check(time.Time{}, 0)
	add(10, "script", place)
	check(at(100), 0)
	add(25, "script", ingot.Object{ingot.DataWaited: 15.5})
	check(at(25), 15500*time.Millisecond)
	add(40, "script", place)
	add(50, "script", ingot.Object{ingot.DataWaited: 10})
	check(at(50), 25500*time.Millisecond)
}

// inLine keeps the machine silent in its first boots, and has it wait for its boot files then: let in
// after a time, for the whole of which it says to have waited. It returns when the machine booted.
func (x *metal) inLine(boots int, wait time.Duration) (booted func() []time.Time) {
	var mu sync.Mutex
	var times []time.Time
	x.m.set(func(m *machine) {
		m.tweak = func(_ string, args ingot.Object) ingot.Object {
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Now())
			if len(times) > boots {
				return args
			}
			err := x.store.AppendJournal(x.t.Context(), []ingot.Entry{{Node: x.node("n1").UUID,
				Time: time.Now().Add(wait), Source: "script", Level: ingot.LevelInfo,
				Data: ingot.Object{ingot.DataWaited: wait.Seconds()}}})
			if err != nil {
				x.t.Error(err)
			}
			return nil
		}
	})
	return func() []time.Time {
		mu.Lock()
		defer mu.Unlock()
		return append([]time.Time(nil), times...)
	}
}

func TestAMachineThatWaitsForItsBootFilesIsNotBootedAgain(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	const retry, wait = 300 * time.Millisecond, 700 * time.Millisecond
	x.o.BootRetryTimeout, x.o.CheckInterval = retry, 20*time.Millisecond
	booted := x.inLine(1, wait)
	c, _ := x.start()
	begun := time.Now()
	x.provision(c, "n1", "deploy")
	x.deployed()
	if b := booted(); len(b) < 2 || b[1].Sub(begun) < retry+wait {
		t.Errorf("booted at %v, let in after %s; may be silent for %s", b, wait, retry)
	}
}

func TestS2_7_TheWaitForBootFilesIsNotTheMachines(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	const timeout, wait = 300 * time.Millisecond, 700 * time.Millisecond
	x.o.CallbackTimeout, x.o.CheckInterval = timeout, 20*time.Millisecond
	x.inLine(1000, wait)
	c, _ := x.start()
	begun := time.Now()
	x.provision(c, "n1", "deploy")
	x.failed("Timeout reached while waiting for callback: waited ")
	if took := time.Since(begun); took < timeout+wait {
		t.Errorf("failed after %s, of which it waited %s; may take %s", took, wait, timeout)
	}
}
