package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ingot/internal/ingot"
)

// Observation is what a BMC tells of its machine at one moment.
type Observation struct {
	Power ingot.PowerState
	// BootMode is UEFI or BIOS; "" if it is not told.
	BootMode string
	// Health is the worst that the machine and its parts are: OK, Warning or Critical; "" if it is not told.
	Health string
	// SecureBoot tells whether it is on, or will be at the next start; nil if the machine does not know it.
	SecureBoot *bool
	// Started tells whether the firmware is through with the last start, whether or not anything was booted then;
	// nil if it is not told.
	Started *bool
}

// ErrUnsupported says that a machine, or its BMC, cannot do what was asked of it.
var ErrUnsupported = errors.New("this machine cannot do it")

// DefaultFirmwareTimeout is how long a change of how the firmware boots may take to count.
const DefaultFirmwareTimeout = 15 * time.Minute

// The pauses between two looks whether a change counts: a virtual machine has it at once, a server runs a job
// for it while it starts, of some minutes.
const (
	minFirmwarePause = 100 * time.Millisecond
	maxFirmwarePause = 10 * time.Second
)

// AskedBootMode is the mode that the instance, or else the node's properties ask for; "" if none. Secure Boot
// is one of UEFI alone.
func AskedBootMode(n *ingot.Node) string {
	if AsksSecureBoot(n) {
		return UEFI
	}
	for _, o := range []ingot.Object{n.InstanceInfo, n.Properties} {
		if mode := strings.ToLower(Capability(o, "boot_mode")); mode == BIOS || mode == UEFI {
			return mode
		}
	}
	return ""
}

// AsksSecureBoot tells whether the instance wants it.
func AsksSecureBoot(n *ingot.Node) bool {
	return strings.EqualFold(Capability(n.InstanceInfo, "secure_boot"), "true")
}

// secureBootKey is in driver_internal_info for as long as Secure Boot is to be switched off when the instance is gone.
// instance_info does not tell: it may be another one by then, and is gone after a tear-down that failed.
const secureBootKey = "secure_boot_ends_with_instance"

// OweSecureBoot puts on record that Secure Boot ends with the instance, if that wants it.
func OweSecureBoot(n *ingot.Node) {
	if !AsksSecureBoot(n) {
		return
	}
	if n.DriverInternalInfo == nil {
		n.DriverInternalInfo = ingot.Object{}
	}
	n.DriverInternalInfo[secureBootKey] = true
}

// owesSecureBoot tells whether Secure Boot, if it is on, is an instance's and not the operator's.
func owesSecureBoot(n *ingot.Node) bool {
	return AsksSecureBoot(n) || n.DriverInternalInfo[secureBootKey] == true
}

// CheckFirmware refuses an instance whose wish the management interface cannot fulfil on any machine.
func (d Driver) CheckFirmware(n *ingot.Node) error {
	if _, able := d.Management.(Firmware); able || !AsksSecureBoot(n) {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "instance_info of node %s asks for secure_boot, which management "+
		"interface %s cannot switch; remove the capability, and switch it on at the machine", n.UUID,
		n.Interfaces["management"])
}

// Observe asks the BMC, of power interfaces that know no more for the power state.
func (t *Task) Observe(ctx context.Context) (Observation, error) {
	if o, ok := t.Driver.Power.(Observer); ok {
		return o.Observe(ctx, t)
	}
	state, err := t.Driver.Power.PowerState(ctx, t)
	return Observation{Power: state}, err
}

// SameFirmware tells whether what is on record of the firmware is what was seen.
func (o Observation) SameFirmware(n *ingot.Node) bool {
	return o.BootMode == n.BootMode && Words(o.SecureBoot) == Words(n.SecureBoot)
}

// Words are those for a switch that may be missing.
func Words(on *bool) string {
	switch {
	case on == nil:
		return "unknown"
	case *on:
		return "on"
	}
	return "off"
}

// RecordFirmware puts on record what was seen of the firmware.
func (o Observation) RecordFirmware(n *ingot.Node) {
	n.BootMode, n.SecureBoot = o.BootMode, o.SecureBoot
}

