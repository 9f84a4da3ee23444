package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/sim/redfish"
)

// A machine of HPE is enrolled by the name of a classic driver and deployed from a medium that its iLO inserts,
// whatever generation that is: by the actions of the schema, and by HPE's own.
func TestAMachineIsDeployedByItsILO(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]sim.MachineSpec{
		"iLO 5, UEFI": {Firmware: sim.UEFI, BMC: sim.ILO, BMCTLS: true},
		"iLO 4, BIOS": {Firmware: sim.BIOS, BMC: sim.ILO4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec.NICROM = sim.NoROM
			l, m := startWith(t, spec, lab.Options{Cache: buildDir(t, "cache")})
			enrollILO(t, l, m, "iscsi_ilo")
			for field, want := range map[string]string{"driver": "ilo", "boot_interface": "ilo-virtual-media",
				"deploy_interface": "iscsi"} {
				if got := state(t, l, m, field); got != want {
					t.Errorf("%s is %q", field, got)
				}
			}
			baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
			deployed(t, l, m)
			for _, e := range timeline(t, l, m) {
				if e.Source == "script" || e.Source == "tftp" {
					t.Errorf("%s: %s", e.Source, e.Text)
				}
			}
			if left := m.Redfish().Inserted("Cd"); left != "" {
				t.Errorf("in the drive of an active machine: %s", left)
			}
			own := 0
			for _, r := range m.Redfish().Requests() {
				if strings.Contains(r.Path, "HpiLOVirtualMedia") && r.Status < 300 {
					own++
				}
			}
			if want := map[sim.Protocol]int{sim.ILO4: 2}[spec.BMC]; own != want {
				t.Errorf("%d of HPE's actions were done, want %d", own, want)
			}
			baremetal(t, l, "node", "undeploy", m.Spec().Name, "--wait", "60")
			if got := state(t, l, m, "power_state"); got != "power off" {
				t.Errorf("power state %q", got)
			}
		})
	}
}

// A BMC may lose the medium while the machine reads it. The machine, which has nothing else to boot, is started
// again with another one.
func TestAMachineWhoseBMCEjectsInMidBootIsDeployed(t *testing.T) {
	t.Parallel()
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.BIOS, BMC: sim.ILO, NICROM: sim.NoROM},
		lab.Options{Cache: buildDir(t, "cache"), BootRetry: 30 * time.Second})
	enrollILO(t, l, m, "ilo")
	m.Redfish().SetQuirks(redfish.Quirks{EjectInBoot: 100 * time.Millisecond})
	baremetal(t, l, "node", "deploy", m.Spec().Name)
	lost := func() bool {
		return m.PowerState() == sim.On && m.Redfish().Inserted(redfish.VirtualCD) == ""
	}
	for end := time.Now().Add(time.Minute); !lost(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the medium was not ejected")
		}
	}
	m.Redfish().SetQuirks(redfish.Quirks{})
	for end := time.Now().Add(4 * time.Minute); ; time.Sleep(time.Second) {
		now := state(t, l, m, "provision_state")
		if now == "active" {
			break
		}
		if now == "deploy failed" || time.Now().After(end) {
			t.Fatalf("%s: %s", now, state(t, l, m, "last_error"))
		}
	}
	deployed(t, l, m)
	again := slices.ContainsFunc(timeline(t, l, m), func(e ingot.Entry) bool {
		return strings.Contains(e.Text, "boot 2 of at most")
	})
	if !again {
		t.Error("the machine was not started again")
	}
}

// enrollILO is enroll by the keys of the hardware type ilo.
func enrollILO(t *testing.T, l *lab.Lab, m *sim.Machine, driver string) {
	t.Helper()
	s := m.Spec()
	uuid := baremetal(t, l, "node", "create", "--driver", driver, "--name", s.Name,
		"--driver-info", "ilo_address="+m.Redfish().URL(),
		"--driver-info", "ilo_username="+s.User, "--driver-info", "ilo_password="+s.Password,
		"--driver-info", "ilo_verify_ca=false",
		"--property", "capabilities=boot_mode:"+string(s.Firmware), "-f", "value", "-c", "uuid")
	baremetal(t, l, "port", "create", s.MAC, "--node", uuid)
	available(t, l, m)
}

// What the classic driver iscsi_ilo does with an image that brings a kernel: the machine boots it from a medium at
// each start, which goes where media go, also when the server that has made it is gone for a while.
func TestS3_4_APartitionImageBootsAMediumAtEachStart(t *testing.T) {
	t.Parallel()
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.BIOS, BMC: sim.ILO, NICROM: sim.NoROM, DiskSize: 4 << 30},
		lab.Options{Cache: buildDir(t, "cache")})
	root := rootImage(t, l)
	enrollILO(t, l, m, "iscsi_ilo")
	name := m.Spec().Name
	baremetal(t, l, "node", "set", name,
		"--instance-info", "image_source=file://"+root.Path,
		"--instance-info", "image_os_hash_algo=sha256", "--instance-info", "image_os_hash_value="+root.SHA256,
		"--instance-info", "kernel=file://"+copyKernel(t, l), "--instance-info", "ramdisk=file://"+root.RamdiskPath,
		"--instance-info", "kernel_append_params=console=ttyS0 quiet panic=-1", "--instance-info", "root_gb=1")
	baremetal(t, l, "node", "deploy", name, "--wait", "240")
	booted := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		if err := m.Console().Wait(ctx, root.Marker); err != nil {
			t.Fatal(err)
		}
	}
	booted()
	inOrder(t, timeline(t, l, m), []sign{
		{"bmc", "inserted the medium of the deploy ramdisk"},
		{"image", "image written and verified"},
		{"bmc", "inserted the medium of the instance"},
		{"bmc", "the medium of the instance is read"},
	})
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := l.Server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	baremetal(t, l, "node", "reboot", name)
	booted()
	baremetal(t, l, "node", "undeploy", name, "--wait", "60")
	if left := m.Redfish().Inserted(redfish.VirtualCD); left != "" {
		t.Errorf("in the drive of a machine without instance: %s", left)
	}
}
