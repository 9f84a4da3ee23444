package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/media"
	"ingot/internal/ramdisk"
	"ingot/internal/sim"
	"ingot/internal/sim/redfish"
)

// A machine is deployed from a medium that its BMC inserts: it asks no boot server for anything, and its
// network card has no boot program. Its ramdisk, which needs the network, asks DHCP for an address.
func TestAMachineIsDeployedByVirtualMedia(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]sim.MachineSpec{
		"BIOS": {Firmware: sim.BIOS},
		// It boots the ramdisk, and then refuses the image of the tests, which nobody has signed.
		"UEFI with Secure Boot": {Firmware: sim.UEFI, SecureBoot: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec.NICROM, spec.BMC, spec.VirtualMedia = sim.NoROM, sim.Redfish, true
			l, m := startWith(t, spec, lab.Options{Cache: buildDir(t, "cache")})
			enrollRedfish(t, l, m, "redfish-virtual-media")
			baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
			if spec.SecureBoot {
				sameBytes(t, l, m)
			} else {
				deployed(t, l, m)
			}
			for _, e := range timeline(t, l, m) {
				if e.Source == "script" || e.Source == "tftp" {
					t.Errorf("%s: %s", e.Source, e.Text)
				}
			}
			if left := m.Redfish().Inserted("Cd"); left != "" {
				t.Errorf("in the drive of an active machine: %s", left)
			}
		})
	}
}

// On the wire nobody answers DHCP: the ramdisk finds its address on the medium.
func TestAMachineIsDeployedWithoutDHCP(t *testing.T) {
	t.Parallel()
	spec := sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM, BMC: sim.Redfish, VirtualMedia: true}
	l, m := startWith(t, spec, lab.Options{Cache: buildDir(t, "cache"), DHCPMode: "off"})
	enrollRedfish(t, l, m, "redfish-virtual-media")
	address := static(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	sameBytes(t, l, m)
	seen := false
	for _, e := range timeline(t, l, m) {
		if e.Source == "dhcp" {
			t.Errorf("%s: %s", e.Source, e.Text)
		}
		seen = seen || strings.Contains(e.Text, address)
	}
	if !seen {
		t.Errorf("nobody came from %s", address)
	}
}

// A machine with Redfish boots from the network as well. Nobody says what it has: its BMC does.
func TestAMachineWithRedfishIsDeployedByIPXE(t *testing.T) {
	t.Parallel()
	l, m := startWith(t, sim.MachineSpec{Firmware: sim.BIOS, BMC: sim.Redfish, BMCTLS: true},
		lab.Options{Cache: buildDir(t, "cache")})
	createRedfish(t, l, m, "ipxe")
	baremetal(t, l, "node", "manage", m.Spec().Name, "--wait", "60")
	baremetal(t, l, "node", "inspect", m.Spec().Name, "--wait", "60")
	if port := baremetal(t, l, "port", "list", "-f", "value", "-c", "Address"); port != m.Spec().MAC {
		t.Errorf("port %q", port)
	}
	if found := state(t, l, m, "properties"); !strings.Contains(found, "'memory_mb': 512") {
		t.Errorf("properties %s", found)
	}
	provided(t, l, m)
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m)
	baremetal(t, l, "node", "undeploy", m.Spec().Name, "--wait", "60")
	if got := state(t, l, m, "power_state"); got != "power off" {
		t.Errorf("power state %q", got)
	}
}

// enrollRedfish is enroll by Redfish.
func enrollRedfish(t *testing.T, l *lab.Lab, m *sim.Machine, boot string) {
	t.Helper()
	uuid := createRedfish(t, l, m, boot)
	baremetal(t, l, "port", "create", m.Spec().MAC, "--node", uuid)
	available(t, l, m)
}

// createRedfish creates a node and returns its UUID.
func createRedfish(t *testing.T, l *lab.Lab, m *sim.Machine, boot string) string {
	t.Helper()
	s := m.Spec()
	return baremetal(t, l, "node", "create", "--driver", "redfish", "--boot-interface", boot, "--name", s.Name,
		"--driver-info", "redfish_address="+m.Redfish().URL(),
		"--driver-info", "redfish_username="+s.User, "--driver-info", "redfish_password="+s.Password,
		"--driver-info", "redfish_verify_ca=false",
		"--property", "capabilities=boot_mode:"+string(s.Firmware), "-f", "value", "-c", "uuid")
}

// A site's own ISO boots the machine, and its ramdisk finds on a virtual floppy what it is told, its address
// included: nobody answers DHCP.
func TestAMachineIsDeployedByTheSitesISO(t *testing.T) {
	t.Parallel()
	spec := sim.MachineSpec{Firmware: sim.BIOS, NICROM: sim.NoROM, BMC: sim.Redfish, VirtualMedia: true}
	l, m := startWith(t, spec, lab.Options{Cache: buildDir(t, "cache"), DHCPMode: "off"})
	enrollRedfish(t, l, m, "redfish-virtual-media")
	iso := filepath.Join(filepath.Dir(l.Files.Image.RawPath), "site.iso")
	siteISO(t, iso, l.Files.Ramdisk)
	t.Cleanup(func() { os.Remove(iso) })
	address := static(t, l, m)
	baremetal(t, l, "node", "set", m.Spec().Name, "--driver-info", "deploy_iso=file://"+iso)
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m)
	if !slices.ContainsFunc(timeline(t, l, m), func(e ingot.Entry) bool { return strings.Contains(e.Text, address) }) {
		t.Errorf("nobody came from %s", address)
	}
	for _, drive := range []redfish.Drive{redfish.VirtualCD, redfish.VirtualFloppy} {
		if left := m.Redfish().Inserted(drive); left != "" {
			t.Errorf("in drive %s of an active machine: %s", drive, left)
		}
	}
}

// siteISO writes an ISO that boots our ramdisk, and tells it of nothing.
func siteISO(t *testing.T, path string, r ramdisk.Result) {
	t.Helper()
	loaders, err := media.ReadLoaders(config.Default().Boot.TFTPFiles)
	if err != nil {
		t.Fatal(err)
	}
	var parts [2]media.File
	for i, name := range []string{r.Kernel.Path, r.Ramdisk.Path} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		parts[i] = media.File{Content: bytes.NewReader(data), Size: int64(len(data))}
	}
	image, err := loaders.ISO(media.Content{Kernel: parts[0], Ramdisk: parts[1],
		Args: []string{"boot_method=vmedia", "console=ttyS0", "quiet", "panic=30"}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, io.NewSectionReader(image, 0, image.Size())); err != nil {
		t.Fatal(err)
	}
}

// static gives the machine's card an address by network_data, and returns that.
func static(t *testing.T, l *lab.Lab, m *sim.Machine) string {
	t.Helper()
	server, err := netip.ParseAddrPort(strings.TrimPrefix(l.Boot(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	address := server.Addr().Next().String() // hosts are numbered from above it
	baremetal(t, l, "node", "set", m.Spec().Name, "--network-data", fmt.Sprintf(
		`{"links":[{"id":"e0","type":"phy","ethernet_mac_address":%q}],"services":[],"networks":[{"id":"n0","type":"ipv4",`+
			`"link":"e0","network_id":"n","ip_address":%q,"netmask":"255.255.255.0","routes":[{"network":"0.0.0.0",`+
			`"netmask":"0.0.0.0","gateway":%q}]}]}`, m.Spec().MAC, address, server.Addr()))
	return address
}
