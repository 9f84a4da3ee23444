// Package fault shows that whatever goes wrong from outside, wrong input, dead images, BMCs
// and ramdisks, a server that dies, ends in a state that can be left again: the text says what
// to do, nothing half-written can boot, no machine is left running, and the next deployment
// works. The server is a real one in this process; machines are simulated at their wires.
//
// Read site_test.go for what a test can say, then the tests: request_test.go (people and
// configuration), image_test.go, bmc_test.go and ramdisk_test.go (the machine), interrupt_test.go.
package fault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/config"
	"ingot/internal/server"
	"ingot/internal/testkit"
)

const (
	nodeName  = "metal-1"
	imageSize = 4<<20 + 4096
	// patience is far beyond what anything takes on a busy computer.
	patience = 60 * time.Second
)

// object is a JSON object.
type object = map[string]any

// site is one server, one machine, one image.
type site struct {
	t       *testing.T
	dir     string
	cfg     config.Config
	machine *machine
	image   []byte
	backing string // of the machine's disk, see newMachine

	api, boot string // base URLs
	log       *log
	stop      context.CancelFunc
	ended     chan error
}

// log is what the server wrote.
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

// newSite starts a server and a machine whose node is not enrolled yet. change may alter the
// configuration and the size of the machine's disk.
func newSite(t *testing.T, change ...func(s *site, disk *int64)) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, dir: dir, log: &log{}, image: make([]byte, imageSize)}
	_, _ = rand.Read(s.image) // never fails
	s.cfg = config.Dev(dir, "127.0.0.1:0")
	s.cfg.Conductor.Host = "one"
	s.cfg.Conductor.CheckInterval = config.Duration(50 * time.Millisecond)
	s.cfg.Conductor.GracefulShutdownTimeout = config.Duration(time.Millisecond)
	s.cfg.Deploy.Kernel = "file://" + s.file("vmlinuz", []byte("kernel"))
	s.cfg.Deploy.Ramdisk = "file://" + s.file("ramdisk", []byte("ramdisk"))
	s.file("disk.raw", s.image)
	disk := int64(diskSize)
	for _, c := range change {
		c(s, &disk)
	}
	if err := s.cfg.Check(); err != nil {
		t.Fatal(err)
	}
	s.serve()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("server log:\n%s", s.log)
		}
	})
	s.machine = newMachine(t, func() string { return s.boot }, disk, s.backing)
	return s
}

