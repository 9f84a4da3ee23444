package deploy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"ingot/internal/deploy"
	"ingot/internal/image"
	"ingot/internal/iscsi"
	"ingot/internal/iscsi/iscsitest"
	"ingot/internal/testkit"
)

var _ deploy.Disk = (*iscsi.Session)(nil)

func TestImagesArriveOnARealTarget(t *testing.T) {
	t.Parallel()
	s := newSite(t, 20*mib+1536)
	for name, opt := range map[string]iscsitest.Options{
		"blocks of 512":  {BlockSize: 512},
		"blocks of 4096": {BlockSize: 4096},
		"thin":           {BlockSize: 512, Thin: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			garbage := newMemDisk(28*mib, opt.BlockSize)
			want := expected(garbage, s.content)
			opt.Backing = filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(opt.Backing, garbage.content, 0o600); err != nil {
				t.Fatal(err)
			}
			session := dial(t, opt)
			for range 2 {
				source := s.open(t, "packed.qcow2", t.TempDir())
				_, err := deploy.WriteImage(t.Context(), session, source, deploy.Options{})
				source.Close()
				if err != nil {
					t.Fatal(err)
				}
				written, err := os.ReadFile(opt.Backing)
				if err != nil {
					t.Fatal(err)
				}
				checkDisk(t, &memDisk{content: written}, want)
			}
		})
	}
}

func TestFilesWithHolesArriveOnARealTarget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw := filepath.Join(dir, "sparse.raw")
	content := make([]byte, 40*mib+1536)
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int{0, 3*mib + 77, 9 * mib, 9*mib + 100_000, 30*mib - 5} {
		part := content[off : off+70_001]
		rand.NewChaCha8([32]byte{4}).Read(part)
		if _, err := f.WriteAt(part, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	convert(t, raw, filepath.Join(dir, "sparse.qcow2"))
	for _, name := range []string{"sparse.raw", "sparse.qcow2"} {
		file, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		right := fmt.Sprintf("%x", sha256.Sum256(file))
		for _, digest := range []string{strings.Repeat("0", 64), right} {
			t.Run(name+" as "+digest[:4], func(t *testing.T) {
				t.Parallel()
				garbage := newMemDisk(48*mib, 512)
				want := expected(garbage, content)
				backing := filepath.Join(t.TempDir(), "disk")
				if err := os.WriteFile(backing, garbage.content, 0o600); err != nil {
					t.Fatal(err)
				}
				source, err := image.Open(t.Context(), image.Reference{
					Source: "file://" + filepath.Join(dir, name),
					Digest: image.Digest{Algorithm: "sha256", Hex: digest},
				}, image.Options{AllowedPaths: []string{dir}})
				if err != nil {
					t.Fatal(err)
				}
				defer source.Close()
				_, err = deploy.WriteImage(t.Context(), dial(t, iscsitest.Options{Backing: backing}),
					source, deploy.Options{})
				written, readErr := os.ReadFile(backing)
				if readErr != nil {
					t.Fatal(readErr)
				}
				if digest == right {
					if err != nil {
						t.Fatal(err)
					}
					checkDisk(t, &memDisk{content: written}, want)
					return
				}
				var wrong *image.ChecksumError
				if !errors.As(err, &wrong) {
					t.Errorf("error %v, want a ChecksumError", err)
				}
				if !bytes.Equal(written[:head], make([]byte, head)) {
					t.Error("the head of the disk was written, and the image is not the promised one")
				}
			})
		}
	}
}

func TestImageArrivesThoughTheConnectionIsCut(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	s := newSite(t, 40*mib+1536)
	garbage := newMemDisk(48*mib, 512)
	want := expected(garbage, s.content)
	backing := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(backing, garbage.content, 0o600); err != nil {
		t.Fatal(err)
	}
	target := iscsitest.Start(t, iscsitest.Options{Backing: backing})
	proxy := iscsitest.StartProxy(t, target.Addr)
	var passed atomic.Int64
	proxy.Filter(func(toTarget bool, b []byte) {
		const every = 3 * mib // less than is in flight at once
		if end := passed.Add(int64(len(b))); toTarget && end/every != (end-int64(len(b)))/every {
			proxy.Cut()
		}
	})
	session, err := iscsi.Dial(t.Context(), iscsi.Config{
		Address: proxy.Addr, Target: target.IQN, LUN: target.LUN,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(context.WithoutCancel(t.Context()))
	source := s.open(t, "packed.qcow2", t.TempDir())
	defer source.Close()
	if _, err := deploy.WriteImage(t.Context(), session, source, deploy.Options{}); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(backing)
	if err != nil {
		t.Fatal(err)
	}
	checkDisk(t, &memDisk{content: written}, want)
	if n := proxy.Accepted(); n < 3 {
		t.Errorf("%d connections: it was not cut", n)
	}
}

func dial(t testing.TB, opt iscsitest.Options) *iscsi.Session {
	t.Helper()
	target := iscsitest.Start(t, opt)
	session, err := iscsi.Dial(t.Context(), iscsi.Config{
		Address: target.Addr, Target: target.IQN, LUN: target.LUN,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(context.WithoutCancel(t.Context())) })
	return session
}

// BenchmarkWriteImageToTarget is what a deploy through tgt on the loopback reaches, beside
// qemu-img with as many parallel writes, which spends no time on fetching and verifying.
func BenchmarkWriteImageToTarget(b *testing.B) {
	const size = 256 * mib
	s := newSite(b, size)
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			session := dial(b, iscsitest.Options{Size: size})
			spool := b.TempDir()
			s.open(b, name, spool).Close()
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				source := s.open(b, name, spool)
				b.StartTimer()
				_, err := deploy.WriteImage(b.Context(), session, source, deploy.Options{})
				if err != nil {
					b.Fatal(err)
				}
				source.Close()
			}
		})
	}
	for _, name := range []string{"disk.raw", "disk.qcow2", "packed.qcow2"} {
		b.Run("qemu-img/"+name, func(b *testing.B) {
			target := iscsitest.Start(b, iscsitest.Options{Size: size})
			url := fmt.Sprintf("iscsi://%s/%s/%d", target.Addr, target.IQN, target.LUN)
			b.SetBytes(size)
			for b.Loop() {
				out, err := exec.Command("qemu-img", "convert", "-n", "-W", "-m", "8",
					"-O", "raw", filepath.Join(s.dir, name), url).CombinedOutput()
				if err != nil {
					b.Fatalf("qemu-img convert: %v\n%s", err, out)
				}
			}
		})
	}
}
