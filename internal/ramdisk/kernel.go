package ramdisk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A kernelTree is an unpacked kernel package.
type kernelTree struct {
	version string
	kernel  string // path of vmlinuz
	modules string // directory lib/modules/<version>
}

// fetchKernel makes the current kernel of a meta package available below cache. Unpacked trees
// are named after package and version and made in one step, so an existing one is complete.
func fetchKernel(ctx context.Context, meta, cache string, progress func(string)) (
	kernelTree, error,
) {
	name, err := kernelPackage(ctx, meta)
	if err != nil {
		return kernelTree{}, err
	}
	version, err := packageVersion(ctx, name)
	if err != nil {
		return kernelTree{}, err
	}
	dir := filepath.Join(cache, name+"_"+strings.ReplaceAll(version, ":", "%3a"))
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		progress(fmt.Sprintf("downloading %s %s", name, version))
		if err := unpack(ctx, name+"="+version, dir); err != nil {
			return kernelTree{}, err
		}
	}
	release := strings.TrimPrefix(name, "linux-image-")
	return kernelTree{
		version: release,
		kernel:  filepath.Join(dir, "boot", "vmlinuz-"+release),
		modules: filepath.Join(dir, "lib", "modules", release),
	}, nil
}

// A kernel package is named after its release, as in linux-image-6.1.0-56-cloud-amd64.
var dependsOnKernel = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-\d[0-9A-Za-z.+-]*)$`)

func kernelPackage(ctx context.Context, meta string) (string, error) {
	out, err := run(ctx, "", "apt-cache", "depends", meta)
	if ctx.Err() != nil {
		return "", err
	}
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("kernels come from Debian packages, and this is no Debian: %w", err)
	}
	m := dependsOnKernel.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("apt knows no package %s: run apt-get update", meta)
	}
	return string(m[1]), nil
}

var candidate = regexp.MustCompile(`(?m)^\s*Candidate: (\d\S*)$`)

func packageVersion(ctx context.Context, name string) (string, error) {
	out, err := run(ctx, "", "apt-cache", "policy", name)
	if err != nil {
		return "", err
	}
	m := candidate.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("apt cannot get %s: run apt-get update", name)
	}
	return string(m[1]), nil
}

// unpack downloads a package and extracts it to dir.
func unpack(ctx context.Context, pkg, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make cache directory: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-*")
	if err != nil {
		return fmt.Errorf("make cache directory: %w", err)
	}
	defer os.RemoveAll(work)
	// As root apt would download as user _apt, who may not write here.
	if _, err := run(ctx, work, "apt-get", "-q", "-o", "APT::Sandbox::User=root",
		"download", pkg); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w. Run apt-get update, or check the network", err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages, not one", pkg, len(debs))
	}
	tree := filepath.Join(work, "tree")
	if _, err := run(ctx, "", "dpkg-deb", "-x", debs[0], tree); err != nil {
		return err
	}
	if err := os.Rename(tree, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("keep unpacked kernel: %w", err)
	}
	return nil
}

// run returns what a program prints. Its errors carry the program's own words.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil { // it was killed for that
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err,
			strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
