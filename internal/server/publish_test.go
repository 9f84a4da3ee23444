package server_test

import (
	"os"
	"path/filepath"
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
