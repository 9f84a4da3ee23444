package agent_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/agent"
	"ingot/internal/testkit"
)

const (
	node    = "1be26c0b-03f2-4d2e-ae87-c02d7f33c781"
	aToken  = "a-token-that-nobody-else-has"
	mib     = 1 << 20
	oldByte = 0xA5 // what a disk is full of before
)

// api pretends to be a server of Ironic's API.
type api struct {
	*testing.T
	url string

	mu sync.Mutex
	// What follows is guarded by mu. lookup answers in the place of a good one if it is set.
	lookup  func(w http.ResponseWriter, n int)
	version string
	token   string
	seconds int
	lookups []string
	beats   []agent.Heartbeat
	refuse  int // status of heartbeats, 0: taken
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{T: t, version: "1.82", token: aToken, seconds: 300}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	a.url = s.URL
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case r.URL.Path == "/":
		fmt.Fprintf(w, `{"default_version": {"id": "v1", "version": %q}}`, a.version)
	case r.URL.Path == "/v1/lookup":
		a.lookups = append(a.lookups, r.Header.Get("X-OpenStack-Ironic-API-Version")+" "+r.URL.RawQuery)
		if a.lookup != nil {
			a.lookup(w, len(a.lookups))
			return
		}
		fmt.Fprintf(w, `{"node": {"uuid": %q, "links": []}, "config": {"heartbeat_timeout": %d, `+
			`"agent_token": %q, "agent_token_required": true}}`, node, a.seconds, a.token)
	case r.URL.Path == "/v1/heartbeat/"+node && r.Method == "POST":
		if v := r.Header.Get("X-OpenStack-Ironic-API-Version"); v != "1.68" {
			a.Errorf("a heartbeat of version %q", v)
		}
		if a.refuse != 0 {
			w.WriteHeader(a.refuse)
			io.WriteString(w, `{"error_message": {"faultstring": "not now"}}`)
			return
		}
		var b agent.Heartbeat
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			a.Error(err)
		}
		a.beats = append(a.beats, b)
		w.WriteHeader(http.StatusAccepted)
	default:
		a.Errorf("%s %s", r.Method, r.URL)
	}
}

func (a *api) heartbeats() []agent.Heartbeat {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]agent.Heartbeat(nil), a.beats...)
}

func (a *api) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

// conductor commands an agent under test.
type conductor struct {
	*testing.T
	agent  *agent.Agent
	client *http.Client
	url    string
	token  string
	pem    string
	done   chan error
	ended  chan string
	stop   context.CancelFunc
}

