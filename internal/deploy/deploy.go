// Package deploy puts an image on a block device.
//
// [WriteImage] copies a whole-disk image: data by parallel writes, zeros by whatever the disk
// has for them, with memory that depends on the number of workers alone. Where the content
// comes from and whether it is the right one is the business of a [Source] (package image);
// how bytes get to the disk that of a [Disk] (package iscsi). Both are declared here, where
// they are used. [WritePartitions] makes partitions by a [Plan] and copies a partition image into
// one of them.
//
// A disk that was not written completely must not boot. Firmware and boot loaders find their
// way from the first sectors, so these are blanked first and written last, after the source has
// vouched for the rest; see [WriteImage].
package deploy

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/disk"
	"ingot/internal/ingot"
)

// Disk is what an image is written to. All methods may be called concurrently for ranges that
// do not overlap; all offsets and lengths are multiples of the block size and inside the disk.
type Disk interface {
	io.WriterAt
	// Size is the capacity in bytes, a multiple of the block size.
	Size() int64
	// BlockSize is the logical block size in bytes, a power of two of at least 512.
	BlockSize() int
	// WriteZeroes makes n bytes at off read as zeros, in any way that is quick.
	WriteZeroes(ctx context.Context, off, n int64) error
	// Sync returns when everything written before is safe from a loss of power.
	Sync(ctx context.Context) error
}

// Source is an image, read once from front to back by one goroutine.
type Source interface {
	// Size is the size of the image in bytes, or -1 if only its end will tell.
	Size() int64
	// Next advances through the image without gaps. It returns by how many bytes; either buf
	// was filled with as many, or zero is true, buf is untouched and n may exceed len(buf).
	// After the last byte it returns io.EOF if everything before was the promised content, and
	// another error if it was not.
	Next(ctx context.Context, buf []byte) (n int64, zero bool, err error)
	// Digest names the promised content, for example "sha256:0f1e...".
	Digest() string
}

// Options tune a copy. The zero value is fine.
type Options struct {
	// Progress, if set, is called about four times a second and once at the end, never twice
	// at a time.
	Progress func(Progress)
	// Workers is the number of writes in flight. Default 8, which hides the latency of a
	// network disk. Memory is one MiB for each, and two more.
	Workers int
	// ConfigDrive, if not empty, is a file system image of at most ConfigDriveSize bytes. WriteImage
	// adds a partition for it at the end of the disk to the image's own partition table.
	ConfigDrive []byte
	// Seed makes the identifier of that partition, as in a Request.
	Seed string
}

// Result says what a copy did. All sizes are bytes of the image.
type Result struct {
	// Read is the size of the image; Written of it was sent as data, Zeroed as zeros. Both may
	// exceed it together by less than a block, the padding of the last one.
	Read, Written, Zeroed int64
	// Duration is the time of the whole copy, including the time that the source took.
	Duration time.Duration
	// Digest names the content, as the source verified it.
	Digest string
	// Filesystem is the one that the image begins with, of those whose UUID is known; the zero
	// value if there is none.
	Filesystem disk.Filesystem
	// BootSector tells that the image begins with one: its first sector ends in 55 AA.
	BootSector bool
	// DiskID is the disk signature in the image's boot sector, 0 if there is none.
	DiskID uint32
}

const (
	defaultWorkers = 8
	// chunkSize is the size of a buffer and the largest write in bytes.
	chunkSize = 1 << 20
	// granule is the unit in which data is searched for zeros. Smaller ones save little
	// traffic and cost a command each. It bounds the block size.
	granule = 64 << 10
	// headSize is how much of the disk is withheld until all else is written: boot sector,
	// both kinds of partition table and what loaders keep in the gap behind it. It is one
	// chunk, and by convention the first partition starts here.
	headSize = chunkSize
	// backupSectors is the size of the backup GPT at the end of a disk: one header and 32
	// sectors of entries (UEFI 2.10, 5.3.1; with blocks of 4096 bytes it takes fewer).
	backupSectors = 33
)

// TooLargeError says that an image does not fit. Nothing was written if the size of the image
// was known before.
type TooLargeError struct {
	// Image is the size of the image in bytes, or how much was read when it exceeded the disk.
	Image int64
	// Known tells which of both Image is.
	Known bool
	// Disk is the size of the disk in bytes, or of the root partition.
	Disk int64
	// Partition tells that it is the root partition.
	Partition bool
}

// Error returns both sizes and the way out.
func (e *TooLargeError) Error() string {
	atLeast := ""
	if !e.Known {
		atLeast = "at least "
	}
	if e.Partition {
		return fmt.Sprintf("the image has %s%d bytes, but the root partition has only %d; raise "+
			"root_gb or choose a smaller image", atLeast, e.Image, e.Disk)
	}
	return fmt.Sprintf("the image has %s%d bytes, but the disk has only %d; choose a larger disk "+
		"(root_device hints) or a smaller image", atLeast, e.Image, e.Disk)
}

