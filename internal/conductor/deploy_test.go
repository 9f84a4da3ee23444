package conductor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/iscsi"
	"ingot/internal/ingot"
	"ingot/internal/postgres"
	"ingot/internal/rpc"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// around runs a deploy interface with something before and after each step.
type around struct {
	*iscsi.Deploy
	execute func(ctx context.Context, t *driver.Task, s ingot.Step,
		inner func() (driver.Outcome, error)) (driver.Outcome, error)
}

func (a *around) Execute(ctx context.Context, t *driver.Task, s ingot.Step) (driver.Outcome,
	error) {
	return a.execute(ctx, t, s, func() (driver.Outcome, error) {
		return a.Deploy.Execute(ctx, t, s)
	})
}

// wrap puts execute around the metal's deploy interface.
func (x *metal) wrap(execute func(ctx context.Context, t *driver.Task, s ingot.Step,
	inner func() (driver.Outcome, error)) (driver.Outcome, error)) {
	d := x.o.Table.Deploy[iscsi.Name].(*iscsi.Deploy)
	x.o.Table.Deploy[iscsi.Name] = &around{d, execute}
}

func TestADeploymentWithEveryStepRunTwice(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	var mu sync.Mutex
	runs := map[string]int{}
	x.wrap(func(_ context.Context, _ *driver.Task, s ingot.Step,
		inner func() (driver.Outcome, error)) (driver.Outcome, error) {
		mu.Lock()
		runs[s.Name] += 2
		mu.Unlock()
		if out, err := inner(); err != nil {
			return out, err
		}
		return inner()
	})
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	for _, s := range iscsi.New(iscsi.Options{}).Steps(nil) {
		if runs[s.Name] < 2 {
			t.Errorf("step %s ran %d times", s.Name, runs[s.Name])
		}
	}
}

// A step that met no store says nothing of the machine, and is repeated.
func TestADeploymentWhoseStoreIsAwayAtAnyStepGoesOn(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	x := newMetal(t)
	away := unreachable(t)
	var mu sync.Mutex
	met := map[string]bool{}
	x.wrap(func(_ context.Context, _ *driver.Task, s ingot.Step,
		inner func() (driver.Outcome, error)) (driver.Outcome, error) {
		out, err := inner()
		mu.Lock()
		defer mu.Unlock()
		if err != nil || met[s.Name] {
			return out, err
		}
		met[s.Name] = true
		return driver.Done, fmt.Errorf("after %s: %w", s.Name, away)
	})
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	mu.Lock()
	defer mu.Unlock()
	for _, s := range iscsi.New(iscsi.Options{}).Steps(nil) {
		if !met[s.Name] {
			t.Errorf("step %s did not meet it", s.Name)
		}
	}
}