// commission starts an agent with a disk of so many MiB, and waits for its heartbeat.
func commission(t *testing.T, a *api, ag *agent.Agent, size int) *conductor {
	t.Helper()
	if ag.Disk == "" {
		ag.Disk = filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(ag.Disk, bytes.Repeat([]byte{oldByte}, size*mib), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ag.APIs == nil {
		ag.APIs = []string{a.url}
	}
	if ag.Patience == 0 {
		ag.Patience = 20 * time.Second
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := &conductor{T: t, agent: ag, token: aToken, done: make(chan error, 1), ended: make(chan string, 1), stop: cancel}
	go func() {
		end, err := ag.Run(ctx)
		c.ended <- end
		c.done <- err
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-c.done:
		case <-time.After(20 * time.Second):
			t.Error("the agent does not end")
		}
		if t.Failed() {
			t.Logf("console:\n%s", strings.Join(ag.Said(), "\n"))
		}
	})
	testkit.Eventually(t, "a heartbeat comes", func() bool { return len(a.heartbeats()) > 0 })
	b := a.heartbeats()[0]
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(b.Certificate)) {
		t.Fatalf("no certificate in %+v", b)
	}
	c.url, c.pem = b.Callback, b.Certificate
	c.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

// result is a command, or an error in its place.
type result struct {
	ID       string
	Name     string `json:"command_name"`
	Status   string `json:"command_status"`
	Fault    *fault `json:"command_error"`
	Result   map[string]any
	Value    any `json:"command_result"`
	Progress *struct{ Bytes, Total int64 }
	Text     string `json:"faultstring"`
	code     int
}

type fault struct {
	Type    string
	Code    int
	Details string
}

func (c *conductor) do(method, path, body string, out any) int {
	c.Helper()
	r, err := http.NewRequestWithContext(c.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	response, err := c.client.Do(r)
	if err != nil {
		c.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		c.Fatalf("%s: %v in %s", path, err, data)
	}
	return response.StatusCode
}

func (c *conductor) run(name string, params any, wait bool) result {
	c.Helper()
	body, err := json.Marshal(map[string]any{"name": name, "params": params})
	if err != nil {
		c.Fatal(err)
	}
	var r result
	r.code = c.do("POST", "/v1/commands/?wait="+strconv.FormatBool(wait)+"&agent_token="+c.token, string(body), &r)
	r.Result, _ = r.Value.(map[string]any)
	return r
}

func (c *conductor) last() result {
	c.Helper()
	var list struct{ Commands []result }
	c.do("GET", "/v1/commands/", "", &list)
	if len(list.Commands) == 0 {
		return result{}
	}
	r := list.Commands[len(list.Commands)-1]
	r.Result, _ = r.Value.(map[string]any)
	return r
}

// write has the image written, as a conductor does: by a step that is polled for.
func (c *conductor) write(info map[string]any, drive any) result {
	c.Helper()
	r := c.run("deploy.execute_deploy_step", map[string]any{
		"step": map[string]any{"step": "write_image", "interface": "deploy", "priority": 80,
			"args": map[string]any{"image_info": info, "configdrive": drive}},
		"node": map[string]any{"uuid": node}, "ports": []any{}, "deploy_version": map[string]string{"ingot": "1"},
	}, false)
	if r.code != 200 {
		c.Fatalf("write_image is answered %+v", r)
	}
	testkit.Eventually(c, "the image is written", func() bool { r = c.last(); return r.Status != "RUNNING" })
	return r
}

func (c *conductor) disk() []byte {
	c.Helper()
	data, err := os.ReadFile(c.agent.Disk)
	if err != nil {
		c.Fatal(err)
	}
	return data
}

// newImage makes a raw image of so many MiB, with a hole, and an MBR with a partition.
func newImage(seed int, size int) []byte {
	data := make([]byte, size*mib)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(data)
	clear(data[len(data)/4 : len(data)/2])
	clear(data[440:512])
	copy(data[440:], []byte{0x78, 0x56, 0x34, 0x12})
	partition := []byte{0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0} // of Linux, from sector 2048 on
	copy(data[446:], binary.LittleEndian.AppendUint32(partition, uint32(size-1)*2048))
	data[510], data[511] = 0x55, 0xAA
	return data
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// publish serves an image by ranges.
func publish(t *testing.T, data []byte) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "image", time.Unix(1, 0), bytes.NewReader(data))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func imageInfo(data []byte, urls ...string) map[string]any {
	return map[string]any{"id": "image", "urls": urls, "disk_format": "raw", "container_format": "bare",
		"stream_raw_images": true, "os_hash_algo": "sha256", "os_hash_value": digest(data),
		"checksum": nil, "node_uuid": node}
}

func TestTheAgentSaysWhoItIsAndIsCommanded(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{Params: agent.Params{Node: node}}, 4)
	b := a.heartbeats()[0]
	if !strings.HasPrefix(b.Callback, "https://127.0.0.1:") || b.Token != aToken ||
		!strings.Contains(b.Version, "ingot") {
		t.Errorf("heartbeat %+v", b)
	}
	a.set(func() {
		want := "1.62 addresses=52%3A54%3A00%3A77%3A00%3A09%2C52%3A54%3A00%3A77%3A00%3A0a&node_uuid=" + node
		if len(a.lookups) != 1 || a.lookups[0] != want {
			t.Errorf("lookups %q, want %q", a.lookups, want)
		}
	})
	r := c.run("deploy.get_deploy_steps", map[string]any{"node": map[string]any{}, "ports": []any{}}, true)
	steps, _ := json.Marshal(r.Result["deploy_steps"])
	if r.code != 200 || !strings.Contains(string(steps), `"step":"write_image"`) ||
		fmt.Sprint(r.Result["hardware_manager_version"]) != "map[ingot:1]" {
		t.Errorf("steps: %+v", r)
	}
	if r := c.run("clean.get_clean_steps", map[string]any{}, true); r.code != 200 || r.Result["clean_steps"] == nil {
		t.Errorf("clean steps: %+v", r)
	}
	if r := c.run("standby.power_off", map[string]any{}, false); r.code != 200 || r.Fault != nil {
		t.Errorf("power off: %+v", r)
	}
	if end := <-c.ended; end != "power off" || c.agent.Syncs() == 0 {
		t.Errorf("it ended by %s after %d flushes", end, c.agent.Syncs())
	}
}

func TestRunImageRestarts(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 4)
	if r := c.run("standby.run_image", map[string]any{}, false); r.code != 200 {
		t.Errorf("%+v", r)
	}
	if end := <-c.ended; end != "restart" {
		t.Errorf("it ended by %s", end)
	}
}

