package image_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

// disk is the content of a small disk: noise, zeros and text in runs.
func disk(size int) []byte {
	rng := rand.New(rand.NewPCG(uint64(size), 2))
	noise := rand.NewChaCha8([32]byte{2})
	b := make([]byte, size)
	for off := 0; off < size; {
		n := min(size-off, 1+rng.IntN(400_000))
		switch rng.IntN(3) {
		case 0:
			noise.Read(b[off : off+n])
		case 1:
			copy(b[off:off+n], bytes.Repeat([]byte("ingot "), n/6+1))
		}
		off += n
	}
	b[0] = 0xeb // no magic of any format
	return b
}

func qcow2Of(t testing.TB, raw []byte, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	write(t, in, raw)
	args = slices.Concat([]string{"convert", "-f", "raw", "-O", "qcow2"}, args, []string{in, out})
	qemuImg(t, args...)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatal("qemu-img is missing; install it with: apt-get install qemu-utils " +
			"(scripts/packages.sh)")
	}
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func packed(t testing.TB, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// packedBy compresses b with a program that reads from standard input.
func packedBy(t testing.TB, b []byte, program string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is missing; install it (scripts/packages.sh)", program)
	}
	cmd := exec.Command(program, append(args, "-c")...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v", program, args, err)
	}
	return out
}

func sha256Of(b []byte) image.Digest {
	sum := sha256.Sum256(b)
	return image.Digest{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// options are fast where the defaults are patient.
func options(t testing.TB) image.Options {
	return image.Options{SpoolDir: filepath.Join(t.TempDir(), "spool"), RetryDelay: 1}
}

// serve is a web server with one file at /disk, counting requests.
func serve(t testing.TB, file []byte) (url string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
	}))
	t.Cleanup(server.Close)
	return server.URL + "/disk", requests
}

// serveTLS does the same by https and returns the path of the certificate to believe.
func serveTLS(t testing.TB, file []byte) (url, caFile string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) { w.Write(file) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it reports clients that refuse
	server.StartTLS()
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	write(t, caFile, pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE", Bytes: server.Certificate().Raw,
	}))
	return server.URL + "/disk", caFile
}

func handle(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL + "/disk"
}

// drain reads an image to its end and returns the content, also if the end is an error.
func drain(ctx context.Context, i *image.Image) ([]byte, error) {
	var all bytes.Buffer
	buf := make([]byte, 300_000)
	for {
		n, zero, err := i.Next(ctx, buf)
		if err == io.EOF {
			return all.Bytes(), nil
		}
		if err != nil {
			return all.Bytes(), err
		}
		if zero {
			all.Write(make([]byte, n))
			continue
		}
		all.Write(buf[:n])
	}
}

// read opens ref and reads all of it.
func read(t testing.TB, ref image.Reference, opt image.Options) ([]byte, error) {
	t.Helper()
	i, err := image.Open(t.Context(), ref, opt)
	if err != nil {
		return nil, err
	}
	defer i.Close()
	return drain(t.Context(), i)
}

