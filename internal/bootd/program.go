package bootd

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ingot/internal/ingot"
)

// program is a boot program: stock builds of distributions, as they are.
type program struct {
	file string // its name in the package, where it is another one
	pkg  string // Debian's package
}

// programNames are the boot programs of the TFTP tree and of the tree below programPath. What a
// machine may boot with them is decided later, by script. Names are those that firmware and the
// programs themselves ask for: shim loads grubx64.efi from where it came from.
var programNames = map[string]program{
	"undionly.kpxe":     {pkg: "ipxe"},
	"snponly.efi":       {pkg: "ipxe"},
	"ipxe.efi":          {pkg: "ipxe"},
	"snponly-arm64.efi": {pkg: "ipxe (of a distribution that has arm64 builds)"},

	"pxelinux.0":  {pkg: "pxelinux"},
	"lpxelinux.0": {pkg: "pxelinux"},
	"ldlinux.c32": {pkg: "syslinux-common"},

	"bootx64.efi": {file: "shimx64.efi.signed", pkg: "shim-signed"},
	"grubx64.efi": {file: "grubnetx64.efi.signed", pkg: "grub-efi-amd64-signed"},
	"mmx64.efi":   {file: "mmx64.efi.signed", pkg: "shim-helpers-amd64-signed"},

	"bootaa64.efi": {file: "shimaa64.efi.signed", pkg: "shim-signed:arm64"},
	"grubaa64.efi": {file: "grubnetaa64.efi.signed", pkg: "grub-efi-arm64-signed"},
	"mmaa64.efi":   {file: "mmaa64.efi.signed", pkg: "shim-helpers-arm64-signed"},
}

// ProgramPaths returns where the boot programs are, by the name that firmware asks for; without those
// that are in none of the directories.
func ProgramPaths(dirs []string) map[string]string {
	paths := map[string]string{}
	for name, p := range programNames {
		for _, path := range p.places(name, dirs) {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				paths[name] = path
				break
			}
		}
	}
	return paths
}

// places are the paths that a boot program may have, the first that is there counts.
func (p program) places(name string, dirs []string) (paths []string) {
	for _, dir := range dirs {
		paths = append(paths, filepath.Join(dir, name))
		if p.file != "" {
			paths = append(paths, filepath.Join(dir, p.file))
		}
	}
	return paths
}

// openProgram opens a boot program by name, from the first directory that has it. The error kind
// is NotFound if there is none.
func (s *Server) openProgram(name string) (*os.File, error) {
	p, ok := programNames[name]
	if !ok {
		return nil, ingot.Errorf(ingot.NotFound, "it is no boot program; there are %s",
			strings.Join(slices.Sorted(maps.Keys(programNames)), ", "))
	}
	for _, path := range p.places(name, s.Programs) {
		f, err := os.Open(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, ingot.Errorf(ingot.NotFound, "it is in none of %v; install the package %s or "+
		"set boot.tftp_files", s.Programs, p.pkg)
}
