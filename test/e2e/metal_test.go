package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ingot/internal/lab"
	"ingot/internal/ramdisk"
	"ingot/internal/sim"
	"ingot/internal/sim/guest"
)

// Machines differ in firmware, network card and disk, sites in who gives the addresses. Each
// test changes what the others leave as it is.

func TestMachineWithAHCIDiskAndE1000IsDeployed(t *testing.T) {
	t.Parallel()
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.BIOS, DiskBus: sim.AHCI, NIC: sim.E1000},
		lab.Options{Cache: buildDir(t, "cache-generic"), Flavour: ramdisk.Generic})
	enroll(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m)
}

func TestMachineIsDeployedByUEFIHTTPBoot(t *testing.T) {
	t.Parallel()
	l, m := start(t, sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.HTTPOnly})
	enroll(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m)
	inOrder(t, timeline(t, l, m), []sign{
		{"dhcp", "(UEFI HTTP boot)"},
		{"http", "snponly.efi sent"},
		{"script", "asked for its boot script: deploy"},
		{"http", "kernel sent"},
		{"agent", "the ramdisk exports its disk"},
	})
}

func TestMachineIsDeployedBesideAForeignDHCPServer(t *testing.T) {
	t.Parallel()
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.BIOS},
		lab.Options{Cache: buildDir(t, "cache"), DHCPMode: "proxy"})
	stop, err := l.ForeignDHCP(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	enroll(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m)
	for _, e := range timeline(t, l, m) {
		if a, _ := e.Data["address"].(string); e.Source == "dhcp" && a != "" {
			t.Errorf("ingot gave the address %s, beside a server that gives them", a)
		}
	}
}

// TestS1_4_APartitionImageBootsItsKernelFromTheNetwork deploys the content of a root partition. Its
// kernel and ramdisk come from the network at each start, also from a server that was restarted.
func TestS1_4_APartitionImageBootsItsKernelFromTheNetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		firmware sim.Firmware
		deploy   string
	}{{sim.BIOS, "iscsi"}, {sim.UEFI, "iscsi"}, {sim.UEFI, "direct"}} {
		t.Run(string(c.firmware)+" "+c.deploy, func(t *testing.T) {
			t.Parallel()
			l, m := start(t, sim.MachineSpec{Firmware: c.firmware, DiskSize: 4 << 30})
			root := rootImage(t, l)
			kernel := copyKernel(t, l)
			enroll(t, l, m)
			baremetal(t, l, "node", "set", m.Spec().Name, "--deploy-interface", c.deploy,
				"--instance-info", "image_source=file://"+root.Path,
				"--instance-info", "image_os_hash_algo=sha256",
				"--instance-info", "image_os_hash_value="+root.SHA256,
				"--instance-info", "kernel=file://"+kernel,
				"--instance-info", "ramdisk=file://"+root.RamdiskPath,
				"--instance-info", "kernel_append_params=console=ttyS0 quiet panic=-1",
				"--instance-info", "root_gb=1", "--instance-info", "swap_mb=64",
				"--instance-info", "ephemeral_gb=1",
				"--instance-info", `configdrive={"meta_data": {"hostname": "partition"}}`)
			baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
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
				{"script", "asked for its boot script: deploy"},
				{"image", "image written and verified"},
				{"script", "asked for its boot script: instance"},
			})
			if err := l.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := l.Server.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			baremetal(t, l, "node", "reboot", m.Spec().Name)
			booted()
		})
	}
}

// rootImage is the partition image of the tests.
func rootImage(t *testing.T, l *lab.Lab) guest.Root {
	t.Helper()
	files.Lock()
	defer files.Unlock()
	root, err := l.RootImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// copyKernel puts the kernel of the deploy ramdisk where the server may read images.
func copyKernel(t *testing.T, l *lab.Lab) string {
	t.Helper()
	b, err := os.ReadFile(l.Files.Ramdisk.Kernel.Path)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(l.Files.Image.RawPath), "vmlinuz")
	files.Lock()
	defer files.Unlock()
	if same, err := os.ReadFile(path); err == nil && bytes.Equal(b, same) {
		return path // perhaps somebody boots it
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestS1_4_APartitionImageBootsByItsOwnLoader deploys the content of a root partition that brings a
// boot loader, away from where it was made.
func TestS1_4_APartitionImageBootsByItsOwnLoader(t *testing.T) {
	t.Parallel()
	for _, deploy := range []string{"iscsi", "direct"} {
		t.Run(deploy, func(t *testing.T) {
			t.Parallel()
			bootsItsLoader(t, deploy)
		})
	}
}

// bootsItsLoader is that by a deploy interface.
func bootsItsLoader(t *testing.T, deploy string) {
	t.Helper()
	l, m := start(t, sim.MachineSpec{Firmware: sim.BIOS})
	disk, err := os.ReadFile(l.Files.Image.RawPath)
	if err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	partition := disk[mib : len(disk)-mib] // as package guest makes it
	path := filepath.Join(filepath.Dir(l.Files.Image.RawPath), "loader-"+deploy+".img")
	if err := os.WriteFile(path, partition, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	sum := sha256.Sum256(partition)
	enroll(t, l, m)
	baremetal(t, l, "node", "set", m.Spec().Name, "--deploy-interface", deploy,
		"--instance-info", "image_source=file://"+path,
		"--instance-info", "image_os_hash_algo=sha256",
		"--instance-info", "image_os_hash_value="+hex.EncodeToString(sum[:]),
		"--instance-info", "image_type=partition",
		"--instance-info", "capabilities=boot_option:local",
		"--instance-info", "root_gb=0.25", "--instance-info", "swap_mb=16")
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	if err := l.Booted(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	const plan = "partitions: msdos: 1 swap1 16 MiB at 1 MiB, 2 root 256 MiB at 17 MiB"
	signs := []sign{{"image", plan}, {"image", "image written and verified"}}
	if deploy == "direct" { // the agent says it, on its console
		signs = signs[1:]
		console, err := os.ReadFile(m.Console().Path())
		if err != nil || !bytes.Contains(console, []byte(plan)) {
			t.Errorf("the agent does not say %q (%v)", plan, err)
		}
	}
	inOrder(t, timeline(t, l, m), signs)
}
