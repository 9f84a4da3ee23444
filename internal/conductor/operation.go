package conductor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/store"
)

// operation is what happens in a transient state: the steps that the node carries are run, then
// end; a step that fails leads to fail. Both change the node in memory and name the event in
// it; fail also does on the machine what has to be done, and cannot fail itself.
type operation struct {
	end  func(t *task) error
	fail func(ctx context.Context, t *task) error
}

var operations = map[lifecycle.State]operation{
	lifecycle.Verifying:  {end: done, fail: failPlain},
	lifecycle.Inspecting: {end: endInspect, fail: failPlain},
	lifecycle.Deploying:  {end: endDeploy, fail: failDeploy},
	lifecycle.Deleting:   {end: endDelete, fail: failDelete},
	lifecycle.Cleaning:   {end: endClean, fail: failPlain},
}

// ownSteps are the steps that the conductor runs itself, keyed by interface and name.
var ownSteps = map[string]func(ctx context.Context, t *task) error{
	"power.verify":     verify,
	"deploy.tear_down": tearDown,
	"inspect.inspect":  inspect,

	"bios.apply_configuration": applyBIOS,
	"bios.factory_reset":       resetBIOS,
}

var (
	verifyStep   = ingot.Step{Interface: "power", Name: "verify"}
	tearDownStep = ingot.Step{Interface: "deploy", Name: "tear_down"}
)

// storeRetry is how long after a step met no store it is repeated.
const storeRetry = time.Second

// advance runs the node's operation from the step on record until it ends, fails, waits for the
// machine or for a place in the line, or is told to stop, and gives the reservation back.
func (t *task) advance(ctx context.Context) {
	defer t.giveBack(ctx)
	ctx, done := t.interruptible(ctx)
	defer done()
	for !t.lost {
		op, ok := operations[lifecycle.State(t.node.ProvisionState)]
		if !ok {
			return // the verb was a mere change of state
		}
		if errors.Is(context.Cause(ctx), errInterrupted) {
			t.note(ingot.Entry{Source: "step", Text: t.position() + " is broken off by request"})
			return
		}
		if err := t.may(); errors.Is(err, errLeaseEnded) {
			t.note(ingot.Entry{Source: "step", Level: ingot.LevelWarning, Text: "the conductor has " +
				"lost its lease; whoever owns the node now continues at " + t.position()})
			return
		}
		if t.c.pool.stopping() || ctx.Err() != nil {
			t.note(ingot.Entry{Source: "step", Text: "the conductor stops; " + t.position() +
				" continues at its next start"})
			return
		}
		step := t.node.CurrentStep()
		if step == nil {
			t.finish(ctx, op)
			return
		}
		if t.c.copies(t.node) && !t.c.line.enter(newTicket(t.node)) {
			t.queued = true
			return
		}
		out, err := t.run(ctx, *step)
		t.c.leaveLine(t.node.UUID)
		switch {
		case t.lost || errors.Is(err, errLost):
			return
		case err != nil && ctx.Err() != nil:
			continue // the process ends: neither done nor failed
		case store.Unreachable(err):
			// That says nothing of the machine, and the row may be another one by now.
			t.note(ingot.Entry{Source: "step", Level: ingot.LevelWarning, Text: fmt.Sprintf(
				"%s is repeated: %v", t.position(), err)})
			time.AfterFunc(storeRetry, t.c.resumer.wake)
			return
		case err != nil:
			t.failed(ctx, op, fmt.Sprintf("step %s.%s failed: %v", step.Interface, step.Name, err))
			return
		case out.Wait:
			t.wait(ctx, op, *step, out)
			return
		}
		t.node.Step++
		t.node.WaitUntil = nil
		if t.save(ctx) != nil {
			return
		}
	}
}

// position names the step on record.
func (t *task) position() string {
	if s := t.node.CurrentStep(); s != nil {
		return "step " + s.Name
	}
	return t.node.ProvisionState
}

