package conductor_test

import (
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/store/storetest"
)

func TestANodeGoesAllTheWayRound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	n := w.enroll(c, "n1", "")
	if n.ProvisionState != "enroll" || n.Interfaces["boot"] != "fake" || n.UUID == "" {
		t.Errorf("created %+v", n)
	}
	w.provision(c, "n1", "manage")
	if n := w.state("n1", "manageable"); n.PowerState != ingot.PowerOff ||
		n.TargetProvisionState != "" {
		t.Errorf("managed: power %q, target %q", n.PowerState, n.TargetProvisionState)
	}
	w.provision(c, "n1", "provide")
	w.state("n1", "available")
	w.provision(c, "n1", "deploy")
	n = w.state("n1", "active")
	if n.PowerState != ingot.PowerOn || n.BootIntent != ingot.BootDisk || len(n.Steps) != 0 ||
		n.LastError != "" {
		t.Errorf("deployed: %+v", n)
	}
	n.InstanceInfo, n.InstanceUUID = ingot.Object{"a": "b"}, "2be26c0b-03f2-4d2e-ae87-c02d7f33c123"
	if _, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.provision(c, "n1", "delete")
	n = w.state("n1", "available")
	if n.PowerState != ingot.PowerOff || n.BootIntent != ingot.BootNone || n.InstanceUUID != "" ||
		len(n.InstanceInfo) != 0 {
		t.Errorf("deleted: %+v", n)
	}
	if err := c.DeleteNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Node(t.Context(), "n1"); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("after DeleteNode: %v", err)
	}
}

func TestTheJournalTellsTheWholeStory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	w.enroll(c, "n1", "available")
	w.provision(c, "n1", "deploy")
	w.state("n1", "active")
	story := w.journal("n1")
	at := 0
	for _, line := range []string{
		`state info created, driver fake-hardware, state available`,
		`state info available → deploying`,
		`step info step deploy begins \(1 of 1\)`,
		`power info power on: done, the machine is on`,
		`step info step deploy done in `,
		`state info deploying → active`,
	} {
		found := regexp.MustCompile(line).FindStringIndex(story[at:])
		if found == nil {
			t.Fatalf("no %q after byte %d of\n%s", line, at, story)
		}
		at += found[1]
	}
}

func TestVerificationFailsWithAReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.power.err = errors.New("BMC at 192.0.2.1:623 does not answer")
	c, _ := w.start()
	w.enroll(c, "n1", "")
	w.provision(c, "n1", "manage")
	n := w.until("n1", "failure", func(n *ingot.Node) bool { return n.LastError != "" })
	if n.ProvisionState != "enroll" || !strings.Contains(n.LastError, "192.0.2.1:623") {
		t.Errorf("state %q, last error %q", n.ProvisionState, n.LastError)
	}
}

func TestVerbsAreRefusedWithTheirReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	yes := true
	for _, tc := range []struct {
		name, state, event string
		change             func(*ingot.Node)
		kind               ingot.Kind
		text               string
	}{
		{"state", "enroll", "deploy", nil, ingot.Invalid,
			`The requested action "deploy" can not be performed on node`},
		{"unbuilt", "manageable", "inspect", nil, ingot.Invalid,
			"Driver fake-hardware does not support inspect (disabled or not implemented)."},
		{"maintenance", "available", "deploy", func(n *ingot.Node) { n.Maintenance = true },
			ingot.Invalid, "because it's in maintenance mode"},
		{"protected", "active", "delete", func(n *ingot.Node) { n.Protected = true },
			ingot.Forbidden, "is protected"},
		{"retired", "manageable", "provide", func(n *ingot.Node) { n.Retired = true },
			ingot.Invalid, "retired"},
		{"clean", "manageable", "provide", func(n *ingot.Node) { n.AutomatedClean = &yes },
			ingot.Invalid, "automated cleaning"},
		{"clean-at-delete", "active", "delete", func(n *ingot.Node) { n.AutomatedClean = &yes },
			ingot.Invalid, "automated cleaning"},
	} {
		n := w.enroll(c, tc.name, tc.state)
		if tc.change != nil {
			tc.change(n)
			if _, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: tc.name, Event: tc.event})
		if ingot.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: error %v", tc.name, err)
		}
		if n := w.node(tc.name); n.ProvisionState != tc.state || n.Reservation != "" {
			t.Errorf("%s: state %q, reservation %q", tc.name, n.ProvisionState, n.Reservation)
		}
	}
}

