package redfish

import (
	"context"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

var _ driver.Media = (*Management)(nil)

// InsertMedium inserts a medium. Its URL is a secret, and in no error. A BMC that can have the machine boot a
// CD once is told so, besides what it is told to boot afterwards.
func (m *Management) InsertMedium(ctx context.Context, t *driver.Task, kind driver.Drive, at string) error {
	return m.f.change(ctx, t, "insert a medium into the virtual "+string(kind)+" drive", func(ctx context.Context,
		s machine) error {
		d, err := driveOf(ctx, s, kind)
		switch {
		case err != nil:
			return err
		case d == nil:
			return ingot.Errorf(ingot.Invalid, "the BMC has no virtual %s drive of this machine alone; it may lack "+
				"a licence for virtual media, or have it switched off. Use boot interface ipxe or pxe", kind)
		}
		if !d.Full() || d.Image != at {
			if err := insert(ctx, s, d, at); err != nil {
				return err
			}
		}
		if kind != driver.CD {
			return nil
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

// secrets are what BMCs quote of URLs of media, whole or cut off: whoever has one has the medium.
var secrets = regexp.MustCompile(`(?i)https?:(\\?/){2}[^\s"'<>]*|/media\\?/[^\s"'<>]*|\b(boot|image)-[0-9a-f]{8}-[^\s"'<>]*`)

// hidden is an error without what is a secret in its text.
type hidden struct{ error }

func (h hidden) Error() string { return hide(h.error.Error()) }

func (h hidden) Unwrap() error { return h.error }

func hide(text string) string { return secrets.ReplaceAllString(text, "the URL") }

// insert inserts a medium. What a BMC refuses is mostly what it cannot read.
func insert(ctx context.Context, s machine, d *redfish.Drive, at string) error {
	err := s.c.Insert(ctx, d, at)
	if err == nil {
		return nil
	}
	var refused *redfish.StatusError
	if !errors.As(err, &refused) {
		return hidden{err}
	}
	refused.Text = hide(refused.Text)
	if gone(err) {
		return err
	}
	host, trust := "this server", ""
	if u, err := url.Parse(at); err == nil {
		host = u.Host
		if u.Scheme == "https" {
			trust = ", that it trusts the certificate there or checks none"
		}
	}
	return ingot.Errorf(ingot.Unavailable, "the BMC refused the medium (%w); check that it reaches %s over its own "+
		"network%s, and that it has a licence for virtual media", refused, host, trust)
}

// EjectMedium empties a drive, unless what is in it is known to be from elsewhere.
func (m *Management) EjectMedium(ctx context.Context, t *driver.Task, kind driver.Drive, part string) error {
	return m.f.change(ctx, t, "eject the virtual "+string(kind), func(ctx context.Context, s machine) error {
		d, err := driveOf(ctx, s, kind)
		switch {
		case err != nil || d == nil:
			return err
		case !mayBe(d, part):
			t.Note(ingot.Entry{Source: "bmc", Text: "the virtual " + string(kind) + " drive has a medium of somebody " +
				"else by now, which is left there"})
			return nil
		}
		return s.c.Eject(ctx, d)
	})
}

// mayBe tells whether what is in a drive may come from a URL with a part: BMCs tell the URL, the name of a file, or
// nothing.
func mayBe(d *redfish.Drive, part string) bool {
	return !strings.Contains(d.Image, "://") || strings.Contains(d.Image, part)
}

// HoldsMedium is of driver.Media.
func (m *Management) HoldsMedium(ctx context.Context, t *driver.Task, kind driver.Drive, part string) (holds bool,
	err error) {
	err = m.f.ask(ctx, t, "tell what is in the virtual "+string(kind), func(ctx context.Context, s machine) error {
		d, err := driveOf(ctx, s, kind)
		holds = err == nil && d != nil && d.Full() && mayBe(d, part)
		return err
	})
	return holds, err
}

// driveOf is the drive of a kind; nil if there is none. The one for CDs is no floppy drive, whatever it takes.
func driveOf(ctx context.Context, s machine, kind driver.Drive) (*redfish.Drive, error) {
	drives, err := s.c.Drives(ctx, s.System)
	if err != nil {
		return nil, err
	}
	cd := redfish.Choose(drives, redfish.CD, redfish.DVD)
	if kind == driver.CD {
		return cd, nil
	}
	drives = slices.DeleteFunc(drives, func(d *redfish.Drive) bool { return d == cd })
	return redfish.Choose(drives, redfish.Floppy, redfish.USBStick), nil
}
