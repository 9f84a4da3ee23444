// Package media lays out what a BMC inserts into a machine: the ISO from which it boots its deploy
// ramdisk, with BIOS and with UEFI, and the floppy that has what a ramdisk of the site's own is told. Kernel and ramdisk are not copied: they are read where they are, and
// everything else is made of the same bytes everywhere, so that any conductor can go on with a transfer
// that another one has begun. It publishes nothing (bootd does) and inserts nothing (drivers do).
//
// Read ISO.
package media

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ingot/internal/fat"
	"ingot/internal/iso9660"
)

// Labels of the volume, as in Ironic: what looks for network data looks for the second.
const (
	Label        = "VMEDIA_BOOT_ISO"
	NetworkLabel = "config-2"
)

// Loaders are the boot loaders on a medium: stock builds of the distribution, as they are.
type Loaders struct {
	isolinux, ldlinux []byte
	esp               []byte // a FAT file system with shim and GRUB
	// Digest names them, as 64 hex digits.
	Digest string
}

// made is the time of everything on a medium: bytes must not depend on when they were made.
var made = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// sources are the files that are needed, and the packages of Debian that have them.
var sources = []struct{ name, pkg string }{
	{"isolinux.bin", "isolinux"},
	{"ldlinux.c32", "syslinux-common"},
	{"shimx64.efi.signed", "shim-signed"},
	{"gcdx64.efi.signed", "grub-efi-amd64-signed"},
	{"mmx64.efi.signed", "shim-helpers-amd64-signed"},
}

// ReadLoaders reads the loaders from the first of some directories that has each. The error says what
// to install.
func ReadLoaders(dirs []string) (Loaders, error) {
	found := map[string][]byte{}
	var missing error
	for _, s := range sources {
		data, err := first(dirs, s.name)
		if errors.Is(err, fs.ErrNotExist) {
			missing = errors.Join(missing, fmt.Errorf("%s is in none of %s; install the package %s or add its "+
				"directory to boot.tftp_files", s.name, strings.Join(dirs, ", "), s.pkg))
			continue
		}
		if err != nil {
			return Loaders{}, err
		}
		found[s.name] = data
	}
	if missing != nil {
		return Loaders{}, missing
	}
	esp, err := fat.Build(fat.Options{Label: "ESP", Time: made}, []fat.File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: found["shimx64.efi.signed"]},
		{Path: "EFI/BOOT/grubx64.efi", Data: found["gcdx64.efi.signed"]},
		{Path: "EFI/BOOT/mmx64.efi", Data: found["mmx64.efi.signed"]},
	})
	sum := sha256.New()
	for _, part := range [][]byte{found["isolinux.bin"], found["ldlinux.c32"], esp} {
		sum.Write(part)
	}
	return Loaders{found["isolinux.bin"], found["ldlinux.c32"], esp, hex.EncodeToString(sum.Sum(nil))}, err
}

func first(dirs []string, name string) (data []byte, err error) {
	err = fs.ErrNotExist
	for _, dir := range dirs {
		if data, err = os.ReadFile(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, err
}

// File is a kernel or a ramdisk.
type File struct {
	Content io.ReaderAt
	Size    int64 // bytes
}

// Content is what a medium has besides loaders.
type Content struct {
	Kernel, Ramdisk File
	Args            []string // of the kernel
	Network         string   // network_data.json; "" is none
}

// ISO lays out the medium that boots a kernel and a ramdisk with arguments. BIOS boots it by ISOLINUX,
// UEFI by shim and GRUB, which Secure Boot trusts. The same arguments and sizes give the same layout.
func (l Loaders) ISO(c Content) (*iso9660.Image, error) {
	const isolinux, efi = "isolinux/isolinux.bin", "boot/grub/efiboot.img"
	o := iso9660.Options{Label: Label, Time: made, BIOS: isolinux, UEFI: efi}
	files := []iso9660.File{
		{Path: isolinux, Data: l.isolinux},
		{Path: "isolinux/ldlinux.c32", Data: l.ldlinux},
		{Path: "isolinux/isolinux.cfg", Data: []byte("DEFAULT boot\nPROMPT 0\nLABEL boot\nKERNEL /vmlinuz\n" +
			"APPEND initrd=/initrd " + strings.Join(c.Args, " ") + "\n")},
		{Path: efi, Data: l.esp},
		// By this file Debian's GRUB finds the volume, and by that name its configuration.
		{Path: ".disk/info", Data: []byte("ingot\n")},
		{Path: "boot/grub/grub.cfg", Data: []byte("if linux /vmlinuz " + quoted(c.Args) +
			"; then\nif initrd /initrd; then\nboot\nfi\nfi\necho 'ingot: the medium cannot be read'\nsleep 30\nhalt\n")},
		{Path: "vmlinuz", Content: c.Kernel.Content, Size: c.Kernel.Size},
		{Path: "initrd", Content: c.Ramdisk.Content, Size: c.Ramdisk.Size},
	}
	if c.Network != "" {
		o.Label = NetworkLabel
		files = append(files, iso9660.File{Path: "openstack/latest/network_data.json", Data: []byte(c.Network)})
	}
	return iso9660.New(o, files)
}

// The floppy, as in Ironic.
const (
	FloppyLabel = "ir-vfd-dev"
	Parameters  = "parameters.txt"
)

// Floppy is a floppy with the parameters of a ramdisk, name=value. It is the same for the same parameters.
func Floppy(parameters []string) ([]byte, error) {
	return fat.Build(fat.Options{Label: FloppyLabel, Time: made, Size: fat.FloppySize}, []fat.File{
		{Path: Parameters, Data: []byte(strings.Join(parameters, "\n") + "\n")}})
}

// quoted are words of GRUB.
func quoted(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
