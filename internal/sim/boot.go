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
	// UEFIHTTP is the network card by UEFI's own HTTP client, of which IPMI and ipmitool know nothing.
	UEFIHTTP BootDevice = "uefihttp"
)

// A BootOverride asks for a boot device, as parameter 5 of IPMI's boot options does (IPMI 2.0
// section 28.13, table 28-14).
type BootOverride struct {
	Device BootDevice
	// Persistent: for all boots to come. Otherwise for the next one only, whether the BMC or
	// the guest begins it; after that the last persistent device counts again.
	Persistent bool
	// EFI is kept and reported. A machine boots with its firmware, see [Machine.SetFirmware].
	EFI bool
	// URI is what UEFIHTTP boots; "" leaves that to DHCP.
	URI string
}

// A BootOrder is the order of a machine's devices. Those of virtual media go last unless named.
type BootOrder string

// Without any override the disk goes first: an empty one falls through to the network.
const (
	DiskFirst    BootOrder = "disk, network"
	NetworkFirst BootOrder = "network, disk"
	CDFirst      BootOrder = "cdrom, disk, network"
	FloppyFirst  BootOrder = "floppy, disk, network"
	HTTPFirst    BootOrder = "network by HTTP, disk"
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
	if o == NetworkFirst || o == HTTPFirst {
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
	lasting  BootOverride // the persistent one
	override BootOverride // as it was set last; zero when used up
}

// SetBootDevice says what the machine tries first from its next start on.
func (f *BootFlags) SetBootDevice(o BootOverride) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.override = o
	if o.Persistent {
		f.lasting = o
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
	order, _ := f.takeBoot(more...)
	return order
}

// takeBoot is TakeBootOrder with what HTTPFirst boots.
func (f *BootFlags) takeBoot(more ...BootDevice) (order BootOrder, uri string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.lasting
	if o := f.override.Device; o == PXE || o == Disk || slices.Contains(more, o) {
		next = f.override
	}
	if !f.override.Persistent {
		f.override = BootOverride{}
	}
	switch {
	case next.Device == PXE:
		return NetworkFirst, ""
	case !slices.Contains(more, next.Device):
	case next.Device == CDROM:
		return CDFirst, ""
	case next.Device == Floppy:
		return FloppyFirst, ""
	case next.Device == UEFIHTTP:
		return HTTPFirst, next.URI
	}
	return DiskFirst, ""
}
