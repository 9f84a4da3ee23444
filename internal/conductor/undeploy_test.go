package conductor_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/iscsi"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/testkit"
)

// trap calls spring once, at a moment of a step: "before deploy", "in write_image", "after
// boot_instance"... A step in which it springs goes on when its context ends; one before or after
// which it springs does not wait.
type trap struct {
	at     atomic.Value
	spring func()
}

func (x *metal) trap() *trap {
	p := &trap{}
	p.at.Store("")
	x.wrap(func(ctx context.Context, _ *driver.Task, s ingot.Step,
		inner func() (driver.Outcome, error)) (driver.Outcome, error) {
		if p.at.CompareAndSwap("before "+s.Name, "") {
			p.spring()
		}
		if p.at.CompareAndSwap("in "+s.Name, "") {
			p.spring()
			select {
			case <-ctx.Done():
				return driver.Done, ctx.Err()
			case <-time.After(patience):
				return driver.Done, errors.New("nobody interrupted the step")
			}
		}
		out, err := inner()
		if err == nil && p.at.CompareAndSwap("after "+s.Name, "") {
			p.spring()
		}
		return out, err
	})
	return p
}

// undeployed checks what an undeployed node is, and makes it ready for the next deployment.
func (x *metal) undeployed(c *conductor.Conductor) {
	x.t.Helper()
	n := x.state("n1", "available")
	if n.Attempt != nil || n.WaitUntil != nil || n.BootIntent != ingot.BootNone ||
		len(n.Steps) != 0 || n.LastError != "" || n.TargetPowerState != "" ||
		n.PowerState != ingot.PowerOff || x.m.power() != ingot.PowerOff ||
		len(n.InstanceInfo) != 0 {
		x.t.Errorf("undeployed: %+v, machine %s", n, x.m.power())
	}
	if s := x.m.target.Sessions(x.t); strings.Contains(s, "Connection") {
		x.t.Errorf("an iSCSI session was left behind:\n%s", s)
	}
	n.InstanceInfo = maps.Clone(x.info)
	if _, err := c.UpdateNode(x.t.Context(), n, rpc.UpdateOptions{}); err != nil {
		x.t.Fatal(err)
	}
	x.m.set(func(m *machine) { m.events = nil })
}

func TestUndeployAtEveryStepBoundaryAndInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "in", "after"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			x := newMetal(t)
			p := x.trap()
			c, _ := x.start()
			undeploy := func() error {
				return c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "delete"})
			}
			for _, s := range iscsi.New(iscsi.Options{}).Steps(nil) {
				asked := make(chan error, 2)
				p.spring = func() {
					for range cap(asked) { // somebody clicks twice
						go func() { asked <- undeploy() }()
					}
				}
				p.at.Store(when + " " + s.Name)
				x.wiped()
				x.provision(c, "n1", "deploy")
				first, second := <-asked, <-asked
				if first != nil && second != nil {
					t.Fatalf("%s %s: %v; %v", when, s.Name, first, second)
				}
				for _, err := range []error{first, second} {
					if k := ingot.KindOf(err); err != nil && k != ingot.Invalid && k != ingot.Locked {
						t.Errorf("%s %s: %v", when, s.Name, err)
					}
				}
				x.undeployed(c)
			}
			x.provision(c, "n1", "deploy")
			x.deployed()
		})
	}
}

func TestUndeployInTheMiddleSurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	x := newMetal(t)
	p := x.trap()
	for at := int64(1); ; at++ {
		c, stop, died := x.mortal(at)
		x.m.set(func(m *machine) { m.cond = c })
		p.at.Store("in write_image")
		asked := make(chan error, 1)
		p.spring = func() {
			go func() {
				asked <- c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "delete"})
			}()
		}
		err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "deploy"})
		if err != nil && !conductor.Crashed(c) {
			t.Fatal(err)
		}
		killed := false
		answer := errors.New("not asked")
		deadline := time.Now().Add(patience)
		for !killed && time.Now().Before(deadline) {
			select {
			case <-died:
				killed = true
			case answer = <-asked:
			case <-time.After(2 * time.Millisecond):
			}
			n := x.node("n1")
			if answer == nil && n.ProvisionState == "available" && n.Reservation == "" {
				break
			}
		}
		x.m.set(func(m *machine) { m.cond = nil })
		p.at.Store("")
		stop()
		select {
		case answer = <-asked:
		default:
		}
		c, stop = x.start()
		if err != nil { // killed before the deployment was accepted
			stop()
			continue
		}
		if n := x.node("n1"); answer != nil && n.ProvisionState != "available" {
			x.provision(c, "n1", "delete") // whoever was not told that it will be done asks again
		}
		x.undeployed(c)
		stop()
		if t.Failed() {
			t.Fatalf("killed before write %d\n%s", at, x.journal("n1"))
		}
		if !killed {
			if at < 8 {
				t.Errorf("only %d writes", at)
			}
			return
		}
	}
}

func TestARebuildSurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	x := newMetal(t)
	c, stop := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	stop()
	for at := int64(1); ; at++ {
		x.wiped()
		x.m.set(func(m *machine) { m.events = nil })
		killed := x.killedAt(at, "rebuild")
		if t.Failed() {
			t.Fatalf("killed before write %d\n%s", at, x.journal("n1"))
		}
		if !killed {
			return
		}
	}
}

func TestUndeployOfAMachineSurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	x := newMetal(t)
	for at, killed := int64(1), true; killed; at++ {
		c, stop := x.start()
		x.provision(c, "n1", "deploy")
		x.deployed()
		stop()
		c, stop, died := x.mortal(at)
		err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "delete"})
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			select {
			case <-died:
			case <-time.After(2 * time.Millisecond):
				if n := x.node("n1"); n.ProvisionState != "available" || n.Reservation != "" {
					continue
				}
				killed = false
			}
			break
		}
		stop()
		c, stop = x.start()
		if err != nil {
			x.provision(c, "n1", "delete")
		}
		x.undeployed(c)
		stop()
	}
}

func TestUndeployOfANodeInTheLine(t *testing.T) {
	t.Parallel()
	x := newCrowd(t)
	c := x.lineUp("n0", "n1", "n2")
	x.provision(c, "n1", "delete")
	x.state("n1", "available")
	x.provision(c, "n0", "delete") // the one that is inside
	x.state("n0", "available")
	if got := x.begun(2); got[1] != "n2" {
		t.Errorf("order %v", got)
	}
	close(x.d.gate)
	x.state("n2", "active")
}

func TestARebuildWithAWrongImageLeavesTheInstanceRunning(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	x.m.set(func(m *machine) { m.events = nil })
	source := x.info["image_source"].(string)
	x.change("n1", func(n *ingot.Node) { n.InstanceInfo["image_source"] = source + "x" })
	err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "rebuild"})
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "disk.rawx") {
		t.Errorf("error %v", err)
	}
	if n := x.node("n1"); n.ProvisionState != "active" || n.Reservation != "" || n.LastError != "" {
		t.Errorf("refused, yet %+v", n)
	}
	// Who asks is not kept waiting for a source that may come back. Port 1 refuses connections.
	x.change("n1", func(n *ingot.Node) { n.InstanceInfo["image_source"] = "http://127.0.0.1:1/x" })
	err = c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "rebuild"})
	if ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), "is left as it is: look for image http://127.0.0.1:1/x") {
		t.Errorf("error %v", err)
	}
	// A source that exists and is no such image is found out by its content.
	x.change("n1", func(n *ingot.Node) {
		n.InstanceInfo["image_source"], n.InstanceInfo["image_disk_format"] = source, "qcow2"
	})
	x.provision(c, "n1", "rebuild")
	n := x.state("n1", "deploy failed")
	if !strings.Contains(n.LastError, "step deploy.deploy failed: open image") ||
		n.BootIntent != ingot.BootDisk || n.PowerState != ingot.PowerOn {
		t.Errorf("deploy failed: %+v", n)
	}
	if len(x.m.story()) != 0 || !strings.Contains(x.journal("n1"), "its instance is as it was") {
		t.Errorf("the machine did %v", x.m.story())
	}
	// So is a qcow2 file of another digest, which a first deployment verifies as it writes it.
	other := strings.TrimPrefix(source, "file://") + ".qcow2"
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", other, "1M")
	x.change("n1", func(n *ingot.Node) { n.InstanceInfo["image_source"] = "file://" + other })
	x.provision(c, "n1", "rebuild")
	n = x.state("n1", "deploy failed")
	if !strings.Contains(n.LastError, "new checksum") || len(x.m.story()) != 0 {
		t.Errorf("the machine did %v, error %q", x.m.story(), n.LastError)
	}
	x.change("n1", func(n *ingot.Node) {
		n.InstanceInfo["image_source"] = source
		delete(n.InstanceInfo, "image_disk_format")
	})
	x.wiped()
	x.provision(c, "n1", "rebuild")
	x.deployed()
}

