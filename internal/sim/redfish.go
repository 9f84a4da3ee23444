package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"ingot/internal/sim/redfish"
)

// board is a machine as its Redfish service sees it.
type board struct{ m *Machine }

// boardWithDrives is a machine with virtual media.
type boardWithDrives struct{ board }

var (
	_ redfish.Chassis  = board{}
	_ redfish.Firmware = board{}
	_ redfish.Media    = boardWithDrives{}
)

// newRedfish makes the machine's Redfish service, which does not listen yet.
func (m *Machine) newRedfish(addr netip.AddrPort) *redfish.Service {
	s := m.spec
	o := redfish.Options{
		Name: s.Name, UUID: s.UUID, Model: models[s.BMC], User: s.User, Password: s.Password, Addr: addr,
		Listen: m.net.listenTCP, TLS: s.BMCTLS, Mode: redfish.Legacy, SecureBoot: s.SecureBoot, MAC: s.MAC,
		MemoryMB: s.MemoryMB, CPUs: 1, DiskBytes: []int64{s.DiskSize}, Log: m.net.opts.Log,
	}
	if s.Firmware == UEFI {
		o.Mode = redfish.UEFI
	}
	if s.VirtualMedia {
		return redfish.New(boardWithDrives{board{m}}, o)
	}
	return redfish.New(board{m}, o)
}

// listenTCP opens a socket inside the namespace.
func (n *Network) listenTCP(addr netip.AddrPort) (l net.Listener, err error) {
	err = n.Do(func() (err error) {
		l, err = net.Listen("tcp", addr.String())
		return err
	})
	return l, err
}

// PowerState is of [redfish.Chassis].
func (b board) PowerState() redfish.PowerState {
	if b.m.PowerState() == On {
		return redfish.On
	}
	return redfish.Off
}

// Switch is of [redfish.Chassis].
func (b board) Switch(ctx context.Context, how redfish.ResetType) error {
	var err error
	switch how {
	case redfish.PowerOn:
		err = b.m.PowerOn(ctx)
	case redfish.ForceOff:
		b.m.PowerOff()
	case redfish.GracefulShutdown:
		err = b.m.ShutDown(ctx)
	case redfish.PowerCycle:
		err = b.m.PowerCycle(ctx)
	default:
		err = b.m.Reset(ctx)
	}
	if errors.Is(err, ErrOff) {
		return fmt.Errorf("%w: %w", redfish.ErrOff, err)
	}
	return err
}

// targets are the boot devices in the words of Redfish.
var targets = map[redfish.Target]BootDevice{
	redfish.None:      NoOverride,
	redfish.PXE:       PXE,
	redfish.HDD:       Disk,
	redfish.CD:        CDROM,
	redfish.Floppy:    Floppy,
	redfish.BIOSSetup: Setup,
	redfish.UEFIHTTP:  UEFIHTTP,
}

// Boot is of [redfish.Chassis].
func (b board) Boot() redfish.Boot {
	o := b.m.BootOverride()
	boot := redfish.Boot{Target: redfish.None, Enabled: redfish.Disabled}
	for target, device := range targets {
		if device == o.Device && device != NoOverride {
			boot = redfish.Boot{Target: target, Enabled: redfish.Once}
		}
	}
	if o.Persistent && boot.Enabled == redfish.Once {
		boot.Enabled = redfish.Continuous
	}
	return boot
}

// SetBoot is of [redfish.Chassis]. Redfish knows one override: what lasted before does not come back
// after one that is for one boot.
func (b board) SetBoot(o redfish.Boot) {
	b.m.SetBootDevice(BootOverride{Device: NoOverride, Persistent: true})
	if o.Enabled != redfish.Disabled {
		b.m.SetBootDevice(BootOverride{Device: targets[o.Target],
			Persistent: o.Enabled == redfish.Continuous, EFI: o.Mode == redfish.UEFI, URI: o.URI})
	}
}

// SetFirmware is of [redfish.Firmware].
func (b board) SetFirmware(mode redfish.Mode, secure bool) {
	kind := BIOS
	if mode == redfish.UEFI {
		kind = UEFI
	}
	b.m.SetFirmware(kind, secure)
}

// driveDevices are the drives in the words of Redfish.
var driveDevices = map[redfish.Drive]BootDevice{
	redfish.VirtualCD: CDROM, redfish.VirtualFloppy: Floppy,
}

// Insert is of [redfish.Media].
func (b boardWithDrives) Insert(ctx context.Context, d redfish.Drive, url string) error {
	return b.m.Insert(ctx, driveDevices[d], url)
}

// Eject is of [redfish.Media].
func (b boardWithDrives) Eject(ctx context.Context, d redfish.Drive) error {
	return b.m.Eject(ctx, driveDevices[d])
}
