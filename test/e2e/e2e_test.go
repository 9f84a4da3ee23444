// Package e2e deploys real machines: QEMU with firmware, network card and BMC, a real `ingot
// serve`, Debian's `baremetal` client unmodified, the deploy ramdisk and images made on the spot.
// `make e2e` builds the binaries and runs it as root.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/lab"
	"ingot/internal/sim"
)

// api is where the server's API is, inside of the lab.
const api = "http://" + lab.APIAddress

// binary is the program under test, as `make build` makes it.
const binary = "../../bin/ingot"

// requirements fails in CI, and skips elsewhere, when the machine cannot run machines.
func requirements(t *testing.T) {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root is needed for network namespaces; run: sudo make e2e"
	} else if _, err := os.Stat(binary); err != nil {
		missing = "bin/ingot is missing; run: make build"
	}
	switch {
	case missing == "":
	case os.Getenv("CI") != "":
		t.Fatal(missing)
	default:
		t.Skip(missing)
	}
}

// files is held by whoever makes files that tests share: kernel, ramdisk and images.
var files sync.Mutex

// found are those of installations, by the directory of the cache; guarded by files.
var found = map[string]lab.Files{}

// places are the directories of installations that run now, by number. Most tests wait rather than
// work, so several run at once (go test -parallel), each with an installation of its own.
var places struct {
	sync.Mutex
	taken []bool
}

// place takes the first free directory. The same ones are used by every run, so what a killed run has
// left there is found and removed by the next that has as many machines at once.
func place(t *testing.T) string {
	t.Helper()
	places.Lock()
	defer places.Unlock()
	i := slices.Index(places.taken, false)
	if i < 0 {
		i, places.taken = len(places.taken), append(places.taken, false)
	}
	places.taken[i] = true
	t.Cleanup(func() {
		places.Lock()
		defer places.Unlock()
		places.taken[i] = false
	})
	return buildDir(t, fmt.Sprintf("e2e-%d", i))
}

// start makes an installation with one machine.
func start(t *testing.T, spec sim.MachineSpec) (*lab.Lab, *sim.Machine) {
	t.Helper()
	return startWith(t, spec, lab.Options{Cache: buildDir(t, "cache")})
}

// startWith makes an installation that differs from the usual one.
func startWith(t *testing.T, spec sim.MachineSpec, o lab.Options) (*lab.Lab, *sim.Machine) {
	t.Helper()
	requirements(t)
	path, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	spec.Name = "metal-1"
	o.Dir, o.Binary, o.Progress = place(t), path, testWriter{t}
	o.Machines = []sim.MachineSpec{spec}
	l, err := begin(t, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, "server", l.Log())
			dump(t, "console", l.Machine(spec.Name).Console().Path())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, l.Machine(spec.Name)
}

// begin starts an installation with the kernel, the ramdisk and the image of the ones before it, which take
// seconds to find.
func begin(t *testing.T, o lab.Options) (*lab.Lab, error) {
	t.Helper()
	files.Lock()
	if known, ok := found[o.Cache]; ok {
		files.Unlock()
		o.Files = &known
		return lab.Start(t.Context(), o)
	}
	defer files.Unlock()
	l, err := lab.Start(t.Context(), o)
	if err == nil {
		found[o.Cache] = l.Files
	}
	return l, err
}

// buildDir is a directory below build/.
func buildDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("../../build", name))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// testWriter writes lines to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// dump logs the end of a file.
func dump(t *testing.T, name, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Log(err)
		return
	}
	const most = 8 << 10
	t.Logf("%s (end):\n%s", name, b[max(0, len(b)-most):])
}

