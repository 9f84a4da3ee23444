package iscsi

import (
	"context"
	"math"
	"strconv"
	"strings"
	"time"

	"ingot/internal/deploy"
	"ingot/internal/disk"
	"ingot/internal/driver"
	"ingot/internal/driver/source"
	"ingot/internal/ingot"
)

// defaultEphemeralFormat is what Ironic makes, and the only kind that can be made here.
const defaultEphemeralFormat = "ext4"

// Keys of driver_internal_info, Ironic's.
const (
	infoRootID    = "root_uuid_or_disk_id"
	infoWholeDisk = "is_whole_disk_image"
)

// request reads which partitions instance_info asks for.
func (d *Deploy) request(n *ingot.Node) (deploy.Request, error) {
	local := driver.BootsPartition(n)
	if !local && !driver.BootsFromNetwork(n) {
		return deploy.Request{}, ingot.Errorf(ingot.Invalid, "the image of node %s is a partition "+
			"image: set kernel and ramdisk in instance_info, which it boots from the network, or "+
			"boot_option:local in its capabilities for an image with a boot loader in its boot "+
			"sector, or use a whole-disk image (image_type whole-disk)", n.UUID)
	}
	uefi := driver.BootMode(n, d.o.DefaultBootMode) == driver.UEFI
	if local && uefi {
		return deploy.Request{}, ingot.Errorf(ingot.Invalid, "the image of node %s is a partition "+
			"image with boot_option:local, but UEFI boots from an EFI system partition, which such "+
			"an image has not: use a whole-disk image, leave out boot_option:local, or set "+
			"boot_mode:bios in the capabilities of a machine that boots by a BIOS", n.UUID)
	}
	r := deploy.Request{Seed: n.UUID, ConfigDrive: source.Given(n.InstanceInfo["configdrive"]),
		LocalBoot: local}
	for _, size := range []struct {
		key  string
		unit float64
		to   *int64
	}{{"root_gb", 1 << 30, &r.Root}, {"swap_mb", 1 << 20, &r.Swap},
		{"ephemeral_gb", 1 << 30, &r.Ephemeral}} {
		text := strings.TrimSpace(driver.Text(n.InstanceInfo, size.key))
		value, err := strconv.ParseFloat(text, 64)
		if text != "" && (err != nil || math.IsNaN(value) || value > math.MaxInt64/2/size.unit) {
			return deploy.Request{}, ingot.Errorf(ingot.Invalid, "instance_info/%s of node %s is "+
				"%.40q; it must be a number", size.key, n.UUID, text)
		}
		*size.to = int64(math.Ceil(max(0, value*size.unit)))
	}
	if r.Root == 0 {
		return deploy.Request{}, ingot.Errorf(ingot.Invalid, "instance_info/root_gb of node %s is "+
			"missing: the size of the root partition that the image goes to, in GiB", n.UUID)
	}
	if f := driver.Text(n.InstanceInfo, "ephemeral_format"); r.Ephemeral > 0 && f != "" &&
		!strings.EqualFold(f, defaultEphemeralFormat) {
		return deploy.Request{}, ingot.Errorf(ingot.Invalid, "instance_info/ephemeral_format of "+
			"node %s is %.40q; only ext4 can be made", n.UUID, f)
	}
	keep, err := preserves(n)
	if err != nil {
		return deploy.Request{}, err
	}
	if keep && r.Ephemeral == 0 {
		return deploy.Request{}, ingot.Errorf(ingot.Invalid, "instance_info of node %s has "+
			"preserve_ephemeral and no ephemeral_gb", n.UUID)
	}
	if r.Label, err = label(n, uefi); err == nil && local && r.Label != disk.MBR {
		err = ingot.Errorf(ingot.Invalid, "capability disk_label of node %s is %s, but with "+
			"boot_option:local a BIOS starts partition images only from msdos", n.UUID, r.Label)
	}
	return r, err
}

// label is the kind of partition table: what is asked for, or what suits the boot mode.
func label(n *ingot.Node, uefi bool) (disk.Label, error) {
	for _, o := range []ingot.Object{n.InstanceInfo, n.Properties} {
		switch l := disk.Label(strings.ToLower(driver.Capability(o, "disk_label"))); l {
		case "":
		case disk.MBR, disk.GPT:
			return l, nil
		default:
			return "", ingot.Errorf(ingot.Invalid, "capability disk_label of node %s is %.40q; known "+
				"are msdos and gpt", n.UUID, l)
		}
	}
	if uefi {
		return disk.GPT, nil
	}
	return disk.MBR, nil
}

// preserves reads preserve_ephemeral, in the words that Ironic takes. Others are refused: taken for
// a no, a slip would cost the data that was to be kept.
func preserves(n *ingot.Node) (bool, error) {
	text := strings.TrimSpace(driver.Text(n.InstanceInfo, "preserve_ephemeral"))
	switch strings.ToLower(text) {
	case "1", "t", "true", "on", "y", "yes":
		return true, nil
	case "", "0", "f", "false", "off", "n", "no":
		return false, nil
	}
	return false, ingot.Errorf(ingot.Invalid, "instance_info/preserve_ephemeral of node %s is "+
		"%.40q; it must be true or false", n.UUID, text)
}

// target is the machine's disk, which can be looked at as well.
type target interface {
	deploy.Disk
	ReadAt(p []byte, off int64) (int, error)
}

// writePartitions makes the partitions of a partition image on the machine's disk.
func (d *Deploy) writePartitions(ctx context.Context, t *driver.Task, to target,
	c deploy.Contents) (deploy.Result, error) {
	r, err := d.request(t.Node)
	if err != nil {
		return deploy.Result{}, err
	}
	plan, err := deploy.NewPlan(r, to.Size(), to.BlockSize())
	if err != nil {
		return deploy.Result{}, err
	}
	t.Note(ingot.Entry{Source: "image", Text: "partitions: " + plan.String()})
	if c.KeepEphemeral, err = preserves(t.Node); err != nil {
		return deploy.Result{}, err
	}
	if c.KeepEphemeral {
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