// file writes into the directory of images and returns the path.
func (s *site) file(name string, content []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, "images", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

var serving = regexp.MustCompile(`msg=serving api=(\S+) boot=(http://(\S+))`)

// serve starts the server and waits until it can take work. Started again, it has the same
// addresses and data.
func (s *site) serve() {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s.stop, s.ended = stop, make(chan error, 1)
	before := len(s.log.String())
	go func() { s.ended <- server.Run(ctx, s.cfg, s.log) }()
	s.until("the server is healthy", func() bool {
		select {
		case err := <-s.ended:
			s.t.Fatalf("the server ended: %v", err)
		default:
		}
		found := serving.FindStringSubmatch(s.log.String()[before:])
		if found == nil {
			return false
		}
		s.api, s.boot = "http://"+found[1], found[2]
		s.cfg.API.Listen, s.cfg.Boot.HTTPListen = found[1], found[3]
		_, err := fetch(s.t.Context(), s.api+"/healthcheck")
		return err == nil
	})
}

// kill ends the server; steps that run have no time to end.
func (s *site) kill() {
	if s.stop == nil {
		return
	}
	s.stop()
	s.stop = nil
	if err := <-s.ended; err != nil {
		s.t.Errorf("the server ended: %v", err)
	}
}

// until waits for a condition.
func (s *site) until(what string, holds func() bool) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

// do calls the API; body is an object to encode, or a string to send as it is.
func (s *site) do(method, path string, body any) (status int, answer []byte) {
	s.t.Helper()
	data, raw := []byte(nil), ""
	if body != nil {
		var ok bool
		if raw, ok = body.(string); ok {
			data = []byte(raw)
		} else {
			data = encode(s.t, body)
		}
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.api+path,
		bytes.NewReader(data))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
	req.Header.Set("Content-Type", "application/json")
	resp, err := testkit.Web.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, answer
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// ok calls the API and decodes the answer, which has to be a success.
func (s *site) ok(method, path string, body any) object {
	s.t.Helper()
	status, answer := s.do(method, path, body)
	if status/100 != 2 {
		s.t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	var o object
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &o); err != nil {
			s.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return o
}

// refused calls the API, which has to answer with that status, in Ironic's shape of errors and
// with all of the words.
func (s *site) refused(method, path string, body any, want int, words ...string) {
	s.t.Helper()
	status, answer := s.do(method, path, body)
	text := faultText(s.t, answer)
	if status != want {
		s.t.Errorf("%s %s: status %d, want %d: %s", method, path, status, want, text)
	}
	wantWords(s.t, method+" "+path, text, words)
}

// faultText is the text for people in an error body: a string that holds JSON.
func faultText(t *testing.T, answer []byte) string {
	t.Helper()
	var outer struct {
		Message string `json:"error_message"`
	}
	var inner struct {
		Code string `json:"faultcode"`
		Text string `json:"faultstring"`
	}
	if err := json.Unmarshal(answer, &outer); err != nil {
		t.Fatalf("error body %q: %v", answer, err)
	}
	if err := json.Unmarshal([]byte(outer.Message), &inner); err != nil {
		t.Fatalf("error_message %q: %v", outer.Message, err)
	}
	if inner.Code == "" || inner.Text == "" {
		t.Errorf("error_message %q has no faultcode or faultstring", outer.Message)
	}
	return inner.Text
}

func wantWords(t *testing.T, where, text string, words []string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %q lacks %q", where, text, w)
		}
	}
}

// driverInfo is the way to the machine's BMC.
func (s *site) driverInfo() object {
	host, port, _ := net.SplitHostPort(s.machine.bmcAddr().String())
	return object{"ipmi_address": host, "ipmi_port": port, "ipmi_username": bmcUser,
		"ipmi_password": bmcWord}
}

// create makes the node.
func (s *site) create(info object) {
	s.t.Helper()
	s.ok("POST", "/v1/nodes", object{"driver": "ipmi", "name": nodeName, "driver_info": info})
}

// createPort makes the node's port.
func (s *site) createPort() {
	s.t.Helper()
	s.ok("POST", "/v1/ports", object{"node_uuid": s.node()["uuid"], "address": mac})
}

// provide brings the node from enroll to available, with the good image set.
func (s *site) provide() {
	s.t.Helper()
	s.verb("manage")
	s.await("manageable")
	s.verb("provide")
	s.await("available")
	s.setImage(s.goodImage())
}

// enroll makes a node that can be deployed.
func (s *site) enroll() {
	s.t.Helper()
	s.create(s.driverInfo())
	s.createPort()
	s.provide()
}

// goodImage is the image as instance_info names it.
func (s *site) goodImage() object {
	return object{"image_source": "file://" + filepath.Join(s.dir, "images", "disk.raw"),
		"image_os_hash_algo": "sha256", "image_os_hash_value": digest(s.image)}
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// setImage replaces instance_info.
func (s *site) setImage(info object) {
	s.t.Helper()
	s.patch("/instance_info", info)
}

// patch replaces one field of the node.
func (s *site) patch(path string, value any) {
	s.t.Helper()
	s.ok("PATCH", "/v1/nodes/"+nodeName, []object{{"op": "add", "path": path, "value": value}})
}

// verb asks for a change of the provision state.
func (s *site) verb(target string) {
	s.t.Helper()
	s.ok("PUT", "/v1/nodes/"+nodeName+"/states/provision", object{"target": target})
}

// node is the node as the API shows it.
func (s *site) node() object {
	s.t.Helper()
	return s.ok("GET", "/v1/nodes/"+nodeName, nil)
}

// text is a field of the node, "" for null.
func (s *site) text(field string) string {
	s.t.Helper()
	text, _ := s.node()[field].(string)
	return text
}

// await waits until the node rests in a state: nobody works on it.
func (s *site) await(state string) {
	s.t.Helper()
	var n object
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the node is %v: %v; the machine did %q", n["provision_state"],
				n["last_error"], s.machine.deeds())
		}
	}()
	s.until("the node is "+state, func() bool {
		n = s.node()
		if n["provision_state"] == "deploy failed" && state != "deploy failed" {
			s.t.Fatalf("deploy failed: %v", n["last_error"])
		}
		return n["provision_state"] == state && n["reservation"] == nil
	})
}