func TestPowerActionsAreOnRecordWhileTheyRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.power.gate = make(chan struct{})
	c, _ := w.start()
	w.enroll(c, "n1", "manageable")
	err := c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: ingot.Rebooting})
	if err != nil {
		t.Fatal(err)
	}
	if n := w.node("n1"); n.TargetPowerState != ingot.PowerOn || n.Reservation != "host1" {
		t.Errorf("accepted: target %q, reservation %q", n.TargetPowerState, n.Reservation)
	}
	_, err = c.UpdateNode(t.Context(), w.node("n1"), rpc.UpdateOptions{})
	if ingot.KindOf(err) != ingot.Locked {
		t.Errorf("update of a node at work: %v", err)
	}
	close(w.power.gate)
	n := w.until("n1", "power on", func(n *ingot.Node) bool { return n.Reservation == "" })
	if n.PowerState != ingot.PowerOn || n.TargetPowerState != "" || n.LastError != "" {
		t.Errorf("done: %q, target %q, %q", n.PowerState, n.TargetPowerState, n.LastError)
	}
	w.power.set(func(p *power) { p.err = errors.New("no answer") })
	if err := c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: "power off"}); err != nil {
		t.Fatal(err)
	}
	n = w.until("n1", "failure", func(n *ingot.Node) bool { return n.Reservation == "" })
	if !strings.Contains(n.LastError, "Failed to change power state to 'power off'") {
		t.Errorf("last error %q", n.LastError)
	}
	err = c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: "explode"})
	if ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("unknown target: %v", err)
	}
}

func TestAFullPoolRefusesPowerActionsAndKeepsVerbs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.power.gate = make(chan struct{})
	w.o.Workers = 1
	w.o.CheckInterval = time.Hour // only the free worker wakes who waits for it
	c, _ := w.start()
	w.enroll(c, "n1", "manageable")
	w.enroll(c, "n2", "available")
	w.enroll(c, "n3", "manageable")
	if err := c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: "power on"}); err != nil {
		t.Fatal(err)
	}
	w.provision(c, "n2", "deploy")
	n := w.state("n2", "deploying")
	if n.Step != 0 || len(n.Steps) != 1 {
		t.Errorf("waiting for a worker: step %d of %v", n.Step, n.Steps)
	}
	err := c.SetPower(t.Context(), "n3", rpc.PowerRequest{Target: "power on"})
	if ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("error %v", err)
	}
	if n := w.node("n3"); n.TargetPowerState != "" || n.Reservation != "" {
		t.Errorf("refused, yet target %q, reservation %q", n.TargetPowerState, n.Reservation)
	}
	w.provision(c, "n3", "provide") // needs no worker: nothing is done on the machine
	w.state("n3", "available")
	close(w.power.gate)
	w.state("n2", "active")
	for _, line := range []string{"waiting for a free worker: all 1 are busy",
		"info a worker is free; continuing deploying at step deploy"} {
		if !strings.Contains(w.journal("n2"), line) {
			t.Errorf("no %q in\n%s", line, w.journal("n2"))
		}
	}
}

func TestARunningStepMayFinishAfterTheEndWasAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.power.gate = make(chan struct{})
	c, stop := w.start()
	w.enroll(c, "n1", "available")
	w.provision(c, "n1", "deploy")
	w.until("n1", "step", func(*ingot.Node) bool {
		return strings.Contains(w.journal("n1"), "step deploy begins")
	})
	time.AfterFunc(50*time.Millisecond, func() { close(w.power.gate) })
	stop()
	n := w.node("n1")
	if n.ProvisionState != "deploying" || n.Step != 1 || n.Reservation != "" {
		t.Errorf("stopped: state %q, step %d, reservation %q", n.ProvisionState, n.Step,
			n.Reservation)
	}
	if _, err := w.store.Conductor(t.Context(), "host1"); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("the stopped conductor is still registered: %v", err)
	}
	w.start()
	w.state("n1", "active")
}

