package conductor

import (
	"cmp"
	"context"
	"slices"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

// Validate asks every interface of a node whether it has what it needs (ironic.md 5.4: the
// vendor interface is left out). It changes nothing.
func (c *Conductor) Validate(ctx context.Context, ident string) (map[string]rpc.Validation,
	error) {
	n, err := c.o.Store.Node(ctx, ident)
	if err != nil {
		return nil, err
	}
	t, err := c.newTask(ctx, n)
	if err != nil {
		return nil, err
	}
	composed := t.compose()
	d := t.driver()
	built := map[string]driver.Validator{}
	if composed == nil {
		built = map[string]driver.Validator{"power": d.Power, "management": d.Management,
			"boot": d.Boot, "deploy": d.Deploy}
		if d.Network != nil {
			built["network"] = d.Network
		}
		if d.Inspect != nil {
			built["inspect"] = d.Inspect
		}
		if d.BIOS != nil {
			built["bios"] = d.BIOS
		}
	}
	out := map[string]rpc.Validation{}
	if err := cmp.Or(t.resolve(ctx), checkTraits(n), d.CheckFirmware(n)); composed == nil && err != nil {
		built["deploy"] = refused{err}
	}
	for _, kind := range driver.Kinds {
		v := built[kind]
		switch {
		case kind == "vendor":
		case v != nil:
			out[kind] = result(v.Validate(ctx, t.dt))
		case kind == "network" || kind == "storage": // noop is always content
			out[kind] = rpc.Validation{Result: true}
		case slices.Contains([]string{"power", "management", "boot", "deploy"}, kind):
			out[kind] = result(composed)
		default:
			out[kind] = result(ingot.Errorf(ingot.Invalid, "Driver %s does not support %s "+
				"(disabled or not implemented).", n.Driver, kind))
		}
	}
	return out, nil
}

// refused is content with nothing.
type refused struct{ err error }

func (r refused) Validate(context.Context, *driver.Task) error { return r.err }

// resolve has the deploy interface look what instance_info merely names.
func (t *task) resolve(ctx context.Context) error {
	if r, ok := t.driver().Deploy.(driver.Resolver); ok {
		return r.Resolve(ctx, t.dt)
	}
	return nil
}

func result(err error) rpc.Validation {
	if err != nil {
		return rpc.Validation{Reason: err.Error()}
	}
	return rpc.Validation{Result: true}
}

// BootDevice asks the BMC.
func (c *Conductor) BootDevice(ctx context.Context, ident string) (rpc.BootDevice, error) {
	t, err := c.read(ctx, ident)
	if err != nil {
		return rpc.BootDevice{}, err
	}
	if err := t.driver().Management.Validate(ctx, t.dt); err != nil {
		return rpc.BootDevice{}, err
	}
	d, err := t.driver().Management.BootDevice(ctx, t.dt)
	return rpc.BootDevice{Device: d.Device, Persistent: d.Persistent}, err
}

// SupportedBootDevices lists what can be set.
func (c *Conductor) SupportedBootDevices(ctx context.Context, ident string) ([]string, error) {
	t, err := c.read(ctx, ident)
	if err != nil {
		return nil, err
	}
	return t.driver().Management.SupportedBootDevices(ctx, t.dt)
}

// SetBootDevice tells the BMC, with the node reserved meanwhile.
func (c *Conductor) SetBootDevice(ctx context.Context, ident string, d rpc.BootDevice) error {
	t, err := c.reserve(ctx, ident)
	if err != nil {
		return err
	}
	defer t.release(ctx)
	if err := t.compose(); err != nil {
		return err
	}
	if err := t.driver().Management.Validate(ctx, t.dt); err != nil {
		return err
	}
	if err := t.dt.SetBootDevice(ctx, driver.BootDevice{Device: d.Device, Persistent: d.Persistent}); err != nil {
		t.note(ingot.Entry{Source: "bmc", Level: ingot.LevelError, Text: err.Error()})
		return err
	}
	return t.save(ctx)
}
