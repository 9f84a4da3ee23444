package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/nodes"
	"github.com/jackc/pgx/v5"

	"ingot/internal/cli"
	"ingot/internal/drill"
	"ingot/internal/lab"
	"ingot/internal/postgres"
	"ingot/internal/ramdisk"
	"ingot/internal/sim"
	"ingot/internal/sim/guest"
)

// site is an installation that an operator has in use, with a node of his own.
type site struct {
	*lab.Lab
	t   *testing.T
	own *cli.Node
	api *cli.Client
}

// inUse makes an installation whose deploy ramdisk and image are a few random bytes.
func inUse(t *testing.T, name string, o lab.Options) *site {
	t.Helper()
	requirements(t)
	o.Dir, o.Progress = buildDir(t, name), testWriter{t}
	var err error
	if o.Binary, err = filepath.Abs(binary); err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	for _, name := range []string{"kernel", "ramdisk", "image"} {
		b := make([]byte, 1<<16)
		random := rand.NewChaCha8([32]byte{byte(len(name))})
		_, _ = random.Read(b)
		b[510], b[511] = 0x55, 0xaa
		if err := os.WriteFile(filepath.Join(files, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o.Files = &lab.Files{Image: guest.Image{RawPath: filepath.Join(files, "image")},
		Ramdisk: ramdisk.Result{Kernel: ramdisk.File{Path: filepath.Join(files, "kernel")},
			Ramdisk: ramdisk.File{Path: filepath.Join(files, "ramdisk")}}}
	l, err := lab.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, "server", l.Log())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{Lab: l, t: t}
	if s.api, err = l.Client(); err != nil {
		t.Fatal(err)
	}
	s.own, err = s.api.CreateNode(t.Context(), nodes.CreateOpts{Name: "drill-1-0001",
		Driver: "fake-hardware"}, "d6:00:00:ff:00:00")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drill is `ingot drill --running` on a host of the network.
func (s *site) drill(host *sim.Namespace, args ...string) (cmd *exec.Cmd, out, errs *bytes.Buffer) {
	s.t.Helper()
	path, err := filepath.Abs(binary)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd = host.Command(s.t.Context(), path, append([]string{"drill", "--running"}, args...)...)
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, errs
	return cmd, out, errs
}

// untouched fails the test unless the installation has the operator's node as it was and no other,
// and the host has the interfaces, addresses and routes that it had before.
func (s *site) untouched(host *sim.Namespace, before string) {
	s.t.Helper()
	count := 0
	err := s.api.Nodes(s.t.Context(), "", func(n cli.Node) error {
		count++
		if n.UUID != s.own.UUID {
			s.t.Errorf("node %s (%s) is left", n.Name, n.ProvisionState)
		} else if !n.UpdatedAt.Equal(s.own.UpdatedAt) {
			s.t.Errorf("the operator's node was changed: %+v", n)
		}
		return nil
	})
	if err != nil || count != 1 {
		s.t.Errorf("%d nodes, want the operator's (%v)", count, err)
	}
	if after := network(s.t, host); after != before {
		s.t.Errorf("the host's network is\n%s\nand was\n%s", after, before)
	}
}

// carrier is what comes some time after an interface was made, as link-local addresses do.
var carrier = regexp.MustCompile(`<[^>]*>|state \w+|linkdown`)

// network is all that a host has of interfaces, addresses and routes.
func network(t *testing.T, host *sim.Namespace) string {
	t.Helper()
	var all []string
	for _, line := range []string{"-o link show", "-o addr show", "route show table all"} {
		cmd := host.Command(t.Context(), "ip", strings.Fields(line)...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("ip %s: %v", line, err)
		}
		for _, l := range strings.Split(string(out), "\n") {
			if !strings.Contains(l, "fe80::") && !strings.Contains(l, "ff00::") {
				all = append(all, carrier.ReplaceAllString(l, ""))
			}
		}
	}
	return strings.Join(all, "\n")
}

// TestADrillAgainstAnInstallationInUse is on a host of its own, whose network card the machines are
// beside. Both conductors write images; nothing is left of it, not even leases.
func TestADrillAgainstAnInstallationInUse(t *testing.T) {
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	t.Setenv("INGOT_API_LISTEN", "0.0.0.0:6385")
	s := inUse(t, "e2e-running", lab.Options{Conductors: 2, Database: p.URL})
	host, err := s.AddHost(t.Context(), netip.MustParseAddr("10.77.0.50"))
	if err != nil {
		t.Fatal(err)
	}
	before := network(t, host.Namespace)
	cmd, out, errs := s.drill(host.Namespace, "--interface", sim.HostInterface, "--machines", "10",
		"--json", "--url", strings.TrimSuffix(s.Boot(), "8080")+"6385")
	err = cmd.Run()
	t.Log(errs.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var r drill.RunningReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Storm.Arrivals) != 10 || r.Conductors != 2 || len(r.Holes) > 0 || !r.Passed() {
		t.Errorf("%+v", r)
	}
	// The ramdisk is the configured one.
	if r.OriginSent["image"] == 0 || r.OriginSent["kernel"] != 0 {
		t.Errorf("the drill's files were sent: %v", r.OriginSent)
	}
	s.untouched(host.Namespace, before)
	db, err := pgx.Connect(t.Context(), p.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	var leases int
	if err := db.QueryRow(t.Context(), "SELECT count(*) FROM leases").Scan(&leases); err != nil || leases > 0 {
		t.Errorf("%d leases are left (%v)", leases, err)
	}
}

// TestADrillThatFailsLeavesNothing is on the conductor's own host, beside its bridge.
func TestADrillThatFailsLeavesNothing(t *testing.T) {
	t.Setenv("INGOT_DEPLOY_KERNEL", "") // the drill has to serve its own
	t.Setenv("INGOT_DEPLOY_RAMDISK", "")
	s := inUse(t, "e2e-running", lab.Options{})
	// The bridge has another port, whose MAC it has.
	if _, err := s.AddHost(t.Context(), netip.MustParseAddr("10.77.0.50")); err != nil {
		t.Fatal(err)
	}
	before := network(t, s.Namespace)
	bridge := []string{"--interface", s.Bridge(), "--machines", "3"}

	t.Run("machines are lost", func(t *testing.T) {
		s.t = t
		cmd, out, errs := s.drill(s.Namespace, append(bridge, "--image", "file://"+s.Files.Image.RawPath,
			"--checksum", strings.Repeat("0", 64))...)
		err := cmd.Run()
		t.Logf("%s%s", out, errs)
		if code(err) != cli.ExitError {
			t.Errorf("exit code %v", err)
		}
		for _, want := range []string{"3 of 3, by 1 conductors", "the node is deploy failed",
			"the machine was at", "state: ",
			"the drill serves its own", "kernel 1 times, ramdisk 1 times"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in the report", want)
			}
		}
		s.untouched(s.Namespace, before)
	})

	t.Run("interrupted", func(t *testing.T) {
		s.t = t
		cmd, _, errs := s.drill(s.Namespace, bridge...)
		lines := begun(t, cmd)
		second, _, refusal := s.drill(s.Namespace, append(bridge, "--seed", "77")...)
		if err := second.Run(); code(err) != cli.ExitError ||
			!strings.Contains(refusal.String(), "nodes of another drill are there") {
			t.Errorf("a second drill: %v: %s", err, refusal)
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(lines)
		err := cmd.Wait()
		t.Logf("%s%s", rest, errs)
		if code(err) != cli.ExitInterrupted {
			t.Errorf("exit code %v", err)
		}
		s.untouched(s.Namespace, before)
	})

	t.Run("killed", func(t *testing.T) {
		s.t = t
		cmd, _, _ := s.drill(s.Namespace, bridge...)
		begun(t, cmd)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		// Its machines die with it, and their network with them.
		for end := time.Now().Add(20 * time.Second); network(t, s.Namespace) != before; {
			if time.Now().After(end) {
				break // untouched tells what is left
			}
			time.Sleep(50 * time.Millisecond)
		}
		again, _, refusal := s.drill(s.Namespace, bridge...)
		if err := again.Run(); code(err) != cli.ExitError {
			t.Errorf("exit code %v", err)
		}
		_, remove, _ := strings.Cut(refusal.String(), "remove them by:\n")
		sh := s.Command(t.Context(), "sh", "-c", remove)
		sh.Env = append(os.Environ(), "OS_AUTH_TYPE=none", "OS_ENDPOINT=http://"+lab.APIAddress)
		text, err := sh.CombinedOutput()
		t.Logf("%s%s", refusal, text)
		if err != nil {
			t.Error(err)
		}
		s.untouched(s.Namespace, before)
	})

	t.Run("kept", func(t *testing.T) {
		s.t = t
		cmd, out, errs := s.drill(s.Namespace, append(bridge, "--keep")...)
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s%s", err, out, errs)
		}
		var kept []string
		err := s.api.Nodes(t.Context(), "ingot drill", func(n cli.Node) error {
			kept = append(kept, n.ProvisionState)
			return s.api.DiscardNode(t.Context(), n.UUID)
		})
		if err != nil || strings.Join(kept, " ") != "active active active" {
			t.Errorf("nodes were %q (%v)", kept, err)
		}
		s.untouched(s.Namespace, before)
	})
}

// begun starts a drill and returns when machines are being deployed, with what it says next.
func begun(t *testing.T, cmd *exec.Cmd) *bufio.Reader {
	t.Helper()
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(errors.Join(err, cmd.Wait(), fmt.Errorf("%v", cmd.Stderr)))
		}
		t.Log(strings.TrimSpace(line))
		if strings.Contains(line, "deployed at once") {
			return lines
		}
	}
}

// code is the exit code of a program that ended.
func code(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return cli.ExitOK
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}