func TestAStepThatDoesNotEndIsAbandonedAndRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.power.gate = make(chan struct{})
	w.o.GracePeriod = 10 * time.Millisecond
	c, stop := w.start()
	w.enroll(c, "n1", "available")
	w.provision(c, "n1", "deploy")
	stop()
	n := w.node("n1")
	if n.ProvisionState != "deploying" || n.Step != 0 || n.Reservation != "" || n.LastError != "" {
		t.Errorf("stopped: %+v", n)
	}
	close(w.power.gate)
	w.start()
	w.state("n1", "active")
}

func TestATaskThatLostItsNodeWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.power.gate = make(chan struct{})
	c, _ := w.start()
	w.enroll(c, "n1", "available")
	w.provision(c, "n1", "deploy")
	if err := w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "host2"}); err != nil {
		t.Fatal(err)
	}
	// Somebody thought that this conductor is dead, who may see between the two that it is not.
	var other *ingot.Node
	for deadline := time.Now().Add(patience); other == nil; {
		if _, err := storetest.ReleaseAll(t.Context(), w.store, "host1"); err != nil {
			t.Fatal(err)
		}
		var err error
		other, err = w.store.Reserve(t.Context(), "n1", "host2")
		if err != nil && (ingot.KindOf(err) != ingot.Locked || time.Now().After(deadline)) {
			t.Fatal(err)
		}
	}
	close(w.power.gate)
	w.until("n1", "end of the task", func(*ingot.Node) bool {
		return strings.Contains(w.log.String(), "its task stops")
	})
	n := w.node("n1")
	if n.Generation != other.Generation || n.Reservation != "host2" {
		t.Errorf("generation %d, want %d; reservation %q", n.Generation, other.Generation,
			n.Reservation)
	}
}

func TestNodesOfADeadConductorAreFreed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, stop := w.start()
	w.enroll(c, "n1", "active")
	w.enroll(c, "n2", "active")
	if err := w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "alive"}); err != nil {
		t.Fatal(err)
	}
	for name, owner := range map[string]string{"n1": "former host name", "n2": "alive"} {
		n, err := w.store.Reserve(t.Context(), name, owner)
		if err != nil {
			t.Fatal(err)
		}
		n.TargetPowerState = ingot.PowerOn
		if err := w.store.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	w.start()
	n := w.until("n1", "freed node", func(n *ingot.Node) bool { return n.Reservation == "" })
	if n.TargetPowerState != "" || !strings.Contains(n.LastError, "interrupted") {
		t.Errorf("target %q, last error %q", n.TargetPowerState, n.LastError)
	}
	if n := w.node("n2"); n.Reservation != "alive" || n.TargetPowerState != ingot.PowerOn {
		t.Errorf("the node of a conductor that lives: %+v", n)
	}
}

func TestPowerIsKeptInAgreement(t *testing.T) {
	t.Parallel()
	for _, force := range []bool{true, false} {
		w := newWorld(t)
		w.o.PowerSyncInterval, w.o.ForcePower = time.Hour, force
		w.power.state = ingot.PowerOff
		c, _ := w.start()
		n := w.enroll(c, "n1", "enroll") // where power is not compared
		n.PowerState, n.ProvisionState = ingot.PowerOn, "active"
		if _, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.Wake()
		w.until("n1", "correction", func(n *ingot.Node) bool {
			return strings.Contains(w.journal("n1"), "the machine is off but was on record as on")
		})
		want := map[bool]ingot.PowerState{true: ingot.PowerOn, false: ingot.PowerOff}[force]
		w.until("n1", "agreement", func(n *ingot.Node) bool {
			w.power.mu.Lock()
			defer w.power.mu.Unlock()
			return n.PowerState == want && w.power.state == want && n.Reservation == ""
		})
	}
}

func TestASilentBMCIsAFaultUntilItAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.PowerSyncInterval, w.o.PowerRecoveryInterval = 5*time.Millisecond, time.Hour
	w.power.err = errors.New("no answer")
	c, _ := w.start()
	w.enroll(c, "n1", "active")
	n := w.until("n1", "fault", func(n *ingot.Node) bool {
		return n.Fault != "" && n.Reservation == ""
	})
	if n.Fault != ingot.FaultPower || !n.Maintenance || n.PowerState != ingot.PowerError ||
		!strings.Contains(n.MaintenanceReason, "no answer") {
		t.Errorf("fault: %+v", n)
	}
	w.power.set(func(p *power) { p.err, p.state = nil, ingot.PowerOn })
	c.Wake()
	n = w.until("n1", "recovery", func(n *ingot.Node) bool { return n.Fault == "" })
	if n.Maintenance || n.PowerState != ingot.PowerOn {
		t.Errorf("recovered: %+v", n)
	}
}

