package image_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

func TestContentIsReadAnywhereWhateverItsForm(t *testing.T) {
	t.Parallel()
	raw := disk(3 << 20)
	for name, file := range map[string][]byte{
		"raw": raw, "qcow2": qcow2Of(t, raw), "packed": packed(t, raw), "packed qcow2": packed(t, qcow2Of(t, raw)),
	} {
		opt := here(t)
		local := filepath.Join(opt.AllowedPaths[0], "image")
		write(t, local, file)
		web, requests := serve(t, file)
		for _, source := range []string{"file://" + local, web} {
			ref := image.Reference{Source: source, Digest: sha256Of(file)}
			for range 2 { // the second time from the spool
				c, err := image.OpenContent(t.Context(), ref, opt)
				if err != nil {
					t.Fatalf("%s at %s: %v", name, source, err)
				}
				got, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
				if err != nil || !bytes.Equal(got, raw) {
					t.Errorf("%s at %s: %d bytes, %v", name, source, len(got), err)
				}
				d, err := c.Digest(t.Context(), func(int64, int64) {})
				if err != nil || d != sha256Of(raw) {
					t.Errorf("%s at %s: digest %s, %v", name, source, d, err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			f, err := image.Look(t.Context(), ref, opt)
			if err != nil || (f.URL != "") != (source != "file://"+local) || (f.Packing != "") != (name[0] == 'p') ||
				(f.Format == image.QCOW2) != (name[len(name)-1] == '2') || f.Digest != ref.Digest {
				t.Errorf("%s at %s: %+v, %v", name, source, f, err)
			}
		}
		if n := requests.Load(); n > 2 { // one download, one look
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

// The memory of a deploy ramdisk is small: what does not fit is unpacked by conductors.
func TestWhatTakesMuchMemoryToUnpackIsKnownBefore(t *testing.T) {
	t.Parallel()
	raw := disk(9 << 20)
	for _, c := range []struct {
		command []string
		wide    bool
	}{
		{[]string{"gzip"}, false},
		{[]string{"xz", "-6"}, false},
		{[]string{"xz", "--lzma2=preset=0,dict=32MiB"}, false},
		{[]string{"xz", "-9"}, true},
		{[]string{"xz", "--x86", "--lzma2=preset=0,dict=48MiB"}, true},
		{[]string{"zstd", "-q"}, false},
		{[]string{"zstd", "-q", "--long=25"}, false},
		{[]string{"zstd", "-q", "--long=26"}, true},
	} {
		file := packedBy(t, raw, c.command[0], c.command[1:]...)
		web, _ := serve(t, file)
		f, err := image.Look(t.Context(), image.Reference{Source: web, Digest: sha256Of(file)}, options(t))
		if err != nil || f.Packing == "" || f.Wide != c.wide {
			t.Errorf("%s: %+v, %v", c.command, f, err)
		}
	}
}

func TestManyFindOutTheDigestOfAContentOnce(t *testing.T) {
	t.Parallel()
	raw := disk(2 << 20)
	file := qcow2Of(t, raw)
	opt := here(t)
	local := filepath.Join(opt.AllowedPaths[0], "image")
	write(t, local, file)
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			c, err := image.OpenContent(t.Context(), image.Reference{Source: "file://" + local,
				Digest: sha256Of(file)}, opt)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if d, err := c.Digest(t.Context(), func(int64, int64) {}); err != nil || d != sha256Of(raw) {
				t.Errorf("%s, %v", d, err)
			}
		})
	}
	g.Wait()
}

// emptyQCOW2 makes a disk of nothing but zeros, and returns its options and reference.
func emptyQCOW2(t *testing.T, size string) (image.Reference, image.Options) {
	t.Helper()
	opt := here(t)
	local := filepath.Join(opt.AllowedPaths[0], "image")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", local, size)
	file, err := os.ReadFile(local)
	if err != nil {
		t.Fatal(err)
	}
	return image.Reference{Source: "file://" + local, Digest: sha256Of(file)}, opt
}

func openContent(t *testing.T, ref image.Reference, opt image.Options) *image.Content {
	t.Helper()
	c, err := image.OpenContent(t.Context(), ref, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestContentLargerThanAnyDiskIsRefused(t *testing.T) {
	t.Parallel()
	ref, opt := emptyQCOW2(t, "17T")
	_, err := image.OpenContent(t.Context(), ref, opt)
	mustFail(t, err, ingot.Invalid, "qemu-img resize")
	ref, opt = emptyQCOW2(t, "16T")
	openContent(t, ref, opt)
}

// Images that take hours to be hashed are in the way of nobody who wants one that is known.
func TestWhatIsKnownDoesNotWaitForOthers(t *testing.T) {
	t.Parallel()
	raw := disk(1 << 20)
	file := qcow2Of(t, raw)
	opt := here(t)
	local := filepath.Join(opt.AllowedPaths[0], "image")
	write(t, local, file)
	ref := image.Reference{Source: "file://" + local, Digest: sha256Of(file)}
	nothing := func(int64, int64) {}
	if _, err := openContent(t, ref, opt).Digest(t.Context(), nothing); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g sync.WaitGroup
	for _, size := range []string{"14T", "15T", "16T"} {
		slow, opt := emptyQCOW2(t, size)
		c := openContent(t, slow, opt)
		g.Go(func() {
			if _, err := c.Digest(ctx, nothing); !errors.Is(err, context.Canceled) {
				t.Errorf("a digest that nobody waits for: %v", err)
			}
		})
	}
	for range 20 { // until the three have begun, at the latest
		known, stop := context.WithTimeout(t.Context(), 10*time.Second)
		c, err := image.OpenContent(known, ref, opt)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := c.Digest(known, nothing); err != nil || d != sha256Of(raw) {
			t.Errorf("%s, %v", d, err)
		}
		c.Close()
		stop()
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	g.Wait()
}

func TestADigestIsMadeForOthersWhenTheFirstHasLeft(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	ref, opt := emptyQCOW2(t, "1G")
	want := sha256.New()
	for range size >> 20 {
		want.Write(make([]byte, 1<<20))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	second := make(chan error)
	var digest image.Digest
	c := openContent(t, ref, opt)
	other := openContent(t, ref, opt)
	join := sync.OnceFunc(func() {
		go func() {
			var err error
			digest, err = other.Digest(t.Context(), func(int64, int64) { cancel() })
			second <- err
		}()
	})
	if _, err := c.Digest(ctx, func(int64, int64) { join() }); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	join()
	if err := <-second; err != nil || digest.Hex != hex.EncodeToString(want.Sum(nil)) {
		t.Errorf("%s, %v", digest, err)
	}
}

func TestContentThatIsNotThePromisedOneIsRefused(t *testing.T) {
	t.Parallel()
	opt := here(t)
	local := filepath.Join(opt.AllowedPaths[0], "image")
	write(t, local, disk(1<<20))
	ref := image.Reference{Source: "file://" + local, Digest: sha256Of([]byte("another"))}
	_, err := image.OpenContent(t.Context(), ref, opt)
	mustFail(t, err, ingot.Invalid, "checksum")
	file := qcow2Of(t, disk(1<<20))
	web, _ := serve(t, file)
	ref = image.Reference{Source: web, Digest: sha256Of(file), Format: image.QCOW2}
	c, err := image.OpenContent(t.Context(), ref, opt)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	// What was spooled as one format is not read as another.
	ref.Format = image.Raw
	_, err = image.OpenContent(t.Context(), ref, opt)
	mustFail(t, err, ingot.Invalid, "image_disk_format")
	if err := os.Remove(local); err != nil {
		t.Fatal(err)
	}
	_, err = image.OpenContent(t.Context(), image.Reference{Source: "file://" + local, Digest: ref.Digest}, opt)
	mustFail(t, err, ingot.NotFound)
}

// here are options with a directory of images on this host.
func here(t testing.TB) image.Options {
	opt := options(t)
	opt.AllowedPaths = []string{t.TempDir()}
	return opt
}