func mustFail(t testing.TB, err error, kind ingot.Kind, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	if got := ingot.KindOf(err); got != kind {
		t.Errorf("kind of %q is %q, want %q", err, got, kind)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestImagesArriveUnchangedFromEverySourceInEveryForm(t *testing.T) {
	t.Parallel()
	// Not a multiple of anything; qcow2 rounds it up to sectors.
	want := disk(3<<20 + 512*3)
	first, rest := want[:1<<20+7], want[1<<20+7:]
	plain := qcow2Of(t, want)
	files := map[string]struct {
		file   []byte
		format image.Format
		size   int64
	}{
		"raw":              {want, image.Raw, int64(len(want))},
		"raw.gz":           {packed(t, want), image.Raw, -1},
		"qcow2":            {plain, image.QCOW2, int64(len(want))},
		"qcow2 compressed": {qcow2Of(t, want, "-c"), image.QCOW2, int64(len(want))},
		"qcow2.gz":         {packed(t, plain), image.QCOW2, int64(len(want))},
		"qcow2.xz":         {packedBy(t, plain, "xz", "-1"), image.QCOW2, int64(len(want))},
		"qcow2.zst":        {packedBy(t, plain, "zstd", "-q"), image.QCOW2, int64(len(want))},
		"raw.xz":           {packedBy(t, want, "xz", "-1"), image.Raw, -1},
		"raw.xz for x86": {packedBy(t, want, "xz", "--x86", "--lzma2=preset=1", "-Csha256"),
			image.Raw, -1},
		"raw.xz in blocks": {packedBy(t, want, "xz", "-1", "--block-size=1MiB"), image.Raw, -1},
		"raw.zst":          {packedBy(t, want, "zstd", "-q"), image.Raw, -1},
		"raw.zst long":     {packedBy(t, want, "zstd", "-q", "--long=26"), image.Raw, -1},
		"raw.gz in parts":  {slices.Concat(packed(t, first), packed(t, rest)), image.Raw, -1},
		"raw.xz in streams": {slices.Concat(packedBy(t, first, "xz"), packedBy(t, rest, "xz")),
			image.Raw, -1},
		"raw.zst in frames": {slices.Concat(packedBy(t, first, "zstd"),
			packedBy(t, rest, "zstd")), image.Raw, -1},
	}
	for name, c := range files {
		url, _ := serve(t, c.file)
		opt := options(t)
		opt.AllowedPaths = []string{t.TempDir()}
		path := filepath.Join(opt.AllowedPaths[0], "disk")
		write(t, path, c.file)
		for _, source := range []string{url, "file://" + path} {
			for _, declared := range []image.Format{image.Unknown, c.format} {
				scheme, _, _ := strings.Cut(source, ":")
				t.Run(name+" by "+scheme+" as "+string(declared), func(t *testing.T) {
					t.Parallel()
					ref := image.Reference{
						Source: source, Digest: sha256Of(c.file), Format: declared,
					}
					i, err := image.Open(t.Context(), ref, opt)
					if err != nil {
						t.Fatal(err)
					}
					defer i.Close()
					if i.Format() != c.format || i.Size() != c.size {
						t.Errorf("%s of %d bytes, want %s of %d", i.Format(), i.Size(),
							c.format, c.size)
					}
					if i.Digest() != ref.Digest.String() {
						t.Errorf("digest %s, want %s", i.Digest(), ref.Digest)
					}
					got, err := drain(t.Context(), i)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, want) {
						t.Errorf("content differs: %d bytes, want %d", len(got), len(want))
					}
				})
			}
		}
	}
}

func TestSHA512AndUnknownLengthAreFine(t *testing.T) {
	t.Parallel()
	want := disk(1 << 20)
	url := handle(t, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush() // headers leave without a length
		w.Write(want)
	})
	sum := sha512.Sum512(want)
	ref := image.Reference{Source: url, Digest: image.Digest{
		Algorithm: "sha512", Hex: hex.EncodeToString(sum[:]),
	}}
	i, err := image.Open(t.Context(), ref, options(t))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if i.Size() != -1 {
		t.Errorf("size %d, want -1 for unknown", i.Size())
	}
	if got, err := drain(t.Context(), i); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
}

func TestAWrongDigestIsAChecksumError(t *testing.T) {
	t.Parallel()
	raw := disk(1 << 20)
	wrong := sha256Of([]byte("another image"))
	dir := t.TempDir()
	for name, file := range map[string][]byte{
		"raw": raw, "raw.gz": packed(t, raw), "qcow2": qcow2Of(t, raw),
		"qcow2.gz": packed(t, qcow2Of(t, raw)),
	} {
		write(t, filepath.Join(dir, name), file)
		url, _ := serve(t, file)
		for _, source := range []string{url, "file://" + filepath.Join(dir, name)} {
			scheme, _, _ := strings.Cut(source, ":")
			t.Run(name+" by "+scheme, func(t *testing.T) {
				t.Parallel()
				opt := options(t)
				opt.AllowedPaths = []string{dir}
				_, err := read(t, image.Reference{Source: source, Digest: wrong}, opt)
				var mismatch *image.ChecksumError
				if !errors.As(err, &mismatch) {
					t.Fatalf("error %v, want a ChecksumError", err)
				}
				if mismatch.Got != sha256Of(file) || mismatch.Fetched != int64(len(file)) {
					t.Errorf("found %s in %d bytes, want %s in %d", mismatch.Got,
						mismatch.Fetched, sha256Of(file), len(file))
				}
				mustFail(t, err, ingot.Invalid, wrong.Hex, "new checksum")
				if left := spoolNames(t, opt); len(left) > 0 {
					t.Errorf("spool holds %q, want nothing", left)
				}
			})
		}
	}
}

