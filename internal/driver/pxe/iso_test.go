package pxe_test

import (
	"context"
	"io"
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

// The site's own ISO is inserted in place of ours, and what its ramdisk is told is on a floppy.
func TestS3_4_ParametersOfASitesISOAreOnAFloppy(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	web := httptest.NewServer(http.FileServer(http.Dir(root)))
	defer web.Close()
	folder := publish.Folder{Root: root, URL: web.URL}
	for name, c := range map[string]struct {
		key, iso   string
		store      publish.Store
		cd, floppy string // what their URLs begin with
		files      int    // in the store
	}{
		"read by the BMC": {"deploy_iso", "http://site/iso/ipa.iso?v=3", nil, "http://site/iso/ipa.iso?v=3",
			"http://10.0.0.1:8080/media/" + uuid + "/", 0},
		"served here": {"ilo_deploy_iso", "file:///srv/ipa.iso", nil, "http://10.0.0.1:8080/media/" + uuid + "/",
			"http://10.0.0.1:8080/media/" + uuid + "/", 0},
		"stored": {"deploy_iso", "file:///srv/ipa.iso", folder, web.URL + "/redfish/boot-" + uuid + "-",
			web.URL + "/redfish/image-" + uuid + "-", 2},
		"floppy stored": {"redfish_deploy_iso", "https://site/ipa.iso", folder, "https://site/ipa.iso",
			web.URL + "/redfish/image-" + uuid + "-", 1},
	} {
		w, m := mediaWorld(func(o *pxe.Options) {
			o.Kernel, o.Ramdisk = "", "" // nobody needs them
			o.Publish = func(string) publish.Store { return c.store }
			o.Unpublish = (&publish.Remover{}).Remove
			o.Lay = func(_ context.Context, m netboot.Medium) (io.ReadSeeker, error) {
				return strings.NewReader(m.ISO.Name + strings.Join(m.Parameters, "\n")), nil
			}
		})
		n := w.task.Node
		n.DriverInfo[c.key] = c.iso
		if err := w.boot.Validate(t.Context(), w.task); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for range 2 {
			if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
				t.Fatal(name, err)
			}
		}
		if !strings.HasPrefix(m.cd, c.cd) || !strings.HasPrefix(m.floppy, c.floppy) || m.cd == m.floppy {
			t.Errorf("%s: inserted %s and %s", name, m.cd, m.floppy)
		}
		files := published(t, root)
		if len(files) != c.files {
			t.Errorf("%s: stored %v", name, files)
		}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(root, "redfish", f))
			if err != nil || strings.HasSuffix(f, ".iso") && string(text) != "ipa.iso" ||
				strings.HasSuffix(f, ".img") && !strings.Contains(string(text), "\ndeployment_key="+n.Attempt.Key.Reveal()+"\n") {
				t.Errorf("%s: %s has %s, %v", name, f, text, err)
			}
		}
		// By the network it is told nothing: what it boots is in its drive.
		if script := w.config(t, ingot.Object{"port_address": mac}); !strings.Contains(script, "nothing to boot") {
			t.Errorf("%s: by iPXE it is told %s", name, script)
		}
		if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
			t.Fatal(name, err)
		}
		if m.cd != "" || m.floppy != "" || len(published(t, root)) != 0 ||
			n.DriverInternalInfo["boot_medium_site"] != nil || n.DriverInternalInfo["boot_medium_servers"] != nil {
			t.Errorf("%s: afterwards %q and %q, %v, on record %v", name, m.cd, m.floppy, published(t, root),
				n.DriverInternalInfo)
		}
	}
}

func TestASitesISOThatCannotBeIsNamed(t *testing.T) {
	t.Parallel()
	w, m := mediaWorld(func(o *pxe.Options) { o.Files = holder{broken: "file:///srv/ipa.iso"} })
	for iso, want := range map[string]string{"/srv/ipa.iso": "driver_info.deploy_iso is \"/srv/ipa.iso\"; write",
		"ftp://x/ipa.iso": "write the URL", "http:///ipa.iso": "write the URL"} {
		w.task.Node.DriverInfo["deploy_iso"] = iso
		if err := w.boot.Validate(t.Context(), w.task); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", iso, err)
		}
	}
	w.task.Node.DriverInfo["deploy_iso"] = "file:///srv/ipa.iso"
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err == nil || !strings.Contains(err.Error(), "deploy_iso") ||
		m.cd != "" {
		t.Errorf("one that is not there: %v", err)
	}
	// Machines that boot from the network do not use it.
	w.task.Node.Interfaces["boot"] = pxe.Name
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil || w.task.Node.Attempt.ISO.Known() {
		t.Errorf("by iPXE: %v", err)
	}
}

// A deployment that changes from the site's ISO to ours boots ours.
func TestASitesISOIsForgottenWithItsKey(t *testing.T) {
	t.Parallel()
	w, m := mediaWorld(nil)
	w.task.Node.DriverInfo["deploy_iso"] = "http://site/ipa.iso"
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	delete(w.task.Node.DriverInfo, "deploy_iso")
	w.task.Node.Attempt = driver.NewAttempt()
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	if m.cd != "http://10.0.0.1:8080"+netboot.MediumPath(w.task.Node) || m.floppy != "" {
		t.Errorf("inserted %q and %q", m.cd, m.floppy)
	}
}
