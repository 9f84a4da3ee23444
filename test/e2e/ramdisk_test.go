package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/sim/redfish"
)

// What tells that an instance without a disk is up: our ramdisk, which is told of nothing that it could do.
const idle = "ingot-agent: powering off in"

// up waits for the instance, from where the console was read to last.
func up(t *testing.T, m *sim.Machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := m.Console().Wait(ctx, idle); err != nil {
		t.Fatal(err)
	}
	if got := m.PowerState(); got != sim.On {
		t.Errorf("the machine is %s", got)
	}
}

// untouched fails if there is anything on the disk of a machine.
func untouched(t *testing.T, m *sim.Machine) {
	t.Helper()
	disk, err := os.ReadFile(m.DiskPath())
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range disk {
		if b != 0 {
			t.Fatalf("byte %d of the disk is %#x", i, b)
		}
	}
}

// A machine without an image boots an ISO of the site's from a virtual CD, at each start, until it is undeployed.
func TestAMachineRunsABootISOByVirtualMedia(t *testing.T) {
	t.Parallel()
	spec := sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM, BMC: sim.Redfish, VirtualMedia: true, DiskSize: 64 << 20}
	l, m := startWith(t, spec, lab.Options{Cache: buildDir(t, "cache")})
	enrollRedfish(t, l, m, "redfish-virtual-media")
	iso := filepath.Join(filepath.Dir(l.Files.Image.RawPath), "boot.iso")
	siteISO(t, iso, l.Files.Ramdisk)
	t.Cleanup(func() { os.Remove(iso) })
	name := m.Spec().Name
	diskless(t, l, m, "boot_iso=file://"+iso)
	baremetal(t, l, "node", "deploy", name, "--wait", "120")
	up(t, m)
	baremetal(t, l, "node", "reboot", name)
	up(t, m)
	if m.Redfish().Inserted(redfish.VirtualCD) == "" {
		t.Error("nothing is in the drive of an active machine")
	}
	baremetal(t, l, "node", "undeploy", name, "--wait", "60")
	if left := m.Redfish().Inserted(redfish.VirtualCD); left != "" {
		t.Errorf("in the drive of a machine without instance: %s", left)
	}
	untouched(t, m)
	inOrder(t, timeline(t, l, m), []sign{
		{"bmc", "inserted the medium of the instance"},
		{"bmc", "boot device: cdrom from now on"},
		{"bmc", "the medium of the instance is read"},
	})
}

// Another one boots a kernel and a ramdisk by iPXE.
func TestAMachineRunsARamdiskByIPXE(t *testing.T) {
	t.Parallel()
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.BIOS, BMC: sim.Redfish, DiskSize: 64 << 20},
		lab.Options{Cache: buildDir(t, "cache")})
	enrollRedfish(t, l, m, "ipxe")
	name, files := m.Spec().Name, l.Files.Ramdisk
	ramdisk := filepath.Join(filepath.Dir(l.Files.Image.RawPath), "ramdisk")
	copyFile(t, files.Ramdisk.Path, ramdisk)
	diskless(t, l, m, "kernel=file://"+copyKernel(t, l), "ramdisk=file://"+ramdisk)
	baremetal(t, l, "node", "deploy", name, "--wait", "120")
	up(t, m)
	baremetal(t, l, "node", "reboot", name)
	up(t, m)
	baremetal(t, l, "node", "undeploy", name, "--wait", "60")
	untouched(t, m)
	inOrder(t, timeline(t, l, m), []sign{
		{"bmc", "boot device: pxe from now on"},
		{"script", "asked for its boot script: instance"},
		{"http", "ramdisk sent"},
	})
}

// diskless has a node deploy nothing but what is booted.
func diskless(t *testing.T, l *lab.Lab, m *sim.Machine, boots ...string) {
	t.Helper()
	args := []string{"node", "set", m.Spec().Name, "--deploy-interface", "ramdisk"}
	for _, b := range boots {
		args = append(args, "--instance-info", b)
	}
	baremetal(t, l, args...)
	for _, key := range []string{"image_source", "image_os_hash_algo", "image_os_hash_value"} {
		baremetal(t, l, "node", "unset", m.Spec().Name, "--instance-info", key)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
