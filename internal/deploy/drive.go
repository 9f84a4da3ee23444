package deploy

import (
	"context"

	"ingot/internal/disk"
	"ingot/internal/ingot"
)

// addDrive writes the config drive to a partition of its own at the end of the disk and puts it
// into the partition table in the head, which is still withheld.
func (c *copier) addDrive(ctx context.Context) error {
	if len(c.drive) == 0 {
		return nil
	}
	if c.head == nil {
		c.head = newChunk()
	}
	head := c.head.buf[:min(headSize, c.size)]
	clear(head[c.head.fill:])
	table, err := disk.Parse(head, c.size, c.disk.BlockSize())
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "the image takes no config drive, because its partition "+
			"table cannot be extended: %w; deploy without one", err)
	}
	part := disk.Partition{Start: table.Last() - ConfigDriveSize, Size: ConfigDriveSize,
		Type: disk.Linux, GUID: identifier(c.seed, ConfigDrive), Name: string(ConfigDrive)}
	if part.Start < max(c.pos, table.End()) {
		return noRoom(max(c.pos, table.End()), c.size)
	}
	if err := table.Add(part); err != nil {
		return ingot.Errorf(ingot.Invalid, "the image takes no config drive: %w; use an image with "+
			"a GPT, or deploy without one", err)
	}
	backup, err := table.Encode(head)
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "the image takes no config drive: %w", err)
	}
	c.head.off, c.head.fill = 0, len(head)
	c.head.data = []span{{0, int64(len(head))}}
	if err := writeDrive(ctx, section{c.disk, part.Start, part.Size}, c.drive); err != nil {
		return ingot.Errorf(ingot.Unavailable, "write config drive: %w", err)
	}
	for _, e := range backup {
		if _, err := c.disk.WriteAt(e.Data, e.Off); err != nil {
			return ingot.Errorf(ingot.Unavailable, "write backup of the partition table: %w", err)
		}
	}
	return c.sync(ctx)
}

func noRoom(image, size int64) error {
	return ingot.Errorf(ingot.Invalid, "the disk of %d MiB has no room for a config drive of %d MiB "+
		"behind the image, which takes %d MiB; choose a larger disk (root_device hints) or a smaller "+
		"image", size>>20, ConfigDriveSize>>20, (image+1<<20-1)>>20)
}
