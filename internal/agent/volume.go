package agent

import (
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
	// unread are the partitions that are not, and why, for people.
	unread []string
	undo   func()
}

// readable is how file systems are mounted that are read: nothing is written, also not what a journal has.
var readable = map[string]struct{ kind, options string }{
	"ext": {"ext4", "noload,errors=continue"}, "xfs": {"xfs", "norecovery"}, "vfat": {"vfat", ""},
}

// headSize is where Identify has found everything that it knows.
const headSize = 0x10050

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
	for _, part := range parts {
		found, why := identify("/dev/" + part)
		if why != "" {
			v.unread = append(v.unread, part+" ("+why+")")
			continue
		}
		how := readable[found.Kind]
		m, err := mountReadOnly("/dev/"+part, filepath.Join(volumesDir, part), how.kind, how.options)
		if err != nil {
			v.unread = append(v.unread, fmt.Sprintf("%s (%v)", part, err))
			continue
		}
		mounts = append(mounts, m)
		v.read = append(v.read, bootentry.Volume{Name: part, UUID: found.UUID, Files: m.files.FS()})
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

// identify tells which file system a partition has; or why it cannot be read.
func identify(device string) (found disk.Filesystem, why string) {
	f, err := os.Open(device)
	if err != nil {
		return found, err.Error()
	}
	defer f.Close()
	head := make([]byte, headSize)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return found, err.Error()
	}
	return Readable(head[:n])
}

// Readable tells, from the head of a partition, which file system it has; or why it cannot be read.
func Readable(head []byte) (found disk.Filesystem, why string) {
	found, known := disk.Identify(head)
	if known {
		if _, ok := readable[found.Kind]; !ok {
			why = found.Kind
		}
		return found, why
	}
	for _, m := range []struct {
		at          int
		magic, name string
	}{{0, "LUKS\xBA\xBE", "crypto_LUKS"}, {512, "LABELONE", "LVM2_member"}, {4096, "\xFC\x4E\x2B\xA9", "linux_raid_member"}} {
		if len(head) >= m.at+len(m.magic) && string(head[m.at:m.at+len(m.magic)]) == m.magic {
			return found, m.name
		}
	}
	return found, "no file system that is known"
}

// readPartitions has the kernel look at the partition table of a disk, and returns the partitions, as below /dev.
func readPartitions(name string) ([]string, error) {
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
	var parts []string
	for _, e := range entries {
		if readNumber(filepath.Join(dir, e.Name(), "partition")) != 0 {
			parts = append(parts, e.Name())
		}
	}
	return parts, nil
}
