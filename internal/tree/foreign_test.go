package tree_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/sim/ipxe"
	"ingot/internal/testkit"
)

// serverUser runs the foreign servers: not root, so that what they may not read they do not serve.
const serverUser = "www-data"

// servable makes a directory as an operator does for a server of another user: its group is the
// server's, and what is made in it has that group, too.
func servable(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "served")
	if err := errors.Join(os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "chgrp", serverUser, dir)
	testkit.Run(t, "chmod", "g+s", dir)
	return dir
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = t.Output(), t.Output(), 10*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // they have children
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; install it: scripts/packages.sh", err)
	}
	t.Cleanup(func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		cmd.Wait()
	})
}

func freePort(t *testing.T, network string) int {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).Port
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// nginx serves a directory, and returns its URL.
func nginx(t *testing.T, dir string) string {
	t.Helper()
	own, port := t.TempDir(), freePort(t, "tcp")
	config := filepath.Join(own, "nginx.conf")
	text := fmt.Sprintf(`user %s;
daemon off;
pid %s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[2]s; proxy_temp_path %[2]s; fastcgi_temp_path %[2]s;
	uwsgi_temp_path %[2]s; scgi_temp_path %[2]s;
	server { listen 127.0.0.1:%d; location /boot/ { alias %s/; } }
}
`, serverUser, own, port, dir)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, "nginx", "-c", config)
	url := fmt.Sprintf("http://127.0.0.1:%d/boot/", port) // not at the root: pages are relative
	testkit.Eventually(t, "nginx answers", func() bool {
		resp, err := testkit.Web.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	return url
}

// machine is one whose firmware is iPXE.
type machine struct {
	number  int
	console []string
	fetched map[string]string
}

func (m *machine) Setting(name string) (string, bool) {
	v, ok := map[string]string{"platform": "pcbios",
		"net0/mac": "52:54:00:00:00:ee", // the first card is not the one that is enrolled
		"net1/mac": fmt.Sprintf("52:54:00:00:00:%02x", m.number),
		"netX/mac": "52:54:00:00:00:ee"}[name]
	return v, ok
}

func (m *machine) Fetch(ctx context.Context, url string, _ time.Duration, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := testkit.Web.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	var text strings.Builder
	_, err = io.Copy(io.MultiWriter(w, &text), resp.Body)
	m.fetched[url] = text.String()
	return err
}

func (m *machine) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }
func (m *machine) Echo(line string)                                 { m.console = append(m.console, line) }

// boot starts a machine whose DHCP server names boot.ipxe of another server.
func boot(t *testing.T, number int, url string) (*machine, ipxe.End) {
	t.Helper()
	m := &machine{number: number, fetched: map[string]string{}}
	end := ipxe.Run(t.Context(), m, "#!ipxe\nchain --replace "+url+"boot.ipxe\n")
	return m, end
}

// A machine gets to its kernel by servers that know nothing of ingot: nginx, by iPXE's own script, and
// tftpd-hpa, by the names that PXELINUX and GRUB ask for. Neither runs as the user who writes.
func TestForeignServersBringAMachineToItsKernel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := s.run(s.add(servable(t)))
	n := s.node(m.store, 1)
	if status := m.ack(t, n.UUID, n.Generation); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	testkit.Eventually(t, "the common files are there", func() bool {
		_, err := os.Stat(filepath.Join(m.dir, "snponly.efi"))
		return err == nil
	})
	url := nginx(t, m.dir)
	booted, end := boot(t, 1, url)
	if end.Verb != ipxe.Boot || booted.fetched[end.Kernel.URL] != kernel ||
		booted.fetched[end.Initrds[0].URL] != ramdisk ||
		!strings.Contains(end.Kernel.Args, "deployment_key="+key) {
		t.Fatalf("it ends with %+v, console %q", end, booted.console)
	}
	if booted, end := boot(t, 2, url); end.Verb != ipxe.Exit {
		t.Errorf("another machine ends with %+v, console %q", end, booted.console)
	}

	port := freePort(t, "udp")
	start(t, "in.tftpd", "--foreground", "--listen", "--address", fmt.Sprint("127.0.0.1:", port),
		"--user", serverUser, "--permissive", "--secure", m.dir)
	tftp := func(name string) string {
		out, err := exec.Command("curl", "--silent", "--show-error", "--max-time", "30",
			fmt.Sprintf("tftp://127.0.0.1:%d/%s", port, name)).Output()
		if err != nil {
			return ""
		}
		return string(out)
	}
	testkit.Eventually(t, "in.tftpd answers", func() bool { return tftp("snponly.efi") == "an iPXE" })
	linux := tftp(pages(1)[1])
	for keyword, want := range map[string]string{"KERNEL ": kernel, "INITRD ": ramdisk} {
		_, rest, _ := strings.Cut(linux, "\n"+keyword)
		name, _, _ := strings.Cut(rest, "\n")
		if got := tftp(name); got != want {
			t.Errorf("PXELINUX: %s %q is %q; the page is\n%s", keyword, name, got, linux)
		}
	}
	grub := tftp(pages(1)[4])
	_, rest, _ := strings.Cut(grub, "if linux '/")
	name, _, _ := strings.Cut(rest, "'")
	if got := tftp(name); got != kernel {
		t.Errorf("GRUB: %q is %q; the page is\n%s", name, got, grub)
	}

	s.intend(m.store, n, ingot.BootDisk)
	m.ack(t, n.UUID, n.Generation)
	if booted, end := boot(t, 1, url); end.Verb != ipxe.Exit {
		t.Errorf("when it shall boot its disk it ends with %+v, console %q", end, booted.console)
	}
	if text := tftp(pages(1)[1]); text != "" {
		t.Errorf("there still is %q", text)
	}
	if text := tftp("pxelinux.cfg/default"); !strings.Contains(text, "LOCALBOOT 0") {
		t.Errorf("pxelinux.cfg/default is %q", text)
	}
}
