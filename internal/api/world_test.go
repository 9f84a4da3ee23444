package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/api"
	"ingot/internal/ingot"
	"ingot/internal/journal"
	"ingot/internal/rpc"
	"ingot/internal/store"
	"ingot/internal/testkit"
)

var update = flag.Bool("update", false, "renew golden files")

const (
	nodeID = "11111111-2222-4333-8444-555555555555"
	portID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
)

// recorder is a conductor that keeps rows as the real one does and otherwise only notes what it
// was asked. A test sets what it shall answer before it serves.
type recorder struct {
	store *store.Store
	// fail is the answer to every call that is not about rows.
	fail    error
	methods map[string]rpc.Method
	reply   rpc.Reply
	panics  bool
	vifs    []string
	token   string

	mu    sync.Mutex
	calls []any // guarded by mu
}

var _ rpc.Conductor = (*recorder)(nil)

func (r *recorder) note(call any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
	return r.fail
}

// last returns the newest call.
func (r *recorder) last() any {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.calls) == 0 {
		return nil
	}
	return r.calls[len(r.calls)-1]
}

func (r *recorder) CreateNode(ctx context.Context, n *ingot.Node) (*ingot.Node, error) {
	if n.Driver != "ipmi" && n.Driver != "ilo" {
		return nil, ingot.Errorf(ingot.Invalid, "No valid host was found. Reason: No conductor "+
			"service registered which supports driver %s for conductor group \"%s\".", n.Driver,
			n.ConductorGroup)
	}
	if n.Interfaces == nil {
		n.Interfaces = map[string]string{}
	}
	for kind, name := range map[string]string{"power": "ipmitool", "boot": "ipxe",
		"deploy": "iscsi", "management": "ipmitool"} {
		if n.Interfaces[kind] == "" {
			n.Interfaces[kind] = name
		}
	}
	return n, r.store.CreateNode(ctx, n)
}

func (r *recorder) UpdateNode(ctx context.Context, n *ingot.Node,
	u rpc.UpdateOptions) (*ingot.Node, error) {
	if err := r.note(u); err != nil {
		return nil, err
	}
	return n, r.store.UpdateNode(ctx, n)
}

func (r *recorder) DeleteNode(ctx context.Context, ident string) error {
	n, err := r.store.Node(ctx, ident)
	if err != nil {
		return err
	}
	return r.store.DeleteNode(ctx, n)
}

func (r *recorder) Provision(_ context.Context, p rpc.ProvisionRequest) error { return r.note(p) }

func (r *recorder) SetPower(_ context.Context, _ string, p rpc.PowerRequest) error {
	return r.note(p)
}

func (r *recorder) Validate(context.Context, string) (map[string]rpc.Validation, error) {
	if r.panics {
		panic("validate: secret state of the program")
	}
	return map[string]rpc.Validation{"power": {Result: true}, "boot": {Result: true},
		"bios":     {Reason: "Driver ipmi does not support bios (disabled or not implemented)."},
		"firmware": {Reason: "no"}}, r.note("validate")
}

func (r *recorder) BootDevice(context.Context, string) (rpc.BootDevice, error) {
	return rpc.BootDevice{Device: "pxe", Persistent: true}, r.note("boot device")
}

func (r *recorder) SetBootDevice(_ context.Context, _ string, d rpc.BootDevice) error {
	return r.note(d)
}

func (r *recorder) SupportedBootDevices(context.Context, string) ([]string, error) {
	return []string{"pxe", "disk"}, r.note("supported")
}

func (r *recorder) SetBootMode(_ context.Context, _, mode string) error {
	return r.note("boot mode " + mode)
}

func (r *recorder) SetSecureBoot(_ context.Context, _ string, on bool) error {
	return r.note(fmt.Sprint("secure boot ", on))
}

func (r *recorder) VIFs(context.Context, string) ([]string, error) {
	return r.vifs, r.note("vifs")
}

func (r *recorder) AttachVIF(_ context.Context, _ string, v rpc.VIF) error { return r.note(v) }

func (r *recorder) DetachVIF(_ context.Context, _, vif string) error { return r.note(vif) }

func (r *recorder) NodeMethods(context.Context, string) (map[string]rpc.Method, error) {
	return r.methods, r.note("node methods")
}

func (r *recorder) DriverMethods(context.Context, string) (map[string]rpc.Method, error) {
	return r.methods, r.note("driver methods")
}

func (r *recorder) CallNode(_ context.Context, _ string, c rpc.Call) (rpc.Reply, error) {
	return r.reply, r.note(c)
}

func (r *recorder) CallDriver(_ context.Context, _ string, c rpc.Call) (rpc.Reply, error) {
	return r.reply, r.note(c)
}

func (r *recorder) AgentToken(_ context.Context, uuid string) (string, error) {
	return r.token, r.note("token of " + uuid)
}

func (r *recorder) Heartbeat(_ context.Context, _ string, h rpc.Heartbeat) error { return r.note(h) }