func TestAnImageIsWrittenAndPolledFor(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{Params: agent.Params{Node: node}}, 96)
	image := newImage(1, 8)
	meta := map[string]any{"meta_data": map[string]any{"hostname": "of-the-drive"}}
	r := c.write(imageInfo(image, publish(t, image)), meta)
	if r.Status != "SUCCEEDED" || !strings.Contains(fmt.Sprint(r.Result["deploy_result"]),
		"root_uuid=0x12345678") {
		t.Fatalf("%+v %+v", r, r.Fault)
	}
	step, _ := r.Result["deploy_step"].(map[string]any)
	if step["step"] != "write_image" || step["interface"] != "deploy" || step["args"] != nil {
		t.Errorf("the step is told as %v", step)
	}
	disk := c.disk()
	// A table in which there is the config drive has taken the place of the image's.
	if !bytes.Equal(disk[mib:8*mib], image[mib:]) || disk[510] != 0x55 {
		t.Error("the disk has not the image")
	}
	if at := bytes.Index(disk[8*mib:], []byte("of-the-drive")); at < 0 {
		t.Error("the disk has no config drive")
	}
	if r := c.run("standby.get_partition_uuids", map[string]any{}, true); r.Result["root uuid"] != "0x12345678" {
		t.Errorf("partition uuids %+v", r)
	}
	if r := c.run("image.install_bootloader", map[string]any{"root_uuid": "0x12345678", "target_boot_mode": "bios"},
		true); r.Status != "SUCCEEDED" {
		t.Errorf("install_bootloader %+v", r)
	}
	if r := c.run("standby.sync", map[string]any{}, true); r.Status != "SUCCEEDED" || c.agent.Syncs() != 1 {
		t.Errorf("sync %+v", r)
	}
}

func TestPrepareImageOfOlderConductorsIsTheSame(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 16)
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	image := newImage(2, 3)
	z.Write(image)
	z.Close()
	info := imageInfo(packed.Bytes(), publish(t, packed.Bytes()))
	r := c.run("standby.prepare_image", map[string]any{"image_info": info}, true)
	if r.Status != "SUCCEEDED" || !strings.HasPrefix(fmt.Sprint(r.Result["result"]), "prepare_image: image (") {
		t.Fatalf("%+v %+v", r, r.Fault)
	}
	if !bytes.Equal(c.disk()[:3*mib], image) {
		t.Error("the disk has not what was in the compressed image")
	}
}

// slowly serves an image that stops in the middle until it is released.
type slowly struct {
	data    []byte
	release chan struct{}
}

func (s slowly) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(len(s.data)))
	w.Write(s.data[:len(s.data)/2])
	w.(http.Flusher).Flush()
	select {
	case <-s.release:
		w.Write(s.data[len(s.data)/2:])
	case <-r.Context().Done():
	}
}

// While an image is written, heartbeats are frequent, its progress is told and nothing else is done;
// that the server goes away changes nothing.
func TestServersMayGoWhileAnImageIsWritten(t *testing.T) {
	t.Parallel()
	first, second := newAPI(t), newAPI(t)
	ag := &agent.Agent{APIs: []string{first.url, second.url}}
	c := commission(t, first, ag, 16)
	image := newImage(3, 8)
	source := slowly{image, make(chan struct{})}
	s := httptest.NewServer(source)
	defer s.Close()
	if r := c.run("standby.prepare_image", map[string]any{"image_info": imageInfo(image, s.URL)}, false); r.code != 200 {
		t.Fatalf("%+v", r)
	}
	testkit.Eventually(t, "some of the image is written", func() bool {
		r := c.last()
		return r.Status == "RUNNING" && r.Progress != nil && r.Progress.Bytes > 0 && r.Progress.Total == 8*mib
	})
	if r := c.run("standby.sync", map[string]any{}, true); r.code != 409 ||
		r.Text != "Agent is busy: executing command prepare_image" {
		t.Errorf("meanwhile: %+v", r)
	}
	n := len(first.heartbeats())
	testkit.Eventually(t, "heartbeats come quickly", func() bool { return len(first.heartbeats()) > n+8 })
	first.set(func() { first.refuse = http.StatusServiceUnavailable })
	testkit.Eventually(t, "heartbeats go to the next server", func() bool { return len(second.heartbeats()) > 2 })
	n = len(second.heartbeats())
	close(source.release)
	testkit.Eventually(t, "the image is written", func() bool { return c.last().Status == "SUCCEEDED" })
	testkit.Eventually(t, "a heartbeat tells the end", func() bool { return len(second.heartbeats()) > n })
	if !bytes.Equal(c.disk()[:8*mib], image) {
		t.Error("the disk has not the image")
	}
}

