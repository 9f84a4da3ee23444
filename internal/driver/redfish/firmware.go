package redfish

import (
	"context"
	"errors"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

var (
	_ driver.Observer = (*Power)(nil)
	_ driver.Firmware = (*Management)(nil)
)

// modes are the boot modes in the words of Redfish.
var modes = map[string]string{driver.UEFI: redfish.UEFI, driver.BIOS: redfish.Legacy}

// mode is how the machine boots, in our words; "" if it is not told.
func (m machine) mode(ctx context.Context) (string, error) {
	now, err := m.c.Mode(ctx, m.System)
	for ours, theirs := range modes {
		if now == theirs {
			return ours, err
		}
	}
	return "", err
}

// started is what a BMC tells of a start, as of schema ComputerSystem 1.13.
func started(progress string) *bool {
	over := false
	switch progress {
	case "", "OEM":
		return nil
	case "SystemHardwareInitializationComplete", "SetupEntered", "OSBootStarted", "OSRunning":
		over = true
	}
	return &over
}

// Observe asks the BMC for all of it in one session. One that fails to tell of its boot mode or of Secure Boot is
// believed to have what is on record: its power state counts.
func (p *Power) Observe(ctx context.Context, t *driver.Task) (driver.Observation, error) {
	out := driver.Observation{Power: ingot.PowerError}
	err := p.f.ask(ctx, t, "read the power state", func(ctx context.Context, m machine) error {
		state, err := m.power()
		if err != nil {
			return err
		}
		out = driver.Observation{Power: state, SecureBoot: t.Node.SecureBoot, Health: m.Health(),
			Started: started(m.BootProgress.State)}
		if out.BootMode, err = m.mode(ctx); err != nil {
			t.Log.Debug("boot mode not read", "error", err)
			out.BootMode = t.Node.BootMode
		}
		b, err := m.c.SecureBoot(ctx, m.System)
		if err != nil {
			t.Log.Debug("Secure Boot not read", "error", err)
			return nil
		}
		out.SecureBoot = nil
		if b != nil {
			out.SecureBoot = b.Enable
		}
		return nil
	})
	if err != nil {
		return driver.Observation{Power: ingot.PowerError}, err
	}
	return out, nil
}

// SetBootMode tells the BMC.
func (m *Management) SetBootMode(ctx context.Context, t *driver.Task, mode string) error {
	want := modes[mode]
	if want == "" {
		return ingot.Errorf(ingot.Invalid, "Invalid boot mode %s specified; supported: uefi, bios.", mode)
	}
	return m.f.change(ctx, t, "set the boot mode", func(ctx context.Context, s machine) error {
		now, err := s.c.Mode(ctx, s.System)
		if err != nil || now == want {
			return err
		}
		err = s.c.SetMode(ctx, s.System, want)
		var refused *redfish.StatusError
		switch {
		case !errors.As(err, &refused) || !refused.Picky():
			return err
		case !s.Boot.KnowsMode() && now == "":
			return ingot.Errorf(ingot.Invalid, "the BMC knows no boot modes: %w (%w)", driver.ErrUnsupported, refused)
		}
		return s.hint(refused)
	})
}

// hint is a refusal of a change of the firmware, with what may help.
func (m machine) hint(refused *redfish.StatusError) error {
	if m.PowerState == redfish.Off {
		return refused
	}
	return ingot.Errorf(ingot.Conflict, "the BMC refused it (%w), and the machine is on; switch it off, and try again",
		refused)
}

// SetSecureBoot tells the BMC. A machine that has no keys is given its vendor's: without any it checks nothing.
func (m *Management) SetSecureBoot(ctx context.Context, t *driver.Task, on bool) error {
	what := map[bool]string{true: "switch Secure Boot on", false: "switch Secure Boot off"}[on]
	return m.f.change(ctx, t, what, func(ctx context.Context, s machine) error {
		b, err := s.c.SecureBoot(ctx, s.System)
		switch {
		case err != nil:
			return err
		case b == nil:
			return ingot.Errorf(ingot.Invalid, "the BMC tells of no Secure Boot: %w", driver.ErrUnsupported)
		case *b.Enable == on:
			return nil
		}
		// One that does not tell its mode refuses by itself what does not go with it.
		if mode, _ := s.mode(ctx); on && mode == driver.BIOS {
			return ingot.Errorf(ingot.Conflict, "the machine boots as a BIOS, and Secure Boot is one of UEFI; set its "+
				"boot mode first: baremetal node boot mode set %s uefi", t.Node.UUID)
		}
		if on && b.Keyless() {
			if err := m.giveKeys(ctx, t, s, b); err != nil {
				return err
			}
		}
		err = s.c.EnableSecureBoot(ctx, b, on)
		var refused *redfish.StatusError
		if errors.As(err, &refused) && refused.Picky() {
			return s.hint(refused)
		}
		return err
	})
}

// giveKeys gives a machine that has no keys of Secure Boot its vendor's.
func (m *Management) giveKeys(ctx context.Context, t *driver.Task, s machine, b *redfish.SecureBoot) error {
	if !b.TakesDefaultKeys() {
		return ingot.Errorf(ingot.Invalid, "the machine has no keys of Secure Boot (it is in setup mode), and its BMC "+
			"cannot give it its vendor's; enroll keys in its firmware's set-up")
	}
	if err := s.c.ResetKeys(ctx, b); err != nil {
		return err
	}
	t.Note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: "the machine had no keys of Secure Boot, and " +
		"was given those of its vendor"})
	return nil
}
