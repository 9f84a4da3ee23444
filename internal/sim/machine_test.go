package sim_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"ingot/internal/sim"
	"ingot/internal/testkit"
)

// The words of SeaBIOS and iPXE that tell which device a machine tries, and what our boot sector
// says.
const (
	banner       = "SeaBIOS"
	triesDisk    = "Booting from Hard Disk"
	triesNetwork = "iPXE initialising devices"
	fromDisk     = "MARK-BOOT-SECTOR"
)

func TestBIOSMachineTriesItsEmptyDiskAndThenTheNetwork(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	if got := m.PowerState(); got != sim.Off {
		t.Errorf("a new machine is %s, want off", got)
	}
	powerOn(t, m)
	see(t, m, banner, triesDisk, triesNetwork)
	if got := m.PowerState(); got != sim.On {
		t.Errorf("a machine that speaks is %s, want on", got)
	}
	powerOn(t, m) // again changes nothing
	m.PowerOff()
	if got := m.PowerState(); got != sim.Off {
		t.Errorf("after PowerOff the machine is %s", got)
	}
}

func TestUEFIMachineReachesTheNetworkFromItsOwnFirmware(t *testing.T) {
	t.Parallel()
	testkit.Long(t) // its firmware takes its time
	_, m := newMachine(t, sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM})
	powerOn(t, m)
	see(t, m, ">>Start PXE over IPv4")
}

func TestMachineWithAHCIAndE1000TriesBoth(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{DiskBus: sim.AHCI, NIC: sim.E1000})
	powerOn(t, m)
	see(t, m, triesDisk, triesNetwork)
}

func TestMachineWithoutROMDoesNotTryTheNetwork(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{NICROM: sim.NoROM})
	powerOn(t, m)
	see(t, m, triesDisk, "No bootable device")
	log, err := os.ReadFile(m.Console().Path())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte("iPXE")) {
		t.Errorf("iPXE runs in a card without ROM:\n%s", log)
	}
}

func TestPowerOperationsThatNeedPowerSaySo(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	for name, operation := range map[string]func() error{
		"reset":     func() error { return m.Reset(t.Context()) },
		"cycle":     func() error { return m.PowerCycle(t.Context()) },
		"shut down": func() error { return m.ShutDown(t.Context()) },
	} {
		if err := operation(); !errors.Is(err, sim.ErrOff) {
			t.Errorf("%s of a machine that is off: %v, want ErrOff", name, err)
		}
	}
}