func TestTheConductorSaysThatItLives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	c, err := w.store.Conductor(t.Context(), "host1")
	if err != nil || !c.Alive || len(c.Drivers) != 1 || c.Drivers[0].Name != "fake-hardware" {
		t.Errorf("conductor %+v, %v", c, err)
	}
}

func TestValidateAnswersForEveryInterface(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	w.enroll(c, "n1", "")
	got, err := c.Validate(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"power", "management", "boot", "deploy", "network", "storage"} {
		if !got[kind].Result || got[kind].Reason != "" {
			t.Errorf("%s: %+v", kind, got[kind])
		}
	}
	want := "Driver fake-hardware does not support raid (disabled or not implemented)."
	if got["raid"].Result || got["raid"].Reason != want {
		t.Errorf("raid: %+v", got["raid"])
	}
	if _, ok := got["vendor"]; ok || len(got) != len(driver.Kinds)-1 {
		t.Errorf("%d kinds: %v", len(got), got)
	}
}

func TestBootDevicesGoThroughTheInterface(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	w.enroll(c, "n1", "")
	want := rpc.BootDevice{Device: "pxe", Persistent: true}
	if err := c.SetBootDevice(t.Context(), "n1", want); err != nil {
		t.Fatal(err)
	}
	if got, err := c.BootDevice(t.Context(), "n1"); err != nil || got != want {
		t.Errorf("boot device %+v, %v", got, err)
	}
	if got, err := c.SupportedBootDevices(t.Context(), "n1"); err != nil || len(got) != 5 {
		t.Errorf("supported %v, %v", got, err)
	}
}

func TestChangingTheDriverMayResetInterfaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.Table.Hardware = append(w.o.Table.Hardware, driver.Hardware{Name: "other",
		Supported: map[string][]string{"power": {"fake"}, "management": {"fake"},
			"boot": {"fake"}, "deploy": {"second"}}})
	w.o.Table.Deploy["second"] = fake.Deploy{}
	c, _ := w.start()
	n := w.enroll(c, "n1", "")
	n.Driver = "other"
	if _, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{}); ingot.KindOf(err) !=
		ingot.Invalid {
		t.Errorf("kept an interface that the driver lacks: %v", err)
	}
	got, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{ResetInterfaces: true})
	if err != nil || got.Interfaces["deploy"] != "second" {
		t.Errorf("reset: %v, %v", got, err)
	}
}

func TestNodesInUseAreNotDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	w.enroll(c, "n1", "active")
	if err := c.DeleteNode(t.Context(), "n1"); ingot.KindOf(err) != ingot.Conflict {
		t.Errorf("error %v", err)
	}
	n := w.node("n1")
	n.Maintenance = true
	if _, err := c.UpdateNode(t.Context(), n, rpc.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteNode(t.Context(), "n1"); err != nil {
		t.Error(err)
	}
}

// A pass over a large fleet reads it page by page, and the node that it goes on from may be deleted
// meanwhile: that is no error.
func TestAPassOverTheNodesSurvivesThatOneIsDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := conductor.New(w.o)
	conductor.SetPage(c, 2)
	w.run(c)
	w.enroll(c, "n1", "manageable")
	w.enroll(c, "n2", "manageable")
	var mu sync.Mutex
	var seen []string
	err := conductor.EachNode(t.Context(), c, func(n *ingot.Node) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, n.Name)
		if n.Name != "n2" {
			return
		}
		if n, err := w.store.Reserve(t.Context(), n.UUID, "somebody"); err != nil {
			t.Error(err)
		} else if err := w.store.DeleteNode(t.Context(), n); err != nil {
			t.Error(err)
		}
	})
	if err != nil || len(seen) != 2 {
		t.Errorf("seen %v, %v", seen, err)
	}
}
