package conductor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

// powerTargets are the targets of PUT states/power.
var powerTargets = map[ingot.PowerState]bool{
	ingot.PowerOn: true, ingot.PowerOff: true, ingot.Rebooting: true,
	ingot.SoftReboot: true, ingot.SoftPowerOff: true,
}

const (
	// powerRetries is how often in a row a power state may be unreadable before the node gets
	// a fault, and syncWorkers how many machines are asked at once; both as in Ironic.
	powerRetries = 3
	syncWorkers  = 8
	syncPage     = 500
)

// SetPower starts a power action; the target is on record when it returns.
func (c *Conductor) SetPower(ctx context.Context, ident string, r rpc.PowerRequest) error {
	if !powerTargets[r.Target] {
		return ingot.Errorf(ingot.Invalid, "Cannot change node power state: target %q is not one "+
			"of power on, power off, rebooting, soft power off, soft rebooting.", r.Target)
	}
	return c.work(ctx, ident, action{
		begin: func(ctx context.Context, t *task) error { return t.beginPower(ctx, r) },
		do:    func(ctx context.Context, t *task) { t.power(ctx, r.Target) },
	})
}

func (t *task) beginPower(ctx context.Context, r rpc.PowerRequest) error {
	if err := t.compose(); err != nil {
		return err
	}
	if err := t.driver().Power.Validate(ctx, t.dt); err != nil {
		return err
	}
	if r.Timeout > 0 {
		t.dt.PowerTimeout = r.Timeout
	}
	t.node.TargetPowerState = driver.PowerResult(r.Target)
	t.node.LastError = ""
	if r.Target != ingot.PowerOn {
		driver.ForgetAgent(t.node) // before it loses its power: the next one may be quick to ask
	}
	t.later(ingot.Entry{Source: "power", Text: string(r.Target) + ": requested"})
	return t.save(ctx)
}

// power does the action and records how it ended.
func (t *task) power(ctx context.Context, target ingot.PowerState) {
	err := t.dt.SetPower(ctx, target)
	if target != ingot.PowerOn {
		t.c.asked.forget(t.node.UUID) // what was said meanwhile is of an agent that is no more
	}
	t.node.TargetPowerState = ""
	switch {
	case err != nil && ctx.Err() != nil:
		t.interruptPower()
	case err != nil:
		t.setError(aboutPower, fmt.Sprintf("Failed to change power state to '%s'. Error: %v",
			target, err))
		t.later(ingot.Entry{Source: "power", Level: ingot.LevelError, Text: err.Error()})
	}
	t.save(ctx)
}

// interruptPower ends a power action of a conductor that ended; nobody knows how far it came.
func (t *task) interruptPower() {
	t.node.TargetPowerState = ""
	t.setError(aboutPower,
		"A power action was interrupted by the end of the conductor; ask for it again.")
	t.later(ingot.Entry{Source: "power", Level: ingot.LevelWarning, Text: t.node.LastError})
}

// syncPower compares rows with machines, except where something is under way.
func (c *Conductor) syncPower(ctx context.Context) error {
	free, no := false, false
	return c.eachNode(ctx, store.NodeFilter{Reserved: &free, Maintenance: &no},
		func(n *ingot.Node) {
			switch {
			case n.ProvisionState == string(lifecycle.Enroll), shallBeOff(n):
			case n.ProvisionState == string(lifecycle.WaitCallBack):
				c.watchNode(ctx, n)
			case !n.Deploying():
				c.syncNode(ctx, n)
			}
		})
}

// watchNode looks whether a machine that shall call back is on. Its deadline ends a wait in
// vain; until then whoever watches learns why nothing happens. A BMC that does not answer is no
// fault here: maintenance would suspend the deadline.
func (c *Conductor) watchNode(ctx context.Context, n *ingot.Node) {
	if n.PowerState != ingot.PowerOn || n.TargetPowerState != "" {
		return
	}
	seen, err := c.observe(ctx, n)
	if err != nil || seen.Power != ingot.PowerOff {
		return
	}
	_, err = c.attend(ctx, n.UUID, func(ctx context.Context, t *task) {
		if t.node.Generation != n.Generation+1 || t.foundOff(ctx) != nil { // + 1 for the reservation
			t.release(ctx)
			return
		}
		t.advance(ctx)
	})
	if err != nil {
		c.o.Log.Error("look after a machine that is off failed", "node", n.UUID, "error", err)
	}
}

// errWaits says that a wait goes on.
var errWaits = errors.New("the wait goes on")

