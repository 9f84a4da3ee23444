package ipmi

import (
	"context"
	"maps"
	"slices"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// Management is the management interface ipmitool.
type Management struct{ f *Family }

var (
	_ driver.Management = (*Management)(nil)
	_ driver.Properties = (*Management)(nil)
)

// Properties are the driver_info keys of the BMC.
func (m *Management) Properties() map[string]string { return maps.Clone(properties) }

// Validate checks driver_info.
func (m *Management) Validate(_ context.Context, t *driver.Task) error {
	_, err := parse(t.Node)
	return err
}

// SupportedBootDevices lists what IPMI can name.
func (m *Management) SupportedBootDevices(context.Context, *driver.Task) ([]string, error) {
	return deviceNames(), nil
}

func deviceNames() []string {
	names := make([]string, len(devices))
	for i, d := range devices {
		names[i] = d.name
	}
	return names
}

// BootDevice asks the BMC; no device means that the machine's own boot order counts.
func (m *Management) BootDevice(ctx context.Context, t *driver.Task) (driver.BootDevice, error) {
	var f flags
	err := m.f.ask(ctx, t, "read the boot device", func(ctx context.Context, b bmc) (err error) {
		f, err = b.bootFlags(ctx)
		return err
	})
	return driver.BootDevice{Device: f.device, Persistent: f.persistent}, err
}

// SetBootDevice tells the BMC what the machine boots next, or from now on, and in which mode:
// without the EFI bit a UEFI machine may try to boot as a BIOS or ignore the device.
func (m *Management) SetBootDevice(ctx context.Context, t *driver.Task,
	d driver.BootDevice) error {
	if !slices.Contains(deviceNames(), d.Device) {
		return ingot.Errorf(ingot.Invalid, "Invalid boot device %s specified; supported: %s.",
			d.Device, strings.Join(deviceNames(), ", "))
	}
	i, err := parse(t.Node)
	if err != nil {
		return err
	}
	f := flags{device: d.Device, persistent: d.Persistent,
		efi: driver.BootMode(t.Node, m.f.DefaultBootMode) == driver.UEFI}
	return m.f.change(ctx, t, "set the boot device", func(ctx context.Context, b bmc) error {
		if !i.keepTimer {
			// BMCs drop boot flags when no reset follows within 60 seconds, and a step may
			// take longer. Those that do not know the parameter are used as they are.
			if err := b.keepBootFlags(ctx); err != nil {
				t.Log.Warn("BMC keeps its boot flag timeout", "bmc", i.address(), "error", err)
			}
		}
		return b.setBootFlags(ctx, f)
	})
}
