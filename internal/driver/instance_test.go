package driver_test

import (
	"testing"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

func TestKindOfImage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		info               ingot.Object
		partition, network bool
	}{
		{ingot.Object{}, false, false},
		{ingot.Object{"kernel": "http://x/k", "ramdisk": "http://x/r"}, true, true},
		{ingot.Object{"kernel": "http://x/k", "capabilities": "boot_option:local"}, true, false},
		{ingot.Object{"kernel": "http://x/k", "capabilities": ingot.Object{"boot_option": "netboot"}},
			true, true},
		{ingot.Object{"image_type": "partition"}, true, false},
		{ingot.Object{"image_type": "whole-disk", "kernel": "http://x/k"}, false, false},
	} {
		n := &ingot.Node{InstanceInfo: c.info}
		if p, w := driver.IsPartitionImage(n), driver.BootsFromNetwork(n); p != c.partition ||
			w != c.network {
			t.Errorf("%v: partition image %t, boots from network %t", c.info, p, w)
		}
	}
}
