package sim

import "context"

// BootDevice is what a machine tries first when it starts. The values are ipmitool's words.
type BootDevice string

// The boot devices. A machine has no CD drive and its firmware no set-up that a serial console
// could show, so CDROM and Setup are kept for the BMC to report and start nothing.
const (
	NoOverride BootDevice = "none"
	PXE        BootDevice = "pxe"
	Disk       BootDevice = "disk"
	CDROM      BootDevice = "cdrom"
	Setup      BootDevice = "bios"
)

// A BootOverride asks for a boot device, as parameter 5 of IPMI's boot options does (IPMI 2.0
// section 28.13, table 28-14).
type BootOverride struct {
	Device BootDevice
	// Persistent: for all boots to come. Otherwise for the next one only, whether the BMC or
	// the guest starts it; after that the last persistent device counts again.
	Persistent bool
	// EFI is kept and reported. A machine has one firmware and boots with that.
	EFI bool
}

// active is the device that the override really changes, or none.
func (o BootOverride) active() bool { return o.Device == PXE || o.Device == Disk }

// A bootOrder is the order of a machine's two devices.
type bootOrder string

// Without any override the disk goes first: an empty one falls through to the network.
const (
	diskFirst    bootOrder = "disk, network"
	networkFirst bootOrder = "network, disk"
)

// diskIndex is the disk's place in the boot order, which never changes: moving the network card
// around it takes one command, so there is no moment with half an order.
const diskIndex = 2

// nicIndex is the network card's place.
func (o bootOrder) nicIndex() int {
	if o == networkFirst {
		return diskIndex - 1
	}
	return diskIndex + 1
}

// nextOrder is the order that the next boot will have. The caller holds mu.
func (m *Machine) nextOrder() bootOrder {
	device := m.lasting
	if m.override.active() {
		device = m.override.Device
	}
	if device == PXE {
		return networkFirst
	}
	return diskFirst
}

// booted consumes a boot device that was for one boot. The caller holds mu.
func (m *Machine) booted() {
	if !m.override.Persistent {
		m.override = BootOverride{Device: NoOverride}
	}
}

// SetBootDevice says what the machine tries first from its next start on, also if it runs.
func (m *Machine) SetBootDevice(ctx context.Context, o BootOverride) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.override = o
	if o.Persistent {
		m.lasting = o.Device
	}
	return m.applyOrder(ctx)
}

// BootOverride is the override that waits for the next boot, or lasts.
func (m *Machine) BootOverride() BootOverride {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.override
}

// applyOrder tells a running QEMU the order of the next boot; firmware reads it when it starts.
// QEMU refuses a place that the device has already. The caller holds mu.
func (m *Machine) applyOrder(ctx context.Context) error {
	q, order := m.qemu, m.nextOrder()
	if !q.running() || q.order == order {
		return nil
	}
	if err := q.monitor.setBootIndex(ctx, "nic0", order.nicIndex()); err != nil {
		if !q.running() {
			return nil
		}
		return err
	}
	q.order = order
	return nil
}