// unreachable is what a store says whose server has ended.
func unreachable(t *testing.T) error {
	t.Helper()
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	s, err := store.Open(t.Context(), store.Options{URL: p.URL, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p.Down()
	err = s.Ping(t.Context())
	if !store.Unreachable(err) {
		t.Fatalf("without a server: %v", err)
	}
	return err
}

func TestADeploymentThatFailsAtAnyStepEndsCleanly(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	var broken atomic.Value // "before deploy", "after write_image"...
	broken.Store("")
	x.wrap(func(_ context.Context, _ *driver.Task, s ingot.Step,
		inner func() (driver.Outcome, error)) (driver.Outcome, error) {
		fail := func(when string) error {
			if broken.Load() == when+" "+s.Name {
				return errors.New("injected " + when + " " + s.Name)
			}
			return nil
		}
		if err := fail("before"); err != nil {
			return driver.Done, err
		}
		out, err := inner()
		if err == nil {
			err = fail("after")
		}
		return out, err
	})
	c, _ := x.start()
	for _, s := range iscsi.New(iscsi.Options{}).Steps(nil) {
		for _, when := range []string{"before", "after"} {
			x.wiped()
			broken.Store(when + " " + s.Name)
			x.provision(c, "n1", "deploy")
			x.failed("injected " + when + " " + s.Name)
			// The same node, without being touched by anyone, deploys afterwards.
		}
	}
	broken.Store("")
	x.wiped()
	x.m.set(func(m *machine) { m.events = nil })
	x.provision(c, "n1", "deploy")
	x.deployed()
}

func TestADeploymentSurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	for _, first := range []int64{1, 2} { // two machines share the work
		t.Run(fmt.Sprintf("from %d", first), func(t *testing.T) {
			t.Parallel()
			newMetal(t).killedAtEveryOtherWrite(first)
		})
	}
}

func (x *metal) killedAtEveryOtherWrite(first int64) {
	t := x.t
	for at := first; ; at += 2 {
		x.wiped()
		x.m.set(func(m *machine) { m.events = nil })
		if killed := x.killedAt(at, "deploy"); !killed {
			if at < 10 {
				t.Errorf("only %d writes; a deployment has more steps", at)
			}
			t.Logf("it takes less than %d writes", at)
			return
		}
		if t.Failed() {
			t.Fatalf("killed before write %d; the machine did %v\n%s", at, x.m.story(),
				x.journal("n1"))
		}
		x.freed()
	}
}

// mortal starts a conductor that is killed before its write number at; died is closed then.
func (w *world) mortal(at int64) (c *conductor.Conductor, stop func(), died <-chan struct{}) {
	w.t.Helper()
	var writes atomic.Int64
	var armed atomic.Bool
	var once sync.Once
	dead := make(chan struct{})
	c = conductor.New(w.o)
	conductor.CrashWhen(c, func() bool {
		if !armed.Load() || writes.Add(1) < at {
			return false
		}
		once.Do(func() { close(dead) })
		return true
	})
	stop = w.run(c)
	armed.Store(true)
	return c, stop, dead
}

// killedAt deploys or rebuilds and kills the conductor before its write number at; a second one,
// which finds nothing but the store, has to bring it to the end. It tells whether the first one
// lived to be killed.
func (x *metal) killedAt(at int64, event string) bool {
	x.t.Helper()
	before := x.node("n1").ProvisionState
	c, stop, died := x.mortal(at)
	x.m.set(func(m *machine) { m.cond = c })
	err := c.Provision(x.t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: event})
	if err != nil && !conductor.Crashed(c) {
		x.t.Fatal(err)
	}
	killed := false
	for deadline := time.Now().Add(patience); !killed; {
		if time.Now().After(deadline) {
			x.t.Fatal("neither killed nor deployed")
		}
		if n := x.node("n1"); err == nil && n.ProvisionState == "active" && n.Reservation == "" {
			break
		}
		select {
		case <-died:
			killed = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	// Also of one that reached the end: what comes after it, such as a look at the power, is killed before
	// that write, too.
	x.m.set(func(m *machine) { m.cond = nil })
	stop()
	c, stop = x.start()
	defer stop()
	if n := x.node("n1"); n.ProvisionState == before && err != nil {
		// Killed before the verb was accepted: the caller got an error and asks again.
		x.provision(c, "n1", event)
	}
	x.deployed()
	return killed
}

func TestVerbsSurviveAKilledConductorAtEveryWrite(t *testing.T) {
	t.Parallel()
	for _, verb := range []struct{ from, event, to string }{
		{"enroll", "manage", "manageable"}, {"manageable", "provide", "available"},
		{"available", "manage", "manageable"}, {"available", "deploy", "active"},
		{"active", "rebuild", "active"}, {"active", "delete", "available"},
		{"manageable", "inspect", "manageable"},
	} {
		t.Run(verb.event+" from "+verb.from, func(t *testing.T) {
			t.Parallel()
			w, _ := inspected(t, ingot.Inventory{Interfaces: []ingot.InventoryInterface{{MAC: "52:54:00:00:00:0a"}}})
			for at, killed := int64(1), true; killed; at++ {
				name := fmt.Sprintf("n%d", at)
				enroll := func(c *conductor.Conductor) { w.enroll(c, name, verb.from) }
				killed = w.outlives(at, rpc.ProvisionRequest{Ident: name, Event: verb.event}, verb.to, enroll)
			}
		})
	}
}

// outlives asks a conductor for a verb, kills it before its write number at, and has another one bring the node to
// its state. It tells whether the first one lived to be killed.
func (w *world) outlives(at int64, r rpc.ProvisionRequest, to string, enroll func(*conductor.Conductor)) (killed bool) {
	w.t.Helper()
	c, stop, died := w.mortal(at)
	enroll(c)
	err := c.Provision(w.t.Context(), r)
	for deadline := time.Now().Add(patience); !killed && time.Now().Before(deadline); {
		if n := w.node(r.Ident); err == nil && n.ProvisionState == to && n.Reservation == "" {
			break
		}
		select {
		case <-died:
			killed = true
		case <-time.After(5 * time.Millisecond):
		}
	}
	stop()
	c, stop = w.start()
	defer stop()
	if err != nil { // the caller knows, and asks again
		if err := c.Provision(w.t.Context(), r); err != nil {
			w.t.Error(err)
		}
	}
	if n := w.state(r.Ident, to); len(n.Steps) != 0 || n.LastError != "" {
		w.t.Errorf("%s killed before write %d: %+v", r.Event, at, n)
	}
	return killed
}

func TestAPowerActionOfAKilledConductorIsNotLeftOnRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, stop, died := w.mortal(3) // reservation, target, result
	w.enroll(c, "n1", "active")
	if err := c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: "power on"}); err != nil {
		t.Fatal(err)
	}
	<-died
	stop()
	if n := w.node("n1"); n.TargetPowerState != ingot.PowerOn || n.Reservation != "host1" {
		t.Fatalf("killed: target %q, reservation %q", n.TargetPowerState, n.Reservation)
	}
	w.start()
	n := w.node("n1")
	if n.TargetPowerState != "" || !strings.Contains(n.LastError, "interrupted") ||
		n.Reservation != "" {
		t.Errorf("target %q, last error %q", n.TargetPowerState, n.LastError)
	}
}