func spoolNames(t testing.TB, opt image.Options) []string {
	t.Helper()
	entries, err := os.ReadDir(opt.SpoolDir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// cd is an ISO 9660 file system as far as it is looked at, with a boot sector if the signature
// is one.
func cd(signature uint16) []byte {
	b := make([]byte, 40<<10)
	binary.LittleEndian.PutUint16(b[510:], signature)
	copy(b[32<<10:], "\x01CD001")
	return b
}

// damaged is b with another byte in its middle.
func damaged(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 0x10
	return b
}

func TestACDThatAlsoBootsFromDisksIsRaw(t *testing.T) {
	t.Parallel()
	file := cd(0xaa55)
	url, _ := serve(t, file)
	got, err := read(t, image.Reference{Source: url, Digest: sha256Of(file)}, options(t))
	if err != nil || !bytes.Equal(got, file) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(file))
	}
}

func TestAQCOW2ImageThatIsRefusedIsNotFetched(t *testing.T) {
	t.Parallel()
	file := qcow2Of(t, disk(1<<20))
	file[15] = 1 // a backing file
	ended := make(chan struct{})
	url := handle(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000000000000")
		w.Write(file)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(ended)
	})
	_, err := read(t, image.Reference{Source: url, Digest: sha256Of(nil)}, options(t))
	mustFail(t, err, ingot.Invalid, "backing file", "qemu-img convert")
	<-ended
}

