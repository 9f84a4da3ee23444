package sim_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/sim"
)

// patience is how long something may take that takes a second on an idle host.
const patience = 60 * time.Second

// labProcess names the state directory to the copy of the test program that runs a lab until it
// is killed.
const labProcess = "INGOT_SIM_TEST_LAB"

func TestMain(m *testing.M) {
	if dir := os.Getenv(labProcess); dir != "" {
		if err := runLab(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// needRoot skips a test that needs root, but not where all tests must run.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("test machines need root; run the tests as root")
	}
	t.Skip("test machines need root")
}

// limit is a context that ends when the test has waited long enough.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newNetwork makes a network that is gone at the end of the test.
func newNetwork(t *testing.T) *sim.Network {
	t.Helper()
	needRoot(t)
	n, err := sim.NewNetwork(t.Context(), sim.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// newMachine makes a machine on a network of its own.
func newMachine(t *testing.T, spec sim.MachineSpec) (*sim.Network, *sim.Machine) {
	t.Helper()
	n := newNetwork(t)
	if spec.Name == "" {
		spec.Name = "node-0"
	}
	m, err := n.AddMachine(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return n, m
}

// powerOn starts a machine.
func powerOn(t *testing.T, m *sim.Machine) {
	t.Helper()
	if err := m.PowerOn(limit(t)); err != nil {
		t.Fatal(err)
	}
}

// see waits for text on the console, in that order.
func see(t *testing.T, m *sim.Machine, markers ...string) {
	t.Helper()
	for _, marker := range markers {
		if err := m.Console().Wait(limit(t), marker); err != nil {
			t.Fatal(err)
		}
	}
}

// skip passes over what the console holds.
func skip(t *testing.T, m *sim.Machine) {
	t.Helper()
	if err := m.Console().Skip(); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition that some other process brings about.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx := limit(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// qemus lists the QEMU processes that have a directory in their arguments.
func qemus(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		args, err := os.ReadFile(file)
		if err == nil && strings.HasPrefix(string(args), "qemu-system") &&
			strings.Contains(string(args), dir) {
			found = append(found, file)
		}
	}
	return found
}

// program finds a foreign program.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v; install it with scripts/packages.sh", err)
	}
	return path
}
