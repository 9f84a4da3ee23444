package bootd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/config"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/testkit"
)

// mediumRig is a server that has a kernel and a ramdisk, and a node whose machine boots them from a medium.
func mediumRig(t *testing.T, base string, servers ...any) (*rig, *ingot.Node) {
	t.Helper()
	r := newRig(t, Config{})
	r.Programs = config.Default().Boot.TFTPFiles
	r.Files = bootfile.New(t.TempDir(), nil, slog.New(slog.DiscardHandler))
	r.Boot = pxe.New(pxe.Options{Log: slog.New(slog.DiscardHandler), Note: func(ingot.Entry) {},
		Env: netboot.Env{BaseURLs: []string{base}, KernelArgs: "console=ttyS0"}})
	n := r.node
	n.Driver, n.ProvisionState, n.BootIntent = "redfish", "wait call-back", ingot.BootDeploy
	n.Interfaces = map[string]string{"boot": pxe.MediaName}
	n.DriverInternalInfo = ingot.Object{"boot_medium_servers": servers}
	n.Attempt = &ingot.Attempt{ID: "5f3a9c01", Key: "correct-horse"}
	for i, f := range []*ingot.File{&n.Attempt.Kernel, &n.Attempt.Ramdisk} {
		source := filepath.Join(t.TempDir(), []string{"vmlinuz", "initrd"}[i])
		if err := os.WriteFile(source, bytes.Repeat([]byte{byte('a' + i)}, 300_000), 0o600); err != nil {
			t.Fatal(err)
		}
		held, err := r.Files.Hold(t.Context(), "file://"+source)
		if err != nil {
			t.Fatal(err)
		}
		*f = held
	}
	if err := r.Store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return r, n
}

// A BMC that reads by ranges may read each from another server: all have the same bytes, whatever they
// call themselves. Foreign programs find kernel and ramdisk on the medium.
func TestS3_5_EveryServerHasTheSameMedium(t *testing.T) {
	t.Parallel()
	servers := []any{"http://192.0.2.1:8080", "http://192.0.2.2:8080"}
	var media [][]byte
	for _, base := range []string{"http://192.0.2.1:8080", "http://192.0.2.2:8080"} {
		r, n := mediumRig(t, base, servers...)
		url := serve(t, r) + netboot.MediumPath(n)
		resp, whole := fetch(t, "GET", url, nil)
		if resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(whole)) {
			t.Fatalf("%s: %s, %d bytes", url, resp.Status, len(whole))
		}
		media = append(media, []byte(whole))
		if told := r.journal.texts(ingot.LevelInfo); !slices.Equal(told,
			[]string{"the medium of the deploy ramdisk is read by 127.0.0.1"}) {
			t.Errorf("the journal says %q", told)
		}
		kernel, ramdisk := strings.Index(whole, strings.Repeat("a", 2000)), strings.Index(whole, strings.Repeat("b", 2000))
		size := len(whole)
		for _, at := range [][2]int{{0, 0}, {32768, 34815}, {100_000, 999_999}, {kernel, kernel + 65535},
			{kernel - 5, kernel + 5}, {kernel + 299_000, kernel + 301_000}, {ramdisk + 7, ramdisk + 7},
			{ramdisk + 234_464, ramdisk + 299_999}, {size - 10, size + 1_000_000}} {
			resp, part := fetch(t, "GET", url, map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", at[0], at[1])})
			end := min(at[1]+1, size)
			if got := resp.Header.Get("Content-Range"); resp.StatusCode != http.StatusPartialContent ||
				part != whole[at[0]:end] || got != fmt.Sprintf("bytes %d-%d/%d", at[0], end-1, size) {
				t.Errorf("range %v: %s, %d bytes, %s", at, resp.Status, len(part), got)
			}
		}
		resp, _ = fetch(t, "GET", url, map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", size, size+10)})
		if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("beyond the end: %s", resp.Status)
		}
		// Neither without the right name, nor when the machine boots it no more.
		for _, wrong := range []string{strings.Replace(url, n.UUID, "1be26c0b-03f2-4d2e-ae87-c02d7f33c199", 1),
			strings.Replace(url, "/boot.iso", "0/boot.iso", 1)} {
			if resp, _ := fetch(t, "GET", wrong, nil); resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %s", wrong, resp.Status)
			}
		}
		n.BootIntent = ingot.BootDisk
		if err := r.Store.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		r.media.known = nil // as after a while
		if resp, _ := fetch(t, "GET", url, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("after the deployment: %s", resp.Status)
		}
	}
	if !bytes.Equal(media[0], media[1]) {
		t.Error("two servers have different media")
	}
	path := filepath.Join(t.TempDir(), "boot.iso")
	if err := os.WriteFile(path, media[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if out := testkit.Run(t, "isoinfo", "-R", "-i", path, "-x", "/initrd"); out != strings.Repeat("b", 300_000) {
		t.Errorf("the ramdisk has %d bytes", len(out))
	}
	for _, file := range []string{"/isolinux/isolinux.cfg", "/boot/grub/grub.cfg"} {
		text := testkit.Run(t, "isoinfo", "-R", "-i", path, "-x", file)
		for _, want := range []string{"deployment_key=correct-horse", "BOOTIF=01-52-54-00-77-00-01",
			"ironic_api_url=http://192.0.2.1:8080,http://192.0.2.2:8080", "console=ttyS0"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s:\n%s", file, want, text)
			}
		}
	}
	esp := filepath.Join(t.TempDir(), "esp")
	testkit.Run(t, "xorriso", "-osirrox", "on", "-indev", path, "-extract", "/boot/grub/efiboot.img", esp)
	testkit.Run(t, "fsck.fat", "-n", esp)
	if out := testkit.Run(t, "mdir", "-/", "-b", "-i", esp, "::"); !strings.Contains(out, "::/EFI/BOOT/BOOTX64.EFI") ||
		!strings.Contains(out, "::/EFI/BOOT/grubx64.efi") {
		t.Errorf("on the EFI system partition: %s", out)
	}
}

