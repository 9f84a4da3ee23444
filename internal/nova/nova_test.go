package nova_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/endpoints"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/nova"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

func uuid(n int) string { return fmt.Sprintf("11111111-2222-4333-8444-%012d", n) }

// compute is Nova at the wire: it checks what it is sent as Nova does, and the token at Keystone.
type compute struct {
	*testing.T
	identity *gophercloud.ServiceClient
	url      string

	mu     sync.Mutex // guards what follows
	seen   []string   // "server tag", in the order of arrival
	asked  int
	answer func(w http.ResponseWriter, r *http.Request, servers []string) // nil is 200
}

// change has the following requests answered in another way.
func (n *compute) change(answer func(http.ResponseWriter, *http.Request, []string)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer = answer
}

// requests is how many there were.
func (n *compute) requests() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

func (n *compute) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct{ Events []map[string]string }
	err := json.NewDecoder(r.Body).Decode(&body)
	if r.Method != "POST" || r.URL.Path != "/v2.1/os-server-external-events" || err != nil ||
		r.Header.Get("OpenStack-API-Version") != "compute 2.76" {
		n.Errorf("asked %s %s, version %q, body %v %v", r.Method, r.URL, r.Header.Get("OpenStack-API-Version"),
			body, err)
	}
	token, err := tokens.Get(context.WithoutCancel(r.Context()), n.identity, r.Header.Get("X-Auth-Token")).ExtractUser()
	if err != nil || token.Name != "ironic" {
		n.Errorf("the token is of %+v, %v", token, err)
	}
	n.mu.Lock()
	answer := n.answer
	n.asked++
	var servers []string
	for _, e := range body.Events {
		servers = append(servers, e["server_uuid"])
		if want := (map[string]string{"name": "power-update", "server_uuid": e["server_uuid"],
			"tag": e["tag"]}); !cmp.Equal(e, want) {
			n.Errorf("event %v", e)
		}
		if answer == nil {
			n.seen = append(n.seen, e["server_uuid"]+" "+e["tag"])
		}
	}
	n.mu.Unlock()
	if answer != nil {
		answer(w, r, servers)
		return
	}
	reply(w, http.StatusOK, servers, func(string) int { return 200 })
}

// reply answers with a code for each server.
func reply(w http.ResponseWriter, status int, servers []string, code func(server string) int) {
	list := []map[string]any{}
	for _, s := range servers {
		list = append(list, map[string]any{"name": "power-update", "server_uuid": s, "code": code(s),
			"status": map[bool]string{true: "completed", false: "failed"}[code(s) == 200]})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"events": list})
}

// diary is a journal.
type diary struct {
	mu      sync.Mutex
	entries []ingot.Entry // guarded by mu
}

func (d *diary) Add(e ingot.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries = append(d.entries, e)
}

// has tells whether all of the texts are in entries of a level, one each.
func (d *diary) has(level string, texts ...string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.entries) != len(texts) {
		return false
	}
	for i, e := range d.entries {
		if e.Level != level || !strings.Contains(e.Text, texts[i]) {
			return false
		}
	}
	return true
}

// world is a cloud whose catalog has this Nova, and who tells it.
type world struct {
	*testing.T
	nova     *compute
	journal  *diary
	notifier *nova.Notifier
	log      *lines
}

// lines is what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newWorld registers a Nova in a region of its own, and signs in there if region is "".
func newWorld(t *testing.T, region string) *world {
	t.Helper()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Keystone: true})
	admin := &gophercloud.ServiceClient{ProviderClient: c.SignIn(t, "admin", "admin"),
		Endpoint: c.Keystone + "/v3/"}
	n := &compute{T: t, identity: admin}
	server := httptest.NewServer(n)
	t.Cleanup(server.Close)
	n.url = server.URL
	own := "of-" + server.Listener.Addr().String()
	service, err := services.Create(t.Context(), admin, services.CreateOpts{Type: "compute"}).Extract()
	if err == nil {
		_, err = endpoints.Create(t.Context(), admin, endpoints.CreateOpts{ServiceID: service.ID, Name: "nova",
			Availability: gophercloud.AvailabilityPublic, Region: own, URL: n.url + "/v2.1"}).Extract()
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, nova: n, journal: &diary{}, log: &lines{}}
	if region == "" {
		region = own
	}
	s := session(t, c, region)
	if _, err := s.Project(t.Context()); err != nil { // signs in, which Nova's patience is not for
		t.Fatal(err)
	}
	w.notifier = nova.NewNotifier(nova.New(s, ""), w.journal,
		slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	w.notifier.Pauses = []time.Duration{time.Millisecond, time.Millisecond}
	w.notifier.Patience = time.Minute
	return w
}