func TestAMachineWhoseBMCFailedIsSwitchedOffLater(t *testing.T) {
	t.Parallel()
	for _, event := range []string{"deploy", "delete"} {
		w := newWorld(t)
		// Without power sync at first: failed reads would put the node into maintenance.
		w.o.PowerTimeout, w.o.ForcePower = 20*time.Millisecond, true
		w.power.err, w.power.state = errors.New("no answer"), ingot.PowerOn
		c, stop := w.start()
		from := map[string]string{"deploy": "available", "delete": "active"}[event]
		failed := map[string]string{"deploy": "deploy failed", "delete": "error"}[event]
		w.enroll(c, "n1", from)
		w.provision(c, "n1", event)
		n := w.until("n1", failed, func(n *ingot.Node) bool { return n.ProvisionState == failed })
		if n.TargetPowerState != ingot.PowerOff ||
			!strings.Contains(w.journal("n1"), "could not be switched off and may still run") {
			t.Errorf("%s: target %q\n%s", event, n.TargetPowerState, w.journal("n1"))
		}
		why := n.LastError
		stop()
		w.power.set(func(p *power) { p.err = nil })
		w.o.PowerSyncInterval = 10 * time.Millisecond
		w.start() // the wish is in the row
		n = w.until("n1", "power off", func(n *ingot.Node) bool {
			w.power.mu.Lock()
			defer w.power.mu.Unlock()
			return n.TargetPowerState == "" && n.Reservation == "" && w.power.state == ingot.PowerOff
		})
		if n.PowerState != ingot.PowerOff || n.LastError != why || n.Maintenance {
			t.Errorf("%s: %+v", event, n)
		}
	}
}

func TestAbortKeepsItsReason(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.silent()
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.state("n1", "wait call-back")
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			err := c.Provision(t.Context(), rpc.ProvisionRequest{Ident: "n1", Event: "abort"})
			if err != nil && ingot.KindOf(err) != ingot.Invalid {
				t.Error(err)
			}
		})
	}
	all.Wait()
	x.failed("the deployment was aborted by request while waiting in step deploy")
}

func TestAStrangersCallDoesNotNeedTheReservation(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.silent()
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.state("n1", "wait call-back")
	held, err := x.store.Reserve(t.Context(), "n1", "host1")
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"pass_deploy_info", "pass_deploy_status",
		"pass_bootloader_install_info"} {
		_, err := c.CallNode(t.Context(), "n1", rpc.Call{Method: method, HTTPMethod: "POST",
			PublicOnly: true, Args: ingot.Object{"address": "127.0.0.1", "iqn": "i", "key": "guess",
				"status": "Completed"}})
		if err == nil || !strings.Contains(err.Error(), "Deploy key is not correct") {
			t.Errorf("%s: %v", method, err)
		}
	}
	if n := x.node("n1"); n.Generation != held.Generation {
		t.Error("a call without the key wrote to the row")
	}
}

// Whatever shows what a machine boots is told of each change, when it is on record.
func TestEachChangeOfTheBootIntentIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	var told []ingot.BootIntent
	w.o.Switched = func(uuid string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, w.node(uuid).BootIntent)
	}
	c, _ := w.start()
	w.enroll(c, "n1", "available")
	w.provision(c, "n1", "deploy")
	w.state("n1", "active")
	w.provision(c, "n1", "delete")
	w.state("n1", "available")
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(told) != "[disk none]" {
		t.Errorf("told of %v", told)
	}
}
