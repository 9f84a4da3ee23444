package conductor

import (
	"context"
	"fmt"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// SetBootMode starts a change of the mode in which the machine boots.
func (c *Conductor) SetBootMode(ctx context.Context, ident, mode string) error {
	if mode != driver.UEFI && mode != driver.BIOS {
		return ingot.Errorf(ingot.Invalid, "Invalid boot mode %q; it is uefi or bios.", mode)
	}
	return c.changeFirmware(ctx, ident, "boot mode "+mode, func(ctx context.Context, t *task) error {
		return t.dt.SetBootMode(ctx, mode)
	})
}

// SetSecureBoot starts a change of whether the machine checks signatures.
func (c *Conductor) SetSecureBoot(ctx context.Context, ident string, on bool) error {
	return c.changeFirmware(ctx, ident, "Secure Boot "+driver.Words(&on), func(ctx context.Context, t *task) error {
		return t.dt.SetSecureBoot(ctx, on)
	})
}

// changeFirmware has a worker change something; what was asked for is in the journal when it returns. What
// became of it is found on the node, as of every change at the machine that nobody has told of.
func (c *Conductor) changeFirmware(ctx context.Context, ident, what string,
	do func(ctx context.Context, t *task) error) error {
	return c.work(ctx, ident, action{
		begin: func(ctx context.Context, t *task) error {
			if err := t.beginFirmware(ctx); err != nil {
				return err
			}
			t.node.LastError = ""
			t.later(ingot.Entry{Source: "bmc", Text: what + ": requested"})
			return t.save(ctx)
		},
		do: func(ctx context.Context, t *task) {
			if err := do(ctx, t); err != nil {
				t.setError(aboutManagement, fmt.Sprintf("Failed to set %s. Error: %v", what, err))
				t.later(ingot.Entry{Source: "bmc", Level: ingot.LevelError, Text: err.Error()})
			}
			t.save(ctx)
		},
	})
}

// beginFirmware tells whether the firmware may be changed now.
func (t *task) beginFirmware(ctx context.Context) error {
	n := t.node
	if !lifecycle.Rests(lifecycle.State(n.ProvisionState)) {
		return ingot.Errorf(ingot.Conflict, "Node %s is in state %s: how its firmware boots is not changed "+
			"on the way. Try again when it is over.", n.UUID, n.ProvisionState)
	}
	if err := t.compose(); err != nil {
		return err
	}
	if _, able := t.driver().Management.(driver.Firmware); !able {
		return ingot.Errorf(ingot.Invalid, "Driver %s does not support changing boot mode and Secure Boot: its "+
			"management interface %s cannot (disabled or not implemented).", n.Driver, n.Interfaces["management"])
	}
	for _, v := range []driver.Validator{t.driver().Power, t.driver().Management} {
		if err := v.Validate(ctx, t.dt); err != nil {
			return err
		}
	}
	return nil
}

// action is what a worker does with a node beside its operations: begin decides and puts it on record, do does
// it, and puts on record what became of it.
type action struct {
	begin func(ctx context.Context, t *task) error
	do    func(ctx context.Context, t *task)
}

// work has a worker do something with a node, which is reserved meanwhile; Unavailable if there is none.
func (c *Conductor) work(ctx context.Context, ident string, a action) error {
	if err := c.pool.enter(); err != nil {
		return err
	}
	if !c.pool.hire() {
		c.pool.leave()
		return ingot.Errorf(ingot.Unavailable, "Requested action cannot be performed due to lack "+
			"of free conductor workers (all %d are busy); try again later.", c.o.Workers)
	}
	t, err := c.reserve(ctx, ident)
	if err == nil {
		if err = a.begin(ctx, t); err != nil {
			t.release(ctx)
		}
	}
	if err != nil {
		c.dismiss()
		c.pool.leave()
		return err
	}
	t.spawn(func(ctx context.Context) {
		defer c.dismiss()
		defer t.release(ctx)
		a.do(ctx, t)
	})
	return nil
}

// recordFirmware puts on record what was seen of the firmware, and tells of what is new.
func (t *task) recordFirmware(o driver.Observation) {
	if o.SameFirmware(t.node) {
		return
	}
	mode := o.BootMode
	if mode == "" {
		mode = "unknown"
	}
	o.RecordFirmware(t.node)
	t.later(ingot.Entry{Source: "bmc", Text: fmt.Sprintf("the machine boots in mode %s, Secure Boot is %s", mode,
		driver.Words(o.SecureBoot))})
}
