package e2e

import (
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/testkit/openstack"
)

// TestS4_6_AMachineBootsStraightFromSwift has a real Keystone, Glance and Swift: kernel, ramdisk and image
// are named by UUID and nothing else, iPXE fetches kernel and ramdisk by temporary URLs, and no file is
// on the server's disk for it (S4.2, S4.5, S4.6).
func TestS4_6_AMachineBootsStraightFromSwift(t *testing.T) {
	requirements(t)
	c := openstack.Start(t, openstack.Want{Services: "swift,glance", Keystone: true})
	swift, err := url.Parse(c.Swift)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"INGOT_KEYSTONE_AUTHTOKEN_AUTH_URL":     c.Keystone,
		"INGOT_KEYSTONE_AUTHTOKEN_USERNAME":     "ironic",
		"INGOT_KEYSTONE_AUTHTOKEN_PASSWORD":     c.Password,
		"INGOT_KEYSTONE_AUTHTOKEN_PROJECT_NAME": "service",
		"INGOT_IPXE_USE_SWIFT":                  "true",
		// Machines reach it at the bridge.
		"INGOT_GLANCE_SWIFT_ENDPOINT_URL": "http://10.77.0.1:" + swift.Port(),
		"INGOT_DEPLOY_KERNEL":             "", "INGOT_DEPLOY_RAMDISK": "",
	} {
		t.Setenv(name, value)
	}
	l, m := start(t, sim.MachineSpec{Firmware: sim.BIOS})
	for _, service := range []string{c.Keystone, c.Swift, c.Glance} {
		forward(t, l, service)
	}
	image := func(name, format, path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return c.Image(t, images.CreateOpts{Name: name, DiskFormat: format}, "swift", data)
	}
	enroll(t, l, m)
	name := m.Spec().Name
	baremetal(t, l, "node", "set", name,
		"--driver-info", "deploy_kernel="+image("kernel", "aki", l.Files.Ramdisk.Kernel.Path),
		"--driver-info", "deploy_ramdisk="+image("ramdisk", "ari", l.Files.Ramdisk.Ramdisk.Path),
		"--instance-info", "image_source="+image("disk", "qcow2", l.Files.Image.QCOW2Path))
	for _, key := range []string{"image_os_hash_algo", "image_os_hash_value"} {
		baremetal(t, l, "node", "unset", name, "--instance-info", key)
	}
	baremetal(t, l, "node", "deploy", name, "--wait", "240")
	deployed(t, l, m)

	left, err := filepath.Glob(filepath.Join(l.Cache(), "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("on the server's disk: %q, %v", left, err)
	}
	for _, e := range timeline(t, l, m) {
		if strings.Contains(e.Text, "temp_url_sig=") && !strings.Contains(e.Text, "temp_url_sig=***") ||
			e.Source == "http" && strings.Contains(e.Text, "sent") {
			t.Errorf("%s: %s", e.Source, e.Text)
		}
	}
}

// forward makes a service on this host's loopback one of the lab: on its loopback, and on its bridge.
func forward(t *testing.T, l *lab.Lab, service string) {
	t.Helper()
	u, err := url.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", l.Network.Addr().String()} {
		var listener net.Listener
		err := l.Namespace.Do(func() (err error) {
			listener, err = net.Listen("tcp", net.JoinHostPort(host, u.Port()))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go pass(conn, u.Host)
			}
		}()
	}
}

// pass joins a connection with one to an address of this host.
func pass(conn net.Conn, to string) {
	defer conn.Close()
	other, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer other.Close()
	go func() {
		_, _ = io.Copy(other, conn) // whoever ends first ends it
		other.Close()
	}()
	_, _ = io.Copy(conn, other)
}
