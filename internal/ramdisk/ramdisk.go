// Package ramdisk builds what a machine boots to be deployed: a Debian kernel as it is, and an
// initramfs that holds one program, ingot-agent, and the kernel modules it loads.
//
// There is nothing else in it: no shell, no libraries, no modprobe. Kernels come from the
// distribution by apt-get download, are unpacked and never installed, so the build needs no
// root. Modules stay as signed as they came, which a kernel under Secure Boot insists on.
// What the agent does is in package agent. Read first: Build.
package ramdisk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"ingot/internal/cpio"
)

// A Flavour is a kernel and a set of drivers.
type Flavour string

const (
	// Cloud is the small kernel for virtual machines: virtio and NVMe.
	Cloud Flavour = "cloud"
	// Generic has the drivers of real machines too.
	Generic Flavour = "generic"
)

// Options say what to build. The zero value of everything but OutDir is a default.
type Options struct {
	// OutDir receives kernel and ramdisk. Made if absent. The paths of the result are absolute.
	OutDir string
	// CacheDir keeps unpacked kernel packages; default ingot/ramdisk in the user's cache
	// directory. Safe to delete.
	CacheDir string
	// Flavour is Cloud by default.
	Flavour Flavour
	// AgentPath is the static ingot-agent; default: beside the running executable.
	AgentPath string
	// Progress gets one line per step. Default: silent.
	Progress func(string)
}

// A Result names the two files. The same kernel package and agent give the same bytes.
type Result struct {
	Kernel, Ramdisk File
	// KernelVersion is the release, as in 6.1.0-56-cloud-amd64.
	KernelVersion string
	// Modules is the load order of those that are loaded at the start, Later of those that are not.
	Modules, Later []string
}

// A File is one output.
type File struct {
	Path   string
	Bytes  int64
	SHA256 string // hexadecimal
}

// Build writes <OutDir>/<flavour>.kernel and <OutDir>/<flavour>.initramfs.
func Build(ctx context.Context, opt Options) (Result, error) {
	flavour, err := flavourOf(opt.Flavour)
	if err != nil {
		return Result{}, err
	}
	if opt.Progress == nil {
		opt.Progress = func(string) {}
	}
	agent, err := readAgent(opt.AgentPath)
	if err != nil {
		return Result{}, err
	}
	if opt.CacheDir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return Result{}, fmt.Errorf("find cache directory: %w; name one", err)
		}
		opt.CacheDir = filepath.Join(base, "ingot", "ramdisk")
	}
	if opt.OutDir, err = filepath.Abs(opt.OutDir); err != nil {
		return Result{}, fmt.Errorf("find output directory: %w", err)
	}
	if err := os.MkdirAll(opt.OutDir, 0o755); err != nil {
		return Result{}, fmt.Errorf("make output directory: %w", err)
	}
	tree, err := fetchKernel(ctx, flavour.metaPackage, opt.CacheDir, opt.Progress)
	if err != nil {
		return Result{}, err
	}
	modules, err := resolve(tree.modules, flavour.roots)
	if err != nil {
		return Result{}, err
	}
	all, err := resolve(tree.modules, slices.Concat(flavour.roots, flavour.later))
	if err != nil {
		return Result{}, err
	}
	// What the first ones depend on does not change with what follows.
	lists := moduleLists{modules, all[len(modules):]}
	image, err := initramfs(agent, lists)
	if err != nil {
		return Result{}, err
	}
	kernel, err := os.ReadFile(tree.kernel)
	if err != nil {
		return Result{}, fmt.Errorf("read kernel: %w", err)
	}
	result := Result{KernelVersion: tree.version}
	for _, m := range modules {
		result.Modules = append(result.Modules, m.Name)
	}
	for _, m := range lists.later {
		result.Later = append(result.Later, m.Name)
	}
	base := filepath.Join(opt.OutDir, string(flavour.name))
	if result.Kernel, err = writeFile(base+".kernel", kernel); err != nil {
		return Result{}, err
	}
	if result.Ramdisk, err = writeFile(base+".initramfs", image); err != nil {
		return Result{}, err
	}
	opt.Progress(fmt.Sprintf("kernel %s %.1f MB, ramdisk %.1f MB with %d modules",
		tree.version, mega(result.Kernel), mega(result.Ramdisk), len(all)))
	return result, nil
}

// Modules returns modules of the flavour's kernel by name, and before each what it depends on. It
// is for the makers of other initramfs for the same kernel; of Options, OutDir and AgentPath do not
// count.
func Modules(ctx context.Context, opt Options, names ...string) ([]Module, error) {
	flavour, err := flavourOf(opt.Flavour)
	if err != nil {
		return nil, err
	}
	if opt.Progress == nil {
		opt.Progress = func(string) {}
	}
	tree, err := fetchKernel(ctx, flavour.metaPackage, opt.CacheDir, opt.Progress)
	if err != nil {
		return nil, err
	}
	return resolve(tree.modules, names)
}

func mega(f File) float64 { return float64(f.Bytes) / 1e6 }

// readAgent reads the agent and makes sure that it can run where there are no libraries.
func readAgent(path string) ([]byte, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find ingot-agent: %w; name its path", err)
		}
		path = filepath.Join(filepath.Dir(self), "ingot-agent")
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: build it by `make build`, or name its path", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read agent: %w", err)
	}
	if err := checkStatic(data); err != nil {
		return nil, fmt.Errorf("%s %w: build it by `make build` (CGO_ENABLED=0)", path, err)
	}
	return data, nil
}

// moduleLists are the modules in the order in which they are loaded: at the start, and later if at all.
type moduleLists struct{ first, later []Module }

// initramfs packs agent and modules. The modules sit side by side below /lib/modules: the load
// order is in /etc/modules and /etc/modules.kexec, so nobody looks for them by name. The target wants /etc/target to keep
// things in, which it never does here, and complains on the console where there is none.
func initramfs(agent []byte, modules moduleLists) ([]byte, error) {
	entries := []cpio.Entry{
		cpio.Dir("dev", 0o755), cpio.CharDevice("dev/console", 0o600, 5, 1),
		cpio.Dir("etc", 0o755), cpio.Dir("etc/target", 0o755),
		cpio.Dir("lib", 0o755), cpio.Dir("lib/modules", 0o755),
		cpio.Dir("proc", 0o755), cpio.Dir("sys", 0o755),
		cpio.File("init", 0o755, agent),
	}
	for _, list := range []struct {
		file    string
		modules []Module
	}{{"etc/modules", modules.first}, {"etc/modules.kexec", modules.later}} {
		var order strings.Builder
		for _, m := range list.modules {
			name := "lib/modules/" + m.Name + ".ko"
			entries = append(entries, cpio.File(name, 0o644, m.Data))
			order.WriteString("/" + name + "\n")
		}
		entries = append(entries, cpio.File(list.file, 0o644, []byte(order.String())))
	}

	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			return nil, fmt.Errorf("pack ramdisk: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack ramdisk: %w", err)
	}
	// One thread and one frame: the same bytes on every machine.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstd.MaxWindowSize>>6))
	if err != nil {
		return nil, fmt.Errorf("compress ramdisk: %w", err)
	}
	defer enc.Close()
	return enc.EncodeAll(archive.Bytes(), nil), nil
}

// writeFile replaces path in one step: a conductor may be reading it.
func writeFile(path string, data []byte) (File, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".ingot-*")
	if err != nil {
		return File{}, fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return File{}, fmt.Errorf("write %s: %w", path, err)
	}
	sum := sha256.Sum256(data)
	return File{Path: path, Bytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}, nil
}
