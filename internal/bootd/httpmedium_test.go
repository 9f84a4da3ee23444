package bootd

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/configdrive"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/testkit"
)

// UEFI's HTTP client asks for the size first, and takes the type for what it is to make of it. The machine of an
// active node is answered years after its deployment.
func TestFirmwareLoadsAMediumByHTTP(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1:8080", "http://192.0.2.1:8080")
	n.Interfaces = map[string]string{"boot": pxe.HTTPName}
	for _, what := range []string{"deploy ramdisk", "instance"} {
		if what == "instance" {
			n.ProvisionState, n.BootIntent = "active", ingot.BootInstance
			n.Instance = &ingot.Instance{Kernel: n.Attempt.Kernel, Ramdisk: n.Attempt.Ramdisk, Key: "battery-staple",
				RootUUID: "7c0e5c6f-35a2-4f5f-8d8b-9f6f1c4f7a11"}
			n.Attempt = nil
		}
		if err := r.Store.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		url := serve(t, r) + netboot.MediumPath(n)
		head, _ := fetch(t, "HEAD", url, nil)
		resp, whole := fetch(t, "GET", url, nil)
		if head.StatusCode != http.StatusOK || head.ContentLength != int64(len(whole)) || len(whole) < 600_000 ||
			resp.Header.Get("Content-Type") != "application/vnd.efi-iso" {
			t.Errorf("%s: HEAD %s, %d bytes; GET %d bytes, %v", what, head.Status, head.ContentLength, len(whole),
				resp.Header)
		}
		last := r.journal.texts(ingot.LevelInfo)
		if !strings.Contains(strings.Join(last, "\n"), "the medium of the "+what+" is read by 127.0.0.1") {
			t.Errorf("the journal says %q", last)
		}
		if want := map[string]string{"instance": "root=UUID=7c0e5c6f", "deploy ramdisk": "correct-horse"}[what]; !strings.Contains(
			whole, want) {
			t.Errorf("the medium of the %s lacks %s", what, want)
		}
	}
}

// The config drive of an instance without a disk, for its BMC: whatever reads it finds it by its label.
func TestABMCReadsTheConfigDriveOfAnInstance(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1:8080", "http://192.0.2.1:8080")
	r.Boot = pxe.New(pxe.Options{Log: slog.New(slog.DiscardHandler), Note: func(ingot.Entry) {},
		Drive: func(ctx context.Context, n *ingot.Node) ([]byte, error) {
			return configdrive.Image(ctx, http.DefaultClient, n.InstanceInfo["configdrive"], n.UUID)
		}})
	n.Interfaces = map[string]string{"boot": pxe.MediaName, "deploy": "ramdisk"}
	n.ProvisionState, n.BootIntent = "active", ingot.BootInstance
	n.Instance = &ingot.Instance{Diskless: true, Kernel: n.Attempt.Kernel, Ramdisk: n.Attempt.Ramdisk, Key: "battery-staple"}
	n.InstanceInfo = ingot.Object{"configdrive": ingot.Object{"user_data": "#!/bin/true"}}
	n.Attempt = nil
	if err := r.Store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	url := serve(t, r) + netboot.FloppyPath(n)
	resp, first := fetch(t, "GET", url, nil)
	r.media.known = nil // as after a while
	_, again := fetch(t, "GET", url, map[string]string{"Range": "bytes=0-99999999"})
	if resp.StatusCode != http.StatusOK || first != again || resp.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%s, %v, the same again: %v", resp.Status, resp.Header, first == again)
	}
	path := filepath.Join(t.TempDir(), "drive")
	if err := os.WriteFile(path, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := testkit.Run(t, "isoinfo", "-d", "-i", path); !strings.Contains(out, "Volume id: config-2") {
		t.Errorf("it is\n%s", out)
	}
	if out := testkit.Run(t, "isoinfo", "-R", "-i", path, "-x", "/openstack/latest/user_data"); out != "#!/bin/true" {
		t.Errorf("user data %q", out)
	}
}
