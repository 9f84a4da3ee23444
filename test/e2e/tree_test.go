package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/testkit"
)

// siteUser runs a site's own servers.
const siteUser = "www-data"

// siteServers are dnsmasq for DHCP and TFTP and nginx for HTTP, over the tree that ingot writes. What
// is booted first is a boot program by TFTP; if that is iPXE, it is told the script of all machines.
func siteServers(t *testing.T, l *lab.Lab, root, program string) {
	t.Helper()
	const port = 8081
	tftp := l.Addr().Next()
	options := []string{"--user=" + siteUser, "--group=" + siteUser, "--enable-tftp",
		"--tftp-root=" + root, "--dhcp-match=set:ipxe,175"}
	if program == "snponly.efi" {
		options = append(options, fmt.Sprintf("--dhcp-boot=tag:!ipxe,%s,,%s", program, tftp),
			fmt.Sprintf("--dhcp-boot=tag:ipxe,http://%s:%d/boot.ipxe", l.Addr(), port))
	} else {
		options = append(options, fmt.Sprintf("--dhcp-boot=%s,,%s", program, tftp))
	}
	stop, err := l.ForeignDHCP(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	own := t.TempDir()
	config := filepath.Join(own, "nginx.conf")
	text := fmt.Sprintf(`user %s;
daemon off;
pid %s/pid;
error_log stderr;
events {}
http {
	access_log %[2]s/access.log;
	client_body_temp_path %[2]s; proxy_temp_path %[2]s; fastcgi_temp_path %[2]s;
	uwsgi_temp_path %[2]s; scgi_temp_path %[2]s;
	server { listen %s:%d; root %s; }
}
`, siteUser, own, l.Addr(), port, root)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := l.Command(t.Context(), "nginx", "-c", config)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = testWriter{t}, testWriter{t}, 10*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		cmd.Wait()
	})
}

// TestS0_10_AMachineIsDeployedByTheSitesOwnServers: everything that the machine boots comes from
// servers that know nothing of ingot, which gives them files only. At its restart the page is gone.
func TestS0_10_AMachineIsDeployedByTheSitesOwnServers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, program string
		spec          sim.MachineSpec
	}{
		{"iPXE by HTTP", "snponly.efi", sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM}},
		{"shim and GRUB by TFTP", "bootx64.efi", sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM}},
		{"PXELINUX by TFTP", "pxelinux.0", sim.MachineSpec{Firmware: sim.BIOS}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := filepath.Join(t.TempDir(), "served")
			err := errors.Join(os.Chmod(filepath.Dir(filepath.Dir(root)), 0o755), os.Mkdir(root, 0o755))
			if err != nil {
				t.Fatal(err)
			}
			testkit.Run(t, "chgrp", siteUser, root)
			testkit.Run(t, "chmod", "g+s", root)
			l, m := startWith(t, c.spec, lab.Options{Cache: buildDir(t, "cache"), DHCPMode: "off",
				BootRoot: root})
			siteServers(t, l, root, c.program)
			enroll(t, l, m)
			baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
			deployed(t, l, m)
			page := filepath.Join(root, "pxelinux.cfg", strings.ReplaceAll(m.Spec().MAC, ":", "-"))
			if _, err := os.Stat(page); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the machine boots its disk, and there is %s (%v)", page, err)
			}
			for _, e := range timeline(t, l, m) {
				if slices.Contains([]string{"dhcp", "tftp", "http", "script"}, e.Source) {
					t.Errorf("ingot was asked: %s %s", e.Source, e.Text)
				}
			}
		})
	}
}
