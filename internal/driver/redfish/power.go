package redfish

import (
	"context"
	"errors"
	"maps"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

// Power is the power interface redfish.
type Power struct{ f *Family }

var (
	_ driver.Power      = (*Power)(nil)
	_ driver.Properties = (*Power)(nil)
	_ driver.Identifier = (*Power)(nil)
)

// Properties are the driver_info keys of the BMC.
func (p *Power) Properties() map[string]string { return maps.Clone(p.f.properties) }

// Validate checks driver_info.
func (p *Power) Validate(_ context.Context, t *driver.Task) error {
	_, err := p.f.parse(t.Node)
	return err
}

// Identify puts on record which machine it is that the BMC belongs to.
func (p *Power) Identify(ctx context.Context, t *driver.Task) error {
	return p.f.ask(ctx, t, "read the system UUID", func(_ context.Context, m machine) error {
		p.f.identity.Forget(t.Node)
		return p.f.identify(t, m)
	})
}

// PowerState asks the BMC. A machine on its way to off is not off yet.
func (p *Power) PowerState(ctx context.Context, t *driver.Task) (ingot.PowerState, error) {
	state := ingot.PowerError
	err := p.f.ask(ctx, t, "read the power state", func(_ context.Context, m machine) (err error) {
		state, err = m.power()
		return err
	})
	if err != nil {
		return ingot.PowerError, err
	}
	return state, nil
}

// power is the state as the BMC told it. Some tell none while they switch the machine.
func (m machine) power() (ingot.PowerState, error) {
	switch m.PowerState {
	case "":
		return ingot.PowerError, errors.New("it does not tell the power state")
	case redfish.Off:
		return ingot.PowerOff, nil
	}
	return ingot.PowerOn, nil
}

// SetPower brings the machine to the target and waits until the BMC says that it is there.
func (p *Power) SetPower(ctx context.Context, t *driver.Task, target ingot.PowerState) error {
	i, err := p.f.parse(t.Node)
	if err != nil {
		return err
	}
	return p.f.SetPower(ctx, t, target, driver.Switch{BMC: i.bmc(),
		State: func(ctx context.Context) (ingot.PowerState, error) { return p.PowerState(ctx, t) },
		Send: func(ctx context.Context, to ingot.PowerState) (string, error) {
			return p.send(ctx, t, to)
		},
	})
}

// resets lead to a state, the best first. The power button is what a graceful shutdown presses for a
// machine that is on, and what a switch-on presses for one that is off.
var resets = map[ingot.PowerState][]redfish.ResetType{
	ingot.PowerOn:      {redfish.ResetOn, redfish.ResetForceOn, redfish.PushPowerButton},
	ingot.PowerOff:     {redfish.ResetForceOff},
	ingot.SoftPowerOff: {redfish.GracefulShutdown, redfish.PushPowerButton},
}

// words tell what the resets do.
var words = map[ingot.PowerState]string{
	ingot.PowerOn: "power up", ingot.PowerOff: "power down", ingot.SoftPowerOff: "soft shutdown",
}

// reset sends the reset. If that is a task it is not waited for longer than for another request: some go
// on until the machine is there, and may never.
func (p *Power) reset(ctx context.Context, m machine, to ingot.PowerState) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	_, err := m.c.Reset(ctx, m.System, resets[to]...)
	return err
}

// send sends the reset that leads to a state, unless the machine is there.
func (p *Power) send(ctx context.Context, t *driver.Task, to ingot.PowerState) (sent string, err error) {
	want := driver.PowerResult(to)
	err = p.f.change(ctx, t, words[to], func(ctx context.Context, m machine) error {
		sent = ""
		state, err := m.power()
		if err != nil || state == want {
			return err
		}
		sent = words[to]
		err = p.reset(ctx, m, to)
		if err == nil || errors.Is(err, redfish.ErrRunning) {
			return nil // whether the machine gets there is seen
		}
		// BMCs refuse, in many ways, to switch off what has just switched itself off.
		if now, again := m.c.System(ctx, m.Path); again == nil {
			if state, again = (machine{System: now}).power(); again == nil && state == want {
				return nil
			}
		}
		return err
	})
	return sent, err
}