func TestS2_6_NothingIsHeldWhileTheMachineBoots(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	var silent atomic.Bool
	silent.Store(true)
	speak := make(chan struct{})
	x.m.set(func(m *machine) {
		m.tweak = func(_ string, args ingot.Object) ingot.Object {
			if silent.Load() {
				<-speak
			}
			return args
		}
	})
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	n := x.state("n1", "wait call-back")
	if n.WaitUntil == nil || n.TargetProvisionState != "active" || n.CurrentStep() == nil ||
		n.CurrentStep().Name != "deploy" || n.BootIntent != ingot.BootDeploy {
		t.Errorf("waiting: %+v", n)
	}
	// Others can work on it meanwhile.
	if _, err := x.store.Reserve(t.Context(), "n1", "somebody"); err != nil {
		t.Errorf("reserve a waiting node: %v", err)
	}
	if _, err := storetest.ReleaseAll(t.Context(), x.store, "somebody"); err != nil {
		t.Fatal(err)
	}
	silent.Store(false)
	close(speak)
	x.deployed()
}

func TestS2_7_ASilentMachineFailsTheDeploymentInTime(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.o.CallbackTimeout, x.o.CheckInterval = 100*time.Millisecond, 20*time.Millisecond
	x.silent()
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	n := x.failed("Timeout reached while waiting for callback: waited ")
	for _, want := range []string{"the deploy ramdisk to report its iSCSI target (step deploy)",
		"The machine was last seen ", "script: asked for its boot script: deploy",
		"Check that the machine boots from its network card", "ingot node journal n1"} {
		if !strings.Contains(n.LastError, want) {
			t.Errorf("last error %q lacks %q", n.LastError, want)
		}
	}
	if !strings.Contains(x.journal("n1"), "step error Timeout reached") ||
		!strings.Contains(x.log.String(), "operation failed") {
		t.Errorf("not in journal and log:\n%s\n%s", x.journal("n1"), x.log)
	}
}

func TestS2_7_NoTimeoutWaitsForEver(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.o.CallbackTimeout = 0
	x.silent()
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	if n := x.state("n1", "wait call-back"); n.WaitUntil != nil {
		t.Errorf("waits until %v", n.WaitUntil)
	}
	err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "abort"})
	if err != nil {
		t.Fatal(err)
	}
	x.failed("aborted by request")
}

