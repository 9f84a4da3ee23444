package iscsi

import (
	"context"

	"ingot/internal/driver"
	"ingot/internal/driver/source"
)

// Resolve records what Glance tells of the image.
func (d *Deploy) Resolve(ctx context.Context, t *driver.Task) error { return d.source.Resolve(ctx, t) }

// Preflight looks whether there is an image.
func (d *Deploy) Preflight(ctx context.Context, t *driver.Task) error {
	return d.source.Preflight(ctx, t)
}

// Validate checks instance_info: an image that can be fetched and verified, and nothing asked
// for that this interface would silently leave undone.
func (d *Deploy) Validate(_ context.Context, t *driver.Task) error {
	if err := d.source.Validate(t.Node); err != nil || !driver.IsPartitionImage(t.Node) {
		return err
	}
	_, err := source.LayoutOf(t.Node, d.o.DefaultBootMode)
	return err
}
