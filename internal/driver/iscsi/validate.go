package iscsi

import (
	"context"
	"fmt"
	"time"

	"ingot/internal/configdrive"
	"ingot/internal/driver"
	"ingot/internal/glance"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/roothint"
)

// Resolve asks Glance what there is to know of an image that is there, and whether it is for the project
// that the node is of or lent to: it is read by ingot's own user, who may read more. A node of no project
// is an administrator's.
func (d *Deploy) Resolve(ctx context.Context, t *driver.Task) error {
	id, ok := glance.ID(driver.Text(t.Node.InstanceInfo, "image_source"))
	if !ok || d.o.Image.Glance == nil {
		driver.RecordImage(t.Node, nil)
		return nil
	}
	var found *glance.Image
	var err error
	if n := t.Node; n.Owner+n.Lessee != "" {
		found, err = d.o.Image.Glance.ShowTo(ctx, id, n.Owner, n.Lessee)
	} else {
		found, err = d.o.Image.Glance.Show(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("image_source: %w", err)
	}
	driver.RecordImage(t.Node, found.Properties)
	return nil
}

// resolveAgain is Resolve in a step: instance_info may be another one by now, and a Glance that is away for
// a moment is asked again.
func (d *Deploy) resolveAgain(ctx context.Context, t *driver.Task) error {
	for try := range resolveTries {
		err := d.Resolve(ctx, t)
		if ingot.KindOf(err) != ingot.Unavailable || try == resolveTries-1 {
			return err
		}
		t.Note(ingot.Entry{Source: "image", Level: ingot.LevelWarning,
			Text: fmt.Sprintf("Glance is asked again in %s: %v", resolvePause<<try, err)})
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(resolvePause << try):
		}
	}
	return nil
}

const (
	resolveTries = 5
	resolvePause = time.Second
)

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
