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
