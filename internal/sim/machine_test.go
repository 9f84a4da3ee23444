package sim_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"ingot/internal/sim"
)

// The words of SeaBIOS, iPXE and EDK2 that tell which device a machine tries.
const (
	triesDisk    = "Booting from Hard Disk"
	triesNetwork = "iPXE initialising devices"
	banner       = "SeaBIOS"
)

func TestBIOSMachineTriesItsEmptyDiskAndThenTheNetwork(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	if got := m.PowerState(); got != sim.Off {
		t.Errorf("a new machine is %s, want off", got)
	}
	powerOn(t, m)
	see(t, m, banner, triesDisk, triesNetwork)
	if got := m.PowerState(); got != sim.On {
		t.Errorf("a machine that speaks is %s, want on", got)
	}
	m.PowerOff()
	if got := m.PowerState(); got != sim.Off {
		t.Errorf("after PowerOff the machine is %s", got)
	}
	if err := m.Reset(t.Context()); !errors.Is(err, sim.ErrOff) {
		t.Errorf("Reset of a machine that is off: %v, want ErrOff", err)
	}
}

func TestBootDeviceForOneBootIsUsedOnce(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	once := sim.BootOverride{Device: sim.PXE}
	if err := m.SetBootDevice(t.Context(), once); err != nil {
		t.Fatal(err)
	}
	powerOn(t, m)
	// The disk comes after the network only if nothing is tried before.
	see(t, m, banner)
	see(t, m, triesNetwork)
	if got := m.BootOverride().Device; got != sim.NoOverride {
		t.Errorf("after the boot the override is %s, want none", got)
	}
	skip(t, m)
	if err := m.Reset(limit(t)); err != nil {
		t.Fatal(err)
	}
	see(t, m, banner, triesDisk, triesNetwork)
}

func TestBootDeviceSetWhileRunningCountsAfterAReset(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	powerOn(t, m)
	see(t, m, triesDisk)
	lasting := sim.BootOverride{Device: sim.PXE, Persistent: true}
	if err := m.SetBootDevice(limit(t), lasting); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		skip(t, m)
		if err := m.Reset(limit(t)); err != nil {
			t.Fatal(err)
		}
		see(t, m, triesNetwork)
		firstTried(t, m, triesNetwork)
	}
}

// firstTried checks the last boot in the log.
func firstTried(t *testing.T, m *sim.Machine, want string) {
	t.Helper()
	log, err := os.ReadFile(m.Console().Path())
	if err != nil {
		t.Fatal(err)
	}
	boot := string(log[bytes.LastIndex(log, []byte(banner)):])
	disk, network := strings.Index(boot, triesDisk), strings.Index(boot, triesNetwork)
	first := triesDisk
	if disk < 0 || network >= 0 && network < disk {
		first = triesNetwork
	}
	if first != want {
		t.Errorf("the machine first says %q, want %q", first, want)
	}
}
