package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/cli"
	"ingot/internal/config"
	"ingot/internal/server"
	"ingot/internal/testkit"
)

// sandbox is a running server.
type sandbox struct {
	*testing.T
	url   string
	data  string // directory
	stop  context.CancelFunc
	ended chan error // gets what Run returned
	log   *logged
}

// serving is the line of the log that tells where the API listens.
var serving = regexp.MustCompile(`msg=serving api=(\S+)`)

// logged is a log that tells when and where the API listens.
type logged struct {
	at chan string // gets host:port

	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logged) Write(p []byte) (int, error) {
	if m := serving.FindSubmatch(p); m != nil {
		l.at <- string(m[1])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) says(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// start runs a sandbox on free ports of loopback until the test ends, and waits until it is
// ready.
func start(t *testing.T) *sandbox {
	t.Helper()
	return startWith(t, func(*config.Config) {})
}

// startWith lets the caller change the configuration.
func startWith(t *testing.T, change func(c *config.Config)) *sandbox {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s := &sandbox{T: t, data: t.TempDir(), stop: stop, ended: make(chan error, 1)}
	log := &logged{at: make(chan string, 1)}
	s.log = log
	cfg := config.Dev(s.data, "127.0.0.1:0")
	change(&cfg)
	go func() { s.ended <- server.Run(ctx, cfg, log) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
		s.ended <- nil
		if t.Failed() {
			t.Log(log.text.String())
		}
	})
	select {
	case address := <-log.at:
		s.url = "http://" + address
	case err := <-s.ended:
		s.ended <- nil
		t.Fatalf("the server did not start: %v", err)
	}
	for s.status("/healthcheck") != http.StatusOK {
		if t.Context().Err() != nil {
			t.Fatal("never ready")
		}
	}
	return s
}

// get returns the status and the body of a GET.
func (s *sandbox) get(path string) (int, string) {
	s.Helper()
	answer, err := testkit.Web.Get(s.url + path)
	if err != nil {
		s.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func (s *sandbox) status(path string) int {
	s.Helper()
	status, _ := s.get(path)
	return status
}

// node runs `ingot node` with the words and returns the exit code and what it printed.
func (s *sandbox) node(words ...string) (code int, out, problem string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := cli.NodeCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append(words, "--url", s.url))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	err := cmd.ExecuteContext(ctx)
	if err != nil {
		problem = err.Error()
	}
	return cli.ExitCode(err), stdout.String(), problem
}

// done is node for a command that has to work.
func (s *sandbox) done(words ...string) string {
	s.Helper()
	code, out, problem := s.node(words...)
	if code != 0 {
		s.Fatalf("%s: exit code %d: %s", strings.Join(words, " "), code, problem)
	}
	return out
}

// decoded is done with -o json.
func decoded[V any](s *sandbox, words ...string) V {
	s.Helper()
	var v V
	out := s.done(append(words, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		s.Fatalf("%s: %v in %s", strings.Join(words, " "), err, out)
	}
	return v
}

func TestOperatorsSeeHealthAndMetrics(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.done("create", "one", "--driver", "fake-hardware", "--enroll-only")
	r, err := http.NewRequest("BREW", s.url+"/v1/nodes", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := testkit.Web.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	status, body := s.get("/metrics")
	for _, want := range []string{`ingot_nodes{provision_state="enroll"} 1`,
		`ingot_api_request_duration_seconds_count{method="POST",route="/v1/nodes",status="201"} 1`,
		`ingot_api_request_duration_seconds_count{method="other",route="",status="405"} 1`,
		"ingot_journal_dropped_total 0"} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("metrics (%d) are without %s", status, want)
		}
	}
	if strings.Contains(body, "BREW") {
		t.Error("a client can make up labels")
	}
	for _, path := range []string{"//v1//nodes", "/v1/../v1/nodes/", "/nodes"} {
		if _, body := s.get(path); !strings.HasPrefix(body, `{"nodes":[{`) {
			t.Errorf("%s: %s", path, body)
		}
	}
}

func TestANodeGoesThroughItsLife(t *testing.T) {
	t.Parallel()
	s := start(t)
	if out := s.done("create", "one", "--driver", "fake-hardware", "--mac",
		"52:54:00:00:00:01"); !strings.Contains(out, "node one is available") {
		t.Errorf("create printed %s", out)
	}
	list := decoded[[]map[string]any](s, "list")
	if len(list) != 1 || list[0]["name"] != "one" || list[0]["last_error"] != nil {
		t.Errorf("list %v", list)
	}
	if out := s.done("list"); !strings.Contains(out, "available") {
		t.Errorf("list printed %s", out)
	}
	type node struct {
		State string `json:"provision_state"`
		Power string `json:"power_state"`
	}
	if n := decoded[node](s, "deploy", "one"); n.State != "active" || n.Power != "power on" {
		t.Errorf("deployed: %+v", n)
	}
	if out := s.done("show", "one"); !strings.Contains(out, "active") {
		t.Errorf("show printed %s", out)
	}
	if n := decoded[node](s, "power", "one", "off"); n.Power != "power off" {
		t.Errorf("switched off: %+v", n)
	}
	if out := s.done("power", "one", "reboot"); out != "node one: power on\n" {
		t.Errorf("reboot printed %q", out)
	}
	if n := decoded[node](s, "deploy", "one", "--rebuild"); n.State != "active" {
		t.Errorf("rebuilt: %+v", n)
	}
	if n := decoded[node](s, "undeploy", "one"); n.State != "available" {
		t.Errorf("undeployed: %+v", n)
	}
	if out := s.done("trait", "one", "CUSTOM_B", "CUSTOM_A"); out != "CUSTOM_A\nCUSTOM_B\n" {
		t.Errorf("trait printed %q", out)
	}
	if out := s.done("trait", "one", "--remove", "CUSTOM_B"); out != "CUSTOM_A\n" {
		t.Errorf("trait --remove printed %q", out)
	}
	for line := range strings.Lines(s.done("journal", "one", "-o", "json")) {
		var entry struct{ Seq int64 }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Seq == 0 {
			t.Fatalf("%v in %s", err, line)
		}
	}
	if out := s.done("journal", "one"); !strings.Contains(out, "deploying") {
		t.Errorf("journal printed %s", out)
	}
	s.done("delete", "one")
	if list := decoded[[]any](s, "list"); len(list) != 0 {
		t.Errorf("after the deletion: %v", list)
	}
}

func TestARecordedImageIsTheOneOfTheLastDeployment(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.done("create", "one", "--driver", "fake-hardware")
	info := func() map[string]any {
		return decoded[struct {
			Info map[string]any `json:"instance_info"`
		}](s, "show", "one").Info
	}
	sum := strings.Repeat("0", 64)
	s.done("deploy", "one", "--image", "http://x/raw", "--checksum", sum, "--format", "raw")
	if i := info(); i["image_source"] != "http://x/raw" || i["image_disk_format"] != "raw" {
		t.Errorf("deployed with %v", i)
	}
	code, _, problem := s.node("deploy", "one", "--image", "http://x/b", "--checksum", sum)
	if i := info(); code != cli.ExitConflict || i["image_source"] != "http://x/raw" {
		t.Errorf("exit code %d (%s); a refused deployment recorded %v", code, problem, i)
	}
	s.done("deploy", "one", "--rebuild", "--image", "http://x/any", "--checksum", sum)
	if i := info(); i["image_source"] != "http://x/any" || i["image_disk_format"] != nil {
		t.Errorf("rebuilt, with no format given, with %v", i)
	}

	s.done("undeploy", "one")
	r, err := http.NewRequest(http.MethodPatch, s.url+"/v1/nodes/one",
		strings.NewReader(`[{"op": "replace", "path": "/deploy_interface", "value": "iscsi"},
			{"op": "add", "path": "/instance_info/image_source", "value": "http://x/d"}]`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
	answer, err := testkit.Web.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	for _, wait := range []string{"--no-wait=true", "--no-wait=false"} {
		code, _, problem = s.node("deploy", "one", "--image", "ftp://x/e", "--checksum", sum, wait)
		if !strings.Contains(problem, "ftp://") || code != cli.ExitError ||
			len(info()) != 1 || info()["image_source"] != "http://x/d" {
			t.Errorf("exit code %d (%s), status %d; a deployment refused by validation recorded %v",
				code, problem, answer.StatusCode, info())
		}
	}
}

func TestExitCodesTellWhatWentWrong(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.done("create", "one", "--driver", "fake-hardware")
	for _, c := range []struct {
		line string
		code int
		text string
	}{
		{"show nobody", cli.ExitNotFound, "Node nobody could not be found."},
		{"deploy nobody", cli.ExitNotFound, "could not be found"},
		{"power nobody on", cli.ExitNotFound, "could not be found"},
		{"journal nobody", cli.ExitNotFound, "could not be found"},
		{"delete nobody", cli.ExitNotFound, "could not be found"},
		{"create one --driver fake-hardware", cli.ExitConflict, "already exists"},
		{"undeploy one", cli.ExitConflict, "can not be performed"},
		{"deploy one --rebuild", cli.ExitConflict, "can not be performed"},
		// Nobody answers at port 1.
		{"trait one gold", cli.ExitError, "a trait is CUSTOM_"},
		{"trait one --remove CUSTOM_A", cli.ExitNotFound, "doesn't have a trait"},
		{"trait one --remove", cli.ExitUsage, "--remove needs"},
		{"create two --bmc 127.0.0.1:1", cli.ExitFailed, "node two is enroll, not manageable"},
		{"create four --driver redfish --bmc http://127.0.0.1:1", cli.ExitFailed, "nothing listens there; check redfish_address"},
		{"create five --driver redfish", cli.ExitUsage, "--bmc is missing"},
		{"create three --driver none", cli.ExitError, "No valid host was found"},
	} {
		code, _, problem := s.node(strings.Fields(c.line)...)
		if code != c.code || !strings.Contains(problem, c.text) {
			t.Errorf("%s: exit code %d (%s), want %d with %q", c.line, code, problem, c.code, c.text)
		}
	}
}

func TestAServerThatIsToldToStopDrainsAndEndsWithoutError(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.done("create", "one", "--driver", "fake-hardware")
	follow := make(chan int, 1)
	following := make(chan struct{})
	go func() {
		cmd := cli.NodeCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs([]string{"journal", "one", "--follow", "--url", s.url})
		cmd.SetOut(&first{wrote: following})
		follow <- cli.ExitCode(cmd.ExecuteContext(t.Context()))
	}()
	<-following
	s.stop()
	err := <-s.ended
	s.ended <- err
	if err != nil {
		t.Errorf("ended with %v", err)
	}
	// The long poll was answered at once, and the next one finds nobody.
	if code := <-follow; code != cli.ExitUnreachable {
		t.Errorf("who followed the journal got exit code %d", code)
	}
	if _, err := testkit.Web.Get(s.url + "/healthcheck"); err == nil {
		t.Error("somebody still answers")
	}
}

// first tells when something is written for the first time.
type first struct {
	once  sync.Once
	wrote chan struct{}
}

func (f *first) Write(p []byte) (int, error) {
	f.once.Do(func() { close(f.wrote) })
	return len(p), nil
}

func TestASecondServerIsRefusedAndSaysWhy(t *testing.T) {
	t.Parallel()
	s := start(t)
	address := strings.TrimPrefix(s.url, "http://")
	err := server.Run(t.Context(), config.Dev(t.TempDir(), address), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "is another ingot running?") {
		t.Errorf("on the same port: %v", err)
	}
	err = server.Run(t.Context(), config.Dev(s.data, "127.0.0.1:0"), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "another ingot serves the store") {
		t.Errorf("on the same store: %v", err)
	}
	if s.status("/healthcheck") != http.StatusOK {
		t.Error("the first one was disturbed")
	}
}

func TestAnUnknownHardwareTypeStopsTheStart(t *testing.T) {
	t.Parallel()
	cfg := config.Dev(t.TempDir(), "127.0.0.1:0")
	cfg.Conductor.EnabledHardwareTypes = []string{"ipmi", "redfisch"}
	err := server.Run(t.Context(), cfg, io.Discard)
	if err == nil || !strings.Contains(err.Error(), `names "redfisch"`) {
		t.Errorf("error %v", err)
	}
}

func TestASandboxStaysOnLoopback(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"INGOT_BOOT_HTTP_LISTEN", ":8080"},
		{"INGOT_BOOT_TFTP_LISTEN", ":69"},
		{"INGOT_BOOT_DHCP_MODE", "proxy"},
		{"INGOT_API_LISTEN", "0.0.0.0:0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("INGOT_BOOT_INTERFACE", "lo")
			t.Setenv(c.name, c.value)
			cmd := server.Command()
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			cmd.SetArgs([]string{"--dev", "--data", filepath.Join(t.TempDir(), "data")})
			cmd.SetErr(io.Discard)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := cmd.ExecuteContext(ctx)
			if err == nil || errors.Is(err, context.DeadlineExceeded) ||
				!strings.Contains(err.Error(), c.value) {
				t.Errorf("error %v, want one that names %s", err, c.value)
			}
		})
	}
}

// annsPassword is "s3cret", as `htpasswd -nbBC 4 ann s3cret` writes it.
const annsPassword = "ann:$2y$04$uUQgbcnROEx6wqmpivXzrevpIiGHCTHuGp4Tct55C.tq4bXeX1cEy\n"

func TestWithAuthenticationTheCommandsTakeCredentials(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	users, password := filepath.Join(dir, "htpasswd"), filepath.Join(dir, "password")
	for path, text := range map[string]string{users: annsPassword, password: "s3cret\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := startWith(t, func(c *config.Config) {
		c.API.AuthStrategy, c.API.UserFile = config.HTTPBasic, users
	})
	if got := s.status("/metrics"); got != http.StatusUnauthorized {
		t.Errorf("metrics: %d", got)
	}
	code, _, problem := s.node("list")
	if code != cli.ExitError || !strings.Contains(problem, "INGOT_USER and INGOT_PASSWORD") {
		t.Errorf("without credentials: %d %s", code, problem)
	}
	code, _, problem = s.node("list", "--user", "ann", "--password-file", password)
	if code != cli.ExitOK {
		t.Errorf("with credentials: %d %s", code, problem)
	}
}

func TestAUserFileThatCannotBeUsedStopsTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := config.Dev(dir, "127.0.0.1:0")
	cfg.API.AuthStrategy, cfg.API.UserFile = config.HTTPBasic, filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(cfg.API.UserFile, []byte("ann:{SHA}x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := server.Run(t.Context(), cfg, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "line 1: the hash is not bcrypt") {
		t.Errorf("error %v", err)
	}
}