// WriteImage copies src to the beginning of d. It may be repeated after any error, and the
// result does not depend on what the disk held before.
//
// The order makes sure that whatever happens, the machine finds either nothing to boot or the
// whole verified image:
//
//  1. The head of the disk (1 MiB) and the place of the backup GPT at its end are zeroed. The
//     latter matters beyond the first deploy, too: an image that is smaller than the disk has
//     its own backup GPT elsewhere, and firmware or an installer that distrusts the primary
//     one would find the partition table of the previous owner at the end of the disk.
//  2. Everything but the head is written. Other parts of the disk beyond the image are left
//     alone; to erase them is the business of cleaning.
//  3. When the source has verified the content, the head follows. If there is a config drive,
//     it and a moved backup GPT are written before, and its entry is in the head.
//
// In between the disk is synced. An image that is not a multiple of the block size is padded
// with zeros. An image that is too large is a *[TooLargeError]. Other errors come from src and
// disk; those of the disk have the kind Unavailable.
func WriteImage(ctx context.Context, d Disk, src Source, opt Options) (Result, error) {
	start := time.Now()
	if err := fits(d, src, opt); err != nil {
		return Result{}, err
	}
	workers := opt.Workers
	if workers < 1 {
		workers = defaultWorkers
	}
	c := newCopier(d, src, workers)
	c.drive, c.seed = opt.ConfigDrive, opt.Seed
	report := startReporter(&c.count, src.Size(), opt.Progress)
	err := c.run(ctx)
	report.stop()
	if err == nil {
		return c.result(start), nil
	}
	// A copy that was cancelled says so with the reason, not with what broke on the way.
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return c.result(start), fmt.Errorf("write image to disk: %w", err)
}

func fits(d Disk, src Source, opt Options) error {
	block, size := int64(d.BlockSize()), d.Size()
	if block < 512 || block > granule || block&(block-1) != 0 || size%block != 0 || size <= 0 {
		return ingot.Errorf(ingot.Invalid, "the disk has %d bytes in blocks of %d; blocks must "+
			"be a power of two from 512 to %d bytes and fill the disk", size, block, granule)
	}
	if n := int64(len(opt.ConfigDrive)); n > ConfigDriveSize {
		return ingot.Errorf(ingot.Invalid, "the config drive has %d bytes; at most %d fit into its "+
			"partition", n, ConfigDriveSize)
	}
	if len(opt.ConfigDrive) > 0 && src.Size() > size-ConfigDriveSize {
		return noRoom(src.Size(), size)
	}
	if src.Size() > size {
		return tooLarge(&TooLargeError{Image: src.Size(), Known: true, Disk: size})
	}
	return nil
}

func tooLarge(e *TooLargeError) error { return &ingot.Error{Kind: ingot.Invalid, Err: e} }

// run copies in the order that WriteImage promises.
func (c *copier) run(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { // as far as buffers go, while the disk is blanked
		defer close(c.jobs)
		return c.read(gctx)
	})
	group.Go(func() error {
		// Not by gctx: an image that fails at once leaves a disk that does not boot, too.
		if err := blank(ctx, c.disk); err != nil {
			return err
		}
		for range c.workers {
			group.Go(func() error { return c.work(gctx) })
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := c.sync(ctx); err != nil {
		return err
	}
	if err := c.addDrive(ctx); err != nil {
		return err
	}
	if err := c.writeHead(ctx); err != nil {
		return err
	}
	return c.sync(ctx)
}

// blank is the first step of WriteImage: whatever was there, nothing finds it any more.
func blank(ctx context.Context, d Disk) error {
	size := d.Size()
	backup := min(int64(backupSectors*d.BlockSize()), size)
	for _, s := range []span{{0, min(headSize, size)}, {size - backup, backup}} {
		if err := d.WriteZeroes(ctx, s.off, s.n); err != nil {
			return ingot.Errorf(ingot.Unavailable, "zero %d bytes at %d: %w", s.n, s.off, err)
		}
	}
	if err := d.Sync(ctx); err != nil {
		return ingot.Errorf(ingot.Unavailable, "sync: %w", err)
	}
	return nil
}

func (c *copier) writeHead(ctx context.Context) error {
	if c.head == nil {
		return nil
	}
	return c.writeChunk(ctx, c.head)
}

func (c *copier) result(start time.Time) Result {
	r := Result{
		Read:     c.count.read.Load(),
		Written:  c.count.written.Load(),
		Zeroed:   c.count.zeroed.Load(),
		Duration: time.Since(start),
		Digest:   c.src.Digest(),
	}
	if c.head != nil {
		head := c.head.buf[:c.head.fill]
		r.Filesystem, _ = disk.Identify(head)
		if len(head) >= 512 && head[510] == 0x55 && head[511] == 0xAA {
			r.BootSector = true
			r.DiskID = binary.LittleEndian.Uint32(head[440:])
		}
	}
	return r
}