func TestAMachineThatIsOffWhileItIsWaitedForIsStartedAgain(t *testing.T) {
	t.Parallel()
	for _, force := range []bool{true, false} {
		x := newMetal(t)
		x.o.PowerSyncInterval, x.o.ForcePower = time.Hour, force
		x.silent()
		c, _ := x.start()
		x.provision(c, "n1", "deploy")
		x.state("n1", "wait call-back")
		deadline := *x.node("n1").WaitUntil
		for boots := 2; boots <= 3; boots++ {
			x.m.set(func(m *machine) { m.state = ingot.PowerOff })
			c.Wake()
			x.until("n1", "started again", func(n *ingot.Node) bool {
				return n.Attempt.Boots == boots && n.ProvisionState == "wait call-back" && n.Reservation == ""
			})
			if x.m.power() != ingot.PowerOn || !x.node("n1").WaitUntil.Equal(deadline) {
				t.Errorf("boot %d: machine %s, %+v", boots, x.m.power(), x.node("n1"))
			}
		}
		x.m.set(func(m *machine) { m.state = ingot.PowerOff })
		for range 2 { // the second time there is no news
			c.Wake()
			x.until("n1", "recorded power state", func(n *ingot.Node) bool {
				return n.PowerState == ingot.PowerOff && n.Reservation == ""
			})
		}
		n := x.node("n1")
		if n.ProvisionState != "wait call-back" || n.WaitUntil == nil || n.Maintenance ||
			x.m.power() != ingot.PowerOff {
			t.Errorf("after its last boot: %+v, machine %s", n, x.m.power())
		}
		if got := strings.Count(x.journal("n1"), "console; switch it on"); got != 1 {
			t.Errorf("told %d times:\n%s", got, x.journal("n1"))
		}
	}
}

func TestAFailureIsToldOnce(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.wrap(func(context.Context, *driver.Task, ingot.Step, func() (driver.Outcome, error)) (
		driver.Outcome, error) {
		return driver.Done, errors.New("out of ether")
	})
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("step deploy.deploy failed: out of ether")
	if journal := x.journal("n1"); strings.Count(journal, "out of ether") != 1 ||
		!strings.Contains(journal, "state error deploying → deploy failed\n") {
		t.Errorf("journal:\n%s", journal)
	}
}

func TestAStepGoesOnAfterTheCallBack(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	journal := x.journal("n1")
	for _, want := range []string{"step deploy begins (1 of 5)", "step deploy goes on (1 of 5)",
		"step write_image begins (2 of 5)"} {
		if strings.Count(journal, want) != 1 {
			t.Errorf("not once %q in\n%s", want, journal)
		}
	}
}

// A wait that was given up is on record before the machine is touched, so that a conductor that
// is killed while it does the rest is followed by one that does it again.
func TestAnAbortSurvivesAKilledConductor(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.o.CallbackTimeout = 0 // no deadline would help otherwise
	x.silent()
	c, stop := x.start()
	x.provision(c, "n1", "deploy")
	x.state("n1", "wait call-back")
	stop()
	c, stop, died := x.mortal(3) // reservation, abort, its end
	x.provision(c, "n1", "abort")
	<-died
	stop()
	if n := x.node("n1"); n.ProvisionState != "wait call-back" {
		t.Fatalf("killed in %q", n.ProvisionState)
	}
	x.start()
	x.failed("the deployment was aborted by request while waiting in step deploy")
}

func TestAMissingImageIsFoundBeforeTheMachineBoots(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	n := x.node("n1")
	n.InstanceInfo["image_source"] = n.InstanceInfo["image_source"].(string) + "x"
	if err := x.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("check image_source")
	if x.m.has("rebooting") {
		t.Errorf("the machine did %v", x.m.story())
	}
}

