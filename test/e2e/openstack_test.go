package e2e

import (
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/endpoints"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/testkit/openstack"
)

// TestS4_6_AMachineBootsStraightFromSwift has a real Keystone, Glance and Swift: kernel, ramdisk and image
// are named by UUID and nothing else, iPXE fetches kernel and ramdisk by temporary URLs, and no file is
// on the server's disk for it (S4.2, S4.5, S4.6). An administrator of the system enrolls the machine, and
// a member of the project that owns it deploys it; both find the API in Keystone's catalog.
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
		"INGOT_API_AUTH_STRATEGY":               "keystone",
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
	for name, value := range map[string]string{"OS_AUTH_URL": c.Keystone, "OS_PASSWORD": c.Password,
		"OS_USER_DOMAIN_NAME": "Default", "OS_INTERFACE": "public", "OS_IDENTITY_API_VERSION": "3",
		"OS_REGION_NAME": inCatalog(t, c), "OS_USERNAME": "admin", "OS_SYSTEM_SCOPE": "all"} {
		t.Setenv(name, value)
	}
	enroll(t, l, m)
	name := m.Spec().Name
	baremetal(t, l, "node", "set", name, "--owner", c.Projects["demo"],
		"--driver-info", "deploy_kernel="+image("kernel", "aki", l.Files.Ramdisk.Kernel.Path),
		"--driver-info", "deploy_ramdisk="+image("ramdisk", "ari", l.Files.Ramdisk.Ramdisk.Path))
	t.Setenv("OS_USERNAME", "demo")
	t.Setenv("OS_SYSTEM_SCOPE", "")
	t.Setenv("OS_PROJECT_NAME", "demo")
	t.Setenv("OS_PROJECT_DOMAIN_NAME", "Default")
	baremetal(t, l, "node", "set", name,
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
	t.Setenv("OS_PROJECT_NAME", "")
	t.Setenv("OS_SYSTEM_SCOPE", "all")
	t.Setenv("OS_USERNAME", "admin")
	journal, err := l.Command(t.Context(), binary, "node", "journal", name, "-o", "json").Output()
	if err != nil || !strings.Contains(string(journal), "asked for its boot script: deploy") {
		t.Errorf("journal: %v\n%s", err, journal)
	}
	for line := range strings.Lines(string(journal)) {
		if strings.Contains(line, "temp_url_sig=") && !strings.Contains(line, "temp_url_sig=***") ||
			strings.Contains(line, `"source":"http"`) && strings.Contains(line, "sent") {
			t.Error(line)
		}
	}
}

// inCatalog puts the lab's API into Keystone's catalog, in a region of its own.
func inCatalog(t *testing.T, c *openstack.Cloud) (region string) {
	t.Helper()
	identity := &gophercloud.ServiceClient{ProviderClient: c.SignIn(t, "admin", "admin"),
		Endpoint: c.Keystone + "/v3/"}
	service, err := services.Create(t.Context(), identity, services.CreateOpts{Type: "baremetal"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	_, err = endpoints.Create(t.Context(), identity, endpoints.CreateOpts{Name: "ironic", URL: api,
		Availability: gophercloud.AvailabilityPublic, Region: "lab", ServiceID: service.ID}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return "lab"
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
