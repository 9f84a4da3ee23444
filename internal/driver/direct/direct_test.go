package direct_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/direct"
	"ingot/internal/driver/fake"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/ipa/ipatest"
	"ingot/internal/testkit"
)

const base = "http://192.0.2.1:8080"

// agentSteps is what agents say of their steps.
var agentSteps = map[string]any{
	"deploy_steps": map[string]any{"ingot": []any{map[string]any{"step": "write_image", "interface": "deploy",
		"priority": 0, "reboot_requested": false}}},
	"hardware_manager_version": map[string]any{"ingot": "1"},
}

// rig is a deploy interface, an agent, and a node whose first heartbeat was heard.
type rig struct {
	*direct.Deploy
	t     *testing.T
	dir   string
	agent *ipatest.Agent
	task  *driver.Task

	mu          sync.Mutex
	given       map[string]any      // guarded by mu; parameters of the last write
	fails       error               // guarded by mu; what comes of a write
	result      any                 // guarded by mu; what it says of it
	steps       func() (any, error) // guarded by mu; what comes of the question for steps; nil: agentSteps
	root        string              // guarded by mu; by what the root is known
	loader      map[string]any      // guarded by mu; parameters of the last boot loader
	loaderFails error               // guarded by mu
	notes       []string            // guarded by mu
	saves       int                 // guarded by mu
}

func newRig(t *testing.T, change func(*direct.Options)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), root: "0x04030201"}
	o := direct.Options{Local: true, URL: base, Servers: func(driver string) []string {
		return []string{base, "http://192.0.2.2:8080", "http://192.0.2.3:8080", "http://192.0.2.4:8080",
			"http://192.0.2.5:8080"}
	}, Image: image.Options{AllowedPaths: []string{r.dir}, SpoolDir: filepath.Join(r.dir, "spool"),
		Client: http.DefaultClient, Retries: -1}}
	if change != nil {
		change(&o)
	}
	r.Deploy = direct.New(o)
	r.agent = ipatest.Start(t, func(_ context.Context, name string, params json.RawMessage,
		_ func(int64, int64)) (any, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch name {
		case "standby.get_partition_uuids":
			return map[string]any{"root uuid": r.root, "partitions": map[string]any{}}, nil
		case "image.install_bootloader":
			r.loader = nil
			return nil, errors.Join(json.Unmarshal(params, &r.loader), r.loaderFails)
		}
		if name == "deploy.get_deploy_steps" {
			if r.steps != nil {
				return r.steps()
			}
			return agentSteps, nil
		}
		r.given = nil
		if r.fails != nil {
			return nil, r.fails
		}
		return map[string]any{"deploy_result": r.result}, json.Unmarshal(params, &r.given)
	})
	r.agent.SetToken("t0ken")
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Driver: "ipmi",
		ProvisionState: "deploying", Interfaces: map[string]string{"deploy": "direct"},
		Properties: ingot.Object{"root_device": ingot.Object{"name": "/dev/sda"}},
		DriverInfo: ingot.Object{"ipmi_password": "secret1"}, InstanceInfo: ingot.Object{},
		Steps: r.Steps(nil), Step: 1,
		Attempt: &ingot.Attempt{ID: "5f3a9c01", Key: "key", Boots: 1, Agent: &ingot.Agent{Token: "t0ken",
			URL: r.agent.URL, CA: r.agent.CA, Version: "9.4.0"}}}
	r.task = &driver.Task{Node: n, Log: slog.New(slog.DiscardHandler),
		Ports:  []*ingot.Port{{UUID: "3be26c0b-03f2-4d2e-ae87-c02d7f33c123", Address: "52:54:00:12:34:56"}},
		Driver: driver.Driver{Power: fake.Power{}, Management: fake.Management{}, Boot: fake.Boot{}, Deploy: r},
		Save: func(context.Context) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.saves++
			return nil
		},
		Note: func(e ingot.Entry) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.notes = append(r.notes, e.Source+" "+e.Text)
		}}
	return r
}

// image puts a file where it can be fetched by file:// and by web, and makes it the node's.
func (r *rig) image(content []byte, web bool) {
	r.t.Helper()
	path := filepath.Join(r.dir, "disk.img")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	source := "file://" + path
	if web {
		server := httptest.NewServer(http.FileServer(http.Dir(r.dir)))
		r.t.Cleanup(server.Close)
		source = server.URL + "/disk.img?signature=secret2"
	}
	sum := sha256.Sum256(content)
	r.task.Node.InstanceInfo = ingot.Object{"image_source": source, "image_checksum": hex.EncodeToString(sum[:])}
}

