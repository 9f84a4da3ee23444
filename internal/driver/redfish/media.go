package redfish

import (
	"context"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

var _ driver.Media = (*Management)(nil)

// InsertMedium inserts a CD.
func (m *Management) InsertMedium(ctx context.Context, t *driver.Task, url string) error {
	return m.f.change(ctx, t, "insert "+url, func(ctx context.Context, s machine) error {
		d, err := cdDrive(ctx, s)
		if err != nil || d.Inserted && d.Image == url {
			return err
		}
		return s.c.Insert(ctx, d, url)
	})
}

// EjectMedium empties the CD drive of a medium of ours.
func (m *Management) EjectMedium(ctx context.Context, t *driver.Task, prefix string) error {
	return m.f.change(ctx, t, "eject the virtual CD", func(ctx context.Context, s machine) error {
		d, err := cdDrive(ctx, s)
		if err != nil || !strings.Contains(d.Image, prefix) {
			return err
		}
		return s.c.Eject(ctx, d)
	})
}

// cdDrive is the first virtual drive that takes CDs or DVDs.
func cdDrive(ctx context.Context, s machine) (*redfish.Drive, error) {
	drives, err := s.c.Drives(ctx, s.System)
	if err != nil {
		return nil, err
	}
	for _, d := range drives {
		if d.Takes(redfish.CD, redfish.DVD) {
			return d, nil
		}
	}
	return nil, ingot.Errorf(ingot.Invalid, "the BMC has no virtual CD drive; it may lack a licence for virtual "+
		"media, or have it switched off. Use boot interface ipxe or pxe")
}
