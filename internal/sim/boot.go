package sim

import (
	"cmp"
	"slices"
	"sync"
)

// BootDevice is what a machine tries first when it starts. The values are ipmitool's words.
type BootDevice string

// The boot devices. A machine's firmware has no set-up that a serial console could show, and CDROM
// and Floppy are only there with virtual media: else they are kept for the BMC to report and start
// nothing.
const (
	NoOverride BootDevice = "none"
	PXE        BootDevice = "pxe"
	Disk       BootDevice = "disk"
	CDROM      BootDevice = "cdrom"
	Floppy     BootDevice = "floppy"
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

// A BootOrder is the order of a machine's devices. Those of virtual media go last unless named.
type BootOrder string

// Without any override the disk goes first: an empty one falls through to the network.
const (
	DiskFirst    BootOrder = "disk, network"
	NetworkFirst BootOrder = "network, disk"
	CDFirst      BootOrder = "cdrom, disk, network"
	FloppyFirst  BootOrder = "floppy, disk, network"
)

// The places in the boot order; lower goes first.
const (
	removableFirstIndex = 0
	nicFirstIndex       = 1
	diskIndex           = 2
	nicLastIndex        = 3
	cdLastIndex         = 4
	floppyLastIndex     = 5
)

// nicIndex is the network card's place.
func (o BootOrder) nicIndex() int {
	if o == NetworkFirst {
		return nicFirstIndex
	}
	return nicLastIndex
}

// removableIndex is the place of a drive that goes first in one order and last in the others.
func (o BootOrder) removableIndex(first BootOrder, last int) int {
	if o == first {
		return removableFirstIndex
	}
	return last
}

// BootFlags are what a BMC keeps of the boot device, for a [Chassis] to embed. The zero value is no
// override. Its methods may be called concurrently.
type BootFlags struct {
	mu       sync.Mutex
	lasting  BootDevice   // the persistent boot device
	override BootOverride // as it was set last; zero when used up
}

// SetBootDevice says what the machine tries first from its next start on.
func (f *BootFlags) SetBootDevice(o BootOverride) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.override = o
	if o.Persistent {
		f.lasting = o.Device
	}
}

// BootOverride is the override that waits for the next boot, or lasts.
func (f *BootFlags) BootOverride() BootOverride {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.override
	o.Device = cmp.Or(o.Device, NoOverride)
	return o
}

// TakeBootOrder is the order of the boot that begins now; a device that was for one boot is used
// up. More are the devices that the machine has besides disk and network.
func (f *BootFlags) TakeBootOrder(more ...BootDevice) BootOrder {
	f.mu.Lock()
	defer f.mu.Unlock()
	device := f.lasting
	if o := f.override.Device; o == PXE || o == Disk || slices.Contains(more, o) {
		device = o
	}
	if !f.override.Persistent {
		f.override = BootOverride{}
	}
	switch {
	case device == PXE:
		return NetworkFirst
	case device == CDROM && slices.Contains(more, device):
		return CDFirst
	case device == Floppy && slices.Contains(more, device):
		return FloppyFirst
	}
	return DiskFirst
}