func TestS2_8_OnlyTheDeployKeyOpensTheDoor(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.silent()
	c, _ := x.start()
	call := func(method string, args ingot.Object) error {
		_, err := c.CallNode(t.Context(), "n1", rpc.Call{Method: method, HTTPMethod: "POST",
			Args: args, PublicOnly: true})
		return err
	}
	good := ingot.Object{"address": "127.0.0.1", "iqn": x.m.target.IQN, "key": "x"}
	if err := call("pass_deploy_info", good); err != nil {
		t.Errorf("a call that nobody waits for: %v", err)
	}
	x.provision(c, "n1", "deploy")
	n := x.state("n1", "wait call-back")
	key := n.Attempt.Key.Reveal()
	if len(key) != 32 {
		t.Errorf("deploy key %q", key)
	}
	for _, tc := range []struct {
		args ingot.Object
		text string
	}{
		{ingot.Object{}, "['address', 'key', 'iqn']"},
		{ingot.Object{"address": "127.0.0.1", "key": key}, "['iqn']"},
		{good, "Deploy key is not correct"},
		{ingot.Object{"address": "127.0.0.1", "iqn": "i", "key": key[:31]}, "not correct"},
		{ingot.Object{"key": "wrong", "error": "let me fail it"}, "not correct"},
		{ingot.Object{"address": "machine", "iqn": "i", "key": key}, "address"},
		{ingot.Object{"address": "127.0.0.1", "iqn": "i", "key": key, "port": 0}, "port"},
	} {
		err := call("pass_deploy_info", tc.args)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%v: error %v, want %q", tc.args, err, tc.text)
		}
		if strings.Contains(fmt.Sprint(err), key) {
			t.Errorf("the key is told: %v", err)
		}
	}
	if n := x.node("n1"); n.ProvisionState != "wait call-back" || n.Attempt.Target != nil {
		t.Errorf("after wrong calls: %+v", n)
	}
	if strings.Contains(x.log.String()+x.journal("n1"), key) {
		t.Error("the key is in log or journal")
	}
}

func TestS2_8_TheDeployKeyIsGoodForOneReport(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	var key atomic.Value
	x.m.set(func(m *machine) {
		m.tweak = func(method string, args ingot.Object) ingot.Object {
			key.Store(args["key"])
			if method == "pass_deploy_status" {
				return nil
			}
			return args
		}
	})
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	n := x.until("n1", "second wait", func(n *ingot.Node) bool {
		return n.ProvisionState == "wait call-back" && n.Reservation == "" &&
			n.CurrentStep().Name == "tear_down_agent"
	})
	args := ingot.Object{"address": "198.51.100.1", "iqn": "iqn.x", "key": key.Load()}
	_, err := c.CallNode(t.Context(), "n1", rpc.Call{Method: "pass_deploy_info",
		HTTPMethod: "POST", Args: args})
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "already used") {
		t.Errorf("second report: %v", err)
	}
	if got := x.node("n1").Attempt.Target; *got != *n.Attempt.Target {
		t.Errorf("target changed to %+v", got)
	}
}

func TestS2_9_CompletedThenThePowerCycle(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	want := []string{"rebooting", "ramdisk", "info", "done", "Completed", "rebooting", "disk"}
	got := x.m.story()
	// The machine notes that Completed was taken while the conductor goes on already.
	if i, j := slices.Index(got, "Completed"), slices.Index(want, "Completed"); i > j {
		got[i], got[j] = got[j], got[i]
	}
	if !slices.Equal(got, want) {
		t.Errorf("the machine did %v, want %v", got, want)
	}
	for _, line := range []string{"wait call-back", "the ramdisk exports its disk",
		"image written and verified", "Completed: the ramdisk has let go",
		"boot device: disk from now on"} {
		if !strings.Contains(x.journal("n1"), line) {
			t.Errorf("no %q in\n%s", line, x.journal("n1"))
		}
	}
}

func TestAnErrorOfTheRamdiskIsTheErrorOfTheDeployment(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.m.set(func(m *machine) {
		m.tweak = func(_ string, args ingot.Object) ingot.Object {
			return ingot.Object{"key": args["key"], "error": "no disk found\nin /sys/block"}
		}
	})
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("the deploy ramdisk reports: no disk found in /sys/block")
}

