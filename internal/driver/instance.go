package driver

import (
	"strings"

	"ingot/internal/ingot"
)

// IsPartitionImage tells whether the image of an instance is the content of a root partition and
// not of a whole disk: image_type says so, or else a kernel or ramdisk beside it, as in Ironic.
func IsPartitionImage(n *ingot.Node) bool {
	switch strings.ToLower(Text(n.InstanceInfo, "image_type")) {
	case "partition":
		return true
	case "whole-disk", "whole-disk-image":
		return false
	}
	return Text(n.InstanceInfo, "kernel") != "" || Text(n.InstanceInfo, "ramdisk") != ""
}

// BootsFromNetwork tells whether the instance boots its own kernel and ramdisk over the network
// for as long as it is active: a partition image that brings a kernel does, unless its
// boot_option is local (S1.4). A whole-disk image has a boot loader of its own.
func BootsFromNetwork(n *ingot.Node) bool {
	return IsPartitionImage(n) && Text(n.InstanceInfo, "kernel") != "" && !asksLocal(n)
}

// BootsPartition tells whether the machine boots from its disk by what a partition image brings:
// boot_option is local.
func BootsPartition(n *ingot.Node) bool { return IsPartitionImage(n) && asksLocal(n) }

func asksLocal(n *ingot.Node) bool {
	return strings.EqualFold(Capability(n.InstanceInfo, "boot_option"), "local")
}