// SetBootMode changes the mode in which the machine boots, from its next start on. Where the BMC does not have
// it before such a start, the machine is started, and is as it was afterwards.
func (t *Task) SetBootMode(ctx context.Context, mode string) error {
	before, err := t.Observe(ctx)
	if err != nil {
		return err
	}
	if before.BootMode == mode {
		before.RecordFirmware(t.Node)
		return nil
	}
	err = t.tellFirmware(ctx, func(f Firmware) error { return f.SetBootMode(ctx, t, mode) })
	if err != nil {
		return fmt.Errorf("set boot mode %s: %w", mode, err)
	}
	t.Note(ingot.Entry{Source: "bmc", Text: "boot mode: " + mode + ", before " + word(before.BootMode)})
	return t.settle(ctx, "boot mode "+mode, func(o Observation) bool {
		return o.BootMode == mode || before.BootMode == "" // it has told none before, and may not now
	})
}

func word(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// SetSecureBoot is SetBootMode for Secure Boot, which belongs to no instance then.
func (t *Task) SetSecureBoot(ctx context.Context, on bool) error {
	before, err := t.Observe(ctx)
	if err != nil {
		return err
	}
	if Words(before.SecureBoot) == Words(&on) {
		before.RecordFirmware(t.Node)
		delete(t.Node.DriverInternalInfo, secureBootKey)
		return nil
	}
	if err := t.tellSecureBoot(ctx, on); err != nil {
		return err
	}
	if err := t.settle(ctx, "Secure Boot "+Words(&on), secureIs(on)); err != nil {
		return err
	}
	delete(t.Node.DriverInternalInfo, secureBootKey)
	return nil
}

func secureIs(on bool) func(Observation) bool {
	return func(o Observation) bool { return Words(o.SecureBoot) == Words(&on) }
}

// tellSecureBoot has the BMC take it.
func (t *Task) tellSecureBoot(ctx context.Context, on bool) error {
	err := t.tellFirmware(ctx, func(f Firmware) error { return f.SetSecureBoot(ctx, t, on) })
	if err != nil {
		return fmt.Errorf("switch Secure Boot %s: %w", Words(&on), err)
	}
	t.Note(ingot.Entry{Source: "bmc", Text: "Secure Boot: " + Words(&on)})
	return nil
}

func (t *Task) tellFirmware(ctx context.Context, tell func(Firmware) error) error {
	f, able := t.Driver.Management.(Firmware)
	if !able {
		return ingot.Errorf(ingot.Invalid, "management interface %s: %w", t.Node.Interfaces["management"],
			ErrUnsupported)
	}
	if err := t.Allowed(); err != nil {
		return err
	}
	return tell(f)
}

// settle waits until what a BMC was told is so, and starts the machine for it where it is not.
func (t *Task) settle(ctx context.Context, what string, reached func(Observation) bool) error {
	o, err := t.Observe(ctx)
	if err != nil {
		return err
	}
	if reached(o) {
		o.RecordFirmware(t.Node)
		return nil
	}
	if t.FirmwareTimeout < 0 && o.Power == ingot.PowerOff {
		t.Note(ingot.Entry{Source: "bmc", Text: what + " counts from the next start of the machine on"})
		return nil // nobody waits, and so nobody would switch it off again in time
	}
	t.Note(ingot.Entry{Source: "bmc", Text: what + " counts when the machine has started again: it is restarted"})
	if err := t.SetPower(ctx, ingot.Rebooting); err != nil {
		return err
	}
	err = t.await(ctx, what, reached)
	if o.Power == ingot.PowerOff && ctx.Err() == nil {
		err = errors.Join(err, t.SetPower(ctx, ingot.PowerOff))
	}
	return err
}

// await looks until something is so, while the machine starts; its BMC may be away meanwhile.
func (t *Task) await(ctx context.Context, what string, reached func(Observation) bool) error {
	timeout := t.FirmwareTimeout
	if timeout == 0 {
		timeout = DefaultFirmwareTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, max(timeout, 0))
	defer cancel()
	seen := ""
	for pause := minFirmwarePause; timeout > 0; pause = min(2*pause, maxFirmwarePause) {
		o, err := t.Observe(ctx)
		switch {
		case err == nil && reached(o):
			o.RecordFirmware(t.Node)
			return nil
		case err == nil:
			seen = fmt.Sprintf("the BMC tells boot mode %s, Secure Boot %s", word(o.BootMode), Words(o.SecureBoot))
		case seen == "":
			seen = err.Error()
		}
		if Wait(ctx, pause) {
			continue
		}
		return ingot.Errorf(ingot.Unavailable, "%s does not count within %s of the start of the machine (%s); look "+
			"at its console, and at the log and the jobs of its BMC", what, timeout, seen)
	}
	return nil
}

// PrepareFirmware has the machine, which is about to start into its ramdisk, boot in the mode that is asked for,
// and without Secure Boot if it is the instance that wants it: that is switched on when the instance boots, as
// in Ironic; the same if it is one's that is gone. What nobody asks for stays as it is.
func (t *Task) PrepareFirmware(ctx context.Context) error {
	n := t.Node
	if err := t.Driver.CheckFirmware(n); err != nil {
		return err
	}
	if _, able := t.Driver.Management.(Firmware); !able {
		return nil
	}
	o, err := t.Observe(ctx)
	if err != nil {
		return err
	}
	o.RecordFirmware(n)
	if AsksSecureBoot(n) && o.SecureBoot == nil {
		return ingot.Errorf(ingot.Invalid, "the instance asks for secure_boot, which its machine does not know, or "+
			"does not tell of: %w; remove the capability", ErrUnsupported)
	}
	if owesSecureBoot(n) && secureIs(true)(o) {
		if err := t.GiveUpMachine(ctx); err != nil {
			return err
		}
		if err := t.SetSecureBoot(ctx, false); err != nil {
			return err
		}
	}
	return t.syncBootMode(ctx, o)
}

// syncBootMode changes the mode of a machine if another one is asked for.
func (t *Task) syncBootMode(ctx context.Context, o Observation) error {
	asked := AskedBootMode(t.Node)
	if asked == "" || asked == o.BootMode {
		return nil
	}
	if err := t.GiveUpMachine(ctx); err != nil {
		return err
	}
	err := t.SetBootMode(ctx, asked)
	if errors.Is(err, ErrUnsupported) && o.BootMode == "" {
		t.Note(ingot.Entry{Source: "bmc", Text: fmt.Sprintf("%v; it is believed to be so already", err)})
		return nil
	}
	return err
}

// BootInstance connects the machine to the networks of its VIFs and starts its instance.
func (t *Task) BootInstance(ctx context.Context, start ingot.PowerState) error {
	if err := t.ToTenant(ctx); err != nil {
		return err
	}
	return t.StartInstance(ctx, start)
}

// StartInstance starts the instance, with Secure Boot if that is asked for: then it has not succeeded before that
// is on.
func (t *Task) StartInstance(ctx context.Context, start ingot.PowerState) error {
	if !AsksSecureBoot(t.Node) {
		return t.SetPower(ctx, start)
	}
	o, err := t.Observe(ctx)
	if err != nil {
		return err
	}
	if !secureIs(true)(o) {
		if err := t.SetPower(ctx, ingot.PowerOff); err != nil { // some take it only then
			return err
		}
		OweSecureBoot(t.Node)
		if err := t.Save(ctx); err != nil {
			return err
		}
		if err := t.tellSecureBoot(ctx, true); err != nil {
			return err
		}
	}
	if err := t.SetPower(ctx, start); err != nil {
		return err
	}
	return t.await(ctx, "Secure Boot on", secureIs(true))
}

// EndSecureBoot switches off what StartInstance has switched on, on a machine that is off. It counts from its
// next start on. After an error it is still to be done, whatever becomes of instance_info.
func (t *Task) EndSecureBoot(ctx context.Context) error {
	if _, able := t.Driver.Management.(Firmware); !able || !owesSecureBoot(t.Node) {
		return nil
	}
	o, err := t.Observe(ctx)
	if err != nil {
		return err
	}
	if !secureIs(true)(o) {
		delete(t.Node.DriverInternalInfo, secureBootKey)
		return nil
	}
	if err := t.tellSecureBoot(ctx, false); err != nil && !errors.Is(err, ErrUnsupported) {
		return err
	}
	o.SecureBoot = new(bool)
	o.RecordFirmware(t.Node)
	delete(t.Node.DriverInternalInfo, secureBootKey)
	return nil
}
