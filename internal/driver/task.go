package driver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"ingot/internal/ingot"
)

// Task is one conductor's work on one reserved node. Drivers read Node and change it in memory;
// the conductor persists it after each step. A driver that must have something on record before
// it acts (intent before effect) calls Save.
type Task struct {
	Node  *ingot.Node
	Ports []*ingot.Port
	// Driver is the composition of the node: a deploy interface reaches power, management and
	// boot through it.
	Driver Driver
	Log    *slog.Logger
	// Save persists Node with the generation that was read; an error means that this conductor
	// no longer owns the node and has to stop at once.
	Save func(ctx context.Context) error
	// SavePort persists one of Ports, under the reservation of Node; an error as of Save.
	SavePort func(ctx context.Context, p *ingot.Port) error
	// Note appends to the node's journal; never fails the caller. Node, attempt and time are
	// filled in.
	Note func(e ingot.Entry)
	// May returns an error when this conductor may not act on the machine any more, because others
	// may have taken the node. It is asked before each command that changes a machine; nil: it may.
	May func() error
	// Now is the time that all conductors agree upon, for what is put on record; nil: this host's.
	Now func() time.Time
	// FirmwareTimeout is how long a change of how the firmware boots may take to count, once the machine has
	// been started for it; 0 is DefaultFirmwareTimeout, less does not wait.
	FirmwareTimeout time.Duration
	// PowerTimeout bounds a change of the power state, in the steps of an operation twice of it; 0 is
	// DefaultPowerTimeout.
	PowerTimeout time.Duration
}

// DefaultPowerTimeout is how long a machine may take to reach a power state.
const DefaultPowerTimeout = time.Minute

