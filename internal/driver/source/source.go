// Package source is what deploy interfaces have in common that bring the image of instance_info to a
// disk: what Glance tells of it, whether it is there, and what else instance_info asks for. It fetches
// nothing but to look at it; how the content gets to the disk is the matter of each interface.
//
// Read Source first.
package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ingot/internal/configdrive"
	"ingot/internal/driver"
	"ingot/internal/glance"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/roothint"
)

// Source are the images of a site.
type Source struct {
	// Image is where they may come from and where they are spooled.
	Image image.Options
}

const (
	resolveTries = 5
	resolvePause = time.Second
)

// Reference is the image of a node, by the words of its instance_info; Invalid if these ask to keep what it would
// be written over.
func (s Source) Reference(n *ingot.Node) (image.Reference, error) {
	if err := checkWhole(n); err != nil {
		return image.Reference{}, err
	}
	return image.FromInstanceInfo(n.InstanceInfo, s.Image)
}

// Resolve asks Glance what there is to know of an image that is there, and whether it is for the project
// that the node is of or lent to: it is read by ingot's own user, who may read more. A node of no project
// is an administrator's.
func (s Source) Resolve(ctx context.Context, t *driver.Task) error {
	id, ok := glance.ID(driver.Text(t.Node.InstanceInfo, "image_source"))
	if !ok || s.Image.Glance == nil {
		driver.RecordImage(t.Node, nil)
		return nil
	}
	var found *glance.Image
	var err error
	if n := t.Node; n.Owner+n.Lessee != "" {
		found, err = s.Image.Glance.ShowTo(ctx, id, n.Owner, n.Lessee)
	} else {
		found, err = s.Image.Glance.Show(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("image_source: %w", err)
	}
	driver.RecordImage(t.Node, found.Properties)
	return nil
}

// ResolveAgain is Resolve in a step: instance_info may be another one by now, and a Glance that is away for
// a moment is asked again.
func (s Source) ResolveAgain(ctx context.Context, t *driver.Task) error {
	for try := range resolveTries {
		err := s.Resolve(ctx, t)
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

// Validate checks what instance_info asks for, whatever the deploy interface: an image that can be fetched
// and verified, a disk to put it on, a config drive.
func (s Source) Validate(n *ingot.Node) error {
	if _, err := s.Reference(n); err != nil {
		return err
	}
	hints, where := roothint.Of(n.InstanceInfo, n.Properties)
	if _, err := roothint.Parse(hints); err != nil {
		return ingot.Errorf(ingot.Invalid, "%s of node %s: %w", where, n.UUID, err)
	}
	if drive := n.InstanceInfo["configdrive"]; Given(drive) {
		if err := configdrive.Check(drive); err != nil {
			return ingot.Errorf(ingot.Invalid, "node %s: %w", n.UUID, err)
		}
	}
	return nil
}

// Preflight looks whether there is an image.
func (s Source) Preflight(ctx context.Context, t *driver.Task) error {
	ref, err := s.Reference(t.Node)
	if err != nil {
		return err
	}
	// Somebody waits for the answer, and may ask again.
	opt := s.Options(t)
	opt.Retries = -1
	return image.Check(ctx, ref, opt)
}

// Look finds out whether there is an image; for the sake of an instance that still runs, also
// whether it is one: its beginning is read, a qcow2 image is fetched and verified.
func (s Source) Look(ctx context.Context, t *driver.Task, ref image.Reference) error {
	intent := t.Node.BootIntent
	if intent != ingot.BootDisk && intent != ingot.BootInstance {
		return image.Check(ctx, ref, s.Options(t))
	}
	src, err := image.Open(ctx, ref, s.Options(t))
	if err != nil {
		return err
	}
	return errors.Join(src.Verify(ctx), src.Close())
}

// Options are the rules for images, with what goes on told to the node's journal.
func (s Source) Options(t *driver.Task) image.Options {
	opt := s.Image
	opt.Progress = t.FetchProgress()
	opt.Note = func(text string) { t.Note(ingot.Entry{Source: "image", Text: text}) }
	return opt
}

// Drive is the image of the config drive of a node, nil if it has none.
func (s Source) Drive(ctx context.Context, n *ingot.Node) ([]byte, error) {
	c := n.InstanceInfo["configdrive"]
	if !Given(c) {
		return nil, nil
	}
	return configdrive.Image(ctx, s.Image.Client, c, n.UUID)
}

// Given tells whether a value of instance_info asks for something.
func Given(v any) bool {
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
