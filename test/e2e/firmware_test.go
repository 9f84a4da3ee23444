package e2e

import (
	"os"
	"strings"
	"testing"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/sim/redfish"
)

// A machine with a BIOS is deployed as one with UEFI, because the instance asks for it, and then again with
// Secure Boot, under which it refuses the image of the tests, which nobody has signed. Its BMC does what it is
// told at the next start.
func TestADeploymentChangesTheFirmware(t *testing.T) {
	t.Parallel()
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.BIOS, BMC: sim.Redfish, VirtualMedia: true},
		lab.Options{Cache: buildDir(t, "cache")})
	m.Redfish().SetQuirks(redfish.Quirks{FirmwareAtStart: true, FirmwareNeedsOff: true})
	enrollRedfish(t, l, m, "redfish-virtual-media")
	name := m.Spec().Name
	baremetal(t, l, "node", "set", name, "--instance-info", `capabilities={"boot_mode": "uefi"}`)
	baremetal(t, l, "node", "deploy", name, "--wait", "240")
	deployed(t, l, m)
	if text, err := os.ReadFile(m.Console().Path()); err != nil || !strings.Contains(string(text), "fw=efi") {
		t.Errorf("it was not UEFI that has booted the image: %v", err)
	}
	if got := state(t, l, m, "boot_mode"); got != "uefi" {
		t.Errorf("boot mode %s", got)
	}
	baremetal(t, l, "node", "set", name, "--instance-info", `capabilities={"secure_boot": "true"}`)
	baremetal(t, l, "node", "rebuild", name, "--wait", "240")
	sameBytes(t, l, m)
	if got := state(t, l, m, "secure_boot"); got != "True" {
		t.Errorf("Secure Boot %s", got)
	}
	if err := m.Console().Wait(t.Context(), "Access Denied"); err != nil {
		t.Errorf("the firmware did not refuse the image: %v", err)
	}
	m.Redfish().SetQuirks(redfish.Quirks{}) // or it would count from the next start on
	baremetal(t, l, "node", "undeploy", name, "--wait", "60")
	if got := state(t, l, m, "secure_boot"); got != "False" {
		t.Errorf("Secure Boot of a machine without an instance: %s", got)
	}
}
