package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/bus"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/rpc/remote"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

// recorder is a conductor that remembers what it was asked.
type recorder struct {
	mu    sync.Mutex
	calls []string
	args  []any
	err   error
	held  chan struct{} // calls wait for it; nil: they do not
}

func (r *recorder) called(method string, args ...any) error {
	r.mu.Lock()
	r.calls, r.args = append(r.calls, method), args
	held, err := r.held, r.err
	r.mu.Unlock()
	if held != nil {
		<-held
	}
	return err
}

func (r *recorder) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.calls...)
}

func (r *recorder) CreateNode(_ context.Context, n *ingot.Node) (*ingot.Node, error) {
	return n, r.called("CreateNode", n)
}
func (r *recorder) UpdateNode(_ context.Context, n *ingot.Node, o rpc.UpdateOptions) (*ingot.Node,
	error) {
	return n, r.called("UpdateNode", n, o)
}
func (r *recorder) DeleteNode(_ context.Context, ident string) error {
	return r.called("DeleteNode", ident)
}
func (r *recorder) Provision(_ context.Context, q rpc.ProvisionRequest) error {
	return r.called("Provision", q)
}
func (r *recorder) SetPower(_ context.Context, ident string, q rpc.PowerRequest) error {
	return r.called("SetPower", ident, q)
}
func (r *recorder) Validate(_ context.Context, ident string) (map[string]rpc.Validation, error) {
	return map[string]rpc.Validation{"power": {Reason: "no"}}, r.called("Validate", ident)
}
func (r *recorder) BootDevice(_ context.Context, ident string) (rpc.BootDevice, error) {
	return rpc.BootDevice{Device: "pxe", Persistent: true}, r.called("BootDevice", ident)
}
func (r *recorder) SetBootDevice(_ context.Context, ident string, d rpc.BootDevice) error {
	return r.called("SetBootDevice", ident, d)
}
func (r *recorder) SetBootMode(_ context.Context, ident, mode string) error {
	return r.called("SetBootMode", ident, mode)
}
func (r *recorder) SetSecureBoot(_ context.Context, ident string, on bool) error {
	return r.called("SetSecureBoot", ident, on)
}
func (r *recorder) SupportedBootDevices(_ context.Context, ident string) ([]string, error) {
	return []string{"pxe", "disk"}, r.called("SupportedBootDevices", ident)
}
func (r *recorder) VIFs(_ context.Context, ident string) ([]string, error) {
	return []string{"a", "b"}, r.called("VIFs", ident)
}
func (r *recorder) AttachVIF(_ context.Context, ident string, v rpc.VIF) error {
	return r.called("AttachVIF", ident, v)
}
func (r *recorder) DetachVIF(_ context.Context, ident, vif string) error {
	return r.called("DetachVIF", ident, vif)
}
func (r *recorder) NodeMethods(_ context.Context, ident string) (map[string]rpc.Method, error) {
	return methods, r.called("NodeMethods", ident)
}
func (r *recorder) DriverMethods(_ context.Context, name string) (map[string]rpc.Method, error) {
	return methods, r.called("DriverMethods", name)
}
func (r *recorder) CallNode(_ context.Context, ident string, q rpc.Call) (rpc.Reply, error) {
	return rpc.Reply{Attach: true, Body: []byte("#!ipxe\x00\xff")}, r.called("CallNode", ident, q)
}
func (r *recorder) AgentToken(_ context.Context, uuid string) (string, error) {
	return "a token", r.called("AgentToken", uuid)
}

func (r *recorder) Heartbeat(_ context.Context, uuid string, h rpc.Heartbeat) error {
	return r.called("Heartbeat", uuid, h)
}

func (r *recorder) CallDriver(_ context.Context, name string, q rpc.Call) (rpc.Reply, error) {
	return rpc.Reply{Value: map[string]any{"n": json.Number("12345678901234567890")}},
		r.called("CallDriver", name, q)
}

var methods = map[string]rpc.Method{"m": {HTTPMethods: []string{"GET"}, Async: true,
	Description: "d", Attach: true, Exclusive: true}}