// run runs one step and notes its begin and its end.
func (t *task) run(ctx context.Context, s ingot.Step) (out driver.Outcome, err error) {
	name := s.Interface + "." + s.Name
	start := time.Now()
	t.bootsInstance = t.node.Attempt == nil && bootsInstance(t.node)
	how := "begins"
	if t.resumed {
		how, t.resumed = "goes on", false
	}
	t.log.Info("step "+how, "step", name)
	t.note(ingot.Entry{Source: "step", Text: fmt.Sprintf("step %s %s (%d of %d)", s.Name, how,
		t.node.Step+1, len(t.node.Steps)), Data: ingot.Object{"step": name}})
	defer func() {
		if r := recover(); r != nil {
			// A crash would come back at each start, because the step is repeated then.
			t.log.Error("step panicked; please report this", "step", name, "panic", r,
				"stack", string(debug.Stack()))
			err = ingot.Errorf(ingot.Internal, "a bug in ingot, see its log: %v", r)
		}
		if err != nil || out.Wait {
			return // advance tells
		}
		took := time.Since(start)
		t.log.Info("step done", "step", name, "seconds", took.Seconds())
		t.later(ingot.Entry{Source: "step",
			Text: fmt.Sprintf("step %s done in %s", s.Name, took.Round(time.Millisecond)),
			Data: ingot.Object{"step": name, "seconds": took.Seconds()}})
	}()
	if err := t.compose(); err != nil {
		return driver.Done, err
	}
	if own, ok := ownSteps[name]; ok {
		return driver.Done, own(ctx, t)
	}
	return t.driver().Deploy.Execute(ctx, t.dt, s)
}

// finish ends an operation that has no step left.
func (t *task) finish(ctx context.Context, op operation) {
	t.plan()
	err := op.end(t)
	if err == nil {
		err = t.save(ctx)
	}
	if err != nil && !t.lost {
		t.failed(ctx, op, err.Error())
	}
}

// failed ends an operation that cannot go on; it tells journal and log why. The error is
// recorded last: what is done on the machine must not hide it.
func (t *task) failed(ctx context.Context, op operation, why string) {
	ctx, done := t.interruptible(ctx)
	defer done()
	t.log.Error("operation failed", "state", t.node.ProvisionState, "position", t.position(),
		"error", why)
	t.note(ingot.Entry{Source: "step", Level: ingot.LevelError, Text: why})
	if err := op.fail(ctx, t); err != nil {
		t.log.Error("end of the operation failed", "error", err)
	}
	if ctx.Err() != nil {
		// What had to be done on the machine may have been cut short. The row still says that
		// it has to be: the step is repeated, or its deadline is over, in the next life.
		return
	}
	t.plan()
	t.setError(aboutProvisioning, why)
	t.save(ctx)
}

// wait puts the node into the state in which its machine is expected to call back. From here
// on nothing is held; the row is all there is (S2.6).
func (t *task) wait(ctx context.Context, op operation, s ingot.Step, out driver.Outcome) {
	if err := t.enter(lifecycle.Wait); err != nil {
		t.failed(ctx, op, fmt.Sprintf("step %s.%s waits where nothing can wait: %v; please "+
			"report this", s.Interface, s.Name, err))
		return
	}
	timeout := out.Timeout
	if timeout == 0 {
		timeout = t.c.o.CallbackTimeout
	}
	if out.Renew {
		t.node.WaitUntil = nil
	}
	now := t.c.o.Store.Now()
	if until := t.node.WaitUntil; until != nil && until.After(now) {
		timeout = until.Sub(now) // the wait began before, see bootAgain
	} else if t.node.WaitUntil = nil; timeout > 0 {
		until := now.Add(timeout)
		t.node.WaitUntil = &until
	}
	text := "waiting for " + t.waitsFor(s)
	if timeout > 0 {
		text += fmt.Sprintf(", at most %s", timeout.Round(time.Second/10))
	}
	t.later(ingot.Entry{Source: "step", Text: text, Data: ingot.Object{"step": s.Name}})
	t.save(ctx)
}

// waitsFor names what a step waits for.
func (t *task) waitsFor(s ingot.Step) string {
	if w, ok := t.driver().Deploy.(driver.Waiter); ok {
		what, _ := w.WaitsFor(t.node, s)
		return what
	}
	return "the machine to call back"
}

func done(t *task) error { return t.enter(lifecycle.Done) }

