package conductor

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/rpc"
)

// verbs is what this version does for an event. prepare checks and changes the node before the
// event; it and the event are put on record together. start, if set, is run by a worker in
// place of the operation of the new state, without an event before it.
var verbs = map[lifecycle.Event]struct {
	prepare func(ctx context.Context, t *task, r rpc.ProvisionRequest) error
	start   func(ctx context.Context, t *task)
}{
	lifecycle.Manage:  {prepare: prepareManage},
	lifecycle.Provide: {prepare: prepareProvide},
	lifecycle.Inspect: {prepare: prepareInspect},
	lifecycle.Deploy:  {prepare: prepareDeploy},
	lifecycle.Rebuild: {prepare: prepareRebuild},
	lifecycle.Delete:  {prepare: prepareDelete},
	lifecycle.Abort:   {prepare: prepareAbort, start: abort},
}

// preflightTimeout bounds what a request waits for others than the machine.
const preflightTimeout = 20 * time.Second

// Provision starts a verb. When it returns nil the new state is on record, and a worker has it or
// will take it up.
func (c *Conductor) Provision(ctx context.Context, r rpc.ProvisionRequest) error {
	event := lifecycle.Event(r.Event)
	uuid, err := c.checkVerb(ctx, r.Ident, event)
	if err != nil {
		return err
	}
	if err := c.pool.enter(); err != nil {
		return err
	}
	take := c.reserve
	if event == lifecycle.Delete {
		take = c.seize
	}
	t, err := take(ctx, uuid)
	if err != nil {
		c.pool.leave()
		return err
	}
	if err := t.begin(ctx, event, r); err != nil {
		t.release(ctx)
		c.pool.leave()
		return err
	}
	c.leaveLine(uuid) // it may have waited there for what does not happen any more
	if start := verbs[event].start; start != nil {
		t.spawn(func(ctx context.Context) {
			defer t.release(ctx)
			start(ctx, t)
		})
		return nil
	}
	c.carryOn(ctx, t)
	return nil
}

// checkVerb refuses what cannot be done before anybody waits for the reservation.
func (c *Conductor) checkVerb(ctx context.Context, ident string,
	event lifecycle.Event) (uuid string, err error) {
	n, err := c.o.Store.Node(ctx, ident)
	if err != nil {
		return "", err
	}
	if _, ok := lifecycle.Next(lifecycle.State(n.ProvisionState), event); !ok &&
		n.Reservation == "" {
		return "", badState(n, string(event))
	}
	if _, ok := verbs[event]; !ok {
		return "", ingot.Errorf(ingot.Invalid,
			"Driver %s does not support %s (disabled or not implemented).", n.Driver, event)
	}
	if event == lifecycle.Delete {
		// Before a step is broken off for it.
		if err := c.refuseCleaning(n); err != nil {
			return "", err
		}
	}
	return n.UUID, refusal(n, event)
}

// refusal applies the conditions that Ironic attaches to verbs.
func refusal(n *ingot.Node, event lifecycle.Event) error {
	holds := map[lifecycle.Condition]bool{lifecycle.Maintenance: n.Maintenance,
		lifecycle.Protected: n.Protected, lifecycle.Retired: n.Retired}
	for _, v := range lifecycle.Verbs() {
		if v.Event != event {
			continue
		}
		for _, cond := range v.Refused {
			switch {
			case !holds[cond]:
			case cond == lifecycle.Protected:
				return ingot.Errorf(ingot.Forbidden, "Node %s is protected and cannot be "+
					"undeployed, rebuilt or deleted.", n.UUID)
			case cond == lifecycle.Retired:
				return ingot.Errorf(ingot.Invalid, "Node %s can not be provided: it is retired. "+
					"Clear the flag with 'baremetal node unset %s --retired' first.",
					n.UUID, n.UUID)
			default:
				return ingot.Errorf(ingot.Invalid, "The %s operation can't be performed on node "+
					"%s because it's in maintenance mode.", event, n.UUID)
			}
		}
	}
	return nil
}

// begin puts the verb on record.
func (t *task) begin(ctx context.Context, event lifecycle.Event, r rpc.ProvisionRequest) error {
	n := t.node
	state := lifecycle.State(n.ProvisionState)
	if _, ok := lifecycle.Next(state, event); !ok ||
		lifecycle.KindOf(state) == lifecycle.Transient && !lifecycle.Interrupts(state, event) {
		return badState(n, string(event))
	}
	if err := refusal(n, event); err != nil {
		return err
	}
	v := verbs[event]
	n.LastError = ""
	if err := v.prepare(ctx, t, r); err != nil {
		return err
	}
	if v.start == nil {
		if err := t.enter(event); err != nil {
			return err
		}
	}
	return t.save(ctx)
}

// prepareManage plans the verification of a new node; from elsewhere manage is a mere change of
// state.
func prepareManage(_ context.Context, t *task, _ rpc.ProvisionRequest) error {
	t.plan()
	if t.node.ProvisionState != string(lifecycle.Enroll) {
		return nil
	}
	t.plan(verifyStep)
	return t.compose()
}