func (r *rig) execute(step string) (driver.Outcome, error) {
	return r.Execute(r.t.Context(), r.task, ingot.Step{Interface: "deploy", Name: step})
}

// write has the image written and returns what the agent was told of it.
func (r *rig) write() (info map[string]any) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		out, err := r.execute("write_image")
		if err != nil {
			r.t.Fatal(err)
		}
		if !out.Wait {
			break
		}
		if time.Now().After(end) {
			r.t.Fatal("not written")
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	args := r.given["step"].(map[string]any)["args"].(map[string]any)
	return args["image_info"].(map[string]any)
}

func qcow2Of(t *testing.T, raw []byte) []byte {
	t.Helper()
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(in, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", in, out)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func packed(raw []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(raw)
	z.Close()
	return b.Bytes()
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// packedMost takes more memory to unpack than a ramdisk is believed to have.
func packedMost(t *testing.T, b []byte) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "xz", "-9", "-c")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAnAgentFetchesFromTheSourceWhatItCanReadAndTheRestFromConductors(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte("content "), 1<<17)
	for name, c := range map[string]struct {
		file    []byte
		web     bool
		version string
		direct  bool
	}{
		"raw, web": {raw, true, "9.4.0", true}, "raw, file": {raw, false, "9.4.0", false},
		"qcow2, web": {qcow2Of(t, raw), true, "9.4.0", false}, "qcow2, file": {qcow2Of(t, raw), false, "9.4.0", false},
		"packed, web, an agent that unpacks":  {packed(raw), true, "9.4.0+ingot", true},
		"packed, web, an agent that does not": {packed(raw), true, "9.4.0", false},
		"packed, file":                        {packed(raw), false, "9.4.0+ingot", false},
		"packed by xz -9, web":                {packedMost(t, raw), true, "9.4.0+ingot", false},
	} {
		r := newRig(t, nil)
		r.image(c.file, c.web)
		n := r.task.Node
		n.Attempt.Agent.Version = c.version
		if err := r.Validate(t.Context(), r.task); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		info := r.write()
		var urls []string
		for _, u := range info["urls"].([]any) {
			urls = append(urls, u.(string))
		}
		if info["disk_format"] != "raw" || info["os_hash_algo"] != "sha256" || info["node_uuid"] != n.UUID ||
			info["image_type"] != "whole-disk" || info["stream_raw_images"] != true || info["id"] != "disk.img" ||
			info["checksum"] != info["os_hash_value"] {
			t.Errorf("%s: %v", name, info)
		}
		if root := n.DriverInternalInfo["root_uuid_or_disk_id"]; root != "0x04030201" {
			t.Errorf("%s: root %v", name, root)
		}
		if c.direct {
			if len(urls) != 1 || urls[0] != n.InstanceInfo["image_source"] || info["os_hash_value"] != sumOf(c.file) ||
				n.Attempt.Content.Name != "" {
				t.Errorf("%s: %v", name, info)
			}
			continue
		}
		if len(urls) != 4 || !strings.HasPrefix(urls[0], base+"/agent_images/"+n.UUID+"/") || info["os_hash_value"] != sumOf(raw) ||
			urls[1][len(base):] != urls[0][len(base):] || n.Attempt.Content.Size != int64(len(raw)) ||
			n.Attempt.Content.SHA256 != sumOf(raw) {
			t.Errorf("%s: %v, %+v", name, info, n.Attempt.Content)
		}
	}
	// Whom only this host believes, no agent does.
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(raw) }))
	t.Cleanup(web.Close)
	for _, private := range []bool{false, true} {
		r := newRig(t, func(o *direct.Options) { o.PrivateCA, o.Image.Client = private, web.Client() })
		r.task.Node.InstanceInfo = ingot.Object{"image_source": web.URL, "image_checksum": sumOf(raw)}
		if url := r.write()["urls"].([]any)[0]; (url == web.URL) == private {
			t.Errorf("private %v: %v", private, url)
		}
	}
}

