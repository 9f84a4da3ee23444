package sim

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
	// the guest begins it; after that the last persistent device counts again.
	Persistent bool
	// EFI is kept and reported. A machine has one firmware and boots with that.
	EFI bool
}

// A bootOrder is the order of a machine's two devices.
type bootOrder string

// Without any override the disk goes first: an empty one falls through to the network.
const (
	diskFirst    bootOrder = "disk, network"
	networkFirst bootOrder = "network, disk"
)

// The places in the boot order; lower goes first.
const (
	nicFirstIndex = 1
	diskIndex     = 2
	nicLastIndex  = 3
)

// nicIndex is the network card's place.
func (o bootOrder) nicIndex() int {
	if o == networkFirst {
		return nicFirstIndex
	}
	return nicLastIndex
}

// takeOrder is the order of the boot that begins now; a device that was for one boot is used up.
func (m *Machine) takeOrder() bootOrder {
	m.mu.Lock()
	defer m.mu.Unlock()
	device := m.lasting
	if m.override.Device == PXE || m.override.Device == Disk {
		device = m.override.Device
	}
	if !m.override.Persistent {
		m.override = BootOverride{Device: NoOverride}
	}
	if device == PXE {
		return networkFirst
	}
	return diskFirst
}

// SetBootDevice says what the machine tries first from its next start on.
func (m *Machine) SetBootDevice(o BootOverride) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.override = o
	if o.Persistent {
		m.lasting = o.Device
	}
}

// BootOverride is the override that waits for the next boot, or lasts.
func (m *Machine) BootOverride() BootOverride {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.override
}