func TestASourceThatBreaksOffIsAskedForTheRest(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 16)
	image := newImage(4, 8)
	var mu sync.Mutex
	var ranges []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		n := len(ranges)
		mu.Unlock()
		if n == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(image)))
			w.Write(image[:3*mib])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "image", time.Time{}, bytes.NewReader(image))
	}))
	defer s.Close()
	if r := c.write(imageInfo(image, s.URL), nil); r.Status != "SUCCEEDED" {
		t.Fatalf("%+v %+v", r, r.Fault)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ranges) != 2 || !strings.HasPrefix(ranges[1], "bytes=") || ranges[1] == "bytes=0-" {
		t.Errorf("asked for %q", ranges)
	}
	if !bytes.Equal(c.disk()[:8*mib], image) {
		t.Error("the disk has not the image")
	}
}

func TestTheNextSourceIsTakenWhenOneFails(t *testing.T) {
	t.Parallel()
	image := newImage(5, 8)
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(image)))
		w.Write(image[:mib/2])
		panic(http.ErrAbortHandler)
	}))
	defer cut.Close()
	for name, bad := range map[string]string{"nobody listens": dead(t), "breaks off": cut.URL,
		"another image": publish(t, newImage(6, 8)), "not found": publishNothing(t)} {
		a := newAPI(t)
		c := commission(t, a, &agent.Agent{}, 16)
		if r := c.write(imageInfo(image, bad, publish(t, image)), nil); r.Status != "SUCCEEDED" {
			t.Errorf("%s: %+v %+v", name, r, r.Fault)
		}
		if !bytes.Equal(c.disk()[:8*mib], image) {
			t.Errorf("%s: the disk has not the image", name)
		}
	}
}

// A conductor that fetches the image itself says so, for longer than package image has patience.
func TestASourceThatIsBusyIsAskedLater(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 16)
	image := newImage(11, 3)
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 5 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Write(image)
	}))
	defer s.Close()
	r := c.write(imageInfo(image, publishNothing(t), s.URL), nil)
	if r.Status != "SUCCEEDED" || asked.Load() != 5 {
		t.Errorf("after %d questions: %+v %+v", asked.Load(), r, r.Fault)
	}
	if !bytes.Equal(c.disk()[:3*mib], image) {
		t.Error("the disk has not the image")
	}
	b := newAPI(t)
	c = commission(t, b, &agent.Agent{Sources: time.Second}, 4)
	begin := time.Now()
	if r := c.write(imageInfo(image, dead(t), dead(t)), nil); r.Status != "FAILED" || r.Fault.Type !=
		"ImageDownloadError" || time.Since(begin) < time.Second {
		t.Errorf("nobody there for %v: %+v %+v", time.Since(begin), r, r.Fault)
	}
}

// What counts is how long sources fail, not how long the image took before.
func TestPatienceBeginsWithAFailure(t *testing.T) {
	t.Parallel()
	at := func(minute int) time.Time { return time.Unix(1e9, 0).Add(time.Duration(minute) * time.Minute) }
	p := agent.NewPatience(3 * time.Minute)
	for _, f := range []struct {
		minute int
		after  int64
		over   bool
	}{
		{60, 500, false}, // after an hour of writing
		{62, 0, false},
		{64, 500, true},  // not farther than before
		{90, 501, false}, // farther
		{92, 300, false}, {94, 300, true},
	} {
		p.Failed(at(f.minute), f.after)
		if over := p.Over(at(f.minute)); over != f.over {
			t.Errorf("minute %d, after %d bytes: over is %t", f.minute, f.after, over)
		}
	}
}

