// Package bootentry finds out what the boot loader of a disk would boot by default: kernel, initramfs and
// command line, from the files that the loader itself reads. It reads grub.cfg (a part of GRUB's script language,
// grubenv, BootLoaderSpec by blscfg), and syslinux.cfg or extlinux.conf.
//
// A wrong guess boots another system than the machine's next restart does. So whatever is not understood for
// certain is an error that says what; where several configurations may be the one that is read, all of them have
// to lead to the same, and where one may be that cannot be read, none counts. It reads files and nothing else: mounting them and starting the kernel are others' business.
// Start reading at [Find].
package bootentry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Bounds of what is read.
const (
	maxConfig = 1 << 20 // bytes of one file
	// Of all of a disk together: files, bytes of them, words of scripts, and bytes that the values of variables become.
	maxFiles  = 256
	maxBytes  = 8 << 20
	maxWords  = 200_000
	maxValues = 4 << 20
)

// Firmware is how the machine starts its boot loader.
type Firmware string

// The kinds of firmware.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Volume is a file system of the disk.
type Volume struct {
	Name  string // for people, as in sda2
	UUID  string // as blkid writes it; "" is none
	EFI   bool   // UEFI may start a boot loader from it: it is FAT, or said to be an EFI system partition
	Files fs.FS  // nil of one that cannot be read
}

// File is a file of a volume.
type File struct {
	Volume int    // its index
	Path   string // in Volume.Files
}

// Entry is what is booted.
type Entry struct {
	// From is the configuration that says so, for people, as in "sda1:/EFI/debian/grub.cfg".
	From    string
	Kernel  File
	Initrds []File // in the order in which the loader puts them together; there may be none
	Args    string // the command line
}

func (e Entry) same(o Entry) bool {
	return e.Kernel == o.Kernel && e.Args == o.Args && slices.Equal(e.Initrds, o.Initrds)
}

// place is where a configuration may be, and who reads it.
type place struct {
	path string
	read func(d *disk, at File) (Entry, error)
}

// What a loader that was started by a BIOS reads, and, of GRUB, one that UEFI has started, if there is nothing on an
// EFI system partition: the way to its files is in its own image then.
var (
	grubPlaces = []place{
		{"boot/grub/grub.cfg", readGRUB}, {"boot/grub2/grub.cfg", readGRUB},
		{"grub/grub.cfg", readGRUB}, {"grub2/grub.cfg", readGRUB},
	}
	biosPlaces = append([]place{
		{"syslinux.cfg", readSyslinux}, {"syslinux/syslinux.cfg", readSyslinux},
		{"boot/syslinux.cfg", readSyslinux}, {"boot/syslinux/syslinux.cfg", readSyslinux},
		{"extlinux.conf", readSyslinux}, {"extlinux/extlinux.conf", readSyslinux},
		{"boot/extlinux.conf", readSyslinux}, {"boot/extlinux/extlinux.conf", readSyslinux},
	}, grubPlaces...)
)

// efiPlaces are the configurations on an EFI system partition.
func (d *disk) efiPlaces(volume int) ([]place, error) {
	// The variables of the firmware have a say in what systemd-boot starts, and it looks on other partitions.
	places := []place{{"EFI/systemd", refuse("systemd-boot")}, {"loader/loader.conf", refuse("systemd-boot")},
		{"loader/entries", refuse("systemd-boot")}}
	entries, err := d.list(File{volume, "EFI"})
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dir := "EFI/" + e.Name()
		places = append(places, place{dir + "/grub.cfg", readGRUB})
		if !strings.EqualFold(dir, "EFI/Linux") {
			continue
		}
		unified, err := d.list(File{volume, dir})
		if err != nil {
			return nil, err
		}
		for _, u := range unified {
			places = append(places, place{dir + "/" + u.Name(), refuse("a kernel with its initramfs in it")})
		}
	}
	return places, nil
}

func refuse(what string) func(*disk, File) (Entry, error) {
	return func(*disk, File) (Entry, error) {
		return Entry{}, fmt.Errorf("it is of %s, which is not understood", what)
	}
}

// Find returns what the disk's boot loader would boot by default. The error says why that is not known. unread are
// those parts of the disk that may have something which the loader reads, and cannot be read here.
func Find(volumes, unread []Volume, firmware Firmware) (Entry, error) {
	d := &disk{volumes: volumes, unread: unread, firmware: firmware, files: maxFiles, bytes: maxBytes, words: maxWords,
		values: maxValues, runs: maxCommands}
	var found []Entry
	var err error
	places := biosPlaces
	if firmware == UEFI {
		places = grubPlaces
		found, err = d.findEFI()
	}
	if len(found) == 0 && err == nil {
		found, err = d.findAt(places)
	}
	if err != nil {
		return Entry{}, err
	}
	for _, other := range found[1:] {
		if !found[0].same(other) {
			return Entry{}, fmt.Errorf("%s and %s boot different things", found[0].From, other.From)
		}
	}
	return found[0], d.check(found[0])
}

