package e2e

import (
	"strings"
	"testing"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/sim/redfish"
)

// UEFI's own HTTP client loads what a machine boots: the BMC tells it what, or DHCP where the BMC cannot. Nothing
// comes by TFTP, and the boot program of the network card has no part in it.
func TestAMachineIsDeployedByUEFIHTTP(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		boot   string
		secure bool
		quirks redfish.Quirks
		seen   []sign
	}{
		// It boots the ramdisk, and then refuses the image of the tests, which nobody has signed.
		"a medium that the BMC names, with Secure Boot": {boot: "redfish-https", secure: true, seen: []sign{
			{"bmc", "boot device: uefihttp for the next boot"},
			{"http", "the medium of the deploy ramdisk is read"},
			{"agent", "the ramdisk exports its disk"}}},
		"a medium that DHCP names": {boot: "http", quirks: redfish.Quirks{NoHTTPBootURI: true}, seen: []sign{
			{"bmc", "boot device: uefihttp for the next boot"},
			{"dhcp", "/.../boot.iso (UEFI HTTP boot)"},
			{"http", "the medium of the deploy ramdisk is read"},
			{"agent", "the ramdisk exports its disk"}}},
		"iPXE": {boot: "http-ipxe", seen: []sign{
			{"bmc", "boot device: uefihttp for the next boot"},
			{"http", "snponly.efi sent"},
			{"script", "asked for its boot script: deploy"},
			{"http", "kernel sent"},
			{"agent", "the ramdisk exports its disk"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := sim.MachineSpec{Firmware: sim.UEFI, SecureBoot: c.secure, BMC: sim.Redfish}
			l, m := startWith(t, spec, lab.Options{Cache: buildDir(t, "cache")})
			m.Redfish().SetQuirks(c.quirks)
			enrollRedfish(t, l, m, c.boot)
			baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
			if c.secure {
				sameBytes(t, l, m)
			} else {
				deployed(t, l, m)
			}
			entries := timeline(t, l, m)
			inOrder(t, entries, c.seen)
			for _, e := range entries {
				if e.Source == "tftp" || e.Level == "warning" && strings.Contains(e.Text, "HTTP") {
					t.Errorf("%s: %s", e.Source, e.Text)
				}
			}
		})
	}
}
