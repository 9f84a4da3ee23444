package e2e

import (
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/sim"
)

// sign is a line of the journal: its source and a part of its text.
type sign struct{ source, text string }

// TestS2_OneDeployment follows one machine, UEFI firmware without iPXE in its network card, from
// power on to its own system, and finds each statement of the blueprint in the journal and on
// the machine (doc/statements.md).
func TestS2_OneDeployment(t *testing.T) {
	t.Parallel()
	l, m := start(t, sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM})
	enroll(t, l, m)
	begin := time.Now()
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m) // active, booted from disk, every byte of the image
	t.Logf("deployed and booted within %.1f s", time.Since(begin).Seconds())
	journal := timeline(t, l, m)
	statement := func(name string, signs ...sign) {
		t.Run(name, func(t *testing.T) { inOrder(t, journal, signs) })
	}
	statement("S2_1_boot_loader_and_power_on",
		sign{"step", "ready to boot the deploy ramdisk"},
		sign{"bmc", "boot device: pxe for the next boot"},
		sign{"bmc", "told the BMC: power up"},
		sign{"power", "the machine is on"},
		sign{"tftp", "snponly.efi sent"})
	statement("S2_2_the_ramdisk_is_booted_by_DHCP",
		sign{"dhcp", "snponly.efi (PXE EFI x86-64)"},
		sign{"dhcp", "ipxe_config?port_address=" + m.Spec().MAC + " (iPXE)"},
		sign{"script", "asked for its boot script: deploy"},
		sign{"http", "kernel sent"},
		sign{"http", "initramfs sent"},
		sign{"dhcp", "(an operating system)"},
		sign{"agent", "the ramdisk exports its disk"})
	statement("S2_3_the_ramdisk_posts_its_target",
		sign{"step", "waiting for the deploy ramdisk to report its iSCSI target"},
		sign{"agent", "port 3260 as iqn.2008-10.org.openstack:"},
		sign{"state", "wait call-back → deploying"})
	statement("S2_4_the_image_is_written_by_iSCSI",
		sign{"agent", "the ramdisk exports its disk"},
		sign{"iscsi", "connected to the machine's disk"},
		sign{"image", "image written and verified (sha256:" + l.Files.Image.QCOW2SHA256 + ")"},
		sign{"bmc", "boot device: disk from now on"})
	statement("S2_5_the_machine_is_restarted_into_its_system",
		sign{"bmc", "boot device: disk from now on"},
		sign{"step", "step boot_instance begins"},
		sign{"bmc", "told the BMC: power up"},
		sign{"power", "rebooting: done, the machine is on"},
		sign{"state", "deploying → active"})
	statement("S2_9_Completed_and_only_then_the_power_cycle",
		sign{"agent", "told the ramdisk that the image is written"},
		sign{"agent", "Completed: the ramdisk has let go of the disk"},
		sign{"bmc", "told the BMC: power down"},
		sign{"bmc", "told the BMC: power up"})
}

// timeline is the journal of the machine's node.
func timeline(t *testing.T, l *lab.Lab, m *sim.Machine) []ingot.Entry {
	t.Helper()
	c, err := l.Client()
	if err != nil {
		t.Fatal(err)
	}
	journal, err := c.Journal(t.Context(), m.Spec().Name, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return journal
}

// inOrder looks for the signs, each after the one before.
func inOrder(t *testing.T, journal []ingot.Entry, signs []sign) {
	t.Helper()
	rest := journal
	for i, want := range signs {
		at := 0
		for at < len(rest) && (rest[at].Source != want.source ||
			!strings.Contains(rest[at].Text, want.text)) {
			at++
		}
		if at == len(rest) {
			var seen strings.Builder
			for _, e := range journal {
				seen.WriteString(e.Source + ": " + e.Text + "\n")
			}
			t.Fatalf("sign %d, %s %q, is not in the journal after %v:\n%s", i+1, want.source,
				want.text, signs[:i], &seen)
		}
		rest = rest[at+1:]
	}
}