// baremetal runs Debian's client against the lab and returns its output.
func baremetal(t *testing.T, l *lab.Lab, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := l.Command(ctx, "/usr/bin/baremetal", args...)
	if cmd.Env = os.Environ(); os.Getenv("OS_AUTH_URL") == "" { // else somebody signs in
		cmd.Env = append(cmd.Env, "OS_AUTH_TYPE=none", "OS_ENDPOINT="+api)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("baremetal %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

// enroll brings the machine to available, by the baremetal client, with the lab's image set.
func enroll(t *testing.T, l *lab.Lab, m *sim.Machine) {
	t.Helper()
	s, bmc := m.Spec(), m.BMC().Addr()
	uuid := baremetal(t, l, "node", "create", "--driver", "ipmi", "--name", s.Name,
		"--driver-info", "ipmi_address="+bmc.Addr().String(),
		"--driver-info", fmt.Sprintf("ipmi_port=%d", bmc.Port()),
		"--driver-info", "ipmi_username="+s.User, "--driver-info", "ipmi_password="+s.Password,
		"--property", "capabilities=boot_mode:"+string(s.Firmware), "-f", "value", "-c", "uuid")
	baremetal(t, l, "port", "create", s.MAC, "--node", uuid)
	available(t, l, m)
}

// available brings a node that was created to available, with the lab's image set.
func available(t *testing.T, l *lab.Lab, m *sim.Machine) {
	t.Helper()
	baremetal(t, l, "node", "manage", m.Spec().Name, "--wait", "60")
	provided(t, l, m)
}

// provided makes a node that is managed available, and says what it is to be deployed with.
func provided(t *testing.T, l *lab.Lab, m *sim.Machine) {
	t.Helper()
	name := m.Spec().Name
	baremetal(t, l, "node", "provide", name, "--wait", "60")
	baremetal(t, l, "node", "set", name,
		"--instance-info", "image_source=file://"+l.Files.Image.QCOW2Path,
		"--instance-info", "image_os_hash_algo=sha256",
		"--instance-info", "image_os_hash_value="+l.Files.Image.QCOW2SHA256)
}

// state returns a field of the node as the client prints it.
func state(t *testing.T, l *lab.Lab, m *sim.Machine, field string) string {
	t.Helper()
	return baremetal(t, l, "node", "show", m.Spec().Name, "-f", "value", "-c", field)
}

// sameBytes compares the machine's disk with the image, every byte.
func sameBytes(t *testing.T, l *lab.Lab, m *sim.Machine) {
	t.Helper()
	image, err := os.Open(l.Files.Image.RawPath)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	const piece = 1 << 20
	want, got := make([]byte, piece), make([]byte, piece)
	var compared int64
	for {
		n, err := io.ReadFull(image, want)
		if n == 0 {
			break
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		if _, err := m.ReadDiskAt(got[:n], compared); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(want[:n], got[:n]) {
			t.Fatalf("disk and image differ between byte %d and %d", compared, compared+int64(n))
		}
		compared += int64(n)
	}
	if compared < 100<<20 {
		t.Fatalf("only %d bytes compared; the image is larger", compared)
	}
	t.Logf("%d bytes of the disk are those of the image", compared)
}

// deployed checks what has to be true of an active node: booted from disk, byte for byte.
func deployed(t *testing.T, l *lab.Lab, m *sim.Machine) {
	t.Helper()
	if got := state(t, l, m, "provision_state"); got != "active" {
		t.Fatalf("provision state %q, want active", got)
	}
	if err := l.Booted(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got := state(t, l, m, "power_state"); got != "power on" {
		t.Errorf("power state %q, want power on", got)
	}
	sameBytes(t, l, m)
}

func TestBaremetalClientDeploysABIOSMachine(t *testing.T) {
	t.Parallel()
	l, m := start(t, sim.MachineSpec{Firmware: sim.BIOS})
	enroll(t, l, m)
	begin := time.Now()
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "200")
	deployed(t, l, m)
	t.Logf("deployed and booted within %.1f s", time.Since(begin).Seconds())
}

func TestDeploymentGoesOnAfterTheServerWasKilled(t *testing.T) {
	t.Parallel()
	l, m := start(t, sim.MachineSpec{Firmware: sim.BIOS})
	enroll(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name)
	// Three deaths: while the machine boots the ramdisk, while the image is written, and while
	// the machine restarts.
	for _, sign := range []string{"wait call-back", "write_image", "tear_down_agent"} {
		await(t, l, m, sign)
		if err := l.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := l.Server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("killed and started again at %q", sign)
	}
	await(t, l, m, "active")
	deployed(t, l, m)
}

// await polls the node until its state or its step is as given.
func await(t *testing.T, l *lab.Lab, m *sim.Machine, sign string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c, err := l.Client()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; time.Sleep(20 * time.Millisecond) {
		n, err := c.Node(ctx, m.Spec().Name)
		if err != nil {
			t.Fatal(err)
		}
		if n.ProvisionState == sign || n.DeployStep["step"] == sign ||
			(n.ProvisionState == "active" && sign != "wait call-back") {
			return
		}
		if n.ProvisionState == "deploy failed" {
			t.Fatalf("deploy failed: %s", n.LastError)
		}
	}
}

func TestUndeployedMachineIsOffAndAvailable(t *testing.T) {
	t.Parallel()
	l, m := start(t, sim.MachineSpec{Firmware: sim.BIOS})
	enroll(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name)
	await(t, l, m, "wait call-back")
	baremetal(t, l, "node", "undeploy", m.Spec().Name, "--wait", "60")
	if got := state(t, l, m, "provision_state"); got != "available" {
		t.Errorf("provision state %q, want available", got)
	}
	if m.PowerState() != sim.Off {
		t.Error("the machine is still on")
	}
}

// leftovers names what a lab has left on the host.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		line, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(line), dir) {
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

// namespaces is what `ip netns list` prints.
func namespaces(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "netns", "list").Output()
	if err != nil {
		t.Fatalf("ip netns list: %v", err)
	}
	return string(out)
}
