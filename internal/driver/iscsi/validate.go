package iscsi

import (
	"context"
	"fmt"

	"ingot/internal/configdrive"
	"ingot/internal/driver"
	"ingot/internal/glance"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/roothint"
)

// Resolve asks Glance what there is to know of an image that is there.
func (d *Deploy) Resolve(ctx context.Context, t *driver.Task) error {
	id, ok := glance.ID(driver.Text(t.Node.InstanceInfo, "image_source"))
	if !ok || d.o.Image.Glance == nil {
		driver.RecordImage(t.Node, nil)
		return nil
	}
	found, err := d.o.Image.Glance.Show(ctx, id)
	if err != nil {
		return fmt.Errorf("image_source: %w", err)
	}
	driver.RecordImage(t.Node, found.Properties)
	return nil
}

// Validate checks instance_info: an image that can be fetched and verified, and nothing asked
// for that this interface would silently leave undone.
func (d *Deploy) Validate(_ context.Context, t *driver.Task) error {
	n := t.Node
	if _, err := image.FromInstanceInfo(n.InstanceInfo, d.o.Image); err != nil {
		return err
	}
	hints, where := roothint.Of(n.InstanceInfo, n.Properties)
	if _, err := roothint.Parse(hints); err != nil {
		return ingot.Errorf(ingot.Invalid, "%s of node %s: %w", where, n.UUID, err)
	}
	if driver.IsPartitionImage(n) {
		if _, err := d.request(n); err != nil {
			return err
		}
	}
	if drive := n.InstanceInfo["configdrive"]; given(drive) {
		if err := configdrive.Check(drive); err != nil {
			return ingot.Errorf(ingot.Invalid, "node %s: %w", n.UUID, err)
		}
	}
	return nil
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