// world is two conductors over one bus and one store; node is owned by the second one.
type world struct {
	ours, theirs         *recorder
	router               *remote.Router
	node                 *ingot.Node
	store                *store.Store
	mu                   sync.Mutex
	members              []*ingot.Conductor
	there                *remote.Router
	oursHost, theirsHost string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := store.Open(t.Context(), storetest.Options(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	b, err := bus.Open(bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	w := &world{ours: &recorder{}, theirs: &recorder{}, store: s, oursHost: "r1.example",
		theirsHost: "r2.example"}
	w.members = []*ingot.Conductor{
		{Hostname: w.oursHost, Alive: true, Drivers: []ingot.Driver{{Name: "ipmi"}}},
		{Hostname: w.theirsHost, Alive: true, Drivers: []ingot.Driver{{Name: "ipmi"}, {Name: "ilo"}}},
	}
	members := func() []*ingot.Conductor {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.members
	}
	log := slog.New(slog.DiscardHandler)
	w.router = &remote.Router{Local: w.ours, Host: w.oursHost, Bus: b, Store: s, Members: members,
		Log: log}
	w.there = &remote.Router{Local: w.theirs, Host: w.theirsHost, Bus: b, Store: s,
		Members: members, Log: log}
	for w.node == nil { // one that the other one owns
		n := &ingot.Node{UUID: ingot.NewUUID(), Driver: "ipmi", ProvisionState: "available",
			BootIntent: ingot.BootNone}
		if ingot.Owner(w.members, n) == w.theirsHost {
			w.node = n
		}
	}
	if err := s.CreateNode(t.Context(), w.node); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) serve(t *testing.T) {
	t.Helper()
	if err := w.there.Serve(); err != nil {
		t.Fatal(err)
	}
}

// die makes the others see that the second conductor's lease has ended.
func (w *world) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	dead := *w.members[1]
	dead.Alive = false
	w.members = []*ingot.Conductor{w.members[0], &dead}
}

// Every call arrives at the owner with its arguments, and what it returns comes back.
func TestCallsReachTheOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(t)
	ctx, id := t.Context(), w.node.UUID
	check := func(name string, got any, err error, want any, args ...any) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s returns (-want +got):\n%s", name, diff)
		}
		if calls := w.theirs.names(); calls[len(calls)-1] != name {
			t.Errorf("%s: the owner was asked %v", name, calls)
		}
		if diff := cmp.Diff(args, w.theirs.args); diff != "" {
			t.Errorf("%s has arguments (-want +got):\n%s", name, diff)
		}
	}
	q := rpc.ProvisionRequest{Ident: id, Event: "deploy", ConfigDrive: map[string]any{
		"meta_data": map[string]any{"n": json.Number("12345678901234567890")}}}
	check("Provision", nil, w.router.Provision(ctx, q), nil, q)
	p := rpc.PowerRequest{Target: ingot.PowerOn, Timeout: time.Minute}
	check("SetPower", nil, w.router.SetPower(ctx, id, p), nil, id, p)
	v, err := w.router.Validate(ctx, id)
	check("Validate", v, err, map[string]rpc.Validation{"power": {Reason: "no"}}, id)
	d, err := w.router.BootDevice(ctx, id)
	check("BootDevice", d, err, rpc.BootDevice{Device: "pxe", Persistent: true}, id)
	check("SetBootDevice", nil, w.router.SetBootDevice(ctx, id, d), nil, id, d)
	check("SetBootMode", nil, w.router.SetBootMode(ctx, id, "uefi"), nil, id, "uefi")
	check("SetSecureBoot", nil, w.router.SetSecureBoot(ctx, id, true), nil, id, true)
	l, err := w.router.SupportedBootDevices(ctx, id)
	check("SupportedBootDevices", l, err, []string{"pxe", "disk"}, id)
	l, err = w.router.VIFs(ctx, id)
	check("VIFs", l, err, []string{"a", "b"}, id)
	vif := rpc.VIF{ID: "a", PortUUID: "p", Project: "q"}
	check("AttachVIF", nil, w.router.AttachVIF(ctx, id, vif), nil, id, vif)
	check("DetachVIF", nil, w.router.DetachVIF(ctx, id, "a"), nil, id, "a")
	m, err := w.router.NodeMethods(ctx, id)
	check("NodeMethods", m, err, methods, id)
	m, err = w.router.DriverMethods(ctx, "ilo")
	check("DriverMethods", m, err, methods, "ilo")
	c := rpc.Call{Method: "m", HTTPMethod: "POST", Args: ingot.Object{"a": "b"}, PublicOnly: true}
	r, err := w.router.CallNode(ctx, id, c)
	check("CallNode", r, err, rpc.Reply{Attach: true, Body: []byte("#!ipxe\x00\xff")}, id, c)
	r, err = w.router.CallDriver(ctx, "ilo", c)
	check("CallDriver", r, err, rpc.Reply{Value: map[string]any{
		"n": json.Number("12345678901234567890")}}, "ilo", c)
	token, err := w.router.AgentToken(ctx, id)
	check("AgentToken", token, err, "a token", id)
	h := rpc.Heartbeat{Token: "t", URL: "https://192.0.2.7:9999", Version: "1", CA: "PEM"}
	check("Heartbeat", nil, w.router.Heartbeat(ctx, id, h), nil, id, h)
	if calls := w.ours.names(); len(calls) > 0 {
		t.Errorf("this one was asked %v", calls)
	}
	// The recorder has one method for each of the contract: a new one has to be routed here.
	if n := reflect.TypeFor[rpc.Conductor]().NumMethod(); n != 20 {
		t.Errorf("the contract has %d methods; route the new ones and test them here", n)
	}
}

