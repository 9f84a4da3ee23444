package ipmi

import (
	"context"
	"fmt"
	"maps"
	"time"

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

// SetPower brings the machine to the target and waits until the BMC says that it is there. A
// reboot is off, then on: BMCs differ in what a power cycle does to a machine that is off and
// in whether boot flags are honoured after a reset, and off can be seen to have happened.
func (p *Power) SetPower(ctx context.Context, t *driver.Task, target ingot.PowerState) error {
	switch target {
	case ingot.PowerOn:
		return p.reach(ctx, t, ingot.PowerOn, up)
	case ingot.PowerOff:
		return p.reach(ctx, t, ingot.PowerOff, down)
	case ingot.SoftPowerOff:
		return p.reach(ctx, t, ingot.PowerOff, softShutdown)
	case ingot.Rebooting, ingot.SoftReboot:
		off := down
		if target == ingot.SoftReboot {
			off = softShutdown
		}
		if err := p.reach(ctx, t, ingot.PowerOff, off); err != nil {
			return err
		}
		return p.reach(ctx, t, ingot.PowerOn, up)
	}
	return ingot.Errorf(ingot.Invalid, "power target %q is not supported by power interface %s",
		target, Name)
}

// reach sends the action unless the machine is in the state already, and waits for the state. A
// BMC that fails to answer while it switches the machine is asked again until time is up.
func (p *Power) reach(ctx context.Context, t *driver.Task, want ingot.PowerState,
	a action) error {
	there := false
	err := p.f.change(ctx, t, string(a), func(ctx context.Context, b bmc) error {
		on, err := b.poweredOn(ctx)
		if err != nil {
			return err
		}
		if there = on == (want == ingot.PowerOn); there {
			return nil
		}
		return b.control(ctx, a)
	})
	if there || err != nil {
		return err
	}
	t.Note(ingot.Entry{Source: "bmc", Text: "told the BMC: " + string(a)})
	var last error
	// A virtual machine is there at once, a server may take ten seconds: ask soon, then seldom.
	for pause := p.f.o.PollInterval / 16; ; pause = min(2*pause, p.f.o.PollInterval) {
		select {
		case <-ctx.Done():
			return notReached(t, want, last)
		case <-time.After(pause):
		}
		state, err := p.PowerState(ctx, t)
		if state == want {
			return nil
		}
		if !spent(ctx) {
			last = err
		}
	}
}

func notReached(t *driver.Task, want ingot.PowerState, last error) error {
	text := "it took the command, but the machine did not change its state"
	if last != nil {
		text = fmt.Sprintf("then it stopped answering: %v", last)
	}
	i, _ := parse(t.Node)
	return ingot.Errorf(ingot.Unavailable, "BMC %s was told to reach %q in time: %s", i.address(),
		want, text)
}
