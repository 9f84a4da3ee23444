package redfish

import (
	"context"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

// BIOS is the bios interface redfish: the settings of the firmware.
type BIOS struct{ f *Family }

var _ driver.Setup = (*BIOS)(nil)

// BIOS is the bios interface.
func (f *Family) BIOS() *BIOS { return &BIOS{f} }

// Validate checks driver_info.
func (b *BIOS) Validate(_ context.Context, t *driver.Task) error {
	_, err := b.f.parse(t.Node)
	return err
}

// settings reads those of a machine; ErrUnsupported if its BMC tells none.
func settings(ctx context.Context, m machine) (*redfish.BIOS, error) {
	b, err := m.c.BIOS(ctx, m.System)
	if err == nil && b == nil {
		return nil, ingot.Errorf(ingot.Invalid, "the BMC tells no BIOS settings: %w", driver.ErrUnsupported)
	}
	return b, err
}

// Settings asks the BMC. Where it does not describe them, names and values are all there is.
func (b *BIOS) Settings(ctx context.Context, t *driver.Task) (all []ingot.BIOSSetting, err error) {
	err = b.f.ask(ctx, t, "tell the BIOS settings", func(ctx context.Context, m machine) error {
		now, err := settings(ctx, m)
		if err != nil {
			return err
		}
		known, err := m.c.BIOSRegistry(ctx, now)
		if err != nil {
			return err
		}
		all = nil
		for name, value := range now.Attributes {
			a := known[name]
			all = append(all, ingot.BIOSSetting{Name: name, Value: value, Default: a.Default, Type: a.Type,
				Allowed: a.Allowed(), LowerBound: redfish.Whole(a.LowerBound), UpperBound: redfish.Whole(a.UpperBound),
				MinLength: redfish.Whole(a.MinLength), MaxLength: redfish.Whole(a.MaxLength), ReadOnly: a.ReadOnly,
				ResetRequired: a.ResetRequired, Unique: a.Unique})
		}
		return nil
	})
	return all, err
}

// Apply tells the BMC.
func (b *BIOS) Apply(ctx context.Context, t *driver.Task, values map[string]any) error {
	return b.f.change(ctx, t, "change BIOS settings", func(ctx context.Context, m machine) error {
		now, err := settings(ctx, m)
		if err != nil {
			return err
		}
		return m.c.SetAttributes(ctx, now, values)
	})
}

// Reset tells the BMC.
func (b *BIOS) Reset(ctx context.Context, t *driver.Task) error {
	return b.f.change(ctx, t, "reset the BIOS settings", func(ctx context.Context, m machine) error {
		now, err := settings(ctx, m)
		switch {
		case err != nil:
			return err
		case !now.Resets():
			return ingot.Errorf(ingot.Invalid, "the BMC cannot reset the BIOS settings: %w", driver.ErrUnsupported)
		}
		return m.c.ResetBIOS(ctx, now)
	})
}
