// Package directio writes files and disks past the page cache: what is written once and not read
// soon costs no copy, no memory and no long flush at the end, and pushes out nothing that machines
// are reading.
//
// Where the file system or the disk knows no such writes, and for what is not aligned, it writes as
// everybody does; only the time tells. Start at [File].
package directio

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Align is what addresses, offsets and lengths of direct writes are multiples of, in bytes: the largest
// logical block of disks in use.
const Align = 4096

// Buffer returns n bytes that begin at a multiple of [Align].
func Buffer(n int) []byte {
	b := make([]byte, n+Align)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (Align - 1)
	return b[skip : skip+n : skip+n]
}

// File is a file or block device. All but WriteAt are those of the *os.File.
type File struct {
	*os.File
	// direct is the same file, written past the page cache; nil where that is impossible.
	direct *os.File
	// refused says that the disk turned out to want larger blocks, or none of this.
	refused atomic.Bool
}

// New returns f, open for writing, which it owns from now on.
func New(f *os.File) *File {
	// By descriptor: the file may have no name any more.
	direct, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		direct = nil
	}
	return &File{File: f, direct: direct}
}

// WriteAt writes p at off, directly if both are aligned. It may be called concurrently.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if f.direct == nil || !aligned(p, off) || f.refused.Load() {
		return f.File.WriteAt(p, off)
	}
	n, err := f.direct.WriteAt(p, off)
	if errors.Is(err, unix.EINVAL) {
		f.refused.Store(true)
		m, err := f.File.WriteAt(p[n:], off+int64(n))
		return n + m, err
	}
	return n, err
}

func aligned(p []byte, off int64) bool {
	const mask = Align - 1
	return len(p) > 0 && len(p)&mask == 0 && off&mask == 0 && uintptr(unsafe.Pointer(&p[0]))&mask == 0
}

// Close closes the file, which is not flushed by that.
func (f *File) Close() error {
	if f.direct == nil {
		return f.File.Close()
	}
	return errors.Join(f.direct.Close(), f.File.Close())
}