// From where it comes, the node says, and else the site.
func TestTheSourceOfADownloadCanBeChosen(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte("content "), 1<<10)
	for name, c := range map[string]struct {
		site, driverInfo string
		instanceInfo     any
		conductors       bool
		refused          string
	}{
		"by default":                 {"", "", nil, false, ""},
		"site":                       {"local", "", nil, true, ""},
		"driver_info":                {"http", "local", nil, true, ""},
		"instance_info":              {"http", "local", "http", false, ""},
		"swift, which is for Glance": {"swift", "", nil, false, ""},
		"another":                    {"", "", "ftp", false, "known are http, local and swift"},
		"a number":                   {"", "", 7, false, "known are http, local and swift"},
	} {
		r := newRig(t, func(o *direct.Options) {
			o.DownloadSource = c.site
			o.SwiftURL = func(context.Context, string) (string, error) { return "", errors.New("not of Glance") }
		})
		r.image(raw, true)
		n := r.task.Node
		if c.driverInfo != "" {
			n.DriverInfo["image_download_source"] = c.driverInfo
		}
		if c.instanceInfo != nil {
			n.InstanceInfo["image_download_source"] = c.instanceInfo
		}
		err := r.Validate(t.Context(), r.task)
		if c.refused != "" {
			if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(name, err)
		}
		urls := r.write()["urls"].([]any)
		if strings.HasPrefix(urls[0].(string), base) != c.conductors {
			t.Errorf("%s: %v", name, urls)
		}
	}
	r := newRig(t, func(o *direct.Options) { o.DownloadSource = "swift" })
	r.image(raw, true)
	if err := r.Validate(t.Context(), r.task); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "no Swift is configured") {
		t.Errorf("without Swift: %v", err)
	}
}

// A file of a few bytes may describe a disk that takes hours to be hashed: the operator hears of it.
func TestADigestThatTakesTooLongEndsTheDeployment(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.SetDigestWithin(50 * time.Millisecond)
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, "16T")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.image(file, false)
	for _, step := range []string{"write_image", "deploy"} {
		_, err = r.execute(step)
		r.task.Node.Attempt = nil // the machine is not started yet
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "within 50ms") {
			t.Errorf("%s: %v", step, err)
		}
	}
}

func TestAnAgentIsToldNoSecretsOfTheNode(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.image([]byte("image"), false)
	n := r.task.Node
	n.InstanceInfo["image_url"], n.InstanceInfo["configdrive"] = "secret3", ingot.Object{
		"meta_data": ingot.Object{"hostname": "web1"}}
	info := r.write()
	r.mu.Lock()
	defer r.mu.Unlock()
	node := r.given["node"].(map[string]any)
	text, _ := json.Marshal(r.given)
	for _, secret := range []string{"secret1", "secret2", "secret3", "t0ken"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the agent is told %s: %s", secret, text)
		}
	}
	if node["uuid"] != n.UUID || node["properties"].(map[string]any)["root_device"] == nil ||
		r.given["ports"].([]any)[0].(map[string]any)["address"] != "52:54:00:12:34:56" {
		t.Errorf("%s", text)
	}
	args := r.given["step"].(map[string]any)["args"].(map[string]any)
	drive, err := base64.StdEncoding.DecodeString(args["configdrive"].(string))
	if err != nil || info["configdrive"] != args["configdrive"] {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(drive))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "drive")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, z); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("isoinfo", "-R", "-i", path, "-x", "/openstack/latest/meta_data.json").Output()
	if err != nil || !strings.Contains(string(out), `"hostname":"web1"`) {
		t.Errorf("isoinfo: %v %s", err, out)
	}
}

// An agent that cannot write images is not told to, and the operator hears what it is instead of an error of
// its Python.
func TestAnAgentIsAskedWhetherItWritesImages(t *testing.T) {
	t.Parallel()
	other := map[string]any{"deploy_steps": map[string]any{
		"raid": []any{map[string]any{"step": "apply_configuration", "interface": "raid"}},
		"fake": []any{map[string]any{"step": "write_image", "interface": "fake"}}}}
	for want, steps := range map[string]func() (any, error){
		"the agent has the steps fake.write_image, raid.apply_configuration; deploy interface direct needs an agent": func() (
			any, error) {
			return other, nil
		},
		"the agent has the steps none; deploy interface direct": func() (any, error) { return nil, nil },
		"the agent does not tell its steps: the agent's command get_deploy_steps failed: Extension with id deploy not found": func() (
			any, error) {
			return nil, fmt.Errorf("Extension with id deploy not found")
		},
		"the agent does not tell its steps: the agent's list of steps": func() (any, error) {
			return map[string]any{"deploy_steps": "write_image"}, nil
		},
	} {
		r := newRig(t, nil)
		r.image([]byte("image"), false)
		r.steps = steps
		_, err := r.execute("write_image")
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "change deploy_ramdisk") {
			t.Errorf("want %q: %v", want, err)
		}
		if names := r.agent.Names(); len(names) != 1 {
			t.Errorf("%v", names)
		}
	}
	r := newRig(t, nil)
	r.image([]byte("image"), false)
	r.write()
	if v := r.given["deploy_version"]; fmt.Sprint(v) != "map[ingot:1]" {
		t.Errorf("deploy_version %v", v)
	}
}

