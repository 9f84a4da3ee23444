package redfish

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

var _ driver.Media = (*Management)(nil)

// InsertMedium inserts a CD. Its URL is a secret, and in no error. A BMC that can have the machine boot it
// once is told so, besides what it is told to boot afterwards.
func (m *Management) InsertMedium(ctx context.Context, t *driver.Task, at string) error {
	return m.f.change(ctx, t, "insert a medium into the virtual CD drive", func(ctx context.Context,
		s machine) error {
		d, err := s.c.DriveFor(ctx, s.System, redfish.CD, redfish.DVD)
		switch {
		case err != nil:
			return err
		case d == nil:
			return ingot.Errorf(ingot.Invalid, "the BMC has no virtual CD drive of this machine alone; it may lack "+
				"a licence for virtual media, or have it switched off. Use boot interface ipxe or pxe")
		}
		if !d.Full() || d.Image != at {
			if err := insert(ctx, s, d, at); err != nil {
				return err
			}
		}
		var refused *redfish.StatusError
		if _, err = s.c.BootOnReset(ctx, d); errors.As(err, &refused) {
			t.Note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: "the BMC refused to have the " +
				"machine boot the medium by itself; it is told by the boot device alone: " + refused.Error()})
			return nil
		}
		return err
	})
}

// insert inserts a medium. What a BMC refuses is mostly what it cannot read.
func insert(ctx context.Context, s machine, d *redfish.Drive, at string) error {
	err := s.c.Insert(ctx, d, at)
	var refused *redfish.StatusError
	if !errors.As(err, &refused) || gone(err) {
		return err
	}
	refused.Text = strings.ReplaceAll(refused.Text, at, "the URL")
	host := "this server"
	if u, err := url.Parse(at); err == nil {
		host = u.Host
	}
	return ingot.Errorf(ingot.Unavailable, "the BMC refused the medium (%w); check that it reaches %s over its own "+
		"network, and that it has a licence for virtual media", refused, host)
}

// EjectMedium empties the CD drive, unless what is in it is known to be from elsewhere than a path.
func (m *Management) EjectMedium(ctx context.Context, t *driver.Task, path string) error {
	return m.f.change(ctx, t, "eject the virtual CD", func(ctx context.Context, s machine) error {
		d, err := s.c.DriveFor(ctx, s.System, redfish.CD, redfish.DVD)
		if err != nil || d == nil || strings.Contains(d.Image, "://") && !strings.Contains(d.Image, path) {
			return err
		}
		return s.c.Eject(ctx, d)
	})
}
