package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// One of two servers writes a tree for a site's own TFTP and HTTP server. It says so to the other, and
// its pages name both for the calls of the ramdisk, for either can answer them.
func TestAServerWritesTheTreeOfItsSite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	database := storetest.Postgres(t)
	dir := t.TempDir()
	roots := []string{filepath.Join(dir, "tftp"), filepath.Join(dir, "http")}
	kernel := filepath.Join(dir, "vmlinuz")
	if err := os.WriteFile(kernel, []byte("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	host := func(name string, change func(*config.Config)) *sandbox {
		return startWith(t, func(c *config.Config) {
			c.Store.URL, c.Conductor.Host, c.Cluster.Listen = database, name, "127.0.0.1:0"
			c.Deploy.Kernel = "file://" + kernel
			change(c)
		})
	}
	host("r1", func(c *config.Config) { c.Boot.TFTPRoot, c.Boot.HTTPRoot = roots[0], roots[1] })
	host("r2", func(*config.Config) {})
	st, err := store.Open(t.Context(), store.Options{URL: database})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	services := map[string]string{}
	for _, name := range []string{"r1", "r2"} {
		c, err := st.Conductor(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		services[name+" tree"] = c.Services[ingot.ServiceTree]
		services[name] = c.Services[ingot.ServiceBoot]
	}
	if services["r1 tree"] != services["r1"] || services["r2 tree"] != "" {
		t.Errorf("services %v", services)
	}
	var file *store.BootFile
	testkit.Eventually(t, "the kernel is held", func() bool {
		file, err = st.BootFile(t.Context(), "file://"+kernel)
		return err == nil
	})
	n := &ingot.Node{UUID: ingot.NewUUID(), Driver: "ipmi", ProvisionState: "wait call-back",
		BootIntent: ingot.BootDeploy, Attempt: &ingot.Attempt{ID: "5f3a9c01", Key: "K3yK3yK3y",
			Kernel: file.File, Ramdisk: file.File}}
	if err := st.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	err = st.CreatePort(t.Context(), &ingot.Port{UUID: ingot.NewUUID(), NodeUUID: n.UUID,
		Address: "52:54:00:77:00:01", PXEEnabled: true})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "both directories have a page that names both servers", func() bool {
		for _, root := range roots {
			page, err := os.ReadFile(filepath.Join(root, "pxelinux.cfg/52-54-00-77-00-01"))
			if err != nil || !strings.Contains(string(page), services["r1"]) ||
				!strings.Contains(string(page), services["r2"]) {
				// Nobody has told it, and it looks every half minute: the other server asks.
				answer, err := testkit.Web.Get(services["r1"] + "/tree/" + n.UUID + "?generation=1")
				if err == nil {
					answer.Body.Close()
				}
				return false
			}
		}
		return true
	})
	answer, err := testkit.Web.Get(services["r2"] + "/tree/" + n.UUID + "?generation=1")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 404 {
		t.Errorf("a server without a tree acknowledges with %d", answer.StatusCode)
	}
}