// An image that was there before is none that is there when another one could not be written.
func TestAnImageIsKnownUntilTheNextIsWritten(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 16)
	image := newImage(13, 3)
	url := publish(t, image)
	if r := c.write(imageInfo(image, url), nil); r.Status != "SUCCEEDED" {
		t.Fatalf("%+v %+v", r, r.Fault)
	}
	if r := c.run("standby.get_partition_uuids", map[string]any{}, true); r.Result["root uuid"] != "0x12345678" {
		t.Errorf("after the image: %+v", r)
	}
	if r := c.write(imageInfo(newImage(14, 3), url), nil); r.Status != "FAILED" {
		t.Fatalf("another image is written: %+v", r)
	}
	if r := c.run("standby.get_partition_uuids", map[string]any{}, true); r.code != 200 || len(r.Result) != 0 {
		t.Errorf("after a failure: %+v", r)
	}
}

// Errors are told to whoever asks, and put on the console.
func TestErrorsShowNoSecretsOfURLs(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 4)
	image := newImage(15, 3)
	nothing := strings.TrimPrefix(publishNothing(t), "http://")
	for _, url := range []string{"http://reader:hush@" + nothing + "/i?sig=hush", "ftp://reader:hush@h/i?sig=hush",
		"http://reader:hush@h:hush/i?sig=hush", "http:///i?sig=hush", "swift:hush?sig=hush", "http://h/%zz?sig=hush"} {
		info := imageInfo(image, url)
		r := c.write(info, nil)
		if r.Status != "FAILED" || strings.Contains(fmt.Sprint(r, r.Fault), "hush") {
			t.Errorf("%s: %+v %+v", url, r, r.Fault)
		}
		info["image_server_auth_strategy"], info["image_server_user"], info["image_server_password"] = "http_basic",
			"reader", "hush"
		if r := c.write(info, nil); r.Status != "FAILED" || strings.Contains(fmt.Sprint(r, r.Fault), "hush") {
			t.Errorf("%s with a password: %+v %+v", url, r, r.Fault)
		}
	}
	for _, line := range c.agent.Said() {
		if strings.Contains(line, "hush") {
			t.Errorf("the console has %q", line)
		}
	}
}

func publishNothing(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.URL
}

// What cannot be written ends as a failure of the right class, leaves nothing that boots, and may be tried again.
func TestWhatCannotBeWrittenIsSaid(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{Spool: t.TempDir()}, 16)
	image, large := newImage(7, 8), newImage(8, 20)
	with := func(info map[string]any, key string, value any) map[string]any { info[key] = value; return info }
	url := publish(t, image)
	for _, bad := range []struct {
		info       map[string]any
		kind, says string
	}{
		{imageInfo(large, url), "ImageChecksumError", "instance_info promises"},
		{imageInfo(large, publish(t, large)), "ImageWriteError", "disk has only"},
		{imageInfo(image, publishNothing(t)), "ImageDownloadError", "404"},
		{imageInfo(image), "InvalidCommandParamsError", "no urls"},
		{imageInfo(image, "file:///etc/passwd"), "InvalidCommandParamsError", "http and https"},
		{imageInfo(image, "swift://x/y"), "InvalidCommandParamsError", "http and https"},
		{with(imageInfo(image, url), "image_type", "partition"), "InvalidCommandParamsError", "no root_mb"},
		{with(imageInfo(image, url), "root_mb", 10240), "InvalidCommandParamsError", "the disk has 16 MiB"},
		{with(imageInfo(image, url), "root_mb", -1), "InvalidCommandParamsError", "no size in MiB"},
		{with(imageInfo(image, url), "root_mb", "1e300"), "InvalidCommandParamsError", "no size in MiB"},
		{with(imageInfo(image, url), "root_mb", "9"), "ImageWriteError", "begins with no file system"},
		{with(imageInfo(image, url), "root_mb", 2), "ImageWriteError", "the root partition has only"},
		{with(imageInfo(image, url), "disk_format", "vmdk"), "InvalidCommandParamsError", "qemu-img"},
		{with(imageInfo(image, url), "disk_format", "qcow2"), "ImageDownloadError", "the content is raw"},
		{with(imageInfo(image, url), "os_hash_value", nil), "InvalidCommandParamsError", "Missing are"},
		{with(imageInfo(image, url), "proxies", map[string]string{"http": "http://x"}), "InvalidCommandParamsError", "proxies"},
	} {
		r := c.write(bad.info, nil)
		if r.Status != "FAILED" || r.Fault == nil || r.Fault.Type != bad.kind || !strings.Contains(r.Fault.Details, bad.says) {
			t.Errorf("%v: %+v %+v, want %s: %s", bad.info, r, r.Fault, bad.kind, bad.says)
		}
	}
	if d := c.disk(); d[510] == 0x55 && d[511] == 0xAA {
		t.Error("what is left on the disk has a boot sector")
	}
	r := c.write(imageInfo(image, url), "no base64 at all!")
	if r.Status != "FAILED" || !strings.Contains(r.Fault.Details, "config drive") {
		t.Errorf("a bad config drive: %+v %+v", r, r.Fault)
	}
	if r := c.write(imageInfo(image, url), nil); r.Status != "SUCCEEDED" {
		t.Errorf("in the end: %+v %+v", r, r.Fault)
	}
}

