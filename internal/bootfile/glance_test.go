package bootfile_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"ingot/internal/bootfile"
	"ingot/internal/glance"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// Kernels and ramdisks of Glance are held like all others: sent once, verified, and kept when they
// are deleted there.
func TestBootFilesOfGlanceAreHeld(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "swift,glance"})
	front := openstack.NewFront(t, c.Glance)
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Transport{}
	web.RegisterProtocol(glance.Scheme, glance.NewOpen(s, front.URL))
	cache := bootfile.New(filepath.Join(t.TempDir(), "boot"), &http.Client{Transport: web},
		slog.New(slog.DiscardHandler))
	content := strings.Repeat("kernel", 50_000)
	id := c.Image(t, images.CreateOpts{Name: "vmlinuz", DiskFormat: "raw"}, "", []byte(content))

	var sent atomic.Int64
	damage := func(r *http.Response) error {
		r.Body = io.NopCloser(bytes.NewReader([]byte(strings.Repeat("kernal", 50_000))))
		return nil
	}
	watch := func(r *http.Response) error {
		if strings.HasSuffix(r.Request.URL.Path, "/file") {
			if sent.Add(1) == 1 {
				return damage(r)
			}
		}
		return nil
	}
	front.Change(watch)
	if _, err := cache.Hold(t.Context(), id); ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), "another digest") {
		t.Errorf("damaged on the way: %v", err)
	}
	for _, href := range []string{id, "glance://" + id, strings.ToUpper(id)} {
		f, err := cache.Hold(t.Context(), href)
		if err != nil || f.SHA256 != digest(content) || f.Size != int64(len(content)) || f.Name == "" {
			t.Errorf("%s: %+v, %v", href, f, err)
		}
	}
	if n := sent.Load(); n > 1+3 {
		t.Errorf("sent %d times", n)
	}
	c.DeleteImage(t, id)
	if _, err := cache.Hold(t.Context(), id); ingot.KindOf(err) != ingot.NotFound ||
		!strings.Contains(err.Error(), "deleted") {
		t.Errorf("deleted: %v", err)
	}
	nowhere := bootfile.New(t.TempDir(), &http.Client{Transport: glance.Nowhere{}},
		slog.New(slog.DiscardHandler))
	if _, err := nowhere.Hold(t.Context(), id); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "[keystone_authtoken]") {
		t.Errorf("no cloud: %v", err)
	}
}

// FuzzReprDigest: whatever a server promises, the file is kept as it came or not at all.
func FuzzReprDigest(f *testing.F) {
	f.Add("sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:", "hello")
	f.Add("sha-512=:!:, sha-256=:AAAA:", "hello")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, header, content string) {
		got, err := io.ReadAll(bootfile.Verified(strings.NewReader(content), []string{header}))
		if string(got) != content || err != nil && ingot.KindOf(err) != ingot.Unavailable {
			t.Errorf("%q, %v", got, err)
		}
	})
}