// journal is the node's journal as text.
func (s *site) journal() string {
	s.t.Helper()
	_, answer := s.do("GET", "/v1/nodes/"+nodeName+"/journal?limit=1000", nil)
	return string(answer)
}

// failed waits for a deployment to fail, checks the text, and that nothing of it is left: the
// machine is off, its disk cannot boot, its boot script says what is wrong, no session and no
// half image lies around.
func (s *site) failed(words ...string) {
	s.t.Helper()
	s.await("deploy failed")
	n := s.node()
	text, _ := n["last_error"].(string)
	wantWords(s.t, "last_error", text, words)
	if strings.Contains(text, chapWord) || strings.Contains(text, bmcWord) {
		s.t.Errorf("last_error tells a secret: %s", text)
	}
	if s.machine.isOn() || n["power_state"] != "power off" {
		s.t.Errorf("the machine is left on (%t), power_state %v", s.machine.isOn(),
			n["power_state"])
	}
	disk := s.disk()
	if head := min(len(disk), 1<<20); !bytes.Equal(disk[:head], make([]byte, head)) {
		s.t.Error("the head of the disk was written: half an image could boot")
	}
	script := s.script(mac)
	if !strings.Contains(script, "stopped in state deploy failed") ||
		strings.Contains(script, "\nkernel ") || strings.Contains(script, "sanboot") {
		s.t.Errorf("boot script after the failure:\n%s", script)
	}
	s.noSession()
	if left, err := filepath.Glob(filepath.Join(s.dir, "spool", "*.tmp")); len(left) > 0 ||
		err != nil {
		s.t.Errorf("left in the spool: %q, %v", left, err)
	}
}

// deployed waits for active and checks that the machine runs what was asked for.
func (s *site) deployed() {
	s.t.Helper()
	s.await("active")
	n := s.node()
	if n["last_error"] != nil || n["power_state"] != "power on" || !s.machine.isOn() {
		s.t.Errorf("active with last_error %v, power_state %v", n["last_error"],
			n["power_state"])
	}
	if !bytes.Equal(s.disk()[:len(s.image)], s.image) {
		s.t.Error("the disk does not hold the image")
	}
	s.until("the machine boots its disk", func() bool {
		d := s.machine.deeds()
		return d[len(d)-1] == "disk"
	})
	s.noSession()
}

// recovers shows that the node can be deployed after the fault, with the good image.
func (s *site) recovers() {
	s.t.Helper()
	s.machine.behave(manner{})
	s.setImage(s.goodImage())
	s.verb("active")
	s.deployed()
}

// disk is what is on the machine's disk.
func (s *site) disk() []byte {
	s.t.Helper()
	disk, err := os.ReadFile(s.machine.target.Backing)
	if err != nil {
		s.t.Fatal(err)
	}
	return disk
}

// noSession checks that no iSCSI session is open.
func (s *site) noSession() {
	s.t.Helper()
	s.until("the iSCSI session is closed", func() bool {
		return !strings.Contains(s.machine.target.Sessions(s.t), "Connection")
	})
}

// script is what the machine with that address is told to boot now.
func (s *site) script(address string) string {
	s.t.Helper()
	script, err := fetch(s.t.Context(), s.boot+
		"/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address="+address)
	if err != nil {
		s.t.Fatal(err)
	}
	return script
}
