package source

import (
	"math"
	"strconv"
	"strings"

	"ingot/internal/deploy"
	"ingot/internal/disk"
	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// defaultEphemeralFormat is what Ironic makes, and the only kind that can be made here.
const defaultEphemeralFormat = "ext4"

// Layout is which partitions are made for a partition image.
type Layout struct {
	deploy.Request
	// KeepEphemeral leaves the ephemeral partition as it is.
	KeepEphemeral bool
	// UEFI tells by what the machine boots.
	UEFI bool
}

// LayoutOf reads which partitions instance_info asks for; bootMode is that of nodes that do not say, "" is
// uefi. Invalid if it asks for what cannot be made.
func LayoutOf(n *ingot.Node, bootMode string) (Layout, error) {
	local := driver.BootsPartition(n)
	if !local && !driver.BootsFromNetwork(n) {
		return Layout{}, ingot.Errorf(ingot.Invalid, "the image of node %s is a partition "+
			"image: set kernel and ramdisk in instance_info, which it boots from the network, or "+
			"boot_option:local in its capabilities for an image with a boot loader in its boot "+
			"sector, or use a whole-disk image (image_type whole-disk)", n.UUID)
	}
	uefi := driver.BootMode(n, bootMode) == driver.UEFI
	if local && uefi {
		return Layout{}, ingot.Errorf(ingot.Invalid, "the image of node %s is a partition "+
			"image with boot_option:local, but UEFI boots from an EFI system partition, which such "+
			"an image has not: use a whole-disk image, leave out boot_option:local, or set "+
			"boot_mode:bios in the capabilities of a machine that boots by a BIOS", n.UUID)
	}
	l := Layout{Request: deploy.Request{Seed: n.UUID, ConfigDrive: Given(n.InstanceInfo["configdrive"]),
		LocalBoot: local}, UEFI: uefi}
	for _, size := range []struct {
		key  string
		unit float64
		to   *int64
	}{{"root_gb", 1 << 30, &l.Root}, {"swap_mb", 1 << 20, &l.Swap},
		{"ephemeral_gb", 1 << 30, &l.Ephemeral}} {
		text := strings.TrimSpace(driver.Text(n.InstanceInfo, size.key))
		value, err := strconv.ParseFloat(text, 64)
		if text != "" && (err != nil || math.IsNaN(value) || value > math.MaxInt64/2/size.unit) {
			return Layout{}, ingot.Errorf(ingot.Invalid, "instance_info/%s of node %s is "+
				"%.40q; it must be a number", size.key, n.UUID, text)
		}
		*size.to = int64(math.Ceil(max(0, value*size.unit)))
	}
	if l.Root == 0 {
		return Layout{}, ingot.Errorf(ingot.Invalid, "instance_info/root_gb of node %s is "+
			"missing: the size of the root partition that the image goes to, in GiB", n.UUID)
	}
	if f := driver.Text(n.InstanceInfo, "ephemeral_format"); l.Ephemeral > 0 && f != "" &&
		!strings.EqualFold(f, defaultEphemeralFormat) {
		return Layout{}, ingot.Errorf(ingot.Invalid, "instance_info/ephemeral_format of "+
			"node %s is %.40q; only ext4 can be made", n.UUID, f)
	}
	var err error
	if l.KeepEphemeral, err = preserves(n); err != nil {
		return Layout{}, err
	}
	if l.KeepEphemeral && l.Ephemeral == 0 {
		return Layout{}, ingot.Errorf(ingot.Invalid, "instance_info of node %s has "+
			"preserve_ephemeral and no ephemeral_gb", n.UUID)
	}
	if l.Label, err = label(n, uefi); err == nil && local && l.Label != disk.MBR {
		err = ingot.Errorf(ingot.Invalid, "capability disk_label of node %s is %s, but with "+
			"boot_option:local a BIOS starts partition images only from msdos", n.UUID, l.Label)
	}
	return l, err
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

// checkWhole refuses to keep an ephemeral partition under an image of a whole disk, which is written from the first
// byte on: a forgotten image_type must not cost the data. (Ironic reads preserve_ephemeral for partition images alone.)
func checkWhole(n *ingot.Node) error {
	keep, err := preserves(n)
	if err != nil || !keep || driver.IsPartitionImage(n) {
		return err
	}
	return ingot.Errorf(ingot.Invalid, "instance_info of node %s has preserve_ephemeral, but its image is taken for "+
		"one of a whole disk, which leaves no partition as it is: set image_type=partition in instance_info if it "+
		"is the content of a root partition, or else remove preserve_ephemeral", n.UUID)
}

// preserves reads preserve_ephemeral, in the words that Ironic takes. Others are refused: taken for
// a no, a slip would cost the data that was to be kept.
func preserves(n *ingot.Node) (bool, error) {
	text := strings.TrimSpace(driver.Text(n.InstanceInfo, "preserve_ephemeral"))
	if yes, ok := driver.Truth(text); ok || text == "" {
		return yes, nil
	}
	return false, ingot.Errorf(ingot.Invalid, "instance_info/preserve_ephemeral of node %s is "+
		"%.40q; it must be true or false", n.UUID, text)
}