func TestWithoutLoadersNoMediumIsMade(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1", "http://192.0.2.1")
	r.Programs = slices.DeleteFunc(slices.Clone(r.Programs), func(dir string) bool {
		return strings.Contains(dir, "ISOLINUX")
	})
	if err := r.MediaReady(); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "install the package isolinux") {
		t.Errorf("ready: %v", err)
	}
	url := serve(t, r) + netboot.MediumPath(n)
	resp, body := fetch(t, "GET", url, nil)
	if resp.StatusCode != http.StatusInternalServerError || !strings.Contains(body, "cannot be read") {
		t.Errorf("%s: %s", resp.Status, body)
	}
	r.Programs = config.Default().Boot.TFTPFiles // it was installed
	if resp, _ := fetch(t, "GET", url, nil); resp.StatusCode != http.StatusOK || r.MediaReady() != nil {
		t.Errorf("with the loaders: %s, %v", resp.Status, r.MediaReady())
	}
	// What is being read is read to its end without the database.
	r.Store.Close()
	known := r.media.known[netboot.MediumPath(n)]
	known.at = known.at.Add(-time.Minute)
	r.media.known[netboot.MediumPath(n)] = known
	if resp, _ := fetch(t, "GET", url, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("without a database: %s", resp.Status)
	}
}

// serve serves the rig's routes, and returns its base URL.
func serve(t *testing.T, r *rig) string {
	t.Helper()
	web := httptest.NewServer(r.routes())
	t.Cleanup(web.Close)
	return web.URL
}