// foundOff ends the wait for a machine that somebody switched off, or that its ramdisk did after an
// error: it has let go of a disk that is written, else it is started again. errWaits if it may not
// be: it had its boots, or somebody will look at it.
func (t *task) foundOff(ctx context.Context) error {
	a := t.node.Attempt
	t.node.PowerState = ingot.PowerOff
	const off = "the machine is off while its call is waited for: somebody switched it off, or " +
		"the deploy ramdisk did after an error on its console"
	switch {
	case a != nil && a.Written && !a.NeedsLoader:
		a.Completed, a.Key = true, ""
		t.later(ingot.Entry{Source: "power", Level: ingot.LevelWarning, Text: "the machine is off, " +
			"so that its ramdisk has let go of the disk, though it did not say so"})
		if err := t.enter(lifecycle.Resume); err != nil {
			return err
		}
		return t.save(ctx)
	case boots(t.node) && a.Boots >= 1 && a.Boots < maxBoots && !givenUp(t.node):
		return t.bootAgain(ctx, fmt.Sprintf("%s. Starting it again: boot %d of at most %d", off,
			a.Boots+1, maxBoots))
	}
	t.later(ingot.Entry{Source: "power", Level: ingot.LevelWarning, Text: off +
		"; switch it on, or undeploy the node"})
	return errors.Join(errWaits, t.save(ctx))
}

// wantOff puts on record that the machine shall be off and could not be switched off: switchOff
// tries until it is.
func (t *task) wantOff() {
	t.node.TargetPowerState = ingot.PowerOff
	t.note(ingot.Entry{Source: "power", Level: ingot.LevelWarning, Text: fmt.Sprintf("the machine "+
		"could not be switched off and may still run; it is tried again every %s until it is off",
		t.c.o.PowerTimeout)})
}

// switchOff switches the machine off for good.
func (t *task) switchOff(ctx context.Context) {
	if err := t.dt.SetPower(ctx, ingot.PowerOff); err != nil {
		t.log.Warn("switch off after failure failed", "error", err)
		t.wantOff()
		return
	}
	t.node.TargetPowerState = ""
}

// shallBeOff tells whether the node waits for switchOff.
func shallBeOff(n *ingot.Node) bool {
	return n.TargetPowerState == ingot.PowerOff && slices.Contains(offStates, n.ProvisionState) &&
		(!n.Maintenance || n.Fault != "") // a person who repairs it is not disturbed
}

// offStates are those in which a machine may be left running that nobody answers for.
var offStates = []string{string(lifecycle.DeployFailed), string(lifecycle.Error)}

// switchOff switches off the machines of failed deployments and tear-downs whose BMC failed then.
func (c *Conductor) switchOff(ctx context.Context) error {
	free := false
	return c.eachNode(ctx, store.NodeFilter{Reserved: &free, ProvisionStates: offStates},
		func(n *ingot.Node) {
			if !shallBeOff(n) {
				return
			}
			c.change(ctx, n, func(t *task) {
				if !shallBeOff(t.node) || t.compose() != nil {
					return
				}
				if err := t.dt.SetPower(ctx, ingot.PowerOff); err != nil {
					t.log.Warn("the machine shall be off, but cannot be switched off", "error", err)
					return
				}
				t.node.TargetPowerState = ""
			})
		})
}

// recoverPower asks machines with a power fault again and takes the fault away from those that
// answer.
func (c *Conductor) recoverPower(ctx context.Context) error {
	free, yes := false, true
	return c.eachNode(ctx, store.NodeFilter{Reserved: &free, Maintenance: &yes,
		Fault: string(ingot.FaultPower)}, func(n *ingot.Node) {
		seen, err := c.observe(ctx, n)
		if err != nil {
			return
		}
		c.change(ctx, n, func(t *task) {
			if t.node.Fault != ingot.FaultPower {
				return
			}
			t.node.Maintenance, t.node.MaintenanceReason, t.node.Fault = false, "", ""
			t.node.PowerState = seen.Power
			t.recordFirmware(seen)
			t.later(ingot.Entry{Source: "power",
				Text: "the BMC answers again; maintenance ended, the machine is " + string(seen.Power)})
		})
	})
}

// eachNode calls fn for all nodes of this conductor that match, some at once, page by page.
func (c *Conductor) eachNode(ctx context.Context, f store.NodeFilter,
	fn func(*ingot.Node)) error {
	return c.eachNodeBy(ctx, syncWorkers, f, fn)
}

// eachNodeBy is eachNode with a number of workers.
func (c *Conductor) eachNodeBy(ctx context.Context, workers int, f store.NodeFilter, fn func(*ingot.Node)) error {
	for _, f.Buckets = range c.members.Load().shares {
		if err := c.eachOf(ctx, workers, f, fn); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conductor) eachOf(ctx context.Context, workers int, f store.NodeFilter, fn func(*ingot.Node)) error {
	page := store.Page{Limit: c.page}
	for ctx.Err() == nil {
		nodes, err := c.o.Store.Nodes(ctx, f, page)
		if ingot.KindOf(err) == ingot.NotFound && page.Marker != "" {
			return nil // the marker was deleted meanwhile; the next pass sees the rest
		}
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		slots := make(chan struct{}, workers)
		for _, n := range nodes {
			if !c.owns(n) {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				fn(n)
			})
		}
		wg.Wait()
		if len(nodes) < c.page {
			return nil
		}
		page.Marker = nodes[len(nodes)-1].UUID
	}
	return nil
}