func TestBootDeviceForOneBootIsUsedOnce(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	m.SetBootDevice(sim.BootOverride{Device: sim.PXE})
	powerOn(t, m)
	see(t, m, triesNetwork)
	wantFirst(t, m, triesNetwork)
	if got := m.BootOverride().Device; got != sim.NoOverride {
		t.Errorf("after the boot the override is %s, want none", got)
	}
	for name, restart := range map[string]func() error{
		"reset": func() error { return m.Reset(limit(t)) },
		"cycle": func() error { return m.PowerCycle(limit(t)) },
	} {
		skip(t, m)
		if err := restart(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		see(t, m, banner, triesDisk, triesNetwork)
		wantFirst(t, m, triesDisk)
	}
}

func TestBootDeviceSetWhileRunningCountsFromTheNextReset(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	powerOn(t, m)
	see(t, m, triesDisk)
	for _, step := range []struct {
		set  sim.BootOverride
		want string
	}{
		{sim.BootOverride{Device: sim.PXE, Persistent: true}, triesNetwork},
		{sim.BootOverride{Device: sim.PXE, Persistent: true}, triesNetwork}, // twice is as once
		{sim.BootOverride{Device: sim.Disk}, triesDisk},
		{sim.BootOverride{Device: sim.NoOverride}, triesNetwork}, // the persistent one is back
		{sim.BootOverride{Device: sim.Disk, Persistent: true}, triesDisk},
	} {
		m.SetBootDevice(step.set)
		skip(t, m)
		if err := m.Reset(limit(t)); err != nil {
			t.Fatal(err)
		}
		see(t, m, banner, step.want)
		wantFirst(t, m, step.want)
	}
}

func TestBootDeviceForOneBootIsUsedUpByARebootOfTheGuest(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	installBootSector(t, m, thenReset)
	m.SetBootDevice(sim.BootOverride{Device: sim.PXE, Persistent: true})
	m.SetBootDevice(sim.BootOverride{Device: sim.Disk})
	powerOn(t, m)
	see(t, m, fromDisk, banner, triesNetwork)
	wantFirst(t, m, triesNetwork)
	if got := m.PowerState(); got != sim.On {
		t.Errorf("a machine that rebooted is %s, want on", got)
	}
}

func TestBootDeviceSetWhileRunningCountsFromARebootOfTheGuest(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	installBootSector(t, m, thenReset)
	powerOn(t, m)
	see(t, m, fromDisk, fromDisk) // it reboots for ever
	m.SetBootDevice(sim.BootOverride{Device: sim.PXE})
	see(t, m, triesNetwork)
	wantFirst(t, m, triesNetwork)
}

func TestDiskHoldsWhatTheGuestWroteAndAGuestThatPowersOffIsOff(t *testing.T) {
	t.Parallel()
	_, m := newMachine(t, sim.MachineSpec{})
	sector := installBootSector(t, m, thenPowerOff)
	powerOn(t, m)
	see(t, m, fromDisk)
	until(t, "the guest powers itself off", func() bool { return m.PowerState() == sim.Off })
	got := make([]byte, len(sector))
	if _, err := m.ReadDiskAt(got, int64(len(sector))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sector) {
		t.Errorf("the second sector is\n%x, want what the guest wrote there,\n%x", got, sector)
	}
	skip(t, m)
	powerOn(t, m)
	see(t, m, fromDisk)
}

// wantFirst checks which device the last boot in the log tried first.
func wantFirst(t *testing.T, m *sim.Machine, want string) {
	t.Helper()
	log, err := os.ReadFile(m.Console().Path())
	if err != nil {
		t.Fatal(err)
	}
	boot := string(log[max(0, bytes.LastIndex(log, []byte(banner))):])
	disk, network := strings.Index(boot, triesDisk), strings.Index(boot, triesNetwork)
	first := triesDisk
	if disk < 0 || network >= 0 && network < disk {
		first = triesNetwork
	}
	if first != want {
		t.Errorf("the machine first says %q, want %q; its log:\n%s", first, want, boot)
	}
}

// How our boot sector ends, as x86 real mode code.
var (
	// mov dx, 604h; mov ax, 2000h; out dx, ax: sleep state 5 to the ACPI control register,
	// where SeaBIOS puts it on QEMU's "pc" board. Then hlt, for ever.
	thenPowerOff = []byte{0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd}
	// mov al, 6; mov dx, cf9h; out dx, al: the reset register of the PIIX chipset.
	thenReset = []byte{0xb0, 0x06, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd}
)

// thenHalt is hlt, for ever.
var thenHalt = []byte{0xf4, 0xeb, 0xfd}

// thenCopy copies the boot sector of the disk to the second sector.
var thenCopy = []byte{
	0xb8, 0x01, 0x03, // mov ax, 0301h: write one sector
	0xbb, 0x00, 0x7c, // mov bx, 7c00h: this program
	0xb9, 0x02, 0x00, // mov cx, 2: cylinder 0, sector 2
	0xba, 0x80, 0x00, // mov dx, 80h: head 0, first disk
	0xcd, 0x13, // int 13h
}

// bootSector is a program that says a text on the serial port and goes on in the given ways.
func bootSector(text string, then ...[]byte) []byte {
	code := []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0x8e, 0xc0, // mov es, ax
		0xfc,             // cld
		0xbe, 0x00, 0x7d, // mov si, 7d00h: the text
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x06, // jz written
		0xba, 0xf8, 0x03, // mov dx, 3f8h: the first serial port
		0xee,       // out dx, al
		0xeb, 0xf5, // jmp next; written:
	}
	sector := make([]byte, 512)
	copy(sector, append(code, bytes.Join(then, nil)...))
	copy(sector[0x100:], text+"\r\n")
	copy(sector[510:], []byte{0x55, 0xaa})
	return sector
}

// installBootSector puts a program on the disk that says so on the serial port, copies itself
// to the second sector and ends in the given way.
func installBootSector(t *testing.T, m *sim.Machine, end []byte) []byte {
	t.Helper()
	sector := bootSector(fromDisk, thenCopy, end)
	disk, err := os.OpenFile(m.DiskPath(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = disk.WriteAt(sector, 0)
	if err := errors.Join(err, disk.Close()); err != nil {
		t.Fatal(err)
	}
	return sector
}
