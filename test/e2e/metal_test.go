package e2e

import (
	"testing"

	"ingot/internal/lab"
	"ingot/internal/ramdisk"
	"ingot/internal/sim"
)

// Machines differ in firmware, network card and disk, sites in who gives the addresses. Each
// test changes what the others leave as it is.

func TestMachineWithAHCIDiskAndE1000IsDeployed(t *testing.T) {
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.BIOS, DiskBus: sim.AHCI, NIC: sim.E1000},
		lab.Options{Cache: buildDir(t, "cache-generic"), Flavour: ramdisk.Generic})
	enroll(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m)
}

func TestMachineIsDeployedByUEFIHTTPBoot(t *testing.T) {
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