// What is written is told in the words of the agent, which Ironic's own puts into another object.
func TestTheJournalHasTheWordsOfTheAgent(t *testing.T) {
	t.Parallel()
	for want, result := range map[string]any{
		"by the agent: image (1) written to device /dev/sda": "image (1) written to device /dev/sda",
		"by the agent: prepare_image: image (1) written":     map[string]any{"result": "prepare_image: image (1) written"},
		"image written and verified by the agent":            []int{1},
	} {
		r := newRig(t, nil)
		r.image([]byte("image"), false)
		r.result = result
		r.write()
		if !slices.ContainsFunc(r.notes, func(note string) bool { return strings.HasSuffix(note, want) }) {
			t.Errorf("%q is not in %q", want, r.notes)
		}
	}
}

// An agent that cannot fetch an image says from where, and what it says is for everybody who sees the node.
func TestAFailureOfTheAgentTellsNoSecrets(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.image([]byte("image"), false)
	path := direct.ContentPath(r.task.Node)
	r.fails = fmt.Errorf("fetch %s%s: Max retries exceeded with url: %s; then http://u:secret@192.0.2.9/x?s=secret",
		base, path, path)
	var err error
	for end := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(end); {
		_, err = r.execute("write_image")
	}
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "fetch "+base+"/...") ||
		strings.Contains(err.Error(), "agent_images") || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// partition makes the image of the node a partition image.
func (r *rig) partition(more ingot.Object) {
	r.t.Helper()
	r.image([]byte("image"), false)
	r.root = "6f0d2a1c-58b3-4c5e-9c66-0c2b8f3f9a10"
	r.task.Node.Instance = &ingot.Instance{}
	for k, v := range more {
		r.task.Node.InstanceInfo[k] = v
	}
	if err := r.Validate(r.t.Context(), r.task); err != nil {
		r.t.Fatal(err)
	}
}

func TestAnAgentIsToldThePartitionsOfAPartitionImage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ info, want ingot.Object }{
		"from the network": {ingot.Object{"kernel": "http://k", "ramdisk": "http://r", "root_gb": 10, "swap_mb": "512",
			"ephemeral_gb": 1.5, "preserve_ephemeral": "yes"},
			ingot.Object{"image_type": "partition", "root_mb": 10240, "swap_mb": 512, "ephemeral_mb": 1536,
				"ephemeral_format": "ext4", "preserve_ephemeral": true, "disk_label": "gpt", "deploy_boot_mode": "uefi",
				"boot_option": "netboot"}},
		"from the disk": {ingot.Object{"image_type": "partition", "root_gb": 0.0045,
			"capabilities": "boot_option:local,boot_mode:bios"},
			ingot.Object{"image_type": "partition", "root_mb": 5, "swap_mb": 0, "ephemeral_mb": 0,
				"preserve_ephemeral": false, "disk_label": "msdos", "deploy_boot_mode": "bios", "boot_option": "local"}},
	} {
		r := newRig(t, nil)
		r.partition(c.info)
		told, n := r.write(), r.task.Node
		for k, want := range c.want {
			if fmt.Sprint(told[k]) != fmt.Sprint(want) {
				t.Errorf("%s: %s is %v, want %v", name, k, told[k], want)
			}
		}
		if n.Instance.RootUUID != r.root || n.DriverInternalInfo["root_uuid_or_disk_id"] != r.root ||
			n.DriverInternalInfo["is_whole_disk_image"] != false {
			t.Errorf("%s: %+v, %v", name, n.Instance, n.DriverInternalInfo)
		}
		for end := time.Now().Add(20 * time.Second); ; {
			out, err := r.execute("prepare_instance_boot")
			if err != nil || time.Now().After(end) {
				t.Fatal(name, err)
			}
			if !out.Wait {
				break
			}
			if h := r.Heard(t.Context(), r.task); h.Done != 0 {
				t.Errorf("%+v", h)
			}
		}
		if local := name == "from the disk"; local != (r.loader != nil) || local && (r.loader["root_uuid"] != r.root ||
			r.loader["target_boot_mode"] != "bios") {
			t.Errorf("%s: boot loader %v", name, r.loader)
		}
	}
}

