package driver

import (
	"cmp"
	"strings"

	"ingot/internal/ingot"
)

// imageKey is where driver_internal_info has what Glance tells of the image of an instance, by the
// names of the image's properties; imageSource is the image_source that it is about.
const (
	imageKey    = "image"
	imageSource = "source"
)

// RecordImage puts on record what Glance tells of the image that image_source names; nil is nothing.
// Properties that do not say how it boots are left out.
func RecordImage(n *ingot.Node, properties map[string]string) {
	delete(n.DriverInternalInfo, imageKey)
	if properties == nil {
		return
	}
	record := ingot.Object{imageSource: Text(n.InstanceInfo, "image_source")}
	for _, key := range []string{"kernel_id", "ramdisk_id", "img_type"} {
		if properties[key] != "" {
			record[key] = properties[key]
		}
	}
	if n.DriverInternalInfo == nil {
		n.DriverInternalInfo = ingot.Object{}
	}
	n.DriverInternalInfo[imageKey] = record
}

// property is what Glance tells of the image of the node, "" if it tells nothing.
func property(n *ingot.Node, key string) string {
	record, _ := n.DriverInternalInfo[imageKey].(ingot.Object)
	if Text(record, imageSource) != Text(n.InstanceInfo, "image_source") {
		return ""
	}
	return Text(record, key)
}

// InstanceKernel is the kernel that an instance on a partition image boots with: the one in
// instance_info, or else the one that its image names in Glance. "" is none.
func InstanceKernel(n *ingot.Node) string {
	return cmp.Or(Text(n.InstanceInfo, "kernel"), property(n, "kernel_id"))
}

// InstanceRamdisk is the same for its ramdisk.
func InstanceRamdisk(n *ingot.Node) string {
	return cmp.Or(Text(n.InstanceInfo, "ramdisk"), property(n, "ramdisk_id"))
}

// IsPartitionImage tells whether the image of an instance is the content of a root partition and
// not of a whole disk: image_type or Glance says so, or else a kernel or ramdisk beside it, as in
// Ironic.
func IsPartitionImage(n *ingot.Node) bool {
	switch strings.ToLower(cmp.Or(Text(n.InstanceInfo, "image_type"), property(n, "img_type"))) {
	case "partition":
		return true
	case "whole-disk", "whole-disk-image":
		return false
	}
	return InstanceKernel(n) != "" || InstanceRamdisk(n) != ""
}

// RamdiskDeploy is the deploy interface of instances without a disk.
const RamdiskDeploy = "ramdisk"

// Diskless tells whether the instance boots what instance_info names at each start, and has nothing on a disk.
func Diskless(n *ingot.Node) bool { return n.Interfaces["deploy"] == RamdiskDeploy }

// BootISO is the ISO that a diskless instance boots; "" is a kernel and a ramdisk.
func BootISO(n *ingot.Node) string {
	if !Diskless(n) {
		return ""
	}
	return Text(n.InstanceInfo, "boot_iso")
}

// BootsFromNetwork tells whether the instance boots its own kernel and ramdisk over the network
// for as long as it is active: a partition image that brings a kernel does, unless its
// boot_option is local (S1.4), and one without a disk. A whole-disk image has a boot loader of its own.
func BootsFromNetwork(n *ingot.Node) bool {
	if Diskless(n) {
		return true
	}
	return IsPartitionImage(n) && InstanceKernel(n) != "" && !asksLocal(n)
}

// BootsPartition tells whether the machine boots from its disk by what a partition image brings:
// boot_option is local.
func BootsPartition(n *ingot.Node) bool { return IsPartitionImage(n) && asksLocal(n) }

func asksLocal(n *ingot.Node) bool {
	return strings.EqualFold(Capability(n.InstanceInfo, "boot_option"), "local")
}
