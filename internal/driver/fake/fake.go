// Package fake drives machines that are not there: hardware type fake-hardware, as in Ironic.
// Power and boot device live in the node's row and nowhere else, and deploying takes no time.
// It is for trying the API and the conductor; simulated machines that boot are another matter.
//
// Read Deploy.Execute for what a deployment amounts to.
package fake

import (
	"context"
	"slices"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// Name is the name of every interface in this package.
const Name = "fake"

// Hardware is the hardware type fake-hardware.
func Hardware() driver.Hardware {
	return driver.Hardware{Name: "fake-hardware", Supported: map[string][]string{
		"power": {Name}, "management": {Name}, "boot": {Name, "ipxe", "pxe", "http-ipxe", "http"},
		"deploy":  {Name, "iscsi", "direct", "ramdisk"},
		"network": driver.Networks,
	}}
}

// valid is embedded where there is nothing to validate.
type valid struct{}

// Validate accepts every node.
func (valid) Validate(context.Context, *driver.Task) error { return nil }

// Power keeps the power state in the row.
type Power struct{ valid }

var _ driver.Power = Power{}

// PowerState returns what the row says, off at first.
func (Power) PowerState(_ context.Context, t *driver.Task) (ingot.PowerState, error) {
	if t.Node.PowerState == "" {
		return ingot.PowerOff, nil
	}
	return t.Node.PowerState, nil
}

// SetPower is done at once.
func (Power) SetPower(ctx context.Context, t *driver.Task, target ingot.PowerState) error {
	t.Node.PowerState = driver.PowerResult(target)
	return ctx.Err()
}

// Management keeps the boot device in driver_internal_info.
type Management struct{ valid }

var _ driver.Management = Management{}

// bootDeviceKey is where the boot device is kept in driver_internal_info.
const bootDeviceKey = "fake_boot_device"

var bootDevices = []string{"pxe", "disk", "cdrom", "bios", "safe"}

// SupportedBootDevices are all.
func (Management) SupportedBootDevices(context.Context, *driver.Task) ([]string, error) {
	return slices.Clone(bootDevices), nil
}

// BootDevice returns what was set last, the network card at first.
func (Management) BootDevice(_ context.Context, t *driver.Task) (driver.BootDevice, error) {
	o, ok := t.Node.DriverInternalInfo[bootDeviceKey].(ingot.Object)
	if !ok {
		return driver.BootDevice{Device: "pxe"}, nil
	}
	persistent, _ := o["persistent"].(bool)
	return driver.BootDevice{Device: driver.Text(o, "boot_device"), Persistent: persistent}, nil
}

// SetBootDevice records the device.
func (Management) SetBootDevice(_ context.Context, t *driver.Task, d driver.BootDevice) error {
	if !slices.Contains(bootDevices, d.Device) {
		return ingot.Errorf(ingot.Invalid, "Invalid boot device %s specified; supported: %s.",
			d.Device, strings.Join(bootDevices, ", "))
	}
	if t.Node.DriverInternalInfo == nil {
		t.Node.DriverInternalInfo = ingot.Object{}
	}
	t.Node.DriverInternalInfo[bootDeviceKey] = ingot.Object{
		"boot_device": d.Device, "persistent": d.Persistent,
	}
	return nil
}

// Boot changes the boot intent only.
type Boot struct{ valid }

var _ driver.Boot = Boot{}

// PrepareRamdisk leaves the intent alone: there is no ramdisk.
func (Boot) PrepareRamdisk(context.Context, *driver.Task) error { return nil }

// CleanUpRamdisk has nothing to undo.
func (Boot) CleanUpRamdisk(context.Context, *driver.Task) error { return nil }

// PrepareInstance makes the disk the boot intent.
func (Boot) PrepareInstance(_ context.Context, t *driver.Task) error {
	t.Node.BootIntent = ingot.BootDisk
	return nil
}

// CleanUpInstance takes the intent back.
func (Boot) CleanUpInstance(_ context.Context, t *driver.Task) error {
	t.Node.BootIntent = ingot.BootNone
	return nil
}

// Deploy says that the image is there.
type Deploy struct{ valid }

var _ driver.Deploy = Deploy{}

// Steps is one step.
func (Deploy) Steps(*ingot.Node) []ingot.Step {
	return []ingot.Step{{Interface: "deploy", Name: "deploy", Priority: 100}}
}

// Execute switches the machine on and lets it boot its disk.
func (Deploy) Execute(ctx context.Context, t *driver.Task, _ ingot.Step) (driver.Outcome, error) {
	if err := t.Driver.Boot.PrepareInstance(ctx, t); err != nil {
		return driver.Done, err
	}
	return driver.Done, t.SetPower(ctx, ingot.PowerOn)
}

// CleanUp takes back the boot intent.
func (Deploy) CleanUp(ctx context.Context, t *driver.Task) error {
	t.Node.Attempt = nil
	return t.Driver.Boot.CleanUpInstance(ctx, t)
}
