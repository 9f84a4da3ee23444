// Package bootentry finds out what the boot loader of a disk would boot by default: kernel, initramfs and
// command line, from the files that the loader itself reads. It reads grub.cfg (a part of GRUB's script language,
// grubenv, BootLoaderSpec by blscfg), the entries of systemd-boot, and syslinux.cfg or extlinux.conf.
//
// A wrong guess boots another system than the machine's next restart does. So whatever is not understood for
// certain is an error that says what; where several configurations may be the one that is read, all of them have
// to lead to the same. It reads files and nothing else: mounting them and starting the kernel are others' business.
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
	Files fs.FS
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

// place is where a configuration may be, a pattern of fs.Glob, and who reads it.
type place struct {
	pattern string
	read    func(d *disk, at File) (Entry, error)
}

// What a loader that was started by a BIOS reads, and one that UEFI has started from an EFI system partition.
// Where there is nothing of the latter, GRUB has the way to its files in its own image, and they are as with a BIOS.
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
	efiPlaces = []place{
		{"EFI/*/grub.cfg", readGRUB}, {"loader/loader.conf", readLoader},
		{"EFI/Linux/*.efi", func(*disk, File) (Entry, error) {
			return Entry{}, errors.New("it is a kernel of UEFI with its initramfs in it, which is not understood")
		}},
	}
)

// Find returns what the disk's boot loader would boot by default. The error says why that is not known.
func Find(volumes []Volume, firmware Firmware) (Entry, error) {
	d := &disk{volumes: volumes, firmware: firmware, files: maxFiles, bytes: maxBytes, words: maxWords,
		values: maxValues, runs: maxCommands}
	tries := [][]place{biosPlaces}
	if firmware == UEFI {
		tries = [][]place{efiPlaces, grubPlaces}
	}
	for _, places := range tries {
		found, err := d.findAt(places)
		if err != nil {
			return Entry{}, err
		}
		if len(found) == 0 {
			continue
		}
		for _, other := range found[1:] {
			if !found[0].same(other) {
				return Entry{}, fmt.Errorf("%s and %s boot different things", found[0].From, other.From)
			}
		}
		return found[0], d.check(found[0])
	}
	if len(volumes) == 0 {
		return Entry{}, errors.New("there is no file system that can be read")
	}
	return Entry{}, fmt.Errorf("there is no configuration of GRUB, systemd-boot or SYSLINUX on %s", d.names())
}

// disk is what a configuration is read from.
type disk struct {
	volumes  []Volume
	firmware Firmware
	// What may still be read, parsed, expanded and run.
	files, bytes, words, values, runs int
}

func (d *disk) names() string {
	var names []string
	for _, v := range d.volumes {
		names = append(names, v.Name)
	}
	return strings.Join(names, ", ")
}

func (d *disk) findAt(places []place) (found []Entry, err error) {
	for volume, v := range d.volumes {
		for _, p := range places {
			names, err := fs.Glob(v.Files, p.pattern)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.Name, err)
			}
			for _, name := range names {
				at := File{volume, name}
				e, err := p.read(d, at)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", d.name(at), err)
				}
				e.From = d.name(at)
				found = append(found, e)
			}
		}
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
	file, err := d.volumes[f.Volume].Files.Open(f.Path)
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

// is tells whether there is a file, of some size or none.
func (d *disk) is(f File, kind func(fs.FileInfo) bool) bool {
	info, err := fs.Stat(d.volumes[f.Volume].Files, f.Path)
	return err == nil && kind(info)
}

// check makes sure that the files of an entry are there.
func (d *disk) check(e Entry) error {
	for _, f := range append([]File{e.Kernel}, e.Initrds...) {
		if !d.is(f, func(i fs.FileInfo) bool { return i.Mode().IsRegular() && i.Size() > 0 }) {
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
