package pxe_test

import (
	"context"
	"strings"
	"testing"

	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/publish"
)

// Where a BMC would have to read is looked at before anything is inserted.
func TestValidateSaysThatABMCCannotReadAtTheURL(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	refuses := ingot.Errorf(ingot.Unavailable, "nobody listens there")
	for name, c := range map[string]struct {
		base, bmc string
		change    func(o *pxe.Options)
		says      string
	}{
		"an address":            {ownBase, "https://10.0.0.9", nil, ""},
		"loopback":              {"http://127.0.0.1:8080", "https://10.0.0.9/redfish/v1", nil, "which is the host that asks; set [boot] address"},
		"loopback, both":        {"http://127.0.0.1:8080", "http://127.0.0.1:8000", nil, ""},
		"loopback by name":      {"http://127.0.0.1:8080", "localhost:8000", nil, ""},
		"loopback, BMC by name": {"http://127.0.0.1:8080", "bmc.example", nil, "which is the host that asks"},
		"no address":            {"http://0.0.0.0:8080", "10.0.0.9", nil, "which is no host"},
		"link-local":            {"http://169.254.1.1:8080", "10.0.0.9", nil, "on one cable only"},
		"link-local, both":      {"http://169.254.1.1:8080", "169.254.1.2", nil, ""},
		"the service address": {"http://127.0.0.1:8080", "10.0.0.9",
			func(o *pxe.Options) { o.MediaURL = "http://10.0.0.5:8080" }, ""},
		"nobody listens": {ownBase, "10.0.0.9",
			func(o *pxe.Options) { o.Reach = func(context.Context, string) error { return refuses } }, "nobody listens there"},
		"another web server": {"http://127.0.0.1:8080", "10.0.0.9", func(o *pxe.Options) {
			f := publish.Folder{Root: root, URL: "http://127.0.0.1:1"}
			o.Publish = func(string) publish.Store { return f }
		}, "correct [deploy] http_url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _ := mediaWorld(func(o *pxe.Options) {
				o.Env.BaseURLs = []string{c.base}
				if c.change != nil {
					c.change(o)
				}
			})
			w.task.Node.DriverInfo["redfish_address"] = c.bmc
			err := w.boot.Validate(t.Context(), w.task)
			if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}
