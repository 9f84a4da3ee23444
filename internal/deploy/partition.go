package deploy

import (
	"context"
	"fmt"
	"time"

	"ingot/internal/disk"
	"ingot/internal/ext4"
	"ingot/internal/ingot"
)

// Contents is what goes into the partitions of a plan.
type Contents struct {
	// Image is the content of the root partition.
	Image Source
	// ConfigDrive is a file system image for its partition, at most ConfigDriveSize bytes.
	ConfigDrive []byte
	// KeepEphemeral leaves the ephemeral partition as it is; see [Plan.CheckKept].
	KeepEphemeral bool
	// Now is the time at which new file systems are made.
	Now time.Time
}

// WritePartitions makes the partitions of the plan and fills them. It may be repeated after any
// error. The order is that of WriteImage for the whole disk and, inside, for the root partition:
//
//  1. The head of the disk and the place of the backup GPT are zeroed: no partition table. If the
//     ephemeral partition is kept, it stays in a table of its own, by which it can be found after
//     a failure.
//  2. The image is written and verified, its head, with the superblock, last.
//  3. Swap, ephemeral file system and config drive are written.
//  4. The backup GPT, then the partition table.
func WritePartitions(ctx context.Context, d Disk, p Plan, c Contents, opt Options) (Result,
	error) {
	root, ok := p.Part(Root)
	if !ok {
		return Result{}, ingot.Errorf(ingot.Internal, "the plan has no root partition")
	}
	if n := c.Image.Size(); n > root.Size {
		return Result{}, tooLarge(&TooLargeError{Image: n, Known: true, Disk: root.Size,
			Partition: true})
	}
	head := make([]byte, disk.HeadSize)
	if p.local {
		copy(head, disk.BootCode())
	}
	backup, err := p.Table.Encode(head)
	if err != nil {
		return Result{}, ingot.Errorf(ingot.Invalid, "partition table: %w", err)
	}
	if err := p.begin(ctx, d, c.KeepEphemeral); err != nil {
		return Result{}, fmt.Errorf("blank the disk: %w", err)
	}
	r, err := WriteImage(ctx, section{d, root.Start, root.Size}, c.Image, opt)
	if err != nil {
		return r, err
	}
	if r.Filesystem.UUID == "" {
		// The kernel would find no root, on a console that nobody watches.
		return r, ingot.Errorf(ingot.Invalid, "the image begins with no file system that is known "+
			"(ext2 to ext4, xfs, btrfs, vfat): a partition image is the content of a root partition; "+
			"for a whole-disk image set image_type to whole-disk")
	}
	if err := p.fill(ctx, d, c); err != nil {
		return r, err
	}
	return r, writeTable(ctx, d, head, backup)
}

// begin makes sure that nothing boots from the disk. There is no moment without a table that has
// the ephemeral partition to be kept: it would be lost to its owner if the attempt failed then.
func (p Plan) begin(ctx context.Context, d Disk, keepEphemeral bool) error {
	kept, ok := p.Part(Ephemeral)
	if !keepEphemeral || !ok {
		return blank(ctx, d)
	}
	table := p.Table
	table.Partitions = []disk.Partition{kept}
	head := make([]byte, disk.HeadSize)
	backup, err := table.Encode(head)
	if err != nil {
		return ingot.Errorf(ingot.Internal, "partition table: %w", err)
	}
	return writeTable(ctx, d, head, backup)
}

// fill writes the partitions beside the root partition.
func (p Plan) fill(ctx context.Context, d Disk, c Contents) error {
	for _, part := range p.Table.Partitions {
		s := section{d, part.Start, part.Size}
		var err error
		switch Role(part.Name) {
		case Swap:
			if err = blank(ctx, s); err == nil {
				_, err = s.WriteAt(disk.SwapHeader(part.Size, uuid(p.seed, Swap), "swap1"), 0)
			}
		case Ephemeral:
			if c.KeepEphemeral {
				continue
			}
			if err = blank(ctx, s); err == nil {
				err = ext4.Format(ctx, s, part.Size, ext4.Options{UUID: uuid(p.seed, Ephemeral),
					Label: "ephemeral0", Time: c.Now})
			}
		case ConfigDrive:
			err = writeDrive(ctx, s, c.ConfigDrive)
		}
		if err != nil {
			return ingot.Errorf(ingot.Unavailable, "write partition %d (%s): %w", part.Number,
				part.Name, err)
		}
	}
	return nil
}

// writeDrive writes a config drive and makes the rest of its partition zeros.
func writeDrive(ctx context.Context, s section, content []byte) error {
	block := s.BlockSize()
	padded := make([]byte, (len(content)+block-1)/block*block)
	copy(padded, content)
	if err := s.WriteZeroes(ctx, 0, s.size); err != nil {
		return err
	}
	for at := 0; at < len(padded); at += chunkSize {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, err := s.WriteAt(padded[at:min(at+chunkSize, len(padded))], int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// writeTable replaces the partition table. The head comes last: it is what firmware believes.
func writeTable(ctx context.Context, d Disk, head []byte, backup []disk.Extent) error {
	write := func(e disk.Extent) error {
		if _, err := d.WriteAt(e.Data, e.Off); err != nil {
			return ingot.Errorf(ingot.Unavailable, "write partition table: %w", err)
		}
		if err := d.Sync(ctx); err != nil {
			return ingot.Errorf(ingot.Unavailable, "sync: %w", err)
		}
		return nil
	}
	if err := d.Sync(ctx); err != nil {
		return ingot.Errorf(ingot.Unavailable, "sync: %w", err)
	}
	for _, e := range backup {
		if err := write(e); err != nil {
			return err
		}
	}
	return write(disk.Extent{Data: head[:min(int64(len(head)), d.Size())]})
}

// section is a part of a disk, for those who believe it is all of it.
type section struct {
	disk        Disk
	start, size int64
}

var _ Disk = section{}

func (s section) Size() int64                    { return s.size }
func (s section) BlockSize() int                 { return s.disk.BlockSize() }
func (s section) Sync(ctx context.Context) error { return s.disk.Sync(ctx) }

func (s section) WriteAt(b []byte, off int64) (int, error) {
	return s.disk.WriteAt(b, s.start+off)
}

func (s section) WriteZeroes(ctx context.Context, off, n int64) error {
	return s.disk.WriteZeroes(ctx, s.start+off, n)
}
