package sim

import (
	"context"

	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/types"
)

// hardware is what a BMC is wired to: a chassis, and none of the other parts.
type hardware struct {
	chassis Chassis
	o       *BMCOptions
}

var (
	_ hal.HAL        = (*hardware)(nil)
	_ hal.ChassisHAL = (*hardware)(nil)
)

// Chassis is the machine.
func (h *hardware) Chassis() hal.ChassisHAL { return h }

// Sensors are absent, and so are the parts below.
func (h *hardware) Sensors() hal.SensorHAL { return nil }

// Storage is absent.
func (h *hardware) Storage() hal.StorageHAL { return nil }

// Network is absent: the BMC's address cannot be changed.
func (h *hardware) Network() hal.NetworkHAL { return nil }

// GPIO is absent.
func (h *hardware) GPIO() hal.GPIOHAL { return nil }

// I2C is absent.
func (h *hardware) I2C() hal.I2CHAL { return nil }

// Console is absent: the serial port is logged to a file and nobody types.
func (h *hardware) Console() hal.ConsoleHAL { return nil }

// Close has nothing to do; the network closes its machines.
func (h *hardware) Close() error { return nil }

// PowerState is for Get Chassis Status.
func (h *hardware) PowerState(context.Context) (bool, error) {
	return h.chassis.PowerState() == On, nil
}

// SetPower is Chassis Control, power up and power down.
func (h *hardware) SetPower(ctx context.Context, on bool) error {
	if !on {
		h.chassis.PowerOff()
		return nil
	}
	return h.report("power on", h.chassis.PowerOn(ctx))
}

// PowerCycle is Chassis Control, power cycle.
func (h *hardware) PowerCycle(ctx context.Context) error {
	return h.report("power cycle", h.chassis.PowerCycle(ctx))
}

// ColdReset is Chassis Control, hard reset.
func (h *hardware) ColdReset(ctx context.Context) error {
	return h.report("reset", h.chassis.Reset(ctx))
}

// WarmReset is what the server calls for Chassis Control, soft shutdown via ACPI.
func (h *hardware) WarmReset(ctx context.Context) error {
	return h.report("soft shutdown", h.chassis.ShutDown(ctx))
}

// Identify lights nothing.
func (h *hardware) Identify(context.Context, uint8) error { return nil }

// IntrusionState is unknown.
func (h *hardware) IntrusionState(context.Context) (bool, error) {
	return false, hal.ErrNotSupported
}

// report logs what IPMI has no words for and makes a completion code of the rest.
func (h *hardware) report(operation string, err error) error {
	if err != nil {
		h.o.Log.Warn("BMC command failed", "node", h.o.Name,
			"operation", operation, "error", err)
	}
	return completion(err)
}

// bootDevices are the selectors of IPMI 2.0 table 28-14, parameter 5, that a machine knows.
var bootDevices = map[types.BootDeviceSelector]BootDevice{
	types.BootDeviceSelectorNoOverride:     NoOverride,
	types.BootDeviceSelectorForcePXE:       PXE,
	types.BootDeviceSelectorForceHardDrive: Disk,
	types.BootDeviceSelectorForceCDROM:     CDROM,
	types.BootDeviceSelectorForceBIOSSetup: Setup,
}

// SetBootFlags is Set System Boot Options, parameter 5. Flags that are not valid ask for nothing.
func (h *hardware) SetBootFlags(
	_ context.Context, flags *types.BootOptionParam_BootFlags,
) error {
	o := BootOverride{Device: NoOverride}
	if flags.BootFlagsValid {
		device, known := bootDevices[flags.BootDeviceSelector]
		if !known {
			return types.CodeParameterOutOfRange
		}
		o = BootOverride{
			Device:     device,
			Persistent: flags.Persist,
			EFI:        bool(flags.BIOSBootType),
		}
	}
	h.chassis.SetBootDevice(o)
	return nil
}

// GetBootFlags is Get System Boot Options, parameter 5. The flags are valid until the boot that
// uses them up.
func (h *hardware) GetBootFlags(context.Context) (*types.BootOptionParam_BootFlags, error) {
	o := h.chassis.BootOverride()
	flags := &types.BootOptionParam_BootFlags{
		BootFlagsValid: o.Device != NoOverride,
		Persist:        o.Persistent,
		BIOSBootType:   types.BIOSBootType(o.EFI),
	}
	for selector, device := range bootDevices {
		if device == o.Device {
			flags.BootDeviceSelector = selector
		}
	}
	return flags, nil
}

// SetBootInfoAcknowledge takes who handled the boot flags and forgets it, as nobody asks.
func (h *hardware) SetBootInfoAcknowledge(
	context.Context, *types.BootOptionParam_BootInfoAcknowledge,
) error {
	return nil
}

// GetBootInfoAcknowledge is unknown.
func (h *hardware) GetBootInfoAcknowledge(
	context.Context,
) (*types.BootOptionParam_BootInfoAcknowledge, error) {
	return nil, hal.ErrNotSupported
}