// qcow2 images are kept whole in memory where there is room for that.
func TestAQcow2ImageIsWrittenIfItFitsIntoMemory(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{Spool: t.TempDir()}, 16)
	image := newImage(12, 3)
	raw, packed := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "qcow2")
	if err := os.WriteFile(raw, image, 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, packed)
	data, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	info := imageInfo(data, publish(t, data))
	info["disk_format"] = "qcow2"
	if r := c.write(info, nil); r.Status != "SUCCEEDED" {
		t.Errorf("%+v %+v", r, r.Fault)
	}
	if !bytes.Equal(c.disk()[:3*mib], image) {
		t.Error("the disk has not the image")
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(1<<50))
		w.Write(data)
		<-r.Context().Done()
	}))
	defer s.Close()
	info["urls"], info["os_hash_value"] = []string{s.URL}, digest(image) // what is in the spool is no help
	if r := c.write(info, nil); r.Status != "FAILED" || r.Fault.Type != "ImageDownloadError" ||
		!strings.Contains(r.Fault.Details, "deploy interface iscsi") {
		t.Errorf("one that is too large: %+v %+v", r, r.Fault)
	}
}

func TestCredentialsForTheImageAreUsed(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 16)
	image := newImage(9, 4)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, word, _ := r.BasicAuth(); user != "reader" || word != "p@ss/word" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Write(image)
	}))
	defer s.Close()
	info := imageInfo(image, s.URL)
	info["image_server_auth_strategy"], info["image_server_user"], info["image_server_password"] = "http_basic", "reader",
		"p@ss/word"
	if r := c.write(info, nil); r.Status != "SUCCEEDED" {
		t.Errorf("%+v %+v", r, r.Fault)
	}
	for _, line := range c.agent.Said() {
		if strings.Contains(line, "ss/word") {
			t.Errorf("the console has %q", line)
		}
	}
}

func TestStepsOfAnotherVersionAreNotExecuted(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 4)
	before := c.disk()
	r := c.run("clean.execute_clean_step", map[string]any{"step": map[string]any{"step": "erase_devices_metadata",
		"interface": "deploy"}, "clean_version": map[string]string{"generic_hardware_manager": "1.1"}}, true)
	if r.Status != "CLEAN_VERSION_MISMATCH" || !bytes.Equal(before, c.disk()) {
		t.Errorf("%+v", r)
	}
	r = c.run("deploy.execute_deploy_step", map[string]any{"step": map[string]any{"step": "format_everything"}}, true)
	if r.Status != "FAILED" || !strings.Contains(r.Fault.Details, "no deploy step") {
		t.Errorf("%+v %+v", r, r.Fault)
	}
}

func TestErasingMetadataZeroesTheEndsOfDisks(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 4)
	r := c.run("clean.execute_clean_step", map[string]any{"step": map[string]any{"step": "erase_devices_metadata",
		"interface": "deploy"}, "clean_version": nil}, true)
	if r.Status != "SUCCEEDED" {
		t.Fatalf("%+v %+v", r, r.Fault)
	}
	want := bytes.Repeat([]byte{oldByte}, 4*mib)
	clear(want[:mib])
	clear(want[3*mib:])
	if !bytes.Equal(c.disk(), want) {
		t.Error("something else is zero")
	}
}

