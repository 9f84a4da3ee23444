package sim

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"

	"ingot/internal/sim/redfish"
)

// Firmware is what a machine starts with.
type Firmware string

// BIOS is SeaBIOS on a "pc" board, UEFI is OVMF (EDK2) on a "q35" board. Both speak on the serial
// console.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// DiskBus is how the disk is attached.
type DiskBus string

// Virtio disks take discards; AHCI disks do not.
const (
	Virtio DiskBus = "virtio"
	AHCI   DiskBus = "ahci"
)

// NIC is QEMU's name of a network card.
type NIC string

// The network cards.
const (
	VirtioNet NIC = "virtio-net-pci"
	E1000     NIC = "e1000"
)

// NICROM is the boot program in the network card.
type NICROM string

// With the iPXE of the distribution a machine asks for scripts by HTTP. Without a ROM a UEFI
// machine boots by the PXE and then the HTTP of its firmware, by HTTP alone, or by PXE over IPv6
// (HTTP comes after it); a BIOS machine cannot boot from network.
const (
	IPXEROM  NICROM = "ipxe"
	NoROM    NICROM = "none"
	HTTPOnly NICROM = "http"
	PXE6Only NICROM = "pxe6"
)

// option is the part of QEMU's -device option that chooses the ROM.
func (r NICROM) option() string {
	if r == IPXEROM {
		return ""
	}
	return ",romfile="
}

// withoutPXE lists the versions of IP that the firmware does not use for PXE.
func (r NICROM) withoutPXE() []string {
	return map[NICROM][]string{HTTPOnly: {"4", "6"}, PXE6Only: {"4"}}[r]
}

// Protocol is what a BMC speaks.
type Protocol string

// A BMC speaks IPMI 2.0, or Redfish, or both; an iLO speaks Redfish as HPE's BMCs do, of generation 5 or 4.
const (
	IPMI    Protocol = "ipmi"
	Redfish Protocol = "redfish"
	Both    Protocol = "ipmi+redfish"
	ILO     Protocol = "ilo"
	ILO4    Protocol = "ilo4"
)

// HardwareType is the hardware type with which a machine is enrolled that has such a BMC.
func (p Protocol) HardwareType() string {
	switch p {
	case Redfish, Both:
		return "redfish"
	case ILO, ILO4:
		return "ilo"
	}
	return "ipmi"
}

// models are the makes of BMCs that speak Redfish.
var models = map[Protocol]redfish.Model{ILO: redfish.ILO5, ILO4: redfish.ILO4}

// MachineSpec describes a machine. Only Name is required.
type MachineSpec struct {
	Name     string   // letters, digits, dots and dashes; names its files
	Firmware Firmware // default BIOS
	MemoryMB int      // MiB; default 512, which the Debian kernel and a deploy ramdisk need
	DiskSize int64    // bytes; default 1 GiB, sparse
	DiskBus  DiskBus  // default Virtio
	NIC      NIC      // default VirtioNet
	NICROM   NICROM   // default IPXEROM
	UUID     string   // default: made of the name, so it stays over runs
	MAC      string   // default: made of the name, so it stays over runs
	// SecureBoot has UEFI firmware with the usual keys (Microsoft's) enforce signatures.
	SecureBoot bool
	// VirtualMedia gives the machine a CD drive and a removable disk, both empty, see [Machine.Insert];
	// one with an iLO has them anyway.
	VirtualMedia bool
	BMC          Protocol // default IPMI
	BMCTLS       bool     // Redfish by HTTPS; default HTTP
	User         string   // of the BMC, 16 bytes at most; default "admin"
	Password     string   // of the BMC, 20 bytes at most; default "secret"
}

var machineName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)

