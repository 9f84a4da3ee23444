package iscsi

import (
	"context"
	"strconv"
	"time"

	"ingot/internal/deploy"
	"ingot/internal/disk"
	"ingot/internal/driver"
	"ingot/internal/driver/source"
	"ingot/internal/ingot"
)

// Keys of driver_internal_info, Ironic's.
const (
	infoRootID    = "root_uuid_or_disk_id"
	infoWholeDisk = "is_whole_disk_image"
)

// target is the machine's disk, which can be looked at as well.
type target interface {
	deploy.Disk
	ReadAt(p []byte, off int64) (int, error)
}

// writePartitions makes the partitions of a partition image on the machine's disk.
func (d *Deploy) writePartitions(ctx context.Context, t *driver.Task, to target,
	c deploy.Contents) (deploy.Result, error) {
	layout, err := source.LayoutOf(t.Node, d.o.DefaultBootMode)
	if err != nil {
		return deploy.Result{}, err
	}
	plan, err := deploy.NewPlan(layout.Request, to.Size(), to.BlockSize())
	if err != nil {
		return deploy.Result{}, err
	}
	t.Note(ingot.Entry{Source: "image", Text: "partitions: " + plan.String()})
	if c.KeepEphemeral = layout.KeepEphemeral; c.KeepEphemeral {
		if err := checkKept(t, to, plan); err != nil {
			return deploy.Result{}, err
		}
	}
	c.Now = time.Now()
	return deploy.WritePartitions(ctx, to, plan, c, deploy.Options{Progress: copyProgress(t)})
}

// checkKept makes sure that the ephemeral partition to be preserved is there, also when the step is
// repeated: whatever is written to the disk, its table has that partition.
func checkKept(t *driver.Task, to target, plan deploy.Plan) error {
	head := make([]byte, min(disk.HeadSize, to.Size()))
	if _, err := to.ReadAt(head, 0); err != nil {
		return ingot.Errorf(ingot.Unavailable, "read the disk's partition table: %w", err)
	}
	if err := plan.CheckKept(head); err != nil {
		return err
	}
	t.Note(ingot.Entry{Source: "image", Text: "the ephemeral partition stays as it is"})
	return nil
}

// record tells the node what was written: its boot script and Ironic's clients want to know.
func record(n *ingot.Node, r deploy.Result) {
	info, whole := internalInfo(n), !driver.IsPartitionImage(n)
	info[infoWholeDisk] = whole
	delete(info, infoRootID)
	n.Attempt.NeedsLoader = driver.BootsPartition(n) && !r.BootSector
	switch {
	case !whole:
		info[infoRootID] = r.Filesystem.UUID
		if n.Instance != nil {
			n.Instance.RootUUID = r.Filesystem.UUID
		}
	case r.DiskID != 0:
		info[infoRootID] = "0x" + strconv.FormatUint(uint64(r.DiskID)|1<<32, 16)[1:]
	}
}

func internalInfo(n *ingot.Node) ingot.Object {
	if n.DriverInternalInfo == nil {
		n.DriverInternalInfo = ingot.Object{}
	}
	return n.DriverInternalInfo
}
