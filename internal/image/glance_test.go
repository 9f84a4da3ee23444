package image_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"ingot/internal/glance"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// cloud is a Glance with Swift below it, and the rules for its images; at is its URL, "" is its own.
func cloud(t *testing.T, at string) (*openstack.Cloud, image.Options) {
	t.Helper()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "swift,glance"})
	if at == "" {
		at = c.Glance
	}
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := glance.NewOpen(s, at)
	opt := options(t)
	transport := &http.Transport{}
	transport.RegisterProtocol(glance.Scheme, g)
	opt.Client, opt.Glance = &http.Client{Transport: transport}, g
	return c, opt
}

// Images of Glance are read by their UUID alone: what they are and what their digest is Glance tells.
func TestImagesOfGlanceArriveUnchanged(t *testing.T) {
	t.Parallel()
	c, opt := cloud(t, "")
	want := disk(5 << 20)
	for name, e := range map[string]struct {
		format, store string
		data          []byte
	}{
		"raw in Swift":     {"raw", "swift", want},
		"raw in a file":    {"raw", "file", want},
		"qcow2 in Swift":   {"qcow2", "swift", qcow2Of(t, want)},
		"raw that is gzip": {"raw", "swift", packed(t, want)},
	} {
		id := c.Image(t, images.CreateOpts{Name: name, DiskFormat: e.format}, e.store, e.data)
		for _, source := range []string{id, "glance://" + id} {
			ref, err := image.FromInstanceInfo(map[string]any{"image_source": source}, opt)
			if err != nil {
				t.Fatal(err)
			}
			if err := image.Check(t.Context(), ref, opt); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			got, err := read(t, ref, opt)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, error %v; want %d bytes", name, len(got), err, len(want))
			}
			// For others than this host there is no URL; conductors serve the content.
			if f, err := image.Look(t.Context(), ref, opt); err != nil || f.URL != "" || f.Digest.Hex == "" {
				t.Errorf("%s: %+v, %v", name, f, err)
			}
			whole, err := image.OpenContent(t.Context(), ref, opt)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err = io.ReadAll(io.NewSectionReader(whole, 0, whole.Size()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, anywhere: %d bytes, error %v", name, len(got), err)
			}
			if err := whole.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A transfer that breaks off goes on where it was: with a range where Glance's store has them, else
// by reading what is before once more.
func TestATransferOfGlanceGoesOn(t *testing.T) {
	t.Parallel()
	plain, _ := cloud(t, "")
	front := openstack.NewFront(t, plain.Glance)
	c, opt := cloud(t, front.URL)
	want := disk(5 << 20)
	for _, store := range []string{"swift", "file"} {
		id := c.Image(t, images.CreateOpts{Name: store, DiskFormat: "raw"}, store, want)
		var sent atomic.Int64
		front.Change(func(r *http.Response) error {
			if strings.HasSuffix(r.Request.URL.Path, "/file") && sent.Add(1) <= 2 &&
				r.StatusCode < 300 {
				// The header of the length stays: the answer breaks off.
				r.Body = struct {
					io.Reader
					io.Closer
				}{io.LimitReader(r.Body, 2<<20), r.Body}
			}
			return nil
		})
		got, err := read(t, image.Reference{Source: id}, opt)
		if err != nil || !bytes.Equal(got, want) || sent.Load() < 3 {
			t.Errorf("%s: %d bytes after %d answers, error %v", store, len(got), sent.Load(), err)
		}
	}
}

func TestImagesOfGlanceThatCannotBeSayWhy(t *testing.T) {
	t.Parallel()
	c, opt := cloud(t, "")
	want := disk(1 << 20)
	good := c.Image(t, images.CreateOpts{Name: "good", DiskFormat: "raw"}, "", want)
	gone := c.Image(t, images.CreateOpts{Name: "gone", DiskFormat: "raw"}, "", want)
	c.DeleteImage(t, gone)
	for name, e := range map[string]struct {
		ref  image.Reference
		opt  image.Options
		kind ingot.Kind
		says string
	}{
		"deleted": {image.Reference{Source: gone}, opt, ingot.NotFound, "deleted"},
		"another digest": {image.Reference{Source: good, Digest: sha256Of(want[1:])}, opt, ingot.Invalid,
			"sha256"},
		"of a format": {image.Reference{Source: c.Image(t, images.CreateOpts{Name: "iso",
			DiskFormat: "iso"}, "", want)}, opt, ingot.Invalid, "disk_format iso"},
		"no cloud": {image.Reference{Source: good}, options(t), ingot.Invalid, "keystone_authtoken"},
	} {
		if _, err := read(t, e.ref, e.opt); ingot.KindOf(err) != e.kind ||
			!strings.Contains(err.Error(), e.says) {
			t.Errorf("%s: %v (%s)", name, err, ingot.KindOf(err))
		}
	}
	front := openstack.NewFront(t, c.Glance)
	_, opt = cloud(t, front.URL)
	front.Break(openstack.Status(http.StatusServiceUnavailable))
	_, err := image.Open(context.Background(), image.Reference{Source: good}, opt)
	if ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("Glance is down: %v", err)
	}
}
