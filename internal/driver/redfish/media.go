package redfish

import (
	"context"
	"errors"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

var _ driver.Media = (*Management)(nil)

// InsertMedium inserts a CD. Its URL is a secret, and in no error.
func (m *Management) InsertMedium(ctx context.Context, t *driver.Task, url string) error {
	return m.f.change(ctx, t, "insert a medium into the virtual CD drive", func(ctx context.Context,
		s machine) error {
		d, err := cdDrive(ctx, s)
		switch {
		case err != nil:
			return err
		case d == nil:
			return ingot.Errorf(ingot.Invalid, "the BMC has no virtual CD drive of this machine alone; it may lack "+
				"a licence for virtual media, or have it switched off. Use boot interface ipxe or pxe")
		case d.Full() && d.Image == url:
			return nil
		}
		err = s.c.Insert(ctx, d, url)
		var refused *redfish.StatusError
		if errors.As(err, &refused) {
			refused.Text = strings.ReplaceAll(refused.Text, url, "the URL")
		}
		return err
	})
}

// EjectMedium empties the CD drive, unless what is in it is known to be from elsewhere than a path.
func (m *Management) EjectMedium(ctx context.Context, t *driver.Task, path string) error {
	return m.f.change(ctx, t, "eject the virtual CD", func(ctx context.Context, s machine) error {
		d, err := cdDrive(ctx, s)
		if err != nil || d == nil || strings.Contains(d.Image, "://") && !strings.Contains(d.Image, path) {
			return err
		}
		return s.c.Eject(ctx, d)
	})
}

// cdDrive is the first virtual drive that takes CDs or DVDs; nil if there is none.
func cdDrive(ctx context.Context, s machine) (*redfish.Drive, error) {
	drives, err := s.c.Drives(ctx, s.System)
	for _, d := range drives {
		if d.Takes(redfish.CD, redfish.DVD) {
			return d, nil
		}
	}
	return nil, err
}
