package ipmi

import (
	"context"

	"ingot/internal/driver"
)

// identity is the GUID of the machine.
var identity = driver.Identity{Key: "ipmi_system_guid", Name: "system GUID", Address: "ipmi_address"}

// change is ask for what touches the machine: the BMC has to be that of the machine.
func (f *Family) change(ctx context.Context, t *driver.Task, what string,
	fn func(ctx context.Context, b bmc) error) error {
	return f.ask(ctx, t, what, func(ctx context.Context, b bmc) error {
		if err := identify(ctx, t, b); err != nil {
			return err
		}
		// There was a turn to wait for, a login and a question.
		if err := t.Allowed(); err != nil {
			return err
		}
		return fn(ctx, b)
	})
}

// identify compares the machine with the one on record.
func identify(ctx context.Context, t *driver.Task, b bmc) error {
	i, err := parse(t.Node)
	if err != nil {
		return err
	}
	return identity.Compare(t, i.address(), func() (string, error) { return b.systemGUID(ctx) })
}

// Identify puts on record which machine it is that the BMC belongs to.
func (p *Power) Identify(ctx context.Context, t *driver.Task) error {
	return p.f.ask(ctx, t, "read the system GUID", func(ctx context.Context, b bmc) error {
		identity.Forget(t.Node)
		return identify(ctx, t, b)
	})
}
