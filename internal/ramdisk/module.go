package ramdisk

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A Module is a kernel module.
type Module struct {
	Name string // with underscores
	Data []byte
}

// maxModule bounds a module; the largest of Debian's (amdgpu) has 25 MB.
const maxModule = 64 << 20

// resolve finds the modules with everything they depend on, dependencies first. It reads the
// modules' own .modinfo section, so depmod and its index are not needed. What is built into
// the kernel is not listed.
func resolve(dir string, roots []string) ([]Module, error) {
	r := resolver{files: make(map[string]string), state: make(map[string]int)}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"),
		func(path string, e fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".ko") {
				r.files[moduleName(path)] = path
			}
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	for line := range strings.Lines(string(builtin)) {
		r.state[moduleName(strings.TrimSpace(line))] = done
	}
	for _, root := range roots {
		if err := r.visit(moduleName(root)); err != nil {
			return nil, err
		}
	}
	return r.order, nil
}

const (
	visiting = iota + 1
	done
)

type resolver struct {
	files map[string]string
	state map[string]int
	order []Module
}

func (r *resolver) visit(name string) error {
	switch r.state[name] {
	case done:
		return nil
	case visiting:
		return fmt.Errorf("module %s depends on itself", name)
	}
	r.state[name] = visiting
	path, ok := r.files[name]
	if !ok {
		return fmt.Errorf("the kernel package has no module %s; it is not one this version of "+
			"ingot knows", name)
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxModule {
		err = errors.New("too large")
	}
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	needs, err := dependencies(data)
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	for _, need := range needs {
		if err := r.visit(need); err != nil {
			return fmt.Errorf("for %s: %w", name, err)
		}
	}
	r.state[name] = done
	r.order = append(r.order, Module{Name: name, Data: data})
	return nil
}

// dependencies reads depends= of the .modinfo section: NUL-terminated key=value strings
// (Linux include/linux/moduleinfo.h), written by modpost from the symbols the module uses.
func dependencies(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(field), "depends="); ok && list != "" {
			needs := strings.Split(list, ",")
			for i, n := range needs {
				needs[i] = moduleName(n)
			}
			return needs, nil
		}
	}
	return nil, nil
}

// moduleName is the kernel's name for a module file: hyphens count as underscores.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// checkStatic refuses a program that needs an interpreter, and what is no program for amd64.
func checkStatic(data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return errors.New("is no program")
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("is a program for %s, not for amd64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("is not static")
		}
	}
	return nil
}
