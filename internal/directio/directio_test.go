package directio_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"ingot/internal/directio"
)

// dirs are file systems that know direct writes, and one that may not.
func dirs(t *testing.T) map[string]string {
	t.Helper()
	memory, err := os.MkdirTemp("/dev/shm", "ingot-directio-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	return map[string]string{"disk": t.TempDir(), "memory": memory}
}

func TestWhatIsWrittenInAnyPiecesIsRead(t *testing.T) {
	for name, dir := range dirs(t) {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			want := directio.Buffer(1<<20 + 123)
			for i := range want {
				want[i] = byte(random.Int())
			}
			file, err := os.Create(filepath.Join(dir, "file"))
			if err != nil {
				t.Fatal(err)
			}
			f := directio.New(file)
			// Pieces that are aligned, and others, which share pages with them.
			for off := 0; off < len(want); {
				n := directio.Align * (1 + random.IntN(20))
				if random.IntN(3) == 0 {
					n = 1 + random.IntN(10_000)
				}
				end := min(off+n, len(want))
				if _, err := f.WriteAt(want[off:end], int64(off)); err != nil {
					t.Fatal(err)
				}
				off = end
			}
			if err := f.Sync(); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			got, err := os.ReadFile(file.Name())
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes (%v) are not the %d that were written", len(got), err, len(want))
			}
		})
	}
}

// TestAlignedWritesPassTheCache looks at what the kernel holds of a file.
func TestAlignedWritesPassTheCache(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	f := directio.New(file)
	defer f.Close()
	const size = 4 << 20
	if _, err := f.WriteAt(directio.Buffer(size), 0); err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	if n := cached(t, m); n != 0 {
		t.Fatalf("%d pages are cached; if the file system of TMPDIR knows no direct writes (tmpfs), set it "+
			"to a directory on a disk", n)
	}
	if _, err := f.WriteAt(make([]byte, 100), 1); err != nil {
		t.Fatal(err)
	}
	if n := cached(t, m); n == 0 {
		t.Error("a write that is not aligned passed the cache, too: this test cannot tell")
	}
}

// cached counts the pages of a mapping that are in memory.
func cached(t *testing.T, m []byte) (n int) {
	t.Helper()
	pages := make([]byte, len(m)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)),
		uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range pages {
		n += int(p & 1)
	}
	return n
}