// session signs in as the service user, for a region.
func session(t *testing.T, c *openstack.Cloud, region string) *keystone.Session {
	t.Helper()
	s, err := keystone.NewSession(keystone.Options{AuthURL: c.Keystone, Username: "ironic",
		UserDomain: "Default", Password: ingot.Secret(c.Password), Project: "service",
		ProjectDomain: "Default", Region: region, Interfaces: []string{"internal", "public"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start has it tell until the test ends.
func (w *world) start() {
	ctx, stop := context.WithCancel(w.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.notifier.Run(ctx) }()
	w.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			w.Error(err)
		}
	})
}

// saw waits until Nova has been told of exactly that.
func (w *world) saw(want ...string) {
	w.Helper()
	testkit.Eventually(w, fmt.Sprint("Nova is told ", want), func() bool {
		w.nova.mu.Lock()
		defer w.nova.mu.Unlock()
		return cmp.Equal(w.nova.seen, want)
	})
}

func (w *world) tell(server int, state ingot.PowerState) {
	w.notifier.Tell(nova.Change{Node: uuid(100 + server), Server: uuid(server), State: state})
}

func TestNovaIsToldTheNewestPowerStates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.tell(1, ingot.PowerOn)
	w.tell(2, ingot.PowerOn)
	w.tell(1, ingot.PowerOff)
	w.tell(3, ingot.PowerError) // which Nova has no name for
	w.notifier.Tell(nova.Change{Node: uuid(4), State: ingot.PowerOn})
	w.start()
	w.saw(uuid(1)+" POWER_OFF", uuid(2)+" POWER_ON")
	if w.nova.requests() != 1 {
		t.Errorf("%d requests", w.nova.requests())
	}
	w.tell(2, ingot.PowerOff)
	w.saw(uuid(1)+" POWER_OFF", uuid(2)+" POWER_ON", uuid(2)+" POWER_OFF")
	if !w.journal.has("") {
		t.Errorf("journal %+v", w.journal.entries)
	}
}

func TestManyChangesAreSeveralRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	var want []string
	for i := range 250 {
		w.tell(i, ingot.PowerOn)
		want = append(want, uuid(i)+" POWER_ON")
	}
	w.start()
	w.saw(want...)
	if w.nova.requests() != 3 {
		t.Errorf("%d requests", w.nova.requests())
	}
}

func TestANovaThatIsDownForAMomentIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	failures := 0
	w.nova.change(func(rw http.ResponseWriter, _ *http.Request, _ []string) {
		if failures++; failures == 2 {
			w.nova.change(nil)
		}
		rw.WriteHeader(http.StatusBadGateway)
	})
	w.start()
	w.tell(1, ingot.PowerOn)
	w.saw(uuid(1) + " POWER_ON")
	if !w.journal.has("") {
		t.Errorf("journal %+v", w.journal.entries)
	}
}

func TestTheJournalTellsWhatNovaWasNotTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, []string)
		asked  int
		level  string
		text   string
	}{
		"down": {func(http.ResponseWriter, *http.Request, []string) { panic(http.ErrAbortHandler) }, 3,
			ingot.LevelWarning, "does not answer"},
		"broken": {func(w http.ResponseWriter, _ *http.Request, _ []string) { w.WriteHeader(500) }, 3,
			ingot.LevelWarning, "Nova answers 500"},
		"slow": {func(_ http.ResponseWriter, r *http.Request, _ []string) { <-r.Context().Done() }, 0,
			ingot.LevelWarning, "Nova did not answer within"},
		"old": {func(w http.ResponseWriter, _ *http.Request, _ []string) { w.WriteHeader(406) }, 1,
			ingot.LevelWarning, "Nova answers 406"},
		"forbidden": {func(w http.ResponseWriter, _ *http.Request, _ []string) { w.WriteHeader(403) }, 1,
			ingot.LevelWarning, "Nova answers 403"},
		"unknown server": {func(w http.ResponseWriter, _ *http.Request, s []string) {
			reply(w, 207, s, func(string) int { return 404 })
		}, 1, ingot.LevelInfo, "Nova has no server " + uuid(1)},
		"unknown servers": {func(w http.ResponseWriter, _ *http.Request, _ []string) { w.WriteHeader(404) }, 1,
			ingot.LevelInfo, "Nova answers 404"},
		"nowhere": {func(w http.ResponseWriter, _ *http.Request, s []string) {
			reply(w, 207, s, func(string) int { return 422 })
		}, 1, ingot.LevelWarning, "Nova answers 422 for server " + uuid(1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "")
			if name == "slow" {
				w.notifier.Patience = 100 * time.Millisecond
			}
			w.nova.change(c.answer)
			w.start()
			w.tell(1, ingot.PowerOff)
			testkit.Eventually(t, "the journal tells: "+c.text, func() bool {
				return w.journal.has(c.level, c.text)
			})
			if name == "slow" {
				return // with so little patience more may fail, on a busy machine
			}
			if w.nova.requests() != c.asked {
				t.Errorf("asked %d times, want %d", w.nova.requests(), c.asked)
			}
			w.nova.change(nil)
			w.tell(2, ingot.PowerOff)
			w.saw(uuid(2) + " POWER_OFF")
		})
	}
}

func TestWhoIsInACloudWithoutNovaTellsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "elsewhere")
	w.start()
	w.tell(1, ingot.PowerOff)
	testkit.Eventually(t, "the log says so", func() bool {
		return strings.Contains(w.log.String(), "nobody is told of power states")
	})
	if w.nova.requests() != 0 || !w.journal.has("") {
		t.Errorf("asked %d times, journal %+v", w.nova.requests(), w.journal.entries)
	}
}

func TestOfTooManyChangesTheJournalTells(t *testing.T) {
	t.Parallel()
	j := &diary{}
	n := nova.NewNotifier(nil, j, slog.New(slog.DiscardHandler))
	for i := range 10_001 {
		n.Tell(nova.Change{Node: uuid(i), Server: uuid(i), State: ingot.PowerOn})
	}
	n.Tell(nova.Change{Node: uuid(0), Server: uuid(0), State: ingot.PowerOff}) // which waits already
	if !j.has(ingot.LevelWarning, "10000 changes wait already") {
		t.Errorf("%d entries", len(j.entries))
	}
}
