// Package cluster has several real processes of `ingot serve` share one PostgreSQL, and does to them
// what happens to processes: another version runs beside, a clock is wrong, one is stopped and goes
// on, a disk is full.
//
// Read process_test.go for what a test can say, then any other.
package cluster

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ingot/internal/postgres"
	"ingot/internal/testkit"
)

// lease is how long a conductor counts as alive.
const lease = 3 * time.Second

// site is a PostgreSQL and who uses it.
type site struct {
	*testing.T
	postgres *postgres.Server
	images   string // directory
}

func newSite(t *testing.T) *site {
	t.Helper()
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	s := &site{T: t, postgres: p, images: t.TempDir()}
	for _, name := range []string{"vmlinuz", "ramdisk"} {
		content := bytes.Repeat([]byte(name), 100_000)
		if err := os.WriteFile(filepath.Join(s.images, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// process is a running server.
type process struct {
	*site
	host    string
	program string
	env     []string
	data    string // directory
	url     string
	cmd     *exec.Cmd
	log     *log
	ended   chan struct{}
}

// log is what a process has written.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write appends.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String is everything so far.
func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serve starts a server of a program and waits until it is ready. env has more of its configuration.
func (s *site) serve(program, host string, env ...string) *process {
	s.Helper()
	p := &process{site: s, host: host, program: program, env: env, data: s.TempDir()}
	p.start()
	s.Cleanup(func() {
		p.kill()
		if s.Failed() {
			s.Logf("log of %s:\n%s", host, p.log)
		}
	})
	return p
}

var serving = regexp.MustCompile(`msg=serving api=(\S+)`)

func (p *process) start() {
	p.Helper()
	p.log, p.ended = &log{}, make(chan struct{})
	p.cmd = exec.Command(p.program, "serve", "--dev", "--data", p.data, "--listen", "127.0.0.1:0",
		"--database", p.postgres.URL)
	p.cmd.Env = append(append(os.Environ(), "INGOT_CONDUCTOR_HOST="+p.host,
		"INGOT_CLUSTER_LISTEN=127.0.0.1:0", "INGOT_CONDUCTOR_HEARTBEAT_INTERVAL=200ms",
		"INGOT_CONDUCTOR_HEARTBEAT_TIMEOUT="+lease.String(),
		"INGOT_CONDUCTOR_CHECK_PROVISION_STATE_INTERVAL=200ms", "INGOT_CONDUCTOR_BMC_TIMEOUT=1s",
		"INGOT_DEPLOY_KERNEL=file://"+p.images+"/vmlinuz",
		"INGOT_DEPLOY_RAMDISK=file://"+p.images+"/ramdisk"), p.env...)
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	testkit.Eventually(p, p.host+" serves", func() bool {
		select {
		case <-p.ended:
			p.Fatalf("%s ended: %s", p.host, p.log)
		default:
		}
		m := serving.FindStringSubmatch(p.log.String())
		if m == nil {
			return false
		}
		p.url = "http://" + m[1]
		answer, err := testkit.Web.Get(p.url + "/healthcheck")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

func (p *process) signal(s syscall.Signal) {
	p.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.Fatal(err)
	}
}

// kill ends the process, stopped or not.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// restart starts it again, with another program.
func (p *process) restart(program string) {
	p.Helper()
	p.kill()
	p.program = program
	p.start()
}

// ingot runs a command of the client and returns what it prints.
func (p *process) ingot(words ...string) string {
	p.Helper()
	return testkit.Run(p, p.program, append(words, "--url", p.url)...)
}

// node is what the tests look at.
type node struct {
	UUID        string `json:"uuid"`
	State       string `json:"provision_state"`
	Power       string `json:"power_state"`
	Conductor   string `json:"conductor"`
	Reservation string `json:"reservation"`
	LastError   string `json:"last_error"`
	Updated     string `json:"updated_at"`
}

func (p *process) node(name string) (n node) {
	p.Helper()
	if err := json.Unmarshal([]byte(p.ingot("node", "show", name, "-o", "json")), &n); err != nil {
		p.Fatal(err)
	}
	return n
}

// call sends a body to the API, which has to accept it.
func (p *process) call(method, path, body string) {
	p.Helper()
	r, err := http.NewRequest(method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.Fatal(err)
	}
	r.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
	r.Header.Set("Content-Type", "application/json")
	answer, err := testkit.Web.Do(r)
	if err != nil {
		p.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode >= 300 {
		p.Fatalf("%s %s: %s", method, path, answer.Status)
	}
}

// lives tells of each conductor whether it is alive, as one sees it.
func (p *process) lives() map[string]bool {
	p.Helper()
	var all struct {
		Conductors []struct {
			Hostname string
			Alive    bool
		}
	}
	if err := json.Unmarshal([]byte(p.ingot("conductor", "list", "-o", "json")), &all); err != nil {
		p.Fatal(err)
	}
	alive := map[string]bool{}
	for _, c := range all.Conductors {
		alive[c.Hostname] = c.Alive
	}
	return alive
}