// What needs no hardware, and what this one's hardware types can do, is done here.
func TestNodesAreStoredHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(t)
	if _, err := w.router.CreateNode(t.Context(), w.node); err != nil {
		t.Error(err)
	}
	if _, err := w.router.UpdateNode(t.Context(), w.node, rpc.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if err := w.router.DeleteNode(t.Context(), w.node.UUID); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"CreateNode", "UpdateNode", "DeleteNode"}, w.ours.names()); diff != "" {
		t.Error(diff)
	}
}

// A node of a hardware type that only another one has is stored there; what is secret does not
// travel, and is not lost.
func TestNodesOfOtherHardwareTypesAreStoredThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(t)
	n := &ingot.Node{UUID: ingot.NewUUID(), Driver: "ilo", ProvisionState: "available",
		DriverInfo: ingot.Object{"ilo_password": "p"}, BootIntent: ingot.BootNone,
		Attempt: &ingot.Attempt{ID: "a", Key: "secretkey"}}
	if _, err := w.router.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := w.store.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if _, err := w.router.UpdateNode(t.Context(), n, rpc.UpdateOptions{ResetInterfaces: true}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"CreateNode", "UpdateNode"}, w.theirs.names()); diff != "" {
		t.Error(diff)
	}
	got := w.theirs.args[0].(*ingot.Node)
	if got.Attempt == nil || got.Attempt.Key.Reveal() != "secretkey" ||
		got.DriverInfo["ilo_password"] != "p" || w.theirs.args[1] != (rpc.UpdateOptions{ResetInterfaces: true}) {
		t.Errorf("it got %+v with %+v", got, w.theirs.args[1])
	}
}

func TestErrorsKeepTheirKindAndWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(t)
	for _, kind := range []ingot.Kind{ingot.Locked, ingot.Invalid, ingot.Unavailable, ingot.Internal} {
		w.theirs.err = ingot.Errorf(kind, "the words of %s", kind)
		err := w.router.Provision(t.Context(), rpc.ProvisionRequest{Ident: w.node.UUID})
		if ingot.KindOf(err) != kind || err.Error() != "the words of "+string(kind) {
			t.Errorf("%s came back as %v (%s)", kind, err, ingot.KindOf(err))
		}
	}
	if calls := w.ours.names(); len(calls) > 0 {
		t.Errorf("what the owner refused was done here: %v", calls)
	}
	err := w.router.Provision(t.Context(), rpc.ProvisionRequest{Ident: "none"})
	if ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("no such node: %v", err)
	}
}

