package image_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

// piece is data at an offset of a sparse file.
type piece struct {
	off, n int64
}

// sparseFile makes a file of which only the pieces are data, and returns what reads as its
// content.
func sparseFile(t *testing.T, path string, size int64, pieces []piece) []byte {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	for _, p := range pieces {
		for i := range p.n {
			want[p.off+i] = byte(i%251) + 1
		}
		if _, err := f.WriteAt(want[p.off:p.off+p.n], p.off); err != nil {
			t.Fatal(err)
		}
	}
	return want
}

// pieces reads an image to its end and adds up what came as zeros without being read.
func pieces(t *testing.T, i *image.Image) (content []byte, zeros int64, err error) {
	t.Helper()
	var all bytes.Buffer
	buf := make([]byte, 300_001)
	for {
		n, zero, err := i.Next(t.Context(), buf)
		switch {
		case err == io.EOF:
			return all.Bytes(), zeros, nil
		case err != nil:
			return all.Bytes(), zeros, err
		case zero:
			all.Write(make([]byte, n))
			zeros += n
		default:
			all.Write(buf[:n])
		}
	}
}

func rawReference(path string, content []byte) image.Reference {
	return image.Reference{Source: "file://" + path, Format: image.Raw, Digest: sha256Of(content)}
}

func within(t *testing.T, dir string) image.Options {
	opt := options(t)
	opt.AllowedPaths = []string{dir}
	return opt
}

func TestHolesAreNotReadAndCountForTheDigest(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	const mib = 1 << 20
	for name, c := range map[string]struct {
		size   int64
		pieces []piece
		// zeros are the least that must not be read; blocks of the file system are rounded.
		zeros int64
	}{
		"at odd offsets": {9*mib + 77, []piece{{12_345, 5}, {1*mib + 3, 700_001},
			{4*mib - 1, 2}, {7*mib + 511, 4097}}, 7 * mib},
		"at the end":             {6 * mib, []piece{{0, mib + 1}}, 4 * mib},
		"at the beginning":       {6 * mib, []piece{{5*mib - 7, mib + 7}}, 4 * mib},
		"of odd size at the end": {6*mib + 1, []piece{{0, 1}}, 5 * mib},
		"none":                   {2*mib + 5, []piece{{0, 2*mib + 5}}, 0},
		"nothing else":           {3*mib + 1, nil, 3 * mib},
		"larger than one step":   {150*mib + 9, []piece{{149 * mib, mib}}, 148 * mib},
		"many that are very small": {mib, []piece{{0, 1}, {8192, 1}, {16384, 1}, {24576, 1},
			{131072, 1}}, mib / 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "disk")
			want := sparseFile(t, path, c.size, c.pieces)
			i, err := image.Open(t.Context(), rawReference(path, want), within(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			if i.Size() != c.size {
				t.Errorf("size %d, want %d", i.Size(), c.size)
			}
			got, zeros, err := pieces(t, i)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("content differs: %d bytes, want %d", len(got), len(want))
			}
			if zeros < c.zeros {
				t.Errorf("%d bytes came as holes, want at least %d", zeros, c.zeros)
			}
			if _, _, err := i.Next(t.Context(), make([]byte, 1)); err != io.EOF {
				t.Errorf("after the end: %v, want io.EOF again", err)
			}
		})
	}
}

func TestAFileSystemWithoutHolesHasDataOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatalf("mount a ramfs: %v; run the tests as root", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "disk")
	want := sparseFile(t, path, 3<<20, []piece{{1 << 20, 100_000}})
	i, err := image.Open(t.Context(), rawReference(path, want), within(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	got, zeros, err := pieces(t, i)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
	if zeros != 0 {
		t.Errorf("%d bytes came as holes; ramfs knows none", zeros)
	}
}

func TestAWrongDigestOfASparseFileIsFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	want := sparseFile(t, path, 4<<20, []piece{{0, 10}, {2 << 20, 10}})
	ref := rawReference(path, append(want, 0)) // one zero more
	got, err := read(t, ref, within(t, dir))
	mustFail(t, err, ingot.Invalid, "new checksum")
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes before the verdict, want all %d", len(got), len(want))
	}
}

func TestAFileThatIsTruncatedWhileItIsReadIsAnError(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, c := range map[string]struct {
		pieces []piece
		end    int64
	}{
		"in data":          {[]piece{{0, 8 * mib}}, 5 * mib},
		"in data, odd":     {[]piece{{0, 8 * mib}}, 5*mib + 17},
		"before a hole":    {[]piece{{0, 2 * mib}}, mib},
		"in the last hole": {[]piece{{0, 3 * mib}, {5 * mib, mib}}, 4 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "disk")
			want := sparseFile(t, path, 8*mib, c.pieces)
			i, err := image.Open(t.Context(), rawReference(path, want), within(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			if _, _, err := i.Next(t.Context(), make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, c.end); err != nil {
				t.Fatal(err)
			}
			_, err = drain(t.Context(), i)
			mustFail(t, err, ingot.Unavailable, "has changed", "8388608 bytes", "deploy again")
		})
	}
}

func TestAFileImageThatIsCancelledSaysWhy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	want := sparseFile(t, path, 300<<20, []piece{{200 << 20, 1}})
	i, err := image.Open(t.Context(), rawReference(path, want), within(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, _, err := i.Next(ctx, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	reason := errors.New("the machine is gone")
	cancel(reason)
	if _, _, err := i.Next(ctx, make([]byte, 1)); !errors.Is(err, reason) {
		t.Errorf("error %v, want the reason", err)
	}
}
