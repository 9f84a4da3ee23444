package bootentry

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// label is an entry of SYSLINUX.
type label struct {
	name, kernel, args string
	appends            bool   // there is an APPEND, maybe of nothing
	odd                string // a line that is not understood
	initrds            []string
}

// Lines of SYSLINUX that change nothing of what is booted, or matter to people at the console alone.
var syslinuxIdle = words("say display f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 font kbdmap serial console prompt " +
	"timeout totaltimeout noescape nocomplete allowoptions implicit text endtext ui")

// Lines that lead to other configurations or commands, and count wherever they are.
var syslinuxElsewhere = words("include config onerror ontimeout")

// readSyslinux reads syslinux.cfg and its kin (doc/syslinux.txt of SYSLINUX).
func readSyslinux(d *disk, from File) (Entry, error) {
	text, err := d.config(from)
	if err != nil {
		return Entry{}, err
	}
	s := syslinux{global: &label{}}
	s.at = s.global
	for i, line := range strings.Split(string(text), "\n") {
		if err := s.line(strings.TrimSpace(line)); err != nil {
			return Entry{}, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	chosen, err := s.chosen()
	if err != nil {
		return Entry{}, err
	}
	args := s.global.args
	if chosen.appends {
		args = chosen.args
	}
	if args == "-" {
		args = ""
	}
	dir := path.Dir(from.Path)
	e := Entry{Kernel: at(from.Volume, dir, chosen.kernel)}
	var kept []string
	for _, word := range strings.Fields(args) {
		if list, ok := strings.CutPrefix(word, "initrd="); ok && len(chosen.initrds) == 0 {
			chosen.initrds = strings.Split(list, ",")
		} else if !ok {
			kept = append(kept, word)
		}
	}
	for _, name := range chosen.initrds {
		e.Initrds = append(e.Initrds, at(from.Volume, dir, name))
	}
	e.Args = strings.Join(append([]string{"BOOT_IMAGE=" + chosen.kernel}, kept...), " ")
	return e, nil
}

// syslinux is a configuration that is read.
type syslinux struct {
	global, at *label // at is what lines belong to now
	labels     []*label
	// def is of DEFAULT, menuDef of MENU DEFAULT, which goes before it where there is a menu.
	def     string
	menuDef *label
	text    bool // within the TEXT of an entry
}

func (s *syslinux) line(line string) error {
	key, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	key, rest = strings.ToLower(key), strings.TrimSpace(rest)
	if s.text {
		s.text = key != "endtext"
		return nil
	}
	switch {
	case line == "", strings.HasPrefix(line, "#"):
	case key == "text":
		s.text = true
	case syslinuxIdle[key]:
	case key == "default":
		s.def = rest
	case key == "label":
		s.at = &label{name: rest}
		s.labels = append(s.labels, s.at)
	case key == "menu":
		return s.menu(strings.Fields(strings.ToLower(rest)))
	case key == "kernel", key == "linux":
		s.at.kernel = rest
	case key == "initrd":
		s.at.initrds = strings.Split(rest, ",")
	case key == "append":
		s.at.args, s.at.appends = rest, true
	case s.at == s.global, syslinuxElsewhere[key]:
		return fmt.Errorf("%.40q is not understood", key)
	default:
		s.at.odd = key // no matter unless it is the default
	}
	return nil
}

func (s *syslinux) menu(rest []string) error {
	switch {
	case len(rest) == 1 && rest[0] == "default" && s.at != s.global:
		s.menuDef = s.at
	case len(rest) > 0 && (rest[0] == "begin" || rest[0] == "include"):
		return fmt.Errorf("menu %s is not understood", rest[0])
	}
	return nil
}

func (s *syslinux) chosen() (label, error) {
	found := s.menuDef
	for _, l := range s.labels {
		if l.name != s.def {
			continue
		}
		if found != nil && found != l {
			return label{}, errors.New("DEFAULT and MENU DEFAULT, or two labels of one name, are different entries")
		}
		found = l
	}
	switch {
	case found == nil:
		return label{}, fmt.Errorf("there is no entry %.40q, which is the default", s.def)
	case found.odd != "":
		return label{}, fmt.Errorf("the default entry %.40q has a line %.40q, which is not understood", found.name, found.odd)
	case found.kernel == "", strings.ContainsAny(found.kernel, " (:"):
		return label{}, fmt.Errorf("the default entry %.40q boots no kernel that is understood", found.name)
	}
	switch strings.ToLower(path.Ext(found.kernel)) {
	case ".c32", ".com", ".cbt", ".0", ".bin", ".bs", ".bss", ".img":
		return label{}, fmt.Errorf("the default entry %.40q boots %.80q, which is no kernel", found.name, found.kernel)
	}
	return *found, nil
}

// words is a set of words.
func words(list string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(list) {
		set[word] = true
	}
	return set
}
