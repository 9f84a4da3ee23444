package network

import (
	"context"

	"ingot/internal/driver"
	"ingot/internal/neutron"
)

// Flat is the network interface flat: one network for all, whose switches nobody configures. The VIFs of
// the machine are bound to it while it is deployed, and afterwards.
type Flat struct{ vifs }

var _ driver.Network = (*Flat)(nil)

// NewFlat returns the network interface flat.
func NewFlat(o Options) *Flat { return &Flat{vifs{Options: o}} }

// Validate checks that there is a Neutron. A node needs no VIFs before it is deployed.
func (f *Flat) Validate(context.Context, *driver.Task) error {
	if f.Client == nil {
		return neutron.ErrNowhere
	}
	return nil
}

// AddProvisioning binds the VIFs.
func (f *Flat) AddProvisioning(ctx context.Context, t *driver.Task) error {
	count, err := f.bind(ctx, t)
	if err == nil && count == 0 {
		return noVIF(t)
	}
	return err
}

// RemoveProvisioning unbinds the VIFs.
func (f *Flat) RemoveProvisioning(ctx context.Context, t *driver.Task) error { return f.unbind(ctx, t) }

// ConfigureTenant binds the VIFs.
func (f *Flat) ConfigureTenant(ctx context.Context, t *driver.Task) error {
	_, err := f.bind(ctx, t)
	return err
}

// UnconfigureTenant unbinds the VIFs.
func (f *Flat) UnconfigureTenant(ctx context.Context, t *driver.Task) error { return f.unbind(ctx, t) }
