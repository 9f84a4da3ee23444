package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ingot/internal/bootentry"
	"ingot/internal/disk"
)

const (
	// laterModulesFile lists the modules of file systems, as modulesFile does others. They are loaded when a file
	// system is read, if ever.
	laterModulesFile = "/etc/modules.kexec"
	// volumesDir is where file systems of the disk are mounted.
	volumesDir = "/volumes"
)

// volumes are the file systems of a disk.
type volumes struct {
	read []bootentry.Volume
	// unread are the partitions that are not, and may have something of the boot loader's; their names say why.
	unread []bootentry.Volume
	undo   func()
}

// readable is how file systems are mounted that are read: nothing is written, also not what a journal has.
var readable = map[string]struct{ kind, options string }{
	"ext": {"ext4", "noload,errors=continue"}, "xfs": {"xfs", "norecovery"}, "vfat": {"vfat", ""},
}

// mountVolumes mounts the file systems on the partitions of a disk, which nobody can write until undo.
func mountVolumes(name string) (v volumes, err error) {
	if err := hush(func() error { return loadModules(laterModulesFile) }); err != nil {
		say("%v; going on without", err)
	}
	parts, err := readPartitions(name)
	if err != nil {
		return v, err
	}
	if err := setReadOnly("/dev/"+name, 1); err != nil {
		return v, err
	}
	var mounts []mounted
	v.undo = func() {
		for _, m := range slices.Backward(mounts) {
			if err := m.undo(); err != nil {
				say("%v; going on", err)
			}
		}
		if err := setReadOnly("/dev/"+name, 0); err != nil {
			say("%v; going on", err)
		}
	}
	types, err := readTypes("/dev/" + name)
	if err != nil {
		say("the types of partitions: %v; going on without", err)
	}
	for _, part := range parts {
		device := "/dev/" + part.name
		volume, found := bootentry.Volume{Name: part.name}, Content{}
		head, err := readHead(device, disk.IdentifySize)
		if err == nil {
			found = Identify(head, types[part.number])
		}
		volume.UUID, volume.EFI = found.UUID, found.EFI
		if found.Kind != "" {
			how := readable[found.Kind]
			var m mounted
			if m, err = mountReadOnly(device, filepath.Join(volumesDir, part.name), how.kind, how.options); err == nil {
				mounts = append(mounts, m)
				volume.Files = m.files.FS()
				v.read = append(v.read, volume)
				continue
			}
		}
		switch {
		case err != nil:
			volume.Name += fmt.Sprintf(" (%v)", err)
		case found.Why == "":
			continue
		default:
			volume.Name += " (" + found.Why + ")"
		}
		v.unread = append(v.unread, volume)
	}
	return v, nil
}

// mounted is a file system that is mounted. Links in it lead nowhere else.
type mounted struct {
	device string
	files  *os.Root
}

// undo leaves the device read-only if the file system is in use still.
func (m mounted) undo() error {
	dir := m.files.Name()
	if err := errors.Join(m.files.Close(), unix.Unmount(dir, 0)); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return setReadOnly(m.device, 0)
}

// mountReadOnly mounts a file system of a device that is read-only, too: a read-only mount alone keeps programs from
// writing, and not the file system. Ext4 deletes the files that were open when it was left, and notes errors.
func mountReadOnly(device, dir, kind, options string) (m mounted, err error) {
	if err := setReadOnly(device, 1); err != nil {
		return m, err
	}
	if m, err = mountKind(device, dir, kind, options); err != nil {
		return m, errors.Join(err, setReadOnly(device, 0))
	}
	return m, nil
}

func mountKind(device, dir, kind, options string) (m mounted, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, err
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := hush(func() error { return unix.Mount(device, dir, kind, flags, options) }); err != nil {
		return m, fmt.Errorf("%s is not mounted: %w", kind, err)
	}
	files, err := os.OpenRoot(dir)
	if err != nil {
		return m, errors.Join(err, unix.Unmount(dir, 0))
	}
	return mounted{device, files}, nil
}

// setReadOnly has the kernel refuse to write a block device (1), or take writes again (0). A disk and its partitions
// are devices of their own.
func setReadOnly(device string, on int) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, on)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set %s read-only to %d: %w", device, on, err)
	}
	return nil
}

// readHead reads so many bytes of the beginning of a device; it may be shorter.
func readHead(device string, size int64) ([]byte, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, size))
}

// Content is what a partition has.
type Content struct {
	Kind string // of a file system that can be read, a key of readable
	UUID string
	EFI  bool   // UEFI may start a loader from it
	Why  string // it cannot be read; "" if it can, and if a boot loader has nothing there
}

// Identify tells from the head of a partition, and its type, what it has.
func Identify(head []byte, kind disk.Type) (c Content) {
	c.EFI = kind.GPT == disk.EFISystem.GPT || kind.MBR == disk.EFISystem.MBR
	switch other := disk.Other(head); {
	case other == "swap", other == "iso9660", kind == disk.BIOSBoot:
		return Content{}
	case len(head) < disk.IdentifySize && !c.EFI: // an extended partition, as the kernel shows it; no file system
		return Content{}
	case other != "":
		c.Why = other
		return c
	}
	found, known := disk.Identify(head)
	_, mounts := readable[found.Kind]
	switch {
	case known && mounts:
		c.Kind, c.UUID = found.Kind, found.UUID
		c.EFI = c.EFI || found.Kind == "vfat"
	case known:
		c.Why = found.Kind
	case bytes.Count(head, []byte{0}) < len(head):
		c.Why = "no file system that is known"
	}
	return c
}

// readTypes are the types of the partitions by their numbers.
func readTypes(device string) (map[int]disk.Type, error) {
	f, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return nil, err
	}
	head, err := io.ReadAll(io.LimitReader(f, disk.HeadSize))
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	table, err := disk.Parse(head, size, sector)
	types := map[int]disk.Type{}
	for _, p := range table.Partitions {
		types[p.Number] = p.Type
	}
	return types, err
}

// part is a partition, as below /dev.
type part struct {
	name   string
	number int
}

// readPartitions has the kernel look at the partition table of a disk, and returns the partitions.
func readPartitions(name string) ([]part, error) {
	f, err := os.Open("/dev/" + name)
	if err != nil {
		return nil, fmt.Errorf("read the partitions: %w", err)
	}
	err = unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read the partitions of %s: %w", name, err)
	}
	dir := filepath.Join(sysBlock, name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the partitions of %s: %w", name, err)
	}
	var parts []part
	for _, e := range entries {
		if n := readNumber(filepath.Join(dir, e.Name(), "partition")); n != 0 {
			parts = append(parts, part{e.Name(), int(n)})
		}
	}
	return parts, nil
}