// prepareProvide plans nothing: a node becomes available without being cleaned, which only one
// who said so may get.
func prepareProvide(_ context.Context, t *task, _ rpc.ProvisionRequest) error {
	t.plan()
	return t.c.refuseCleaning(t.node)
}

func (c *Conductor) refuseCleaning(n *ingot.Node) error {
	clean := c.o.AutomatedClean
	if n.AutomatedClean != nil {
		clean = *n.AutomatedClean
	}
	if !clean {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "Node %s asks for automated cleaning, which this version "+
		"cannot do: its disks would keep their data. Erase them yourself and set "+
		"automated_clean to false (baremetal node set %s --no-automated-clean).", n.UUID, n.UUID)
}

// prepareDeploy checks everything that can be checked without the machine and plans the steps.
func prepareDeploy(ctx context.Context, t *task, r rpc.ProvisionRequest) error {
	n := t.node
	if err := t.compose(); err != nil {
		return err
	}
	if r.ConfigDrive != nil {
		n.InstanceInfo["configdrive"] = r.ConfigDrive
	}
	if err := t.resolve(ctx); err != nil {
		return ingot.Errorf(refusalKind(err), "Failed to validate deploy interface for node %s. Error: %w",
			n.UUID, err)
	}
	d := t.driver()
	type result struct {
		kind string
		err  error
	}
	checked := []result{
		{"power", d.Power.Validate(ctx, t.dt)},
		{"management", d.Management.Validate(ctx, t.dt)},
		{"boot", d.Boot.Validate(ctx, t.dt)},
		{"deploy", cmp.Or(d.Deploy.Validate(ctx, t.dt), checkTraits(n), d.CheckFirmware(n))},
	}
	if d.Network != nil {
		ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
		defer cancel()
		checked = append(checked, result{"network", d.Network.Validate(ctx, t.dt)})
	}
	for _, v := range checked {
		if v.err != nil {
			return ingot.Errorf(refusalKind(v.err), "Failed to validate %s interface for node %s. "+
				"Error: %w", v.kind, n.UUID, v.err)
		}
	}
	n.Attempt, n.TargetPowerState = nil, ""
	t.attempt = ""
	steps := d.Deploy.Steps(n)
	if len(steps) == 0 {
		return ingot.Errorf(ingot.Internal, "deploy interface %s has no steps",
			n.Interfaces["deploy"])
	}
	own, err := t.biosSteps(ctx, r.DeploySteps)
	if err != nil {
		return err
	}
	delete(n.DriverInternalInfo, toldKey)
	t.plan(slices.Concat(own, steps)...)
	return nil
}

// refusalKind is the kind of error of what could not be validated: Invalid, unless it can be asked again.
func refusalKind(err error) ingot.Kind {
	if kind := ingot.KindOf(err); kind == ingot.Unavailable {
		return kind
	}
	return ingot.Invalid
}

// prepareRebuild looks for the image first: it would be a pity about the instance.
func prepareRebuild(ctx context.Context, t *task, r rpc.ProvisionRequest) error {
	if err := prepareDeploy(ctx, t, r); err != nil {
		return err
	}
	p, ok := t.driver().Deploy.(driver.Preflight)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, preflightTimeout, ingot.Errorf(ingot.Unavailable,
		"node %s is left as it is: its image was not found within %v; look at the server of the "+
			"image and the network in between, then ask again", t.node.UUID, preflightTimeout))
	defer cancel()
	err := p.Preflight(ctx, t.dt)
	if errors.Is(err, context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	kind := ingot.KindOf(err)
	if kind == ingot.NotFound {
		kind = ingot.Invalid // it is not the node that could not be found
	}
	if err != nil {
		return ingot.Errorf(kind, "node %s is left as it is: %w", t.node.UUID, err)
	}
	return nil
}

func prepareDelete(_ context.Context, t *task, _ rpc.ProvisionRequest) error {
	if err := t.c.refuseCleaning(t.node); err != nil {
		return err
	}
	t.plan(tearDownStep)
	return nil
}

// prepareAbort allows it where a deployment waits.
func prepareAbort(_ context.Context, t *task, _ rpc.ProvisionRequest) error {
	if t.node.ProvisionState != string(lifecycle.WaitCallBack) {
		return badState(t.node, string(lifecycle.Abort))
	}
	t.giveUp("the deployment was aborted by request while waiting in " + t.position())
	return nil
}

// giveUp puts on record that the wait is over and why, because what ends it takes a while: a
// conductor that is killed meanwhile is followed by one that finds the deadline past.
func (t *task) giveUp(why string) {
	now := t.c.o.Store.Now()
	t.node.WaitUntil, t.node.ProvisionUpdatedAt = &now, &now
	t.setError(aboutProvisioning, why)
}

// givenUp tells whether the wait ended by giveUp. The deadline of any other wait is later than
// its begin.
func givenUp(n *ingot.Node) bool {
	return n.WaitUntil != nil && n.ProvisionUpdatedAt != nil &&
		!n.WaitUntil.After(*n.ProvisionUpdatedAt)
}

// abort ends a waiting deployment as failed, for the reason on record.
func abort(ctx context.Context, t *task) {
	t.failed(ctx, operations[lifecycle.Deploying], t.node.LastError)
}
