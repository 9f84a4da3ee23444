package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ingot/internal/cpio"
)

// A Module is a kernel module for the initramfs of a [Root].
type Module struct {
	Name string
	Data []byte
}

// A Root is an operating system as a partition image: the content of its root partition (ext4),
// and the initramfs with which its kernel finds it.
type Root struct {
	Path        string // of the partition image
	SHA256      string
	RamdiskPath string
	Marker      string // begins the line the booted system prints
}

func (r Root) files() []string { return []string{r.Path, r.RamdiskPath} }

// rootSize is the size of the file system in bytes.
const rootSize = 48 * mebi

// rootApplets are what the scripts of a Root call.
var rootApplets = []string{
	"sh", "mount", "cat", "sleep", "insmod", "findfs", "switch_root", "echo", "usleep", "mkdir",
}

// findRoot is process 1 of the initramfs: it finds the root partition as root= says.
const findRoot = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in $(cat /etc/modules); do insmod $m; done
for a in $(cat /proc/cmdline); do
	case $a in root=*) root=${a#root=} ;; esac
done
n=0
until device=$(findfs "$root" 2>/dev/null); do
	n=$((n + 1))
	[ $n = 300 ] && echo "no partition is $root" && exit 1
	usleep 100000
done
mkdir /sysroot
mount -t ext4 -o ro $device /sysroot || exit 1
echo "root=$root is $device" >/dev/kmsg
mount --move /dev /sysroot/dev
mount --move /proc /sysroot/proc
mount --move /sys /sysroot/sys
exec switch_root /sysroot /sbin/init
`

// rootInit is process 1 of the system on the root partition.
const rootInit = `#!/bin/sh
for a in $(cat /proc/cmdline); do
	case $a in root=*) root=${a#root=} ;; esac
done
while read device where type rest; do
	[ "$where" = / ] && [ "$type" = ext4 ] && on=$device
done </proc/mounts
echo "` + marker + ` root=$root on=$on"
while :; do sleep 3600; done
`

// BuildRoot makes a partition image and its initramfs in dir, or returns those of the same modules
// and scripts that are there. modules are loaded in their order; they have to bring the disk and
// ext4.
func BuildRoot(ctx context.Context, dir string, modules []Module) (Root, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Root{}, fmt.Errorf("place of the test image: %w", err)
	}
	program, err := os.ReadFile(shell)
	if err != nil {
		return Root{}, fmt.Errorf("%w: run scripts/packages.sh", err)
	}
	key := sha256.New()
	fmt.Fprintf(key, "%d %q %q %q %x", rootSize, rootApplets, findRoot, rootInit,
		sha256.Sum256(program))
	for _, m := range modules {
		fmt.Fprintf(key, " %q %x", m.Name, sha256.Sum256(m.Data))
	}
	base := filepath.Join(dir, "root-"+hex.EncodeToString(key.Sum(nil)[:8]))
	if root, ok := cached[Root](base + ".json"); ok {
		return root, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Root{}, fmt.Errorf("make image directory: %w", err)
	}
	work, err := os.MkdirTemp(dir, ".root-*")
	if err != nil {
		return Root{}, fmt.Errorf("make image directory: %w", err)
	}
	defer os.RemoveAll(work)
	r := Root{Path: base + ".ext4", RamdiskPath: base + ".initramfs", Marker: marker + " root=UUID="}
	partition := filepath.Join(work, "root.ext4")
	if err := rootFileSystem(ctx, work, partition, program); err != nil {
		return Root{}, err
	}
	if r.SHA256, err = digest(partition); err != nil {
		return Root{}, err
	}
	ramdisk, err := rootRamdisk(program, modules)
	if err != nil {
		return Root{}, err
	}
	initramfs := filepath.Join(work, "root.initramfs")
	err = errors.Join(os.WriteFile(initramfs, ramdisk, 0o644), os.Rename(partition, r.Path),
		os.Rename(initramfs, r.RamdiskPath))
	if err != nil {
		return Root{}, fmt.Errorf("keep test image: %w", err)
	}
	return r, keepManifest(work, base+".json", r)
}

// rootRamdisk makes the initramfs of a Root.
func rootRamdisk(program []byte, modules []Module) ([]byte, error) {
	var order strings.Builder
	more := []cpio.Entry{cpio.Dir("etc", 0o755), cpio.Dir("lib", 0o755)}
	for _, m := range modules {
		name := "lib/" + m.Name + ".ko"
		more = append(more, cpio.File(name, 0o644, m.Data))
		order.WriteString("/" + name + "\n")
	}
	more = append(more, cpio.File("etc/modules", 0o644, []byte(order.String())))
	return pack(program, findRoot, rootApplets, more...)
}

// rootFileSystem fills an ext4 file system without mounting it.
func rootFileSystem(ctx context.Context, dir, path string, busybox []byte) error {
	tree := filepath.Join(dir, "tree")
	errs := []error{os.Mkdir(tree, 0o755)}
	for _, d := range []string{"bin", "sbin", "dev", "proc", "sys"} {
		errs = append(errs, os.Mkdir(filepath.Join(tree, d), 0o755))
	}
	errs = append(errs, os.WriteFile(filepath.Join(tree, "bin/busybox"), busybox, 0o755),
		os.WriteFile(filepath.Join(tree, "sbin/init"), []byte(rootInit), 0o755))
	for _, applet := range rootApplets {
		errs = append(errs, os.Symlink("busybox", filepath.Join(tree, "bin", applet)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("fill root directory: %w", err)
	}
	b := builder{dir: dir}
	return b.run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-d", tree, path,
		strconv.Itoa(rootSize/1024)+"k")
}