// world is an API over a real store, served over HTTP.
type world struct {
	*testing.T
	store     *store.Store
	journal   *journal.Journal
	conductor *recorder
	url       string // of the whole API
	machine   string // of the machines' part
	log       *bytes.Buffer

	mu       sync.Mutex
	observed []api.Observation // guarded by mu
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "db"),
		ConductorLease: time.Hour}) // nobody renews it here
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	w := &world{T: t, store: s, conductor: &recorder{store: s}, log: &bytes.Buffer{}}
	w.journal = journal.New(s, slog.New(slog.DiscardHandler))
	a := api.New(api.Options{Store: s, Journal: w.journal, Conductor: w.conductor,
		Log: slog.New(slog.NewTextHandler(&locked{w: w.log}, nil)),
		Observe: func(o api.Observation) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.observed = append(w.observed, o)
		}})
	w.url = serve(t, a.Handler())
	w.machine = serve(t, a.Machine())
	w.heartbeat()
	return w
}

func serve(t *testing.T, h http.Handler) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// locked lets several handlers log into one buffer.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// heartbeat registers the conductor c1 with the driver ipmi.
func (w *world) heartbeat() {
	w.Helper()
	err := w.store.Heartbeat(w.Context(), ingot.Conductor{Hostname: "c1", Drivers: []ingot.Driver{{
		Name:       "ipmi",
		Default:    map[string]string{"power": "ipmitool", "boot": "ipxe"},
		Enabled:    map[string][]string{"power": {"ipmitool"}, "boot": {"ipxe"}},
		Properties: map[string]string{"ipmi_address": "IP address of the BMC. Required."},
	}}})
	if err != nil {
		w.Fatal(err)
	}
}

// addConductor adds another conductor, with one driver.
func (w *world) addConductor(group, driver string) {
	w.Helper()
	err := w.store.Heartbeat(w.Context(), ingot.Conductor{Hostname: "c2", Group: group,
		Drivers: []ingot.Driver{{Name: driver}}})
	if err != nil {
		w.Fatal(err)
	}
}

// addNode stores a node as change makes it; a Reservation is taken after that.
func (w *world) addNode(change func(*ingot.Node)) *ingot.Node {
	w.Helper()
	n := &ingot.Node{UUID: nodeID, Name: "n1", Driver: "ipmi", ProvisionState: "manageable"}
	if change != nil {
		change(n)
	}
	owner := n.Reservation
	if err := w.store.CreateNode(w.Context(), n); err != nil {
		w.Fatal(err)
	}
	if owner != "" {
		if _, err := w.store.Reserve(w.Context(), n.UUID, owner); err != nil {
			w.Fatal(err)
		}
	}
	return n
}

// node reads the node of addNode.
func (w *world) node() *ingot.Node {
	w.Helper()
	n, err := w.store.Node(w.Context(), nodeID)
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// answer is what came back for a request.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

// do sends a request at microversion 1.82 unless the headers, in pairs, say otherwise.
func (w *world) do(method, path, body string, header ...string) answer {
	w.Helper()
	return w.send(w.url, method, path, body, header...)
}

func (w *world) send(base, method, path, body string, header ...string) answer {
	w.Helper()
	r, err := http.NewRequestWithContext(w.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	r.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			r.Header.Del(header[i])
		}
	}
	resp, err := testkit.Web.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return answer{t: w.T, status: resp.StatusCode, header: resp.Header, body: data}
}

// version makes the header of a microversion for do.
func version(v string) []string { return []string{"X-OpenStack-Ironic-API-Version", v} }

// at is do at another microversion.
func (w *world) at(v, method, path, body string) answer {
	w.Helper()
	return w.do(method, path, body, version(v)...)
}

// want checks the status.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, want %d; body %s", a.status, status, a.body)
	}
	return a
}

// object decodes the body.
func (a answer) object() map[string]any {
	a.t.Helper()
	var o map[string]any
	if err := json.Unmarshal(a.body, &o); err != nil {
		a.t.Fatalf("decode %s: %v", a.body, err)
	}
	return o
}

// fault decodes the JSON inside the JSON of an error.
func (a answer) fault() map[string]any {
	a.t.Helper()
	inner, ok := a.object()["error_message"].(string)
	if !ok {
		a.t.Fatalf("error_message is no string in %s", a.body)
	}
	var o map[string]any
	if err := json.Unmarshal([]byte(inner), &o); err != nil {
		a.t.Fatalf("decode %s: %v", inner, err)
	}
	return o
}

// refused checks an error's status and text.
func (a answer) refused(status int, text string) {
	a.t.Helper()
	a.want(status)
	if got := a.fault()["faultstring"]; got != text {
		a.t.Errorf("faultstring\n got %s\nwant %s", got, text)
	}
}

// list returns the named list of the body.
func (a answer) list(name string) []any {
	a.t.Helper()
	l, ok := a.object()[name].([]any)
	if !ok {
		a.t.Fatalf("no list %q in %s", name, a.body)
	}
	return l
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; make it with -update", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs, renew it with -update if that is intended (-want +got):\n%s", file,
			diff)
	}
}
