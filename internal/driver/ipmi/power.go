package ipmi

import (
	"context"
	"maps"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// Power is the power interface ipmitool.
type Power struct{ f *Family }

var (
	_ driver.Power      = (*Power)(nil)
	_ driver.Properties = (*Power)(nil)
	_ driver.Identifier = (*Power)(nil)
)

// Properties are the driver_info keys of the BMC.
func (p *Power) Properties() map[string]string { return maps.Clone(properties) }

// Validate checks driver_info.
func (p *Power) Validate(_ context.Context, t *driver.Task) error {
	_, err := parse(t.Node)
	return err
}

// PowerState asks the BMC.
func (p *Power) PowerState(ctx context.Context, t *driver.Task) (ingot.PowerState, error) {
	state := ingot.PowerOff
	err := p.f.ask(ctx, t, "read the power state", func(ctx context.Context, b bmc) error {
		on, err := b.poweredOn(ctx)
		if on {
			state = ingot.PowerOn
		}
		return err
	})
	if err != nil {
		return ingot.PowerError, err
	}
	return state, nil
}

// SetPower brings the machine to the target and waits until the BMC says that it is there.
func (p *Power) SetPower(ctx context.Context, t *driver.Task, target ingot.PowerState) error {
	i, err := parse(t.Node)
	if err != nil {
		return err
	}
	return p.f.SetPower(ctx, t, target, driver.Switch{BMC: i.address(),
		State: func(ctx context.Context) (ingot.PowerState, error) { return p.PowerState(ctx, t) },
		Send: func(ctx context.Context, to ingot.PowerState) (string, error) {
			return p.send(ctx, t, to)
		},
	})
}

// actions lead to a state.
var actions = map[ingot.PowerState]action{
	ingot.PowerOn: up, ingot.PowerOff: down, ingot.SoftPowerOff: softShutdown,
}

// send sends the action that leads to a state, unless the machine is there.
func (p *Power) send(ctx context.Context, t *driver.Task, to ingot.PowerState) (sent string, err error) {
	a := actions[to]
	err = p.f.change(ctx, t, string(a), func(ctx context.Context, b bmc) error {
		sent = ""
		on, err := b.poweredOn(ctx)
		if err != nil || on == (to == ingot.PowerOn) {
			return err
		}
		sent = string(a)
		return b.control(ctx, a)
	})
	return sent, err
}