func TestContentThatIsNoDiskImageIsRefused(t *testing.T) {
	t.Parallel()
	raw := disk(1 << 20)
	other := func(format string) []byte {
		dir := t.TempDir()
		path := filepath.Join(dir, "disk")
		qemuImg(t, "create", "-q", "-f", format, path, "1M")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	backed := func() []byte {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "base"), raw)
		path := filepath.Join(dir, "disk")
		qemuImg(t, "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	convert := "qemu-img convert"
	cases := map[string]struct {
		file     []byte
		declared image.Format
		says     []string
	}{
		"vmdk":         {other("vmdk"), image.Raw, []string{"VMDK", convert}},
		"vdi":          {other("vdi"), image.Raw, []string{"VDI", convert}},
		"vhdx":         {other("vhdx"), image.Raw, []string{"VHDX", convert}},
		"vhd":          {other("vpc"), image.Unknown, []string{"VHD", convert}},
		"qed":          {other("qed"), image.Unknown, []string{"QED", convert}},
		"packed vmdk":  {packed(t, other("vmdk")), image.Raw, []string{"VMDK", convert}},
		"parallels":    {other("parallels"), "", []string{"Parallels", "-f parallels -O"}},
		"luks":         {[]byte("LUKS\xba\xbe\x00\x01"), "", []string{"LUKS", "no firmware", convert}},
		"bzip2":        {[]byte("BZh91AY&SY"), "", []string{"bzip2", "gzip, xz or zstd"}},
		"7z":           {[]byte("7z\xbc\xaf\x27\x1c\x00"), "", []string{"7z", "unpack"}},
		"tar":          {append(make([]byte, 257), "ustar"...), "", []string{"tar archive"}},
		"zip":          {[]byte("PK\x03\x04"), "", []string{"zip archive"}},
		"program":      {[]byte("\x7fELF"), "", []string{"kernel", "whole disk"}},
		"CD":           {cd(0), "", []string{"CD", "isohybrid"}},
		"packed twice": {packed(t, packed(t, raw)), "", []string{"gzip once more"}},
		"xz, too much memory": {packedBy(t, raw, "xz", "--lzma2=preset=0,dict=128MiB"), "",
			[]string{"64 MiB of memory", "xz"}},
		"zstd, too much memory": {packedBy(t, raw, "zstd", "-1", "--long=30"), "",
			[]string{"64 MiB of memory", "zstd"}},
		"cut off xz":        {packedBy(t, raw, "xz")[:5000], "", []string{"unpack", "cut off"}},
		"cut off zstd":      {packedBy(t, raw, "zstd")[:5000], "", []string{"unpack", "cut off"}},
		"damaged gzip":      {damaged(packed(t, raw)), "", []string{"unpack", "damaged"}},
		"damaged xz":        {damaged(packedBy(t, raw, "xz")), "", []string{"unpack", "damaged"}},
		"damaged zstd":      {damaged(packedBy(t, raw, "zstd")), "", []string{"unpack", "damaged"}},
		"gzip and garbage":  {append(packed(t, raw), "garbage"...), "", []string{"unpack"}},
		"web page":          {[]byte("\n<!DOCTYPE html><p>Log in"), "", []string{"web page"}},
		"empty":             {nil, image.Raw, []string{"empty"}},
		"qcow2 as raw":      {qcow2Of(t, raw), image.Raw, []string{"set image_disk_format to qcow2"}},
		"raw as qcow2":      {raw, image.QCOW2, []string{"set image_disk_format to raw"}},
		"backing file":      {backed(), image.QCOW2, []string{"backing file", convert}},
		"damaged qcow2":     {qcow2Of(t, raw)[:66000], image.QCOW2, []string{"outside the file"}},
		"cut off gzip":      {packed(t, raw)[:5000], image.Raw, []string{"unpack", "cut off"}},
		"gzip of something": {[]byte("\x1f\x8bhello"), image.Raw, []string{"unpack"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, _ := serve(t, c.file)
			ref := image.Reference{Source: url, Digest: sha256Of(c.file), Format: c.declared}
			_, err := read(t, ref, options(t))
			mustFail(t, err, ingot.Invalid, c.says...)
		})
	}
}

func TestMemoryDoesNotGrowWithTheImage(t *testing.T) {
	// Not parallel: it looks at what the whole process allocates.
	const size = 128 << 20
	var zeros [1 << 16]byte
	url := handle(t, func(w http.ResponseWriter, _ *http.Request) {
		for range size / len(zeros) {
			if _, err := w.Write(zeros[:]); err != nil {
				return
			}
		}
	})
	sum := sha256.New()
	for range size / len(zeros) {
		sum.Write(zeros[:])
	}
	ref := image.Reference{Source: url, Digest: image.Digest{
		Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil)),
	}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	i, err := image.Open(t.Context(), ref, options(t))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	buf := make([]byte, 1<<20)
	for err == nil {
		_, _, err = i.Next(t.Context(), buf)
	}
	runtime.ReadMemStats(&after)
	if err != io.EOF {
		t.Fatal(err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("reading %d bytes allocated %d, want less than 8 MiB", size, got)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(packedBy(f, disk(2000), "xz"))
	f.Add(packedBy(f, disk(2000), "zstd"))
	f.Fuzz(func(t *testing.T, file []byte) {
		opt := options(t)
		opt.AllowedPaths = []string{t.TempDir()}
		path := filepath.Join(opt.AllowedPaths[0], "disk")
		write(t, path, file)
		ref := image.Reference{Source: "file://" + path, Digest: sha256Of(file)}
		i, err := image.Open(t.Context(), ref, opt)
		if err != nil {
			return
		}
		defer i.Close()
		var read int64
		buf := make([]byte, 1<<16)
		for range 500 {
			n, _, err := i.Next(t.Context(), buf)
			read += n
			if err == io.EOF && i.Size() >= 0 && read != i.Size() {
				t.Fatalf("%d bytes of content in a disk of %d", read, i.Size())
			}
			if err != nil {
				return
			}
		}
	})
}
