package bootentry

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
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

// entriesDir is where entries are, in a volume.
const entriesDir = "loader/entries"

// readSpecs reads the entries of a directory in the order of their names.
func (d *disk) readSpecs(volume int, dir string) ([]spec, error) {
	names, err := fs.Glob(d.volumes[volume].Files, path.Join(dir, "*.conf"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []spec
	for _, name := range names {
		text, err := d.config(File{volume, name})
		if err != nil {
			return nil, err
		}
		all = append(all, parseSpec(strings.TrimSuffix(path.Base(name), ".conf"), string(text)))
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

// readLoader reads loader.conf and the entries of systemd-boot. It orders entries by more than their names, so of
// several one has to be named.
func readLoader(d *disk, from File) (Entry, error) {
	text, err := d.config(from)
	if err != nil {
		return Entry{}, err
	}
	def := ""
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "default" {
			def = f[1]
		}
	}
	all, err := d.readSpecs(from.Volume, entriesDir)
	if err != nil {
		return Entry{}, err
	}
	var found []spec
	for _, s := range all {
		match, err := path.Match(def, s.id+".conf")
		if err != nil {
			return Entry{}, fmt.Errorf("default %.80q: %w", def, err)
		}
		if def == "" || match || def == s.id {
			found = append(found, s)
		}
	}
	switch {
	case strings.HasPrefix(def, "@"):
		return Entry{}, fmt.Errorf("default %.80q is remembered by the firmware", def)
	case len(found) == 0:
		return Entry{}, fmt.Errorf("no entry in /%s is the default (%.80q)", entriesDir, def)
	case len(found) > 1:
		return Entry{}, fmt.Errorf("%d entries in /%s may be the default (%.80q)", len(found), entriesDir, def)
	}
	s := found[0]
	if err := s.understood(); err != nil {
		return Entry{}, err
	}
	e := Entry{Kernel: at(from.Volume, "", s.linux), Args: strings.Join(s.options, " ")}
	for _, name := range s.initrds {
		e.Initrds = append(e.Initrds, at(from.Volume, "", name))
	}
	return e, nil
}

// blscfg adds the entries to GRUB's menu, as the command of that name in the GRUB of Fedora and its kin does.
func (g *grub) blscfg() error {
	where := g.vars["root"]
	if boot := g.vars["boot"]; boot != "" && boot != where {
		return fmt.Errorf("blscfg: boot (%.40q) is not root (%.40q)", boot, where)
	}
	if g.vars["early_initrd"] != "" {
		return errors.New("blscfg: early_initrd is not understood")
	}
	dir := g.vars["blsdir"]
	if dir == "" {
		dir = "/" + entriesDir
	}
	f, err := g.file(dir)
	if err != nil {
		return fmt.Errorf("blscfg: %w", err)
	}
	specs, err := g.readSpecs(f.Volume, f.Path)
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

// bootSpec boots an entry that blscfg has added: variables in it are GRUB's.
func (g *grub) bootSpec(s spec) error {
	if err := s.understood(); err != nil {
		return err
	}
	if len(s.options) == 0 {
		return fmt.Errorf("entry %.80q has no options", s.id)
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