func TestAWrongImageIsNeverBooted(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	n := x.node("n1")
	n.InstanceInfo["image_checksum"] = strings.Repeat("0", 64)
	if err := x.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("step deploy.write_image failed")
	if !x.m.has("failed") {
		t.Errorf("the ramdisk was not told: %v", x.m.story())
	}
}

func TestWhatCannotBeHonouredIsRefusedBeforeAnythingHappens(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	c, _ := x.start()
	for text, change := range map[string]func(n *ingot.Node){
		"instance_info/root_device": func(n *ingot.Node) {
			n.InstanceInfo["root_device"] = ingot.Object{"serial": ""}
		},
		"properties/root_device": func(n *ingot.Node) {
			n.Properties["root_device"] = ingot.Object{"colour": "red"}
		},
		"Missing are: ['ramdisk']": func(n *ingot.Node) { n.InstanceInfo["kernel"] = "http://k" },
		"root_gb": func(n *ingot.Node) {
			n.InstanceInfo["kernel"], n.InstanceInfo["ramdisk"] = "http://k", "http://r"
		},
		"set kernel and ramdisk": func(n *ingot.Node) {
			n.InstanceInfo["image_type"] = "partition"
		},
		"image_source": func(n *ingot.Node) { delete(n.InstanceInfo, "image_source") },
		"Error parsing traits from Node": func(n *ingot.Node) {
			n.InstanceInfo["traits"] = []any{"CUSTOM_A", true}
		},
		"missing traits CUSTOM_B, CUSTOM_C": func(n *ingot.Node) {
			n.Traits = []string{"CUSTOM_A"}
			n.InstanceInfo["traits"] = []any{"CUSTOM_B", "CUSTOM_A", "CUSTOM_C"}
		},
	} {
		old, n := x.node("n1"), x.node("n1")
		change(n)
		if _, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy"})
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), text) {
			t.Errorf("error %v, want %q", err, text)
		}
		found, err := c.Validate(t.Context(), "n1")
		if v := found["deploy"]; err != nil || v.Result {
			t.Errorf("%s: validation %+v, %v", text, v, err)
		}
		now := x.node("n1")
		if now.ProvisionState != "available" || now.Reservation != "" {
			t.Errorf("refused, yet %q reserved by %q", now.ProvisionState, now.Reservation)
		}
		now.InstanceInfo, now.Properties = old.InstanceInfo, old.Properties
		if err := x.store.UpdateNode(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy",
		ConfigDrive: "H4sI"})
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "config drive") {
		t.Errorf("config drive: %v", err)
	}
	if len(x.m.story()) != 0 {
		t.Errorf("the machine was touched: %v", x.m.story())
	}
}

func TestAWaitingDeploymentCanBeDeleted(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.silent()
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.state("n1", "wait call-back")
	x.provision(c, "n1", "delete")
	n := x.state("n1", "available")
	if n.Attempt != nil || n.WaitUntil != nil || n.BootIntent != ingot.BootNone ||
		x.m.power() != ingot.PowerOff {
		t.Errorf("deleted: %+v", n)
	}
}

func TestPassthruMethodsAreListedAndGuarded(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	c, _ := x.start()
	node, err := c.NodeMethods(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	m := node["pass_deploy_info"]
	if !m.Async || !m.Exclusive || !slices.Equal(m.HTTPMethods, []string{"POST"}) {
		t.Errorf("pass_deploy_info: %+v", m)
	}
	drv, err := c.DriverMethods(t.Context(), "fake-hardware")
	if err != nil || !drv["ipxe_config"].Attach {
		t.Errorf("ipxe_config: %+v, %v", drv["ipxe_config"], err)
	}
	for text, call := range map[string]rpc.Call{
		"No handler for method no_such": {Method: "no_such", HTTPMethod: "POST"},
		"does not support HTTP GET":     {Method: "pass_deploy_info", HTTPMethod: "GET"},
	} {
		_, err := c.CallNode(t.Context(), "n1", call)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), text) {
			t.Errorf("error %v, want %q", err, text)
		}
	}
	_, err = c.CallDriver(t.Context(), "no-such", rpc.Call{Method: "x", HTTPMethod: "GET"})
	if ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("unknown driver: %v", err)
	}
}
