package pxe_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/publish"
)

// kernelOfImage makes the world's node one whose image brings the kernel that it boots at each start, and has it
// written.
func (w *world) kernelOfImage(t *testing.T) *ingot.Node {
	t.Helper()
	n := w.task.Node
	n.InstanceInfo = ingot.Object{"kernel": "file:///i/vmlinuz-6", "ramdisk": "file:///i/initrd-6", "root_gb": 10}
	if err := w.boot.Validate(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	n.Attempt = driver.NewAttempt()
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	n.Instance.RootUUID = "7d1b35a1-5e2e-4a2f-9f6e-1f8f2a6b4c11"
	for range 2 { // as after a crash
		if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
	}
	n.ProvisionState, n.Attempt = "active", nil
	return n
}

// The ISO that is made for an image with a kernel (iscsi_ilo's boot ISO) goes where media go, for as long as it is
// booted.
func TestS3_4_TheMediumOfAnInstanceGoesToTheChosenBackEnd(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	folder := publish.Folder{Root: root, URL: "http://web:8090"}
	for name, store := range map[string]publish.Store{"ours": nil, "another web server": folder} {
		w, m := mediaWorld(func(o *pxe.Options) {
			o.Publish = func(string) publish.Store { return store }
			o.Unpublish = (&publish.Remover{}).Remove
		})
		n := w.kernelOfImage(t)
		want := "http://10.0.0.1:8080" + netboot.MediumPath(n)
		if store != nil {
			names := published(t, root)
			if len(names) != 1 {
				t.Fatalf("%s: there are %v", name, names)
			}
			want = folder.URL + "/redfish/" + names[0]
			text, err := os.ReadFile(filepath.Join(root, "redfish", names[0]))
			if err != nil || !strings.Contains(string(text), "root=UUID="+n.Instance.RootUUID) ||
				strings.Contains(string(text), "deployment_key") {
				t.Errorf("%s: on it: %s, %v", name, text, err)
			}
		}
		d, _ := m.BootDevice(t.Context(), w.task)
		if m.cd != want || (d != driver.BootDevice{Device: "cdrom", Persistent: true}) {
			t.Errorf("%s: inserted %s, want %s; boot device %+v", name, m.cd, want, d)
		}
		medium, ok := w.boot.Medium(n, nil, netboot.MediumPath(n))
		if !ok || !strings.Contains(strings.Join(medium.Args, " "), "root=UUID="+n.Instance.RootUUID) {
			t.Errorf("%s: medium %+v, %v", name, medium, ok)
		}
		if err := w.boot.CleanUpInstance(t.Context(), w.task); err != nil || m.cd != "" || len(published(t, root)) != 0 {
			t.Errorf("%s: after the end: %v, inserted %q, stored %v", name, err, m.cd, published(t, root))
		}
		for key, value := range n.DriverInternalInfo {
			if key != "fake_boot_device" {
				t.Errorf("%s: left: %s %v", name, key, value)
			}
		}
	}
}

// The machine of an active node boots its medium at each start, also when the server is gone that has made it.
func TestS3_5_TheMediumOfAnInstanceIsTakenOver(t *testing.T) {
	t.Parallel()
	living := []string{deadBase, ownBase}
	w, m := mediaWorld(at(deadBase, &living, nil))
	n := w.kernelOfImage(t)
	b := heir(w, &living, nil)
	if b.Bereft(n) {
		t.Error("the server lives")
	}
	living = nil
	m.refuse = errors.New("the BMC is away")
	if !b.Bereft(n) || b.Restore(t.Context(), w.task) == nil || !b.Bereft(n) {
		t.Error("a BMC that is away had it inserted")
	}
	m.refuse = nil
	if err := b.Restore(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	if m.cd != ownBase+netboot.MediumPath(n) || b.Bereft(n) {
		t.Errorf("inserted %s", m.cd)
	}
}

// One that is stored is made again only if it has gone.
func TestS3_5_TheStoredMediumOfAnInstanceIsMadeAgainIfItIsGone(t *testing.T) {
	t.Parallel()
	living := []string{deadBase, ownBase}
	root := t.TempDir()
	web := httptest.NewServer(http.FileServer(http.Dir(root)))
	t.Cleanup(web.Close)
	store := func(o *pxe.Options) {
		o.Publish = func(string) publish.Store { return publish.Folder{Root: root, URL: web.URL} }
		o.Unpublish = (&publish.Remover{}).Remove
	}
	w, m := mediaWorld(at(deadBase, &living, store))
	n := w.kernelOfImage(t)
	before, names, keeper := m.cd, published(t, root), n.DriverInternalInfo["boot_medium_keeper"]
	living = nil
	b := heir(w, &living, store)
	for what, gone := range map[string]bool{"it is there": false, "it is gone": true} {
		n.DriverInternalInfo["boot_medium_keeper"], m.cd = keeper, "" // and the BMC has lost it
		if gone {
			if err := os.Remove(filepath.Join(root, "redfish", names[0])); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Restore(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
		if now := published(t, root); m.cd != before || len(now) != 1 || now[0] != names[0] || b.Bereft(n) {
			t.Errorf("%s: inserted %s, before %s; stored %v", what, m.cd, before, now)
		}
	}
}