// SetPower switches the machine, waits until it is done and records the state on Node. The
// journal tells of success; a failure is the error, which the caller tells where it belongs.
func (t *Task) SetPower(ctx context.Context, target ingot.PowerState) error {
	timeout := t.PowerTimeout
	if timeout <= 0 {
		timeout = DefaultPowerTimeout
	}
	if inSteps(t.Node) {
		timeout *= 2 // for a BMC may be tried for as long before it is told anything
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	if err := t.Allowed(); err != nil {
		return fmt.Errorf("set power state %q: %w", target, err)
	}
	if err := t.Driver.Power.SetPower(ctx, t, target); err != nil {
		return fmt.Errorf("set power state %q: %w", target, err)
	}
	t.Node.PowerState = PowerResult(target)
	t.Note(ingot.Entry{Source: "power", Text: fmt.Sprintf("%s: done, the machine is %s", target,
		strings.TrimPrefix(string(t.Node.PowerState), "power ")),
		Data: ingot.Object{"seconds": time.Since(start).Seconds()}})
	return nil
}

// SetBootDevice tells the BMC what to boot next; the journal tells of success.
func (t *Task) SetBootDevice(ctx context.Context, d BootDevice) error {
	if err := t.Allowed(); err != nil {
		return fmt.Errorf("set boot device %s: %w", d.Device, err)
	}
	if err := t.Driver.Management.SetBootDevice(ctx, t, d); err != nil {
		return fmt.Errorf("set boot device %s: %w", d.Device, err)
	}
	once := map[bool]string{true: "from now on", false: "for the next boot"}[d.Persistent]
	t.Note(ingot.Entry{Source: "bmc", Text: fmt.Sprintf("boot device: %s %s", d.Device, once)})
	return nil
}

// ToProvisioning switches the machine off and connects it to the network from which it loads its
// ramdisk.
func (t *Task) ToProvisioning(ctx context.Context) error {
	n := t.Driver.Network
	if n == nil {
		return nil
	}
	if err := t.GiveUpMachine(ctx); err != nil {
		return err
	}
	if err := n.UnconfigureTenant(ctx, t); err != nil {
		return fmt.Errorf("disconnect from the networks of the VIFs: %w", err)
	}
	if err := n.AddProvisioning(ctx, t); err != nil {
		return fmt.Errorf("connect to the provisioning network: %w", err)
	}
	return nil
}

// GiveUpMachine switches the machine off. That its instance is given up has to be on record before it is.
func (t *Task) GiveUpMachine(ctx context.Context) error {
	if err := t.Save(ctx); err != nil {
		return err
	}
	return t.SetPower(ctx, ingot.PowerOff)
}

// ToTenant switches the machine off and connects it to the networks of its VIFs.
func (t *Task) ToTenant(ctx context.Context) error {
	n := t.Driver.Network
	if n == nil {
		return nil
	}
	if err := t.SetPower(ctx, ingot.PowerOff); err != nil {
		return err
	}
	if err := n.RemoveProvisioning(ctx, t); err != nil {
		return fmt.Errorf("disconnect from the provisioning network: %w", err)
	}
	if err := n.ConfigureTenant(ctx, t); err != nil {
		return fmt.Errorf("connect to the networks of the VIFs: %w", err)
	}
	if r, ok := t.Driver.Boot.(Repointer); ok {
		return r.Repoint(ctx, t)
	}
	return nil
}

// Time is Now, or the time of this host.
func (t *Task) Time() time.Time {
	if t.Now == nil {
		return time.Now().UTC()
	}
	return t.Now()
}

// Allowed returns an error when the machine must not be changed any more. Who has waited, for a turn
// or an answer, asks again before the next command.
func (t *Task) Allowed() error {
	if t.May == nil {
		return nil
	}
	return t.May()
}

// PowerResult is the power state in which a target ends.
func PowerResult(target ingot.PowerState) ingot.PowerState {
	switch target {
	case ingot.PowerOff, ingot.SoftPowerOff:
		return ingot.PowerOff
	case ingot.PowerOn, ingot.Rebooting, ingot.SoftReboot:
		return ingot.PowerOn
	}
	return target
}

// Boot modes.
const (
	BIOS = "bios"
	UEFI = "uefi"
)

// BootMode is the mode in which a node shall boot, in Ironic's order: what is asked for, what the machine
// was seen to use, the fallback (configured; bios or uefi).
func BootMode(n *ingot.Node, fallback string) string {
	for _, mode := range []string{AskedBootMode(n), n.BootMode, strings.ToLower(fallback)} {
		if mode == BIOS || mode == UEFI {
			return mode
		}
	}
	return UEFI
}

// Capability reads one capability of instance_info or properties, where capabilities is an
// object or a text "k:v,k:v"; "" if it is not there.
func Capability(o ingot.Object, key string) string {
	switch c := o["capabilities"].(type) {
	case ingot.Object:
		return Text(c, key)
	case string:
		for pair := range strings.SplitSeq(c, ",") {
			if k, v, ok := strings.Cut(pair, ":"); ok && strings.TrimSpace(k) == key {
				return strings.TrimSpace(v)
			}
		}
	}
	return ""
}

// Text reads a string of driver_info or instance_info; "" if it is not there. Other scalars are
// written as text, because clients send numbers as either.
func Text(o ingot.Object, key string) string {
	switch v := o[key].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// Truth reads a boolean in the words that Ironic takes (oslo.utils, bool_from_string); ok is false for others.
func Truth(text string) (yes, ok bool) {
	switch strings.ToLower(text) {
	case "1", "t", "true", "on", "y", "yes":
		return true, true
	case "0", "f", "false", "off", "n", "no":
		return false, true
	}
	return false, false
}

const keyLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// NewAttempt returns the private state of a new deployment: an ID and a deploy key.
func NewAttempt() *ingot.Attempt {
	var id [4]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	key := make([]byte, 0, 32)
	for len(key) < cap(key) {
		var b [1]byte
		rand.Read(b[:])
		// Bytes above the last multiple of 62 would favour the first letters.
		if limit := byte(256 - 256%len(keyLetters)); b[0] < limit {
			key = append(key, keyLetters[int(b[0])%len(keyLetters)])
		}
	}
	return &ingot.Attempt{ID: hex.EncodeToString(id[:]), Key: ingot.Secret(key)}
}
