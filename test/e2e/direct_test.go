package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/testkit"
)

// directly sets the deploy interface by which the agent writes the image itself.
func directly(t *testing.T, l *lab.Lab, m *sim.Machine) {
	t.Helper()
	baremetal(t, l, "node", "set", m.Spec().Name, "--deploy-interface", "direct")
}

// written is what the agent says at the end, with its memory in MiB.
var written = regexp.MustCompile(`image written and verified: \d+ bytes in .*, with (\d+) MiB of memory`)

// frugal checks that the agent wrote the image, with as little memory as was promised.
func frugal(t *testing.T, m *sim.Machine) {
	t.Helper()
	console, err := os.ReadFile(m.Console().Path())
	if err != nil {
		t.Fatal(err)
	}
	said := written.FindSubmatch(console)
	if said == nil {
		t.Fatal("the agent does not say that it has written the image")
	}
	if mib, err := strconv.Atoi(string(said[1])); err != nil || mib > 64 {
		t.Errorf("the agent took %d MiB of memory, more than 64 (%v)", mib, err)
	}
	t.Logf("%s", said[0])
}

// publish has a web server on the machines' network serve the lab's image, compressed.
func publish(t *testing.T, l *lab.Lab) (url, digest string) {
	t.Helper()
	raw, err := os.Open(l.Files.Image.RawPath)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(z, raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(strings.TrimPrefix(l.Boot(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	err = testkit.Within(l.Name(), func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader(packed.Bytes()))
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	sum := sha256.Sum256(packed.Bytes())
	return "http://" + listener.Addr().String() + "/image.zst", hex.EncodeToString(sum[:])
}

// The agent fetches a compressed image from a web server; the conductor dies while it writes.
func TestDirectGoesOnWhenTheServerDies(t *testing.T) {
	t.Parallel()
	l, m := start(t, sim.MachineSpec{Firmware: sim.BIOS})
	enroll(t, l, m)
	directly(t, l, m)
	url, digest := publish(t, l)
	baremetal(t, l, "node", "set", m.Spec().Name, "--instance-info", "image_source="+url,
		"--instance-info", "image_os_hash_algo=sha256", "--instance-info", "image_os_hash_value="+digest)
	baremetal(t, l, "node", "deploy", m.Spec().Name)
	for _, sign := range []string{"wait call-back", "write_image"} {
		await(t, l, m, sign)
		if err := l.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := l.Server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	await(t, l, m, "active")
	deployed(t, l, m)
	frugal(t, m)
}

// A machine whose BMC inserts the ramdisk, with the token on the medium, has a qcow2 image written that
// the conductor serves to its agent.
func TestDirectByVirtualMedia(t *testing.T) {
	t.Parallel()
	spec := sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM, BMC: sim.Redfish, VirtualMedia: true}
	l, m := startWith(t, spec, lab.Options{Cache: buildDir(t, "cache")})
	enrollRedfish(t, l, m, "redfish-virtual-media")
	directly(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m)
	frugal(t, m)
	console, err := os.ReadFile(filepath.Clean(m.Console().Path()))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(console, []byte("ipa-agent-token=")) {
		t.Error("the token is on the console")
	}
}

// A machine goes on into what was written: nobody switches it, and its firmware does not run again, for a start of that
// is another process here.
func TestADeploymentGoesOnByKexec(t *testing.T) {
	t.Parallel()
	l, m := start(t, sim.MachineSpec{Firmware: sim.BIOS})
	enroll(t, l, m)
	directly(t, l, m)
	name := m.Spec().Name
	baremetal(t, l, "node", "set", name, "--driver-info", "deploy_kexec=true")
	baremetal(t, l, "node", "deploy", name)
	await(t, l, m, "wait call-back")
	before := processes(t, m)
	await(t, l, m, "active")
	deployed(t, l, m)
	if after := processes(t, m); len(before) != 1 || !slices.Equal(after, before) {
		t.Errorf("machine %s ran as %q and runs as %q", name, before, after)
	}
	console, err := os.ReadFile(m.Console().Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"SeaBIOS (version", "loaded for kexec: vda1:/vmlinuz with 1 initramfs, the default of " +
		"vda1:/syslinux.cfg", l.Files.Image.MarkerFor("bios")} {
		if n := bytes.Count(console, []byte(text)); n != 1 {
			t.Errorf("%q is %d times on the console", text, n)
		}
	}
	c, err := l.Client()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := c.Journal(t.Context(), name, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if text := texts(entries); !strings.Contains(text, "the machine goes on by kexec") || strings.Contains(text, "power off: done") {
		t.Errorf("the journal has\n%s", text)
	}
}

// processes are the identifiers of the processes that a machine runs as.
func processes(t *testing.T, m *sim.Machine) (pids []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(line), "qemu-system-x86_64\x00") &&
			strings.Contains(string(line), m.DiskPath()) {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}