// findEFI returns what loaders on EFI system partitions would boot; nothing if none has a configuration there.
func (d *disk) findEFI() (found []Entry, err error) {
	for _, v := range d.unread {
		if v.EFI {
			return nil, fmt.Errorf("%s, from which UEFI may start a boot loader, cannot be read", v.Name)
		}
	}
	for volume, v := range d.volumes {
		if !v.EFI {
			continue
		}
		places, err := d.efiPlaces(volume)
		if err != nil {
			return nil, err
		}
		more, err := d.readAt(volume, places)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

// findAt returns what is booted by configurations in these places, of which there is one at least.
func (d *disk) findAt(places []place) (found []Entry, err error) {
	var names []string
	for volume, v := range d.volumes {
		names = append(names, v.Name)
		more, err := d.readAt(volume, places)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	switch {
	case len(names) == 0:
		return nil, errors.New("there is no file system that can be read")
	case len(found) == 0:
		return nil, fmt.Errorf("there is no configuration of GRUB or SYSLINUX on %s", strings.Join(names, ", "))
	case len(d.unread) > 0:
		return nil, fmt.Errorf("%s is a configuration, and there may be another one where nothing can be read",
			found[0].From)
	}
	return found, nil
}

// disk is what a configuration is read from.
type disk struct {
	volumes  []Volume
	unread   []Volume
	firmware Firmware
	// What may still be read, parsed, expanded and run.
	files, bytes, words, values, runs int
}

// readAt reads the configurations of a volume that are there.
func (d *disk) readAt(volume int, places []place) (found []Entry, err error) {
	for _, p := range places {
		at := File{volume, p.path}
		there, err := d.is(at, func(fs.FileInfo) bool { return true })
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		e, err := p.read(d, at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name(at), err)
		}
		e.From = d.name(at)
		found = append(found, e)
	}
	return found, nil
}

// name is a file for people.
func (d *disk) name(f File) string { return d.volumes[f.Volume].Name + ":/" + f.Path }

// config reads a configuration.
func (d *disk) config(f File) ([]byte, error) {
	if d.files--; d.files < 0 {
		return nil, fmt.Errorf("there are more than %d configurations", maxFiles)
	}
	file, err := Open(d.volumes[f.Volume].Files, f.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	d.bytes -= len(text)
	switch {
	case err != nil:
	case len(text) > maxConfig:
		err = fmt.Errorf("it has more than %d KiB", maxConfig>>10)
	case d.bytes < 0:
		err = fmt.Errorf("all configurations together have more than %d MiB", maxBytes>>20)
	}
	return text, err
}

// Open opens a regular file. Others are not touched: who opens a named pipe waits for its other end.
func Open(files fs.FS, path string) (fs.File, error) {
	info, err := fs.Stat(files, path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%.200q is no regular file", path)
	}
	return files.Open(path)
}

// is tells whether there is a file of a kind. That it cannot be told is an error: a link that leads out of the volume,
// and what the disk does not read.
func (d *disk) is(f File, kind func(fs.FileInfo) bool) (bool, error) {
	info, err := fs.Stat(d.volumes[f.Volume].Files, f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%s: %w", d.name(f), err)
	}
	return kind(info), nil
}

// list is what a directory has, in the order of names; nothing of none.
func (d *disk) list(f File) ([]fs.DirEntry, error) {
	is, err := d.is(f, fs.FileInfo.IsDir)
	if err != nil || !is {
		return nil, err
	}
	entries, err := fs.ReadDir(d.volumes[f.Volume].Files, f.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.name(f), err)
	}
	return entries, nil
}

// check makes sure that the files of an entry are there.
func (d *disk) check(e Entry) error {
	for _, f := range append([]File{e.Kernel}, e.Initrds...) {
		is, err := d.is(f, func(i fs.FileInfo) bool { return i.Mode().IsRegular() && i.Size() > 0 })
		if err != nil {
			return err
		}
		if !is {
			return fmt.Errorf("%s wants %s, which is not there", e.From, d.name(f))
		}
	}
	return nil
}

// at is the file that a path of a volume names. dir is where a relative one begins.
func at(volume int, dir, name string) File {
	if !strings.HasPrefix(name, "/") {
		name = path.Join("/", dir, name)
	}
	if name = path.Clean(name)[1:]; name == "" {
		name = "."
	}
	return File{volume, name}
}
