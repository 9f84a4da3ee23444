package conductor_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// patience bounds every wait of the tests; nothing waits as long unless it is broken.
const patience = 90 * time.Second

// world is one store and the conductors that live and die on it.
type world struct {
	t     *testing.T
	store *store.Store
	log   *safeBuffer
	power *power
	o     conductor.Options
}

// safeBuffer collects the log of several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Add makes the world a Journal that is on disk at once.
func (w *world) Add(e ingot.Entry) {
	if e.Time.IsZero() {
		e.Time = w.store.Now()
	}
	if err := w.store.AppendJournal(context.Background(), []ingot.Entry{e}); err != nil {
		w.t.Error(err)
	}
}

// journal returns the texts of a node's journal, one a line.
func (w *world) journal(ident string) string {
	w.t.Helper()
	entries, err := w.store.Journal(context.Background(),
		store.JournalQuery{Node: w.node(ident).UUID})
	if err != nil {
		w.t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.Source + " " + e.Level + " " + e.Text + "\n")
	}
	return b.String()
}

// power is fake power that can be made to fail, to be slow, and to differ from the row.
type power struct {
	fake.Power
	mu     sync.Mutex
	state  ingot.PowerState // "" follows the row
	err    error
	gate   chan struct{} // not nil: SetPower waits for it
	called []ingot.PowerState
}

func (p *power) set(change func(p *power)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *power) PowerState(ctx context.Context, t *driver.Task) (ingot.PowerState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.state != "" {
		return p.state, p.err
	}
	return p.Power.PowerState(ctx, t)
}

func (p *power) SetPower(ctx context.Context, t *driver.Task, s ingot.PowerState) error {
	p.mu.Lock()
	gate, err := p.gate, p.err
	p.called = append(p.called, s)
	p.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	p.set(func(p *power) {
		if p.state != "" {
			p.state = driver.PowerResult(s)
		}
	})
	return p.Power.SetPower(ctx, t, s)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := store.Open(t.Context(), storetest.Options(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	w := &world{t: t, store: s, log: &safeBuffer{}, power: &power{}}
	w.o = conductor.Options{
		Store: s, Journal: w, Host: "host1", Log: slog.New(slog.NewTextHandler(w.log, nil)),
		CheckInterval: 200 * time.Millisecond, PowerTimeout: 5 * time.Second,
		GracePeriod: 5 * time.Second, CallbackTimeout: time.Minute,
		Table: &driver.Table{
			Hardware:   []driver.Hardware{fake.Hardware()},
			Power:      map[string]driver.Power{fake.Name: w.power},
			Management: map[string]driver.Management{fake.Name: fake.Management{}},
			Boot:       map[string]driver.Boot{fake.Name: fake.Boot{}},
			Deploy:     map[string]driver.Deploy{fake.Name: fake.Deploy{}},
		},
	}
	return w
}

// start runs a conductor; stop ends it and waits.
func (w *world) start() (c *conductor.Conductor, stop func()) {
	w.t.Helper()
	c = conductor.New(w.o)
	return c, w.run(c)
}

func (w *world) run(c *conductor.Conductor) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.Run(ctx); err != nil && !conductor.Crashed(c) {
			w.t.Errorf("Run: %v", err)
		}
	}()
	select {
	case <-c.Ready():
	case <-ended:
		w.t.Fatal("the conductor ended before it was ready")
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			<-ended
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// enroll creates a node in a state.
func (w *world) enroll(c *conductor.Conductor, name, state string) *ingot.Node {
	w.t.Helper()
	no := false
	n, err := c.CreateNode(w.t.Context(), &ingot.Node{Name: name, Driver: "fake-hardware",
		ProvisionState: state, AutomatedClean: &no})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) node(ident string) *ingot.Node {
	w.t.Helper()
	n, err := w.store.Node(context.Background(), ident)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// until waits for a condition of the row.
func (w *world) until(ident, what string, cond func(*ingot.Node) bool) *ingot.Node {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if n := w.node(ident); cond(n) {
			return n
		}
		time.Sleep(10 * time.Millisecond)
	}
	n := w.node(ident)
	w.t.Fatalf("no %s: state %q, reservation %q, last error %q, steps %v at %d\n%s\n%s", what,
		n.ProvisionState, n.Reservation, n.LastError, n.Steps, n.Step, w.journal(ident), w.log)
	return nil
}

// state waits until the node rests in a state, reserved by nobody.
func (w *world) state(ident, state string) *ingot.Node {
	w.t.Helper()
	return w.until(ident, state, func(n *ingot.Node) bool {
		return n.ProvisionState == state && n.Reservation == ""
	})
}

// change changes the row as another process does, between what the conductor does with it.
func (w *world) change(ident string, how func(n *ingot.Node)) {
	w.t.Helper()
	testkit.Eventually(w.t, "node "+ident+" is changed", func() bool {
		n := w.node(ident)
		if n.Reservation != "" {
			return false
		}
		how(n)
		err := w.store.UpdateNode(context.Background(), n)
		if err != nil && ingot.KindOf(err) != ingot.Stale {
			w.t.Fatal(err)
		}
		return err == nil
	})
}

func (w *world) provision(c *conductor.Conductor, ident, event string) {
	w.t.Helper()
	err := c.Provision(w.t.Context(), rpc.ProvisionRequest{Ident: ident, Event: event})
	if err != nil {
		w.t.Fatalf("%s: %v", event, err)
	}
}
