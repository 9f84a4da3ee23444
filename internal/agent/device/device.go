// Package device makes a block device of the machine what package deploy writes images to: data
// goes past the page cache, zeros by whatever the disk has for them. A file serves as well.
// Start at [Open].
package device

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"ingot/internal/directio"
)

// fileBlock is the logical block size of what is no device, in bytes.
const fileBlock = 512

// Disk is an open disk. Its methods may be called concurrently for ranges that do not overlap.
type Disk struct {
	file   *directio.File
	size   int64
	block  int
	device bool
	// noPunch says that the disk cannot zero without being sent the zeros.
	noPunch atomic.Bool
}

// Open opens the block device, or file, at path for writing. A device that is mounted, or part of
// something that is, is refused by the kernel.
func Open(path string) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	d := &Disk{file: directio.New(f), block: fileBlock}
	if err := d.measure(f); err != nil {
		return nil, errors.Join(fmt.Errorf("open disk %s: %w", path, err), d.file.Close())
	}
	return d, nil
}

func (d *Disk) measure(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.device = info.Mode()&os.ModeDevice != 0
	if !d.device {
		d.size = info.Size() &^ (fileBlock - 1)
		return nil
	}
	if d.block, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err != nil {
		return fmt.Errorf("block size: %w", err)
	}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("size: %w", err)
	}
	return nil
}

// Size is the capacity in bytes.
func (d *Disk) Size() int64 { return d.size }

// BlockSize is the logical block size in bytes.
func (d *Disk) BlockSize() int { return d.block }

// ReadAt reads as io.ReaderAt says.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.file.ReadAt(p, off) }

// WriteAt writes past the page cache what is aligned, see package directio.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) { return d.file.WriteAt(p, off) }

// WriteZeroes makes n bytes at off read as zeros. Disks that can do it without being sent the zeros
// (WRITE ZEROES, or a discard that is known to leave zeros) are told to, and let go of the space;
// others get them from the kernel. A discard by itself promises nothing and is not used.
func (d *Disk) WriteZeroes(ctx context.Context, off, n int64) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if !d.noPunch.Load() {
		err := unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			off, n)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		d.noPunch.Store(true)
	}
	if d.device {
		span := [2]uint64{uint64(off), uint64(n)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), unix.BLKZEROOUT,
			uintptr(unsafe.Pointer(&span)))
		if errno != 0 {
			return fmt.Errorf("BLKZEROOUT: %w", errno)
		}
		return nil
	}
	return d.sendZeroes(ctx, off, n)
}

// sendZeroes is for file systems without holes.
func (d *Disk) sendZeroes(ctx context.Context, off, n int64) error {
	zeros := directio.Buffer(int(min(n, 1<<20)))
	for n > 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		m, err := d.file.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}

// Sync returns when what was written is safe from a loss of power, also from the disk's own cache.
func (d *Disk) Sync(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return d.file.Sync()
}

// Close closes the disk, which is not flushed by that.
func (d *Disk) Close() error { return d.file.Close() }
