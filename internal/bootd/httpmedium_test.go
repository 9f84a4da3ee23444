package bootd

import (
	"net/http"
	"strings"
	"testing"

	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
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