func TestTheDiskIsLentToOldConductors(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 4)
	const iqn = "iqn.2008-10.org.openstack:" + node
	params := map[string]any{"iqn": iqn, "portal_port": 3260, "wipe_disk_metadata": true}
	for range 2 {
		r := c.run("iscsi.start_iscsi_target", params, true)
		if r.Status != "SUCCEEDED" || r.Result["iscsi_target_iqn"] != iqn || r.Result["chap_password"] != nil {
			t.Fatalf("%+v %+v", r, r.Fault)
		}
	}
	if got := c.agent.Exports(); len(got) != 1 || got[0] != (agent.Target{IQN: iqn, Portal: "0.0.0.0:3260"}) {
		t.Errorf("lent as %+v", got)
	}
	params["iqn"] = iqn + "x"
	if r := c.run("iscsi.start_iscsi_target", params, true); r.Status != "FAILED" {
		t.Errorf("lent twice: %+v", r)
	}
	params["iqn"] = "../../x"
	if r := c.run("iscsi.start_iscsi_target", params, true); r.Status != "FAILED" || r.Fault.Code != 400 {
		t.Errorf("%+v", r)
	}
	c.run("standby.run_image", map[string]any{}, false)
	<-c.ended
	if got := c.agent.Exports(); len(got) != 0 {
		t.Errorf("still lent: %+v", got)
	}
}

func TestTheDiskIsLentWithCHAPToWhoWantsIt(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 4)
	r := c.run("iscsi.start_iscsi_target", map[string]any{"iqn": "iqn.2008-10.org:x", "chap": true}, true)
	got := c.agent.Exports()
	if len(got) != 1 || got[0].Secret == "" || r.Result["chap_password"] != got[0].Secret ||
		r.Result["chap_username"] != got[0].User {
		t.Errorf("%+v %+v", r, got)
	}
	if r := c.last(); r.Name != "start_iscsi_target" || r.Status != "SUCCEEDED" || r.Value != nil {
		t.Errorf("who has no token is told %+v", r)
	}
}

func TestLogsComeWithoutSecrets(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.token = "******"
	c := commission(t, a, &agent.Agent{Params: agent.Params{Token: aToken}}, 4)
	r := c.run("log.collect_system_logs", map[string]any{}, true)
	packed, err := base64.StdEncoding.DecodeString(fmt.Sprint(r.Result["system_logs"]))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
	if files["dmesg"] != "Command line: ipa-agent-token=******" || files["agent.log"] != "x" {
		t.Errorf("logs are %v", files)
	}
}

func TestTheInventoryNamesTheDisk(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	c := commission(t, a, &agent.Agent{}, 4)
	r := c.run("poll.get_hardware_info", map[string]any{}, true)
	text, _ := json.Marshal(r.Result)
	if r.code != 200 || !strings.Contains(string(text), `"name":"/dev/test"`) || r.Result["memory"] == nil {
		t.Errorf("%s", text)
	}
}

func TestATokenOnTheCommandLineNeedsNotBeTold(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.token = "******"
	c := commission(t, a, &agent.Agent{Params: agent.Params{Token: aToken}}, 4)
	if b := a.heartbeats()[0]; b.Token != aToken {
		t.Errorf("heartbeat %+v", b)
	}
	c.token = "an-old-one"
	if r := c.run("standby.sync", map[string]any{}, true); r.code != 401 {
		t.Errorf("with an old token: %+v", r)
	}
	if c.agent.Syncs() != 0 {
		t.Error("it was done all the same")
	}
}

func TestWhoIsNotToldItsTokenSaysSoAndEnds(t *testing.T) {
	t.Parallel()
	for text, change := range map[string]func(*api){
		"the token of this machine's agent was told": func(a *api) { a.token = "******" },
		"told no token": func(a *api) { a.token = "" },
		"needs 1.68":    func(a *api) { a.version = "1.58" },
		"takes this machine for node": func(a *api) {
			a.lookup = func(w http.ResponseWriter, _ int) {
				io.WriteString(w, `{"node": {"uuid": "another"}, "config": {"agent_token": "x"}}`)
			}
		},
	} {
		a := newAPI(t)
		change(a)
		ag := &agent.Agent{APIs: []string{a.url}, Patience: 10 * time.Second, Params: agent.Params{Node: node}}
		begin := time.Now()
		end, err := ag.Run(t.Context())
		if end != "power off" || err == nil || !strings.Contains(err.Error(), text) || time.Since(begin) > 5*time.Second {
			t.Errorf("%s: it ended by %s with %v", text, end, err)
		}
	}
}