func TestAPartitionImageThatWouldNotBootIsAFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.partition(ingot.Object{"kernel": "http://k", "ramdisk": "http://r", "root_gb": 1})
	r.root = ""
	_, err := r.execute("write_image")
	for end := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(end); {
		_, err = r.execute("write_image")
	}
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "UUID of the root file system") ||
		r.task.Node.Attempt.Written {
		t.Errorf("without a UUID: %v", err)
	}
	r = newRig(t, nil)
	r.partition(ingot.Object{"image_type": "partition", "root_gb": 1, "capabilities": "boot_option:local,boot_mode:bios"})
	r.write()
	r.loaderFails = errors.New("no boot loader in its boot sector")
	_, err = r.execute("prepare_instance_boot")
	for end := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(end); {
		_, err = r.execute("prepare_instance_boot")
	}
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "install_bootloader failed: no boot loader in") {
		t.Errorf("without a boot loader: %v", err)
	}
	if names := r.agent.Names(); slices.Index(names, "install_bootloader") != len(names)-1 {
		t.Errorf("%v", names)
	}
	for want, info := range map[string]ingot.Object{
		"root_gb":                 {"kernel": "http://k", "ramdisk": "http://r"},
		"set kernel and ramdisk":  {"image_type": "partition", "root_gb": 1},
		"an EFI system partition": {"image_type": "partition", "root_gb": 1, "capabilities": "boot_option:local"},
		"image_type=partition":    {"root_gb": 1, "ephemeral_gb": 1, "preserve_ephemeral": true},
		"must be true or false":   {"root_gb": 1, "ephemeral_gb": 1, "preserve_ephemeral": "ture"},
	} {
		r := newRig(t, nil)
		r.image([]byte("image"), false)
		for k, v := range info {
			r.task.Node.InstanceInfo[k] = v
		}
		err := r.Validate(t.Context(), r.task)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", info, err, want)
		}
	}
}

func TestAnImageNeedsAChecksum(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.image([]byte("image"), false)
	delete(r.task.Node.InstanceInfo, "image_checksum")
	if err := r.Validate(t.Context(), r.task); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("without a checksum: %v", err)
	}
}

func TestTheMachineIsSwitchedOffThoughItsAgentIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.task.Node.Attempt.Written = true
	r.agent.Stop()
	for range 2 { // the second time the agent is not asked
		if _, err := r.execute("tear_down_agent"); err != nil {
			t.Fatal(err)
		}
	}
	n := r.task.Node
	if n.PowerState != ingot.PowerOff || !n.Attempt.Completed || n.Attempt.Agent != nil {
		t.Errorf("%+v, %+v", n, n.Attempt)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := strings.Join(r.notes, "\n"); strings.Count(text, "was not heard to flush the disk") != 1 ||
		strings.Contains(text, "t0ken") || r.saves != 1 {
		t.Errorf("%d saves\n%s", r.saves, text)
	}
}

