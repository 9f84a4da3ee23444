package iscsi

import (
	"context"

	"ingot/internal/driver"
	"ingot/internal/image"
	"ingot/internal/ingot"
)

// Validate checks instance_info: an image that can be fetched and verified, and nothing asked
// for that this interface would silently leave undone.
func (d *Deploy) Validate(_ context.Context, t *driver.Task) error {
	n := t.Node
	if _, err := image.FromInstanceInfo(n.InstanceInfo, d.o.Image); err != nil {
		return err
	}
	for _, hint := range []struct {
		where  string
		object ingot.Object
	}{{"instance_info", n.InstanceInfo}, {"properties", n.Properties}} {
		if given(hint.object["root_device"]) {
			return ingot.Errorf(ingot.Invalid, "%s of node %s has root_device hints, which "+
				"deploy interface iscsi cannot follow yet: the ramdisk exports the machine's "+
				"first disk, and that must not be overwritten if another one was meant. "+
				"Remove root_device if the machine has one disk.", hint.where, n.UUID)
		}
	}
	for _, key := range []string{"kernel", "ramdisk"} {
		if given(n.InstanceInfo[key]) {
			return partitionImage(n, "instance_info has "+key)
		}
	}
	if driver.Text(n.InstanceInfo, "image_type") == "partition" {
		return partitionImage(n, "image_type is partition")
	}
	if given(n.InstanceInfo["configdrive"]) {
		return ingot.Errorf(ingot.Invalid, "a config drive was given for node %s, which deploy "+
			"interface iscsi cannot write yet; deploy without one", n.UUID)
	}
	return nil
}

func partitionImage(n *ingot.Node, why string) error {
	return ingot.Errorf(ingot.Invalid, "deploy interface iscsi writes whole-disk images only, "+
		"but %s for node %s", why, n.UUID)
}

// given tells whether a value asks for something.
func given(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case string:
		return v != ""
	case ingot.Object:
		return len(v) > 0
	}
	return true
}