// What is copied to another place is what is served here.
func TestAMediumIsCopiedAsItIsServed(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1:8080", "http://192.0.2.1:8080")
	_, served := fetch(t, "GET", serve(t, r)+netboot.MediumPath(n), nil)
	m, ok := r.Boot.Medium(n, []*ingot.Port{{Address: known, PXEEnabled: true}}, netboot.MediumPath(n))
	if !ok {
		t.Fatal("there is no medium")
	}
	laid, err := r.Lay(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if copied, err := io.ReadAll(laid); err != nil || string(copied) != served {
		t.Errorf("%d bytes and %d, %v", len(copied), len(served), err)
	}
	m.Ramdisk.SHA256 = strings.Repeat("0", 64)
	if _, err := r.Lay(t.Context(), m); err == nil {
		t.Error("a medium without its ramdisk")
	}
}

// A machine in a network without DHCP finds its address on the medium, in the form of our ramdisk and in that
// of others.
func TestAddressesAreOnTheMedium(t *testing.T) {
	t.Parallel()
	r, n := mediumRig(t, "http://192.0.2.1:8080", "http://192.0.2.1:8080")
	n.NetworkData = ingot.Object{
		"links": []any{ingot.Object{"id": "eth1", "type": "phy", "ethernet_mac_address": strings.ToUpper(second)}},
		"networks": []any{ingot.Object{"id": "n0", "type": "ipv4", "link": "eth1", "network_id": "x",
			"ip_address": "10.0.0.5", "netmask": "255.255.255.0", "routes": []any{ingot.Object{
				"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1"}}}},
		"services": []any{},
	}
	if err := r.Store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	_, whole := fetch(t, "GET", serve(t, r)+netboot.MediumPath(n), nil)
	path := filepath.Join(t.TempDir(), "boot.iso")
	if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := testkit.Run(t, "isoinfo", "-d", "-i", path); !strings.Contains(out, "Volume id: config-2\n") {
		t.Errorf("the volume is %s", out)
	}
	out := testkit.Run(t, "isoinfo", "-R", "-i", path, "-x", "/openstack/latest/network_data.json")
	var got ingot.Object
	if err := json.Unmarshal([]byte(out), &got); err != nil || !reflect.DeepEqual(got, n.NetworkData) {
		t.Errorf("network_data.json: %s, %v", out, err)
	}
	for _, file := range []string{"/isolinux/isolinux.cfg", "/boot/grub/grub.cfg"} {
		text := testkit.Run(t, "isoinfo", "-R", "-i", path, "-x", file)
		// Not the first card: that one has no address.
		for _, want := range []string{"agent_ip=10.0.0.5/24,10.0.0.1", "BOOTIF=01-" + strings.ReplaceAll(second, ":", "-")} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s:\n%s", file, want, text)
			}
		}
	}
}

// A site's own ISO is served as it is; the floppy that goes with it is one that others read.
func TestS3_4_TheFloppyIsServedByEveryServer(t *testing.T) {
	t.Parallel()
	const base = "http://192.0.2.1:8080"
	r, n := mediumRig(t, base, base, "http://192.0.2.2:8080")
	n.Attempt.ISO.File, n.Attempt.Kernel, n.Attempt.Ramdisk = n.Attempt.Ramdisk, ingot.File{}, ingot.File{}
	n.DriverInfo = ingot.Object{"deploy_iso": "file:///srv/ipa.iso"}
	if err := r.Store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	url := serve(t, r)
	if resp, iso := fetch(t, "GET", url+netboot.MediumPath(n), nil); resp.StatusCode != http.StatusOK ||
		iso != strings.Repeat("b", 300_000) {
		t.Errorf("the ISO: %s, %d bytes", resp.Status, len(iso))
	}
	if _, part := fetch(t, "GET", url+netboot.MediumPath(n), map[string]string{"Range": "bytes=299990-400000"}); part != "bbbbbbbbbb" {
		t.Errorf("its end: %q", part)
	}
	resp, image := fetch(t, "GET", url+netboot.FloppyPath(n), nil)
	if resp.StatusCode != http.StatusOK || len(image) != 1440<<10 {
		t.Fatalf("the floppy: %s, %d bytes", resp.Status, len(image))
	}
	if _, part := fetch(t, "GET", url+netboot.FloppyPath(n), map[string]string{"Range": "bytes=0-511"}); part != image[:512] {
		t.Error("its beginning is another one")
	}
	path := filepath.Join(t.TempDir(), "floppy")
	if err := os.WriteFile(path, []byte(image), 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "fsck.fat", "-n", path)
	if out := testkit.Run(t, "blkid", "-p", "-o", "export", path); !strings.Contains(out, "LABEL=ir-vfd-dev\n") {
		t.Errorf("the label: %s", out)
	}
	lines := strings.Split(strings.TrimSpace(testkit.Run(t, "mtype", "-i", path, "::parameters.txt")), "\n")
	for _, want := range []string{"deployment_id=" + n.UUID, "deployment_key=correct-horse", "ipa-api-url=" + base,
		"ironic_api_url=" + base + ",http://192.0.2.2:8080", "BOOTIF=01-52-54-00-77-00-01"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %s in %q", want, lines)
		}
	}
	if slices.ContainsFunc(lines, func(l string) bool { return !strings.Contains(l, "=") }) {
		t.Errorf("lines that are no parameters: %q", lines)
	}
	m, ok := r.Boot.Medium(n, []*ingot.Port{{Address: known, PXEEnabled: true}}, netboot.FloppyPath(n))
	laid, err := r.Lay(t.Context(), m)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if copied, err := io.ReadAll(laid); err != nil || string(copied) != image {
		t.Errorf("it is copied as another one, %v", err)
	}
}
