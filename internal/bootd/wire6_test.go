package bootd_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ingot/internal/bootd"
	"ingot/internal/sim"
	"ingot/internal/testkit"
)

// ownAddress6 is the enrolled machine's: fd77::/64 and its MAC.
const ownAddress6 = "fd77::5054:ff:fe77:1"

// A client that is not ours, from SOLICIT to RELEASE, with iPXE's user class (option 15).
func TestForeignDHCPv6ClientLearnsItsScript(t *testing.T) {
	t.Parallel()
	s := newSite(t, bootd.ModeServer, func(c *bootd.Config) { c.IPv6 = true })
	ns, dir := s.host(t, "c", mac), t.TempDir()
	conf, script := filepath.Join(dir, "conf"), filepath.Join(dir, "script")
	for path, text := range map[string]string{
		conf: "option dhcp6.own-class code 15 = string;\nsend dhcp6.own-class 00:04:69:50:58:45;\n" +
			"also request dhcp6.bootfile-url;\ninitial-delay 0;\n",
		script: "#!/bin/sh\nenv\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dhclient := exec.CommandContext(ctx, "ip", "netns", "exec", ns, "dhclient", "-6", "-d", "-cf", conf,
		"-sf", script, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "v1")
	out, err := dhclient.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dhclient.Start(); err != nil {
		t.Fatalf("%v (tools: scripts/packages.sh)", err)
	}
	defer dhclient.Wait()
	defer cancel()
	missing := map[string]bool{
		"new_ip6_address=" + ownAddress6: true,
		"new_dhcp6_bootfile_url=http://[fd77::1]:8080/v1/drivers/ipmi/vendor_passthru/ipxe_config" +
			"?port_address=" + mac: true,
	}
	for lines := bufio.NewScanner(out); len(missing) > 0; {
		if !lines.Scan() {
			t.Fatalf("dhclient ended without being told %v (tools: scripts/packages.sh)", missing)
		}
		delete(missing, lines.Text())
	}
	s.journal.wait(t, "DHCPv6 REQUEST answered with REPLY: "+ownAddress6, "iPXE")
}

// The firmware of a UEFI machine boots iPXE and that gets its script, nothing of it over IPv4: in
// mode proxy and without another server nobody gives an IPv4 address.
func TestRealFirmwareBootsOverIPv6(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	s := newSite(t, bootd.ModeProxy, func(c *bootd.Config) { c.IPv6 = true })
	m, err := s.AddMachine(t.Context(), sim.MachineSpec{Name: "node-0", MAC: mac, Firmware: sim.UEFI,
		NICROM: sim.PXE6Only})
	if err != nil {
		t.Fatal(err)
	}
	m.SetBootDevice(sim.BootOverride{Device: sim.PXE})
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.journal.wait(t, "DHCPv6 REQUEST answered with REPLY: "+ownAddress6, "tftp://[fd77::1]/snponly.efi")
	s.journal.wait(t, "TFTP: snponly.efi sent")
	s.journal.wait(t, "DHCPv6 REQUEST answered with REPLY: "+ownAddress6, "ipxe_config", "(iPXE)")
	s.journal.wait(t, "script asked for")
}