// observe reads the power state of the machine, and what its BMC tells besides, without reserving the node.
func (c *Conductor) observe(ctx context.Context, n *ingot.Node) (driver.Observation, error) {
	t, err := c.newTask(ctx, n)
	if err != nil {
		return driver.Observation{}, err
	}
	if err := t.compose(); err != nil {
		return driver.Observation{}, err
	}
	if err := t.driver().Power.Validate(ctx, t.dt); err != nil {
		return driver.Observation{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.PowerTimeout)
	defer cancel()
	return t.dt.Observe(ctx)
}

// syncNode compares one node with its machine. The machine is asked before the node is
// reserved, so nobody waits for a slow BMC; a change in between is found by the generation.
func (c *Conductor) syncNode(ctx context.Context, n *ingot.Node) {
	seen, err := c.observe(ctx, n)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		c.powerFailed(ctx, n, err)
		return
	}
	c.powerMu.Lock()
	delete(c.powerBad, n.UUID)
	c.powerMu.Unlock()
	if n.PowerState == seen.Power && n.TargetPowerState == "" && seen.SameFirmware(n) && sameHealth(n, seen) {
		return
	}
	c.change(ctx, n, func(t *task) {
		if t.node.Generation != n.Generation+1 { // + 1 for the reservation
			return
		}
		t.recordFirmware(seen)
		t.recordHealth(seen)
		t.correctPower(ctx, seen.Power)
	})
}

// correctPower brings row and machine together.
func (t *task) correctPower(ctx context.Context, state ingot.PowerState) {
	if t.node.TargetPowerState != "" { // left by another conductor, which died
		t.interruptPower()
		t.node.PowerState = state
		return
	}
	was := t.node.PowerState
	if was == state {
		return
	}
	text := fmt.Sprintf("the machine is %s but was on record as %s", short(state), short(was))
	if !t.c.o.ForcePower || was == "" || was == ingot.PowerError {
		t.node.PowerState = state
		t.later(ingot.Entry{Source: "power", Level: level(was), Text: text + "; record corrected"})
		return
	}
	t.note(ingot.Entry{Source: "power", Level: ingot.LevelWarning,
		Text: text + "; switching it back, as configured"})
	if err := t.dt.SetPower(ctx, was); err != nil {
		t.log.Warn("force power state failed", "error", err)
		t.note(ingot.Entry{Source: "power", Level: ingot.LevelError, Text: err.Error()})
		t.node.PowerState = state
	}
}

func level(was ingot.PowerState) string {
	if was == "" {
		return ingot.LevelInfo
	}
	return ingot.LevelWarning
}

func short(s ingot.PowerState) string {
	if s == "" {
		return "unknown"
	}
	return strings.TrimPrefix(string(s), "power ")
}

// powerFailed counts; at the limit the node is taken out of use until its BMC answers.
func (c *Conductor) powerFailed(ctx context.Context, n *ingot.Node, cause error) {
	c.powerMu.Lock()
	c.powerBad[n.UUID]++
	count := c.powerBad[n.UUID]
	if count >= powerRetries {
		delete(c.powerBad, n.UUID)
	}
	c.powerMu.Unlock()
	c.o.Log.Warn("read power state failed", "node", n.UUID, "times", count, "error", cause)
	if count < powerRetries {
		return
	}
	c.change(ctx, n, func(t *task) {
		if t.node.Maintenance {
			return
		}
		text := fmt.Sprintf("During sync_power_state, max retries exceeded for node %s, node "+
			"state %s does not match expected state '%s'. Updating DB state to 'error' Error: %v",
			n.UUID, ingot.PowerError, n.PowerState, cause)
		t.node.PowerState, t.node.Maintenance = ingot.PowerError, true
		t.node.MaintenanceReason, t.node.Fault = text, ingot.FaultPower
		t.setError(aboutMonitoring, text)
		t.later(ingot.Entry{Source: "power", Level: ingot.LevelError,
			Text: fmt.Sprintf("the BMC failed %d times in a row; the node is in maintenance "+
				"until it answers: %v", count, cause)})
	})
}

// change reserves a node, changes it and saves it. Someone at work on the node, or a node that
// is gone, means that there is nothing to change.
func (c *Conductor) change(ctx context.Context, n *ingot.Node, fn func(t *task)) {
	t, err := c.tryReserve(ctx, n.UUID)
	if err != nil {
		if k := ingot.KindOf(err); k != ingot.Locked && k != ingot.Stale && k != ingot.NotFound {
			c.o.Log.Error("reserve node failed", "node", n.UUID, "error", err)
		}
		return
	}
	defer t.release(ctx)
	generation := t.node.Generation
	fn(t)
	if t.node.Generation == generation {
		if err := t.save(ctx); err != nil && !errors.Is(err, errLost) {
			t.log.Error("save node failed", "error", err)
		}
	}
}