// verify asks whether the machine can be switched, and records which one it is and its power state.
func verify(ctx context.Context, t *task) error {
	if err := t.driver().Power.Validate(ctx, t.dt); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.c.o.PowerTimeout)
	defer cancel()
	seen, err := t.dt.Observe(ctx)
	if err != nil {
		return err
	}
	if i, ok := t.driver().Power.(driver.Identifier); ok {
		if err := i.Identify(ctx, t.dt); err != nil {
			return err
		}
	}
	t.node.PowerState = seen.Power
	t.later(ingot.Entry{Source: "power", Text: "the machine is " + string(seen.Power)})
	t.recordFirmware(seen)
	t.recordHealth(seen)
	delete(t.node.DriverInternalInfo, partsKey) // it may be another machine
	t.cacheBIOS(ctx)
	return nil
}

// failPlain is for operations that leave nothing on the machine.
func failPlain(_ context.Context, t *task) error { return t.enter(lifecycle.Fail) }

// endDeploy leaves nothing of the attempt but the name in the journal.
func endDeploy(t *task) error {
	t.later(ingot.Entry{Source: "step", Text: "deployed"})
	t.remember(ingot.SeverityInfo, aboutProvisioning, "deployed")
	t.node.Attempt = nil
	return t.enter(lifecycle.Done)
}

// failDeploy switches the machine off, so that it neither boots half an image nor offers its
// disk to the network, and makes its boot script say what is wrong. An instance that was to be
// rebuilt and has not been touched is left running.
func failDeploy(ctx context.Context, t *task) error {
	if t.bootsInstance && t.node.Attempt == nil && bootsInstance(t.node) {
		t.note(ingot.Entry{Source: "step", Level: ingot.LevelWarning, Text: "nothing was done to " +
			"the machine: its instance is as it was"})
		return t.enter(lifecycle.Fail)
	}
	if t.compose() == nil {
		if !t.c.o.KeepPowerOnFailure {
			t.switchOff(ctx)
		}
		if err := t.driver().Deploy.CleanUp(ctx, t.dt); err != nil {
			t.log.Warn("clean-up after failure failed", "error", err)
			t.note(ingot.Entry{Source: "step", Level: ingot.LevelWarning,
				Text: fmt.Sprintf("clean-up failed: %v", err)})
		}
	}
	t.node.Attempt = nil
	t.node.BootIntent = ingot.BootError
	return t.enter(lifecycle.Fail)
}

// bootsInstance tells whether the machine would boot an instance now.
func bootsInstance(n *ingot.Node) bool {
	return n.BootIntent == ingot.BootDisk || n.BootIntent == ingot.BootInstance
}

// tearDown takes the instance off the machine: power, boot, whatever the deployment left.
func tearDown(ctx context.Context, t *task) error {
	driver.OweSecureBoot(t.node) // forgetInstance forgets that, also if this fails
	if err := t.dt.SetPower(ctx, ingot.PowerOff); err != nil {
		t.wantOff()
		return err
	}
	t.node.TargetPowerState = ""
	return errors.Join(t.dt.EndSecureBoot(ctx), t.driver().Deploy.CleanUp(ctx, t.dt), t.disconnect(ctx))
}

// forgetInstance drops what belongs to the instance. It happens also when tear-down failed: the
// instance is gone for its user either way.
func (t *task) forgetInstance() {
	n := t.node
	n.InstanceInfo, n.InstanceUUID, n.InstanceName = ingot.Object{}, "", ""
	n.Attempt, n.Instance, n.BootIntent = nil, nil, ingot.BootNone
}

func endDelete(t *task) error {
	t.forgetInstance()
	if err := t.enter(lifecycle.Clean); err != nil {
		return err
	}
	t.remember(ingot.SeverityInfo, aboutProvisioning, "undeployed")
	return endClean(t)
}

func failDelete(_ context.Context, t *task) error {
	t.forgetInstance()
	return t.enter(lifecycle.Fail)
}

// endClean makes a node available; a retired one is not to be used again.
func endClean(t *task) error {
	if t.node.Retired {
		return t.enter(lifecycle.Manage)
	}
	return t.enter(lifecycle.Done)
}
