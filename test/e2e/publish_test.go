package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/testkit/openstack"
)

// mediaSpec is a machine that boots from nothing but virtual media.
var mediaSpec = sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM, BMC: sim.Redfish, VirtualMedia: true}

// deployStored deploys the machine, from media that are in a store.
func deployStored(t *testing.T, l *lab.Lab, m *sim.Machine, store string) {
	t.Helper()
	enrollRedfish(t, l, m, "redfish-virtual-media")
	baremetal(t, l, "node", "deploy", m.Spec().Name, "--wait", "240")
	deployed(t, l, m)
	put := false
	for _, e := range timeline(t, l, m) {
		put = put || strings.Contains(e.Text, "put the medium of the deploy ramdisk into "+store)
		if strings.Contains(e.Text, "is read by") { // from our server
			t.Errorf("%s: %s", e.Source, e.Text)
		}
	}
	if !put {
		t.Errorf("nothing was put into %s", store)
	}
	if info := state(t, l, m, "driver_internal_info"); strings.Contains(info, "published_media") {
		t.Errorf("on record of an active machine: %s", info)
	}
}

// The BMC reads the medium from Swift, by a temporary URL.
func TestS3_6_AMachineIsDeployedByMediaInSwift(t *testing.T) {
	t.Parallel()
	requirements(t)
	c := openstack.Start(t, openstack.Want{Services: "swift,glance", Keystone: true})
	swift, err := url.Parse(c.Swift)
	if err != nil {
		t.Fatal(err)
	}
	l, m := startWith(t, mediaSpec, lab.Options{Cache: buildDir(t, "cache"), Settings: map[string]string{
		"INGOT_KEYSTONE_AUTHTOKEN_AUTH_URL": c.Keystone, "INGOT_KEYSTONE_AUTHTOKEN_USERNAME": "ironic",
		"INGOT_KEYSTONE_AUTHTOKEN_PASSWORD": c.Password, "INGOT_KEYSTONE_AUTHTOKEN_PROJECT_NAME": "service",
		"INGOT_REDFISH_USE_SWIFT": "true",
		// BMCs reach it at the bridge.
		"INGOT_GLANCE_SWIFT_ENDPOINT_URL": "http://10.77.0.1:" + swift.Port(),
	}})
	for _, service := range []string{c.Keystone, c.Swift} {
		forward(t, l, service)
	}
	deployStored(t, l, m, "swift: ironic_redfish_container")
}

// The BMC reads the medium from the site's own web server, below the root that ingot writes to.
func TestS3_7_AMachineIsDeployedByMediaOfTheSitesWebServer(t *testing.T) {
	t.Parallel()
	requirements(t)
	root := buildDir(t, "www")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	l, m := startWith(t, mediaSpec, lab.Options{Cache: buildDir(t, "cache"), Settings: map[string]string{
		"INGOT_DEPLOY_HTTP_SERVER_URL": "http://10.77.0.1:8090", "INGOT_DEPLOY_HTTP_SERVER_ROOT": root}})
	webServer(t, l, root)
	deployStored(t, l, m, "http_root: "+root)
	if left, err := filepath.Glob(filepath.Join(root, "redfish", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// webServer serves a directory in the lab.
func webServer(t *testing.T, l *lab.Lab, root string) {
	t.Helper()
	own := t.TempDir()
	config := filepath.Join(own, "nginx.conf")
	text := fmt.Sprintf(`user root;
daemon off;
pid %[1]s/pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s;
	uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server { listen 10.77.0.1:8090; root %[2]s; }
}
`, own, root)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := l.Command(t.Context(), "nginx", "-c", config)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = testWriter{t}, testWriter{t}, 10*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children
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
