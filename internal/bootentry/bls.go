package bootentry

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// spec is an entry of the Boot Loader Specification, type 1.
type spec struct {
	id      string // the name of its file without .conf
	title   string
	linux   string
	initrds []string
	options []string
	more    map[string]string // GRUB's own keys, and those that make it no entry for us
}

// entriesDir is where entries are, in a volume or below its /boot.
const entriesDir = "loader/entries"

// readSpecs reads the entries of a directory in the order of their names.
func (d *disk) readSpecs(dir File) ([]spec, error) {
	files, err := d.list(dir)
	if err != nil {
		return nil, err
	}
	var all []spec
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), ".conf")
		if !ok {
			continue
		}
		text, err := d.config(File{dir.Volume, path.Join(dir.Path, f.Name())})
		if err != nil {
			return nil, err
		}
		all = append(all, parseSpec(id, string(text)))
	}
	return all, nil
}

func parseSpec(id, text string) spec {
	s := spec{id: id, more: map[string]string{}}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.ReplaceAll(strings.TrimSpace(line), "\t", " "), " ")
		switch value = strings.TrimSpace(value); key {
		case "title":
			s.title = value
		case "linux":
			s.linux = value
		case "initrd":
			s.initrds = append(s.initrds, strings.Fields(value)...)
		case "options":
			s.options = append(s.options, value)
		default:
			s.more[key] = value
		}
	}
	return s
}

// counted is the name of an entry whose boots are counted: each of them renames the file.
var counted = regexp.MustCompile(`\+\d+(-\d+)?$`)

// understood refuses what boots in another way than by a kernel, or asks for more.
func (s spec) understood() error {
	for _, key := range []string{"efi", "uki", "devicetree", "devicetree-overlay", "uki-url"} {
		if s.more[key] != "" {
			return fmt.Errorf("entry %.80q has %s, which is not understood", s.id, key)
		}
	}
	switch arch := strings.ToLower(s.more["architecture"]); {
	case s.linux == "":
		return fmt.Errorf("entry %.80q has no kernel", s.id)
	case arch != "" && arch != "x64":
		return fmt.Errorf("entry %.80q is for %.20s", s.id, arch)
	case counted.MatchString(s.id):
		return fmt.Errorf("entry %.80q counts its boots, which would change the disk", s.id)
	}
	return nil
}

// blscfg adds the entries to GRUB's menu, as the command of that name in the GRUB of Fedora and its kin does.
func (g *grub) blscfg(args []string) error {
	// A BIOS's takes the volume of boot, UEFI's that of root, where boot is the EFI system partition.
	root, boot := g.vars["root"], g.vars["boot"]
	switch {
	case len(args) > 0:
		return errors.New("blscfg with arguments is not understood")
	case g.firmware == BIOS && boot != "" && boot != root:
		return fmt.Errorf("blscfg: boot (%.40q) is not root (%.40q)", boot, root)
	case g.vars["early_initrd"] != "":
		return errors.New("blscfg: early_initrd is not understood")
	}
	specs, err := g.specs()
	if err != nil {
		return fmt.Errorf("blscfg: %w", err)
	}
	for _, s := range specs {
		// In which order they are is a matter of versions, as RPM compares them.
		g.menu.unordered = g.menu.unordered || len(specs) > 1
		g.menu.entries = append(g.menu.entries, menuEntry{title: s.title, id: s.id, spec: &s,
			unrestricted: strings.Contains(s.more["grub_arg"], "--unrestricted")})
	}
	return nil
}

// specs reads the entries of where blsdir says, or else of /loader/entries; where that is not, of the same below /boot.
func (g *grub) specs() ([]spec, error) {
	dirs := []string{g.vars["blsdir"]}
	if dirs[0] == "" {
		dirs = []string{"/" + entriesDir, "/boot/" + entriesDir}
	}
	for _, dir := range dirs {
		f, err := g.file(dir)
		if err != nil {
			return nil, err
		}
		is, err := g.is(f, fs.FileInfo.IsDir)
		if err != nil {
			return nil, err
		}
		if is {
			return g.readSpecs(f)
		}
	}
	return nil, fmt.Errorf("there is no %s", strings.Join(dirs, " or "))
}

// bootSpec boots an entry that blscfg has added: variables in it are GRUB's.
func (g *grub) bootSpec(s spec) error {
	if err := s.understood(); err != nil {
		return err
	}
	if len(s.options) != 1 {
		return fmt.Errorf("entry %.80q has %d lines of options, and GRUB takes one", s.id, len(s.options))
	}
	fields := func(texts ...string) ([]string, error) {
		var all []string
		for _, text := range texts {
			list, err := g.parse(text)
			if err != nil || len(list) > 1 || len(list) == 1 && (list[0].words == nil || list[0].block != nil) {
				return nil, fmt.Errorf("entry %.80q: %.80q is not understood", s.id, text)
			}
			for _, c := range list {
				words, err := g.expandAll(c.words)
				if err != nil {
					return nil, err
				}
				all = append(all, words...)
			}
		}
		return all, nil
	}
	args, err := fields(append([]string{s.linux}, s.options...)...)
	if err != nil {
		return err
	}
	if err := g.linux(args); err != nil {
		return err
	}
	initrds, err := fields(s.initrds...)
	if err != nil || len(initrds) == 0 {
		return err
	}
	return g.initrd(initrds)
}
