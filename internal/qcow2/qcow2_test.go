package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ingot/internal/qcow2"
	"ingot/internal/testkit"
)

// pattern is a disk content of size bytes with noise, text that compresses, and zeros, in runs
// whose borders do not care about clusters.
func pattern(size int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	b := make([]byte, size)
	for off := 0; off < size; {
		n := min(size-off, 1+rng.IntN(300_000))
		run := b[off : off+n]
		switch rng.IntN(3) {
		case 0:
			noise.Read(run)
		case 1:
			copy(run, bytes.Repeat([]byte("all work and no play "), n/21+1))
		}
		off += n
	}
	return b
}

func rawFile(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *qcow2.Image {
	t.Helper()
	image, err := openFile(t, path)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func openFile(t testing.TB, path string) (*qcow2.Image, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return qcow2.Open(f, info.Size())
}

// content reads the whole image by its extents and checks that they are in order without gap.
func content(t testing.TB, image *qcow2.Image) []byte {
	t.Helper()
	all := make([]byte, image.Size())
	next := int64(0)
	for e, err := range image.Extents() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Offset != next || e.Length <= 0 {
			t.Fatalf("extent %+v, want one that begins at %d", e, next)
		}
		next += e.Length
		if e.Zero {
			continue
		}
		if _, err := image.ReadAt(all[e.Offset:next], e.Offset); err != nil {
			t.Fatal(err)
		}
	}
	if next != image.Size() {
		t.Fatalf("extents end at %d, disk at %d", next, image.Size())
	}
	return all
}

func sameBytes(t testing.TB, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	if bytes.Equal(got, want) {
		return // without a look at each, which takes the race detector seconds
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

func TestImagesOfQemuReadLikeTheirSource(t *testing.T) {
	t.Parallel()
	kinds := map[string][]string{
		"default":               nil,
		"version 2":             {"-o", "compat=0.10"},
		"compressed":            {"-c"},
		"compressed version 2":  {"-c", "-o", "compat=0.10"},
		"zstd":                  {"-c", "-o", "compression_type=zstd"},
		"clusters of 512":       {"-o", "cluster_size=512"},
		"clusters of 512 small": {"-c", "-o", "cluster_size=512"},
		"clusters of 4k":        {"-c", "-o", "cluster_size=4k"},
		"clusters of 2M":        {"-o", "cluster_size=2M"},
		"compressed 2M":         {"-c", "-o", "cluster_size=2M"},
		"metadata preallocated": {"-o", "preallocation=metadata"},
		"all preallocated":      {"-o", "preallocation=full"},
		"no zero detection":     {"-S", "0"},
		"lazy refcounts":        {"-o", "lazy_refcounts=on,refcount_bits=64"},
		"one-bit refcounts":     {"-o", "refcount_bits=1"},
		"zstd 4k":               {"-c", "-o", "compression_type=zstd,cluster_size=4k"},
		"zstd 2M":               {"-c", "-o", "compression_type=zstd,cluster_size=2M"},
		"subclusters of 512":    {"-o", "extended_l2=on,cluster_size=16k"},
		"subclusters":           {"-o", "extended_l2=on,cluster_size=128k"},
		"subclusters of 64k":    {"-o", "extended_l2=on,cluster_size=2M"},
		"subclusters, zlib":     {"-c", "-o", "extended_l2=on"},
		"subclusters, zstd":     {"-c", "-o", "extended_l2=on,compression_type=zstd"},
	}
	// The last disk ends inside a cluster.
	for i, size := range []int{9 << 20, 5<<20 + 3<<9} {
		want := pattern(size, uint64(i))
		raw := rawFile(t, want)
		for name, args := range kinds {
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "disk.qcow2")
				args := slices.Concat([]string{"convert", "-f", "raw", "-O", "qcow2"},
					args, []string{raw, path})
				testkit.Run(t, "qemu-img", args...)
				sameBytes(t, content(t, open(t, path)), want)
			})
		}
	}
}

func TestWritesZeroesAndDiscardsReadAsQemuReadsThem(t *testing.T) {
	t.Parallel()
	for _, layout := range []string{"compat=0.10", "compat=1.1", "extended_l2=on",
		"extended_l2=on,cluster_size=2M"} {
		t.Run(layout, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, raw := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "disk.raw")
			testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", layout, path, "40M")
			testkit.Run(t, "qemu-io", "-d", "unmap", "-f", "qcow2", "-c", "write -P 1 0 10M",
				"-c", "write -z 1M 1M", "-c", "discard 3M 1M", "-c", "write -z -u 5M 70k",
				"-c", "write -P 7 39M 3k", "-c", "write -P 9 20M 513",
				"-c", "write -P 3 22M 64k", "-c", "discard 22536k 4k", "-c", "write -z 22550k 2k",
				"-c", "write -P 4 23553k 1k", path)
			testkit.Run(t, "qemu-img", "snapshot", "-c", "ignored", path)
			testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 5 2M 64k", path)
			testkit.Run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
			want, err := os.ReadFile(raw)
			if err != nil {
				t.Fatal(err)
			}
			sameBytes(t, content(t, open(t, path)), want)
		})
	}
}

func TestHolesCostNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "8T")
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 3 5T 64k", path)
	image := open(t, path)
	var data, extents int64
	for e, err := range image.Extents() {
		if err != nil {
			t.Fatal(err)
		}
		extents++
		if !e.Zero {
			data += e.Length
		}
	}
	if data != 64<<10 || extents > 6 {
		t.Errorf("%d bytes of data in %d extents, want 65536 in a handful", data, extents)
	}
}

func TestReadAtAgreesWithTheSourceAtAnyOffset(t *testing.T) {
	t.Parallel()
	want := pattern(3<<20+512, 42)
	raw := rawFile(t, want)
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	testkit.Run(t, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, path)
	image := open(t, path)
	rng := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		off := rng.IntN(len(want))
		p := make([]byte, 1+rng.IntN(200_000))
		n, err := image.ReadAt(p, int64(off))
		if end := min(len(want), off+len(p)); n != end-off {
			t.Fatalf("read %d bytes at %d, want %d (%v)", n, off, end-off, err)
		}
		if (n < len(p)) != (err == io.EOF) {
			t.Fatalf("read %d of %d bytes at %d: error %v", n, len(p), off, err)
		}
		sameBytes(t, p[:n], want[off:off+n])
	}
	if n, err := image.ReadAt(make([]byte, 1), image.Size()); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v; want 0, EOF", n, err)
	}
	if _, err := image.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Errorf("read at -1: %v, want an error", err)
	}
}

func TestImagesThatDoNotStandAloneAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base := rawFile(t, make([]byte, 1<<20))
	cases := map[string]struct {
		args []string
		want string
	}{
		"backing file": {[]string{"-b", base, "-F", "raw"}, "backing file"},
		"external data file": {
			[]string{"-o", "data_file=" + filepath.Join(dir, "data.raw")}, "another file"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".qcow2")
			testkit.Run(t, "qemu-img", slices.Concat([]string{"create", "-q", "-f", "qcow2"}, c.args,
				[]string{path, "1M"})...)
			_, err := openFile(t, path)
			if !errors.Is(err, qcow2.ErrUnsupported) {
				t.Fatalf("error %v, want one that matches ErrUnsupported", err)
			}
			for _, part := range []string{c.want, "qemu-img convert"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

// small returns an image of 256 KiB with clusters of 512 bytes and one cluster of data.
func small(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small.qcow2")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "256k")
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 65 64k 512", path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wayOut is what an error about an image tells to do.
var wayOut = regexp.MustCompile(`qemu-img convert|qemu-img check|fetch it again|qcow2 magic`)

func TestDamagedSubclustersAreRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=16k",
		path, "256k")
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 65 0 512", path)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	be := binary.BigEndian
	l2 := be.Uint64(good[be.Uint64(good[40:]):]) & 0x00fffffffffffe00
	for name, damage := range map[string]func(b []byte){
		"allocated and zero":    func(b []byte) { be.PutUint64(b[l2+8:], 1<<32|1) },
		"allocated and nowhere": func(b []byte) { be.PutUint64(b[l2:], 0) },
	} {
		b := slices.Clone(good)
		damage(b)
		image, err := qcow2.Open(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			_, err = image.ReadAt(make([]byte, image.Size()), 0)
		}
		if !errors.Is(err, qcow2.ErrCorrupt) || !wayOut.MatchString(err.Error()) {
			t.Errorf("%s: error %v, want one that matches ErrCorrupt and says what to do", name, err)
		}
	}
}

func TestAHeaderIsEnoughToRefuse(t *testing.T) {
	t.Parallel()
	good := small(t)
	if err := qcow2.CheckHeader(good[:112]); err != nil {
		t.Errorf("good header: %v", err)
	}
	for name, at := range map[string]int{"backing file": 15, "encryption": 35, "features": 73} {
		bad := slices.Clone(good[:112])
		bad[at] = 0x40
		if err := qcow2.CheckHeader(bad); !errors.Is(err, qcow2.ErrUnsupported) {
			t.Errorf("%s: error %v, want one that matches ErrUnsupported", name, err)
		}
	}
	if err := qcow2.CheckHeader(good[:50]); !errors.Is(err, qcow2.ErrCorrupt) {
		t.Errorf("half a header: error %v, want one that matches ErrCorrupt", err)
	}
}

func TestDamagedImagesAreRefused(t *testing.T) {
	t.Parallel()
	good := small(t)
	be := binary.BigEndian
	l1 := be.Uint64(good[40:])
	l2 := be.Uint64(good[l1+16:]) & 0x00fffffffffffe00
	cases := map[string]struct {
		damage func(b []byte) []byte
		want   error
	}{
		"empty":            {func([]byte) []byte { return nil }, qcow2.ErrCorrupt},
		"no magic":         {func(b []byte) []byte { b[0] = 'X'; return b }, qcow2.ErrCorrupt},
		"header cut off":   {func(b []byte) []byte { return b[:80] }, qcow2.ErrCorrupt},
		"version 4":        {func(b []byte) []byte { b[7] = 4; return b }, qcow2.ErrUnsupported},
		"corrupt bit":      {func(b []byte) []byte { b[79] |= 2; return b }, qcow2.ErrCorrupt},
		"unknown feature":  {func(b []byte) []byte { b[75] = 1; return b }, qcow2.ErrUnsupported},
		"compression type": {func(b []byte) []byte { b[104] = 9; return b }, qcow2.ErrUnsupported},
		"encrypted":        {func(b []byte) []byte { b[35] = 2; return b }, qcow2.ErrUnsupported},
		"cluster bits 8":   {func(b []byte) []byte { b[23] = 8; return b }, qcow2.ErrCorrupt},
		"cluster bits 63":  {func(b []byte) []byte { b[23] = 63; return b }, qcow2.ErrCorrupt},
		"refcount width":   {func(b []byte) []byte { b[99] = 7; return b }, qcow2.ErrCorrupt},
		"no refcounts":     {func(b []byte) []byte { b[48] = 1; return b }, qcow2.ErrCorrupt},
		"refcounts askew":  {func(b []byte) []byte { b[55] = 1; return b }, qcow2.ErrCorrupt},
		"parts of nothing": {func(b []byte) []byte { b[79] |= 16; return b }, qcow2.ErrCorrupt},
		"negative size":    {func(b []byte) []byte { b[24] = 0x80; return b }, qcow2.ErrCorrupt},
		"huge size":        {func(b []byte) []byte { b[26] = 0x80; return b }, qcow2.ErrUnsupported},
		"short L1":         {func(b []byte) []byte { b[39] = 1; return b }, qcow2.ErrCorrupt},
		"L1 outside": {func(b []byte) []byte {
			be.PutUint64(b[40:], 1<<40)
			return b
		}, qcow2.ErrCorrupt},
		"L1 not aligned": {func(b []byte) []byte { b[47]++; return b }, qcow2.ErrCorrupt},
		"L2 outside": {func(b []byte) []byte {
			be.PutUint64(b[l1+16:], 1<<40)
			return b
		}, qcow2.ErrCorrupt},
		"cluster outside": {func(b []byte) []byte {
			be.PutUint64(b[l2:], 1<<40)
			return b
		}, qcow2.ErrCorrupt},
		"compressed outside": {func(b []byte) []byte {
			be.PutUint64(b[l2:], 1<<62|1<<40)
			return b
		}, qcow2.ErrCorrupt},
		"compressed noise": {func(b []byte) []byte {
			be.PutUint64(b[l2:], 1<<62|l1)
			return b
		}, qcow2.ErrCorrupt},
		"zero cluster in version 2": {func(b []byte) []byte {
			b[7] = 2
			be.PutUint64(b[l2:], 1)
			return b
		}, qcow2.ErrCorrupt},
		"truncated": {func(b []byte) []byte { return b[:l2+512] }, qcow2.ErrCorrupt},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := c.damage(slices.Clone(good))
			image, err := qcow2.Open(bytes.NewReader(b), int64(len(b)))
			if err == nil {
				_, err = image.ReadAt(make([]byte, image.Size()), 0)
			}
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want one that matches %q", err, c.want)
			}
			if err != nil && !wayOut.MatchString(err.Error()) {
				t.Errorf("error %q does not say what to do", err)
			}
		})
	}
}

func TestMemoryDoesNotGrowWithTheImage(t *testing.T) {
	// Not parallel: AllocsPerRun counts for the whole process.
	// Every L2 table is in use: 512 MiB each at the default cluster size.
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "64G")
	image := open(t, path)
	walk := func() {
		for _, err := range image.Extents() {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	walk()
	if allocs := testing.AllocsPerRun(1, walk); allocs > 200 {
		t.Errorf("a second walk over 128 tables allocated %v times, want reuse", allocs)
	}
}

func FuzzOpen(f *testing.F) {
	divided := filepath.Join(f.TempDir(), "divided.qcow2")
	testkit.Run(f, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=16k",
		divided, "256k")
	testkit.Run(f, "qemu-io", "-f", "qcow2", "-c", "write -P 65 1k 512", "-c", "write -z 4k 1k", divided)
	seed, err := os.ReadFile(divided)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		image, err := qcow2.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		next, p := int64(0), make([]byte, 3000)
		for range 200 {
			e, err := image.ExtentAt(next)
			if err != nil {
				return
			}
			if e.Offset != next || e.Length <= 0 || e.Length > image.Size()-next {
				t.Fatalf("extent %+v at %d of %d", e, next, image.Size())
			}
			n, err := image.ReadAt(p, next)
			if e.Zero && slices.ContainsFunc(p[:min(int64(n), e.Length)],
				func(c byte) bool { return c != 0 }) {
				t.Fatalf("extent %+v is not zero (%v)", e, err)
			}
			next += e.Length
		}
	})
}