// An owner that is not connected, or dies in the middle, costs nothing but time.
func TestWithoutTheOwnerItIsDoneHere(t *testing.T) {
	t.Parallel()
	t.Run("not connected", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		if err := w.router.SetPower(t.Context(), w.node.UUID, rpc.PowerRequest{}); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"SetPower"}, w.ours.names()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("dies", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.theirs.held = make(chan struct{})
		defer close(w.theirs.held)
		w.serve(t)
		done := make(chan error, 1)
		go func() {
			done <- w.router.SetPower(context.WithoutCancel(t.Context()), w.node.UUID, rpc.PowerRequest{})
		}()
		for len(w.theirs.names()) == 0 {
			time.Sleep(time.Millisecond)
		}
		w.die()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"SetPower"}, w.ours.names()); diff != "" {
			t.Error(diff)
		}
	})
}

// Where no conductor of the group lives nobody does it: another one may not reach the BMC.
func TestAGroupWithoutConductorIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(w *world)
		done   []string // by ours
		refuse bool
	}{
		"another group": {change: func(w *world) {
			for _, m := range w.members {
				m.Group = "elsewhere"
			}
		}, refuse: true},
		"another group, alone": {change: func(w *world) {
			w.members[0].Group, w.members[1].Alive = "elsewhere", false
		}, refuse: true},
		"the one of the group is not connected": {change: func(w *world) {
			w.members[0].Group = "elsewhere"
		}, refuse: true},
		"of another hardware type": {change: func(w *world) {
			w.members[0].Drivers = nil
			w.members[1].Alive = false
		}, refuse: true},
		"all are draining": {change: func(w *world) {
			for _, m := range w.members {
				m.Draining = true
			}
		}, done: []string{"SetPower"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t) // the second one is not served
			c.change(w)
			err := w.router.SetPower(t.Context(), w.node.UUID, rpc.PowerRequest{})
			if c.refuse != (ingot.KindOf(err) == ingot.Unavailable) {
				t.Errorf("error %v", err)
			}
			if c.refuse && name != "the one of the group is not connected" && err.Error() != "No valid "+
				"host was found. Reason: No conductor service registered which supports driver ipmi "+
				`for conductor group "".` {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(c.done, w.ours.names()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A conductor of an older version ignores fields that it does not know, and says so of calls that it
// does not know, which the one who asks does itself then.
func TestVersionsThatDifferUnderstandOneAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	message := func(method string, args any) []byte {
		text, err := json.Marshal(map[string]any{"Method": method, "Args": args, "New": 1,
			"Until": w.store.Now().Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	got := remote.Answer(w.there, message("SetPower", map[string]any{"Ident": "x", "More": true,
		"Request": map[string]any{"Target": "power on", "Newer": []int{1}}}))
	if calls := w.theirs.names(); string(got) != "{}" || len(calls) != 1 {
		t.Errorf("%s; calls %v", got, calls)
	}
	var answer struct {
		Unknown bool
		Error   string
	}
	err := json.Unmarshal(remote.Answer(w.there, message("Freeze", map[string]any{"Node": "x"})), &answer)
	if err != nil || !answer.Unknown || !strings.Contains(answer.Error, "older version") {
		t.Errorf("%v: %+v", err, answer)
	}
	// The second one is old: it answers so to whatever it is asked.
	err = w.router.Bus.Handle("conductor."+bus.Address(w.theirsHost), func(context.Context,
		[]byte) []byte {
		return []byte(`{"Kind":"internal","Error":"what?","Unknown":true,"Newer":{}}`)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.router.SetPower(t.Context(), w.node.UUID, rpc.PowerRequest{}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"SetPower"}, w.ours.names()); diff != "" {
		t.Error(diff)
	}
}

// One that does not know of deploy steps would leave them out: those have a name of their own on the bus.
func TestDeployStepsDoNotGoToAConductorThatDropsThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var asked []string // of the one that is old: it knows Provision, and nothing of steps
	err := w.router.Bus.Handle("conductor."+bus.Address(w.theirsHost), func(_ context.Context, data []byte) []byte {
		var q struct{ Method string }
		if err := json.Unmarshal(data, &q); err != nil {
			t.Error(err)
		}
		if asked = append(asked, q.Method); q.Method == "Provision" {
			return []byte(`{}`)
		}
		return []byte(`{"Kind":"internal","Error":"what?","Unknown":true}`)
	})
	if err != nil {
		t.Fatal(err)
	}
	steps := []ingot.Step{{Interface: "bios", Name: "factory_reset", Priority: 1}}
	for _, q := range []rpc.ProvisionRequest{{Ident: w.node.UUID, Event: "deploy"},
		{Ident: w.node.UUID, Event: "deploy", DeploySteps: steps}} {
		if err := w.router.Provision(t.Context(), q); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]string{"Provision", "ProvisionWithSteps"}, asked); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"Provision"}, w.ours.names()); diff != "" {
		t.Error(diff)
	}
	text, err := json.Marshal(map[string]any{"Method": "ProvisionWithSteps", "Until": w.store.Now().Add(time.Minute),
		"Args": rpc.ProvisionRequest{Ident: "x", Event: "deploy", DeploySteps: steps}})
	if err != nil {
		t.Fatal(err)
	}
	if got := remote.Answer(w.there, text); string(got) != "{}" || len(w.theirs.names()) != 1 {
		t.Errorf("a new one answers %s; calls %v", got, w.theirs.names())
	}
}

// Who was stopped for a while does not do what somebody else has done meanwhile.
func TestALateCallIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serve(t)
	message, err := json.Marshal(map[string]any{"Method": "SetPower",
		"Until": w.store.Now().Add(-time.Second), "Args": map[string]any{"Ident": w.node.UUID}})
	if err != nil {
		t.Fatal(err)
	}
	data, err := w.router.Bus.Call(t.Context(), "conductor."+bus.Address(w.theirsHost), message)
	if err != nil {
		t.Fatal(err)
	}
	var a struct{ Kind, Error string }
	if err := json.Unmarshal(data, &a); err != nil || a.Kind != string(ingot.Unavailable) {
		t.Errorf("answer %s, %v", data, err)
	}
	if calls := w.theirs.names(); len(calls) > 0 {
		t.Errorf("it did %v", calls)
	}
}

// patient is a conductor whose power actions last until they are told to end.
type patient struct{ *recorder }

func (p patient) SetPower(ctx context.Context, ident string, q rpc.PowerRequest) error {
	if err := p.recorder.SetPower(ctx, ident, q); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// A call that is under way when the lease of the owner ends is told to end, since whoever sent it does
// it elsewhere; until there is a new lease none is begun.
func TestACallEndsWithTheLeaseOfTheOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lease, end := context.WithCancelCause(t.Context())
	w.there.Local = patient{w.theirs}
	w.there.Lease = func() context.Context { return lease }
	message, err := json.Marshal(map[string]any{"Method": "SetPower",
		"Until": w.store.Now().Add(time.Hour), "Args": map[string]any{"Ident": w.node.UUID}})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan []byte, 1)
	go func() { answers <- remote.Answer(w.there, message) }()
	for len(w.theirs.names()) == 0 {
		time.Sleep(time.Millisecond)
	}
	end(errors.New("the lease is over"))
	for what, text := range map[string]string{"under way": string(<-answers),
		"new": string(remote.Answer(w.there, message))} {
		if !strings.Contains(text, "the lease is over") || !strings.Contains(text, "try again") &&
			what == "under way" || !strings.Contains(text, string(ingot.Unavailable)) {
			t.Errorf("call %s: %s", what, text)
		}
	}
	if diff := cmp.Diff([]string{"SetPower"}, w.theirs.names()); diff != "" {
		t.Error(diff)
	}
}

// FuzzAnswer: whatever comes over the bus is answered with an error, or done.
func FuzzAnswer(f *testing.F) {
	s, err := store.Open(context.Background(), store.Options{Path: f.TempDir() + "/db"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	r := &remote.Router{Local: &recorder{}, Host: "h", Store: s, Log: slog.New(slog.DiscardHandler)}
	f.Add([]byte(`{"Method":"SetPower","Until":"2200-01-01T00:00:00Z","Args":{"Ident":"x"}}`))
	f.Add([]byte(`{"Method":"UpdateNode","Until":"2200-01-01T00:00:00Z","Args":{"Node":{"UUID":"x"}}}`))
	f.Add([]byte(`{"Method":"CallNode","Until":"2200-01-01T00:00:00Z","Args":null}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var a struct{ Kind, Error string }
		if err := json.Unmarshal(remote.Answer(r, data), &a); err != nil {
			t.Errorf("no answer to %q: %v", data, err)
		}
	})
}
