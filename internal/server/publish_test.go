package server_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/config"
	"ingot/internal/testkit"
)

// iPXE's files go to the root of [deploy], and as well where that still has its older name; who uses that is
// warned.
func TestS3_3_IPXEUsesTheWebServerByEitherName(t *testing.T) {
	t.Parallel()
	for section, set := range map[string]func(c *config.Config, root string){
		"[deploy]": func(c *config.Config, root string) { c.Deploy.HTTPRoot = root },
		"[pxe]":    func(c *config.Config, root string) { c.PXE.HTTPRoot = root },
		"both":     func(c *config.Config, root string) { c.Deploy.HTTPRoot, c.PXE.HTTPRoot = root, root },
	} {
		t.Run(section, func(t *testing.T) {
			t.Parallel()
			root := filepath.Join(t.TempDir(), "http")
			s := startWith(t, func(c *config.Config) { set(c, root) })
			testkit.Eventually(t, "there is boot.ipxe", func() bool {
				_, err := os.Stat(filepath.Join(root, "boot.ipxe"))
				return err == nil
			})
			warned := s.log.says("[pxe] http_root is deprecated: write [deploy] http_root")
			if warned != (section != "[deploy]") {
				t.Errorf("warned: %t", warned)
			}
		})
	}
}

// A server whose boot socket is at another address than machines are told says so before it has anything inserted.
func TestValidateSaysThatNobodyListensWhereBMCsAreToRead(t *testing.T) {
	t.Parallel()
	s := startWith(t, func(c *config.Config) {
		c.Boot.HTTPListen, c.Boot.Address = "127.0.0.1:0", "127.0.0.2"
		c.Deploy.Kernel, c.Deploy.Ramdisk = "file:///vmlinuz", "file:///ramdisk"
	})
	s.done("create", "n1", "--driver", "redfish", "--bmc", "http://127.0.0.1:1", "--bmc-user", "x", "--bmc-password", "y",
		"--mac", "52:54:00:00:00:01", "--enroll-only")
	body := ""
	for _, c := range [][3]string{
		{http.MethodPatch, "/v1/nodes/n1", `[{"op": "add", "path": "/boot_interface", "value": "redfish-virtual-media"}]`},
		{http.MethodGet, "/v1/nodes/n1/validate", ""},
	} {
		r, err := http.NewRequest(c[0], s.url+c[1], strings.NewReader(c[2]))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
		r.Header.Set("Content-Type", "application/json")
		answer, err := testkit.Web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if body = string(text); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatal(answer.Status, body, err)
		}
	}
	if !strings.Contains(body, "nobody listens at http://127.0.0.2:") || !strings.Contains(body, "[boot] http_listen (127.0.0.1:0)") {
		t.Errorf("validate: %s", body)
	}
}