// WithDefaults fills in what is not set and checks the rest.
func (s MachineSpec) WithDefaults() (MachineSpec, error) {
	if !machineName.MatchString(s.Name) {
		return s, fmt.Errorf("machine name %q: use letters, digits, dots and dashes", s.Name)
	}
	hash := sha256.Sum256([]byte("ingot machine " + s.Name))
	s.Firmware = cmp.Or(s.Firmware, BIOS)
	s.MemoryMB = cmp.Or(s.MemoryMB, 512)
	s.DiskSize = cmp.Or(s.DiskSize, 1<<30)
	s.DiskBus = cmp.Or(s.DiskBus, Virtio)
	s.NIC = cmp.Or(s.NIC, VirtioNet)
	s.NICROM = cmp.Or(s.NICROM, IPXEROM)
	s.UUID = cmp.Or(s.UUID, uuidOf(hash))
	// 52:54:00 is the locally administered prefix by which QEMU's cards are known.
	s.MAC = cmp.Or(s.MAC, fmt.Sprintf("52:54:00:%02x:%02x:%02x", hash[16], hash[17], hash[18]))
	s.BMC = cmp.Or(s.BMC, IPMI)
	s.VirtualMedia = s.VirtualMedia || models[s.BMC] != ""
	s.User = cmp.Or(s.User, "admin")
	s.Password = cmp.Or(s.Password, "secret")
	if err := s.check(); err != nil {
		return s, fmt.Errorf("machine %s: %w", s.Name, err)
	}
	return s, nil
}

// check refuses what QEMU or the BMC would misunderstand.
func (s MachineSpec) check() error {
	if s.Firmware != BIOS && s.Firmware != UEFI {
		return fmt.Errorf("firmware %q is neither %q nor %q", s.Firmware, BIOS, UEFI)
	}
	if s.SecureBoot && s.Firmware != UEFI {
		return errors.New("secure boot needs UEFI firmware")
	}
	if s.DiskBus != Virtio && s.DiskBus != AHCI {
		return fmt.Errorf("disk bus %q is neither %q nor %q", s.DiskBus, Virtio, AHCI)
	}
	if s.NIC != VirtioNet && s.NIC != E1000 {
		return fmt.Errorf("network card %q is neither %q nor %q", s.NIC, VirtioNet, E1000)
	}
	if roms := []NICROM{IPXEROM, NoROM, HTTPOnly, PXE6Only}; !slices.Contains(roms, s.NICROM) {
		return fmt.Errorf("network card ROM %q is none of %q", s.NICROM, roms)
	}
	if all := []Protocol{IPMI, Redfish, Both, ILO, ILO4}; !slices.Contains(all, s.BMC) {
		return fmt.Errorf("BMC %q is none of %q", s.BMC, all)
	}
	if s.MemoryMB < 0 || s.DiskSize < 0 || s.DiskSize%512 != 0 {
		return fmt.Errorf("%d MiB of memory, %d bytes of disk: sizes are positive, and the disk "+
			"is whole sectors of 512 bytes", s.MemoryMB, s.DiskSize)
	}
	mac, err := net.ParseMAC(s.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("MAC %q is not the unicast address of an Ethernet card", s.MAC)
	}
	if _, err := guid(s.UUID); err != nil {
		return err
	}
	// The sizes of IPMI 2.0, sections 22.28 and 22.30.
	if len(s.User) > 16 || len(s.Password) > 20 {
		return errors.New("IPMI takes 16 bytes of user name and 20 of password at most")
	}
	return nil
}

// uuidOf makes a UUID of a hash: version 8, made as its maker likes (RFC 9562 section 5.8).
func uuidOf(hash [sha256.Size]byte) string {
	b := hash[:16]
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// guid is the UUID as 16 bytes.
func guid(uuid string) (id [16]byte, err error) {
	if len(uuid) != 36 {
		return id, fmt.Errorf("UUID %q: want 8-4-4-4-12 hex digits", uuid)
	}
	digits := uuid[:8] + uuid[9:13] + uuid[14:18] + uuid[19:23] + uuid[24:]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return id, fmt.Errorf("UUID %q: want 8-4-4-4-12 hex digits", uuid)
	}
	return id, nil
}
