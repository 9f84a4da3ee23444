package deploy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/deploy"
	"ingot/internal/image"
)

// The two packages do not know one another; whoever joins them relies on this.
var _ deploy.Source = (*image.Image)(nil)

// site is a web server with images made by qemu-img from one raw disk.
type site struct {
	url     string
	dir     string
	content []byte
}

// newSite makes disk.raw, disk.raw.gz, disk.qcow2 and packed.qcow2, where the disk has size
// bytes, a quarter of it noise, a quarter text and the rest zeros.
func newSite(t testing.TB, size int) site {
	t.Helper()
	s := site{dir: t.TempDir(), content: make([]byte, size)}
	rand.NewChaCha8([32]byte{3}).Read(s.content[:size/4])
	text := s.content[size/2 : size/4*3]
	repeat(text, copy(text, "tttttthhhhhheeeeee   qqqqqquuuuuuiiiiiicccccckkkkkk   "))
	path := func(name string) string { return filepath.Join(s.dir, name) }
	if err := os.WriteFile(path("disk.raw"), s.content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path("disk.raw.gz"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(s.content); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	convert(t, path("disk.raw"), path("disk.qcow2"))
	convert(t, path("disk.raw"), path("packed.qcow2"), "-c")
	server := httptest.NewServer(http.FileServer(http.Dir(s.dir)))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func convert(t testing.TB, in, out string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatal("qemu-img is missing; install it with: apt-get install qemu-utils " +
			"(scripts/packages.sh)")
	}
	args = append(args, "-f", "raw", "-O", "qcow2", in, out)
	if o, err := exec.Command("qemu-img", append([]string{"convert"}, args...)...).
		CombinedOutput(); err != nil {
		t.Fatalf("qemu-img convert %v: %v\n%s", args, err, o)
	}
}

// open opens the named image of the site as a deploy does.
func (s site) open(t testing.TB, name, spool string) *image.Image {
	t.Helper()
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	ref, err := image.FromInstanceInfo(map[string]any{
		"image_source":   s.url + "/" + name,
		"image_checksum": hex.EncodeToString(sum.Sum(nil)),
	}, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	i, err := image.Open(context.Background(), ref, image.Options{SpoolDir: spool})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

var names = []string{"disk.raw", "disk.raw.gz", "disk.qcow2", "packed.qcow2"}

func TestImagesFromAWebServerArriveOnTheDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t, 9*mib+1536)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := s.open(t, name, t.TempDir())
			defer source.Close()
			disk := newMemDisk(12*mib, 4096)
			want := expected(disk, s.content)
			result, err := deploy.WriteImage(t.Context(), disk, source, deploy.Options{})
			if err != nil {
				t.Fatal(err)
			}
			checkDisk(t, disk, want)
			if result.Written > 5*mib {
				t.Errorf("%d bytes written as data, want less than 5 MiB: half the disk is zero",
					result.Written)
			}
			if result.Digest != source.Digest() {
				t.Errorf("digest %s, want %s", result.Digest, source.Digest())
			}
		})
	}
}

func TestS0_9_AStormOfDeploymentsAsksTheOriginTwice(t *testing.T) {
	t.Parallel()
	const machines = 8
	content := make([]byte, 5*mib)
	rand.NewChaCha8([32]byte{9}).Read(content)
	right, wrong := sha256.Sum256(content), sha256.Sum256(nil)
	for name, sum := range map[string][32]byte{"right": right, "wrong checksum": wrong} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			site := httptest.NewServer(http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					asked.Add(1)
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
				}))
			t.Cleanup(site.Close)
			ref := image.Reference{Source: site.URL,
				Digest: image.Digest{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}}
			opt := image.Options{SpoolDir: filepath.Join(t.TempDir(), "spool")}
			var sources []*image.Image
			for range machines { // all of them are there before the first one reads
				source, err := image.Open(t.Context(), ref, opt)
				if err != nil {
					t.Fatal(err)
				}
				defer source.Close()
				sources = append(sources, source)
			}
			var wait sync.WaitGroup
			for _, source := range sources {
				wait.Go(func() {
					disk := newMemDisk(8*mib, 512)
					want := expected(disk, content)
					_, err := deploy.WriteImage(t.Context(), disk, source, deploy.Options{})
					var checksum *image.ChecksumError
					switch {
					case sum == wrong && !errors.As(err, &checksum):
						t.Errorf("error %v, want one about the checksum", err)
					case sum == wrong && !bytes.Equal(disk.content[:mib], make([]byte, mib)):
						t.Error("a machine finds something to boot on its disk")
					case sum == right && err != nil:
						t.Error(err)
					case sum == right:
						checkDisk(t, disk, want)
					}
				})
			}
			wait.Wait()
			if asked.Load() > 2 {
				t.Errorf("the origin was asked %d times", asked.Load())
			}
		})
	}
}

// nullDisk takes everything and costs nothing.
type nullDisk struct {
	size    int64
	written atomic.Int64
}

func (d *nullDisk) Size() int64                { return d.size }
func (d *nullDisk) BlockSize() int             { return 512 }
func (d *nullDisk) Sync(context.Context) error { return nil }

func (d *nullDisk) WriteZeroes(context.Context, int64, int64) error { return nil }

func (d *nullDisk) WriteAt(p []byte, _ int64) (int, error) {
	d.written.Add(int64(len(p)))
	return len(p), nil
}

// BenchmarkWriteImage copies images of two sizes from a web server on the loopback, or from the
// spool in case of qcow2, to a disk that costs nothing. B/op must not depend on the size.
func BenchmarkWriteImage(b *testing.B) {
	for _, size := range []int{64 * mib, 512 * mib} {
		s := newSite(b, size)
		for _, name := range names {
			b.Run(fmt.Sprintf("%s/%dMiB", name, size/mib), func(b *testing.B) {
				spool := b.TempDir()
				s.open(b, name, spool).Close() // fills the spool
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					source := s.open(b, name, spool)
					disk := &nullDisk{size: int64(size)}
					b.StartTimer()
					_, err := deploy.WriteImage(context.Background(), disk, source,
						deploy.Options{})
					if err != nil {
						b.Fatal(err)
					}
					source.Close()
				}
			})
		}
	}
}

func TestMemoryDoesNotGrowWithTheImage(t *testing.T) {
	// Not parallel: it looks at what the whole process allocates.
	for _, size := range []int64{64 * mib, 256 * mib} {
		source := &slowSource{size: size}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := deploy.WriteImage(t.Context(), &nullDisk{size: size}, source,
			deploy.Options{Workers: 4})
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		// Six buffers, plus a timer each time that the source waits.
		if got := after.TotalAlloc - before.TotalAlloc; got > 8*mib {
			t.Errorf("%d bytes allocated for an image of %d, want less than 8 MiB", got, size)
		}
	}
}
