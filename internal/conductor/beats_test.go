package conductor_test

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/direct"
	"ingot/internal/driver/fake"
	"ingot/internal/ingot"
	"ingot/internal/ipa/ipatest"
	"ingot/internal/rpc"
	"ingot/internal/testkit"
)

// heldManagement is at work on a node as long as a test likes, when it is told to boot a CD.
type heldManagement struct {
	fake.Management
	in chan chan struct{} // as those of attended
}

func (m *heldManagement) SetBootDevice(ctx context.Context, t *driver.Task, d driver.BootDevice) error {
	if d.Device != "cdrom" {
		return m.Management.SetBootDevice(ctx, t, d)
	}
	hold(ctx, m.in)
	return nil
}

// heldPower takes as long as a test likes if it is slow.
type heldPower struct {
	*machine
	slow atomic.Bool
	in   chan chan struct{}
}

func (p *heldPower) SetPower(ctx context.Context, t *driver.Task, s ingot.PowerState) error {
	if p.slow.Load() {
		hold(ctx, p.in)
	}
	return p.machine.SetPower(ctx, t, s)
}

// called is a node whose agent has its token, and has not been heard. Reconcilers look when they are told to.
type called struct {
	*metal
	c     *conductor.Conductor
	d     *attended
	m     *heldManagement
	power *heldPower
	uuid  string
	token string
	agent *ipatest.Agent
}

func newCalled(t *testing.T) *called {
	t.Helper()
	x := &called{metal: newDirect(t), m: &heldManagement{in: make(chan chan struct{})}}
	x.power = &heldPower{machine: x.metal.m, in: make(chan chan struct{})}
	x.o.CheckInterval, x.o.GracePeriod = time.Hour, time.Millisecond
	x.d = &attended{Deploy: x.o.Table.Deploy[direct.Name].(*direct.Deploy), heard: make(chan chan struct{}),
		told: make(chan chan struct{})}
	x.o.Table.Deploy[direct.Name], x.o.Table.Management[fake.Name] = x.d, x.m
	x.o.Table.Power[fake.Name] = x.power
	x.c, _ = x.start()
	x.metal.m.set(func(m *machine) { m.cond = nil }) // its agent is this test
	x.provision(x.c, "n1", "deploy")
	x.uuid = x.state("n1", "wait call-back").UUID
	var err error
	if x.token, err = x.c.AgentToken(t.Context(), x.uuid); err != nil {
		t.Fatal(err)
	}
	x.boots()
	return x
}

// boots starts another agent, which never ends to write.
func (x *called) boots() {
	x.agent = ipatest.Start(x.t, func(ctx context.Context, name string, _ json.RawMessage, _ func(int64, int64)) (any,
		error) {
		if name == "deploy.execute_deploy_step" {
			<-ctx.Done()
		}
		return map[string]any{"deploy_steps": map[string]any{"generic": []any{map[string]any{
			"step": "write_image", "interface": "deploy"}}}}, nil
	})
	x.agent.SetToken(x.token)
}

func (x *called) beat() {
	x.t.Helper()
	h := rpc.Heartbeat{Token: x.token, URL: x.agent.URL, Version: "9.4.0", CA: x.agent.CA}
	if err := x.c.Heartbeat(x.t.Context(), x.uuid, h); err != nil {
		x.t.Error(err)
	}
}

// busy has a task of the conductor at work on the node, until the function that it returns is called.
func (x *called) busy() (end func()) {
	x.t.Helper()
	var task sync.WaitGroup
	task.Go(func() {
		if err := x.c.SetBootDevice(x.t.Context(), x.uuid, rpc.BootDevice{Device: "cdrom"}); err != nil {
			x.t.Error(err)
		}
	})
	held := <-x.m.in
	return func() {
		close(held)
		task.Wait()
	}
}

// reserved has the node reserved by a conductor of another process.
func (x *called) reserved(host string) *ingot.Node {
	x.t.Helper()
	n, err := x.store.Reserve(x.t.Context(), x.uuid, host)
	if err != nil {
		x.t.Fatal(err)
	}
	return n
}

// goesOn checks that the agent is asked, and its step goes on.
func (x *called) goesOn() {
	x.t.Helper()
	next(x.t, x.d.heard, func() {})
	next(x.t, x.d.told, func() {})
	if a := x.node("n1").Attempt.Agent; a.URL != x.agent.URL || a.CA != x.agent.CA || a.HeardAt.IsZero() {
		x.t.Errorf("on record: %+v", a)
	}
}

// An agent's first heartbeat counts though somebody is at work on the node: it was told that it was heard, and
// its address is nowhere else.
func TestTheFirstHeartbeatIsKeptWhileTheNodeIsLocked(t *testing.T) {
	t.Parallel()
	for who, locked := range map[string]func(x *called){
		"by a task of this conductor": func(x *called) {
			end := x.busy()
			x.beat()
			end()
		},
		"by a conductor that dies": func(x *called) {
			x.reserved("nobody")
			x.beat()
			x.c.Wake()
		},
		"by another conductor": func(x *called) {
			if err := x.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "other", Incarnation: "i"}); err != nil {
				t.Fatal(err)
			}
			n := x.reserved("other")
			x.beat()
			x.looksInVain()
			if err := x.store.Release(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			x.c.Wake()
		},
	} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			x := newCalled(t)
			locked(x)
			x.goesOn()
		})
	}
}

// looksInVain has the conductor look after a heartbeat while somebody has the node.
func (x *called) looksInVain() {
	x.t.Helper()
	conductor.FollowLeft(x.c)
	testkit.Eventually(x.t, "it has looked", func() bool { return !conductor.Following(x.c) })
	if conductor.Pending(x.c) != 1 {
		x.t.Error("the heartbeat is forgotten")
	}
}

// What an agent has answered is not lost if the node is locked then for longer than anybody waits.
func TestAnAgentIsAskedAgainIfTheNodeWasLocked(t *testing.T) {
	t.Parallel()
	x := newCalled(t)
	x.beat()
	var end func()
	next(t, x.d.heard, func() { end = x.busy() })
	testkit.Eventually(t, "it is waited for no longer", func() bool { return !conductor.Following(x.c) })
	end()
	x.goesOn()
}

// A step that runs shows at its end what it waits for, not before.
func TestAHeartbeatIsNotFollowedUpWhileAStepRuns(t *testing.T) {
	t.Parallel()
	x := newCalled(t)
	x.beat()
	next(t, x.d.heard, func() {})
	next(t, x.d.told, func() {
		x.beat()
		x.looksInVain()
	})
	next(t, x.d.heard, func() {})
}

// A machine that is started by hand while its agent speaks has another one then, with a certificate of its own,
// though with the same token if that is on its medium.
func TestAHeartbeatEndsWithThePowerOfItsMachine(t *testing.T) {
	t.Parallel()
	x := newCalled(t)
	x.state("n1", "wait call-back")
	x.change("n1", func(n *ingot.Node) { n.Attempt.Agent.OnMedium = true })
	x.power.slow.Store(true)
	if err := x.c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: ingot.Rebooting}); err != nil {
		t.Fatal(err)
	}
	next(t, x.power.in, x.beat)
	x.state("n1", "wait call-back")
	testkit.Eventually(t, "nothing is left to do", func() bool { return conductor.Pending(x.c) == 0 })
	if a := x.node("n1").Attempt.Agent; a.URL != "" {
		t.Errorf("on record: %+v", a)
	}
	x.boots()
	x.beat()
	if a := x.node("n1").Attempt.Agent; a.URL != x.agent.URL {
		t.Errorf("on record: %+v", a)
	}
}