func TestLookupIsRepeatedUntilTheNodeIsKnown(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.lookup = func(w http.ResponseWriter, n int) {
		switch n {
		case 1:
			w.WriteHeader(404)
		case 2, 3:
			w.WriteHeader(409)
		case 4:
			io.WriteString(w, "[]")
		case 5:
			w.WriteHeader(500)
		default:
			a.lookup = nil
			w.WriteHeader(404)
		}
	}
	commission(t, a, &agent.Agent{APIs: []string{dead(t), a.url}}, 4)
}

// A node is locked for as long as somebody works on it.
func TestALockedNodeIsAskedForMoreAndMoreSeldom(t *testing.T) {
	t.Parallel()
	for before, want := range []time.Duration{5, 10, 30, 30} {
		if d := agent.ConflictPause(&agent.Caller{}, before); d != want*time.Second {
			t.Errorf("after %d times before the pause is %v, want %d s", before, d, want)
		}
	}
}

func TestLookupEndsWithAReason(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.lookup = func(w http.ResponseWriter, _ int) {
		w.WriteHeader(404)
		io.WriteString(w, `{"error_message": {"faultstring": "Node could not be found."}}`)
	}
	ag := &agent.Agent{APIs: []string{a.url}, Patience: 200 * time.Millisecond}
	end, err := ag.Run(t.Context())
	if end != "power off" || err == nil || !strings.Contains(err.Error(), "Node could not be found") ||
		!strings.Contains(err.Error(), "52:54:00:77:00:09") {
		t.Errorf("it ended by %s with %v", end, err)
	}
}

func TestHeartbeatsGoOnAtTheirPace(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seconds = 1
	c := commission(t, a, &agent.Agent{}, 4)
	if r := c.run("standby.sync", map[string]any{}, true); r.code != 200 { // somebody is there
		t.Fatalf("%+v", r)
	}
	n := len(a.heartbeats())
	begin := time.Now()
	testkit.Eventually(t, "four more come", func() bool { return len(a.heartbeats()) >= n+4 })
	if d := time.Since(begin); d < 800*time.Millisecond {
		t.Errorf("four heartbeats within %v; they are to be 0.3 to 0.6 s apart", d)
	}
}

func FuzzParseStep(f *testing.F) {
	f.Add([]byte(`{"step": {"step": "write_image", "interface": "deploy", "args": {"image_info": {"urls": ` +
		`["http://x/y"], "root_mb": null, "os_hash_algo": null}, "configdrive": "H4sI"}}, "deploy_version": {"ingot": "1"}}`))
	f.Add([]byte(`{"step": {"step": "write_image", "args": {"image_info": {"urls": ["http://x/y"], "root_mb": "10", ` +
		`"swap_mb": 1, "ephemeral_mb": 1.5, "ephemeral_format": "ext4", "preserve_ephemeral": "True", "disk_label": "gpt", ` +
		`"image_type": "partition", "boot_option": "local", "deploy_boot_mode": "bios"}}}}`))
	f.Add([]byte(`{"step": {"step": 5}, "deploy_version": null}`))
	f.Add([]byte(`{"step": {"step": "x", "args": null}, "deploy_version": []}`))
	f.Fuzz(func(t *testing.T, params []byte) {
		step, err := agent.ParseStep(params, "deploy_version")
		if err != nil {
			return
		}
		args, err := agent.ParseWriteArgs(step.Args)
		if err != nil {
			return
		}
		if i := args.Image; len(i.URLs) == 0 || i.RootMB < 0 || i.SwapMB < 0 || i.EphemeralMB < 0 ||
			i.RootMB+i.SwapMB+i.EphemeralMB < 0 || i.Type == "partition" && i.RootMB == 0 {
			t.Errorf("%q: %+v", params, i)
		}
	})
}

func FuzzParseStanding(f *testing.F) {
	f.Add([]byte(`{"node": {"uuid": "x"}, "config": {"heartbeat_timeout": 300, "agent_token": "y"}}`))
	f.Add([]byte(`{"node": {"uuid": "../x"}}`))
	f.Add([]byte(`{"node": {"uuid": "x"}, "config": {"heartbeat_timeout": -1e300}}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		s, err := agent.ParseStanding(answer)
		if err == nil && (s.Heartbeat < time.Second || strings.Contains(s.Node, "/")) {
			t.Errorf("%q: %+v", answer, s)
		}
	})
}