func TestAnAgentThatIsNotReachedIsTriedAgainWithEachHeartbeat(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.image([]byte("image"), false)
	url := r.task.Node.Attempt.Agent.URL
	r.task.Node.Attempt.Agent.URL = "https://127.0.0.1:1"
	for range 2 {
		out, err := r.execute("write_image")
		if err != nil || !out.Wait || out.Timeout == 0 {
			t.Errorf("%+v, %v", out, err)
		}
		if h := r.Heard(t.Context(), r.task); h != (driver.Heard{}) {
			t.Errorf("%+v", h)
		}
	}
	r.task.Node.Attempt.Agent.URL = url
	if h := r.Heard(t.Context(), r.task); !h.GoOn {
		t.Errorf("%+v", h)
	}
	r.write()
	if names := strings.Join(r.agent.Names(), " "); names != "get_deploy_steps execute_deploy_step get_partition_uuids" {
		t.Error(names)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := strings.Join(r.notes, "\n"); strings.Count(text, "trying again at the agent's next heartbeat") != 1 {
		t.Error(text)
	}
}

func TestImagesAreServedToTheAgentOfTheAttemptAlone(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte("content "), 1<<16)
	for name, file := range map[string][]byte{"raw": raw, "qcow2": qcow2Of(t, raw)} {
		r := newRig(t, nil)
		r.image(file, false)
		info := r.write()
		path := info["urls"].([]any)[0].(string)[len(base):]
		n := r.task.Node
		mux := http.NewServeMux()
		// Another conductor, which has nothing but the row.
		mux.Handle("GET "+direct.ImagePattern, &direct.Images{Deploy: newRigOn(t, r.dir), Note: r.task.Note,
			Log: r.task.Log, Node: func(_ context.Context, uuid string) (*ingot.Node, error) {
				if uuid != n.UUID {
					return nil, ingot.Errorf(ingot.NotFound, "none")
				}
				return n, nil
			}})
		web := httptest.NewServer(mux)
		t.Cleanup(web.Close)
		get := func(path, span string) (int, []byte) {
			q, _ := http.NewRequestWithContext(t.Context(), "GET", web.URL+path, nil)
			if span != "" {
				q.Header.Set("Range", span)
			}
			a, err := testkit.Web.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Body.Close()
			body, err := io.ReadAll(a.Body)
			if err != nil {
				t.Fatal(err)
			}
			return a.StatusCode, body
		}
		if status, body := get(path, ""); status != 200 || !bytes.Equal(body, raw) {
			t.Errorf("%s: %d, %d bytes", name, status, len(body))
		}
		if status, body := get(path, "bytes=8191-100000"); status != 206 || !bytes.Equal(body, raw[8191:100001]) {
			t.Errorf("%s: %d, %d bytes", name, status, len(body))
		}
		refused := func(what, path string) {
			t.Helper()
			if status, _ := get(path, ""); status != 404 {
				t.Errorf("%s, %s: %d", name, what, status)
			}
		}
		refused("a wrong tag", path[:len(path)-len("0/disk.raw")]+"x/disk.raw")
		refused("another node", strings.Replace(path, n.UUID, "2be26c0b-03f2-4d2e-ae87-c02d7f33c123", 1))
		n.Interfaces["deploy"] = "iscsi"
		refused("another interface", path)
		n.Interfaces["deploy"] = "direct"
		token := n.Attempt.Agent.Token
		n.Attempt.Agent.Token = "new"
		refused("another boot", path)
		n.Attempt.Agent.Token, n.Attempt.Content = token, ingot.File{}
		refused("an image from its source", path)
		n.Attempt = nil
		refused("after the deployment", path)
	}
}

func newRigOn(t *testing.T, dir string) *direct.Deploy {
	return direct.New(direct.Options{Image: image.Options{AllowedPaths: []string{dir},
		SpoolDir: filepath.Join(t.TempDir(), "spool")}})
}

// A conductor that has to fetch an image first goes on when the agent has gone to another one.
func TestAnImageIsFetchedThoughItsAgentDoesNotWait(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte("content "), 1<<16)
	file := qcow2Of(t, raw)
	goOn, gets := make(chan struct{}), make(chan struct{}, 10)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gets <- struct{}{}
		w.Write(file[:100])
		w.(http.Flusher).Flush()
		select {
		case <-goOn:
			w.Write(file[100:])
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(source.Close)
	r := newRig(t, nil)
	n := r.task.Node
	n.InstanceInfo = ingot.Object{"image_source": source.URL, "image_checksum": sumOf(file)}
	n.Attempt.Content = ingot.File{Name: "disk.raw", Size: int64(len(raw))}
	mux := http.NewServeMux()
	mux.Handle("GET "+direct.ImagePattern, &direct.Images{Deploy: r.Deploy, Note: r.task.Note, Log: r.task.Log,
		Node: func(context.Context, string) (*ingot.Node, error) { return n, nil }})
	path := direct.ContentPath(n)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", path, nil))
	}()
	<-gets
	cancel()
	<-ended
	close(goOn)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
	if w.Code != 200 || !bytes.Equal(w.Body.Bytes(), raw) {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
	if n := len(gets); n != 0 {
		t.Errorf("fetched %d times more", n)
	}
}
