package sim_test

import (
	"testing"

	"ingot/internal/sim"
)

func TestAnOverrideForOneBootIsTakenOnce(t *testing.T) {
	t.Parallel()
	var f sim.BootFlags
	take := func(want sim.BootOrder, left sim.BootDevice) {
		t.Helper()
		if got := f.TakeBootOrder(); got != want {
			t.Errorf("order %q, want %q", got, want)
		}
		if got := f.BootOverride().Device; got != left {
			t.Errorf("after the boot the override is %s, want %s", got, left)
		}
	}
	take(sim.DiskFirst, sim.NoOverride)
	f.SetBootDevice(sim.BootOverride{Device: sim.PXE})
	take(sim.NetworkFirst, sim.NoOverride)
	take(sim.DiskFirst, sim.NoOverride)
	f.SetBootDevice(sim.BootOverride{Device: sim.PXE, Persistent: true})
	take(sim.NetworkFirst, sim.PXE)
	f.SetBootDevice(sim.BootOverride{Device: sim.Disk})
	take(sim.DiskFirst, sim.NoOverride)
	take(sim.NetworkFirst, sim.NoOverride) // the persistent one is back
	f.SetBootDevice(sim.BootOverride{Device: sim.CDROM})
	take(sim.NetworkFirst, sim.NoOverride) // there is no such drive
	f.SetBootDevice(sim.BootOverride{Device: sim.CDROM})
	if got := f.TakeBootOrder(sim.CDROM, sim.Floppy); got != sim.CDFirst {
		t.Errorf("order %q of a machine with a CD drive, want it first", got)
	}
}
