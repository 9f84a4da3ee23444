// Package guest builds the operating system that test machines are given: a whole-disk image
// which boots under BIOS and UEFI and says so on the serial console.
//
// The image is GPT with one FAT partition, made without root or loop devices by sgdisk and
// mtools. SYSLINUX starts it under BIOS, GRUB under UEFI; both load a kernel the caller brings
// and a RAM file system with busybox and an init script. A file of random bytes gives it a
// weight that compression and sparse copying cannot hide. Nothing here is for production
// machines. Read first: Build.
package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// recipe changes with the way an image is made, so that images of an older one are not reused.
const recipe = "1"

// Default sizes in bytes.
const (
	DefaultSize = 200 << 20
	DefaultData = 20 << 20
)

// Options describe an image. Dir and Kernel are needed.
type Options struct {
	// Dir receives the images; an image of the same options found there is used again.
	Dir string
	// Kernel is the path of a Linux kernel that has serial console, initramfs and EFI stub
	// built in; Debian's have.
	Kernel string
	// ID appears in the marker; letters, digits, dots and hyphens. Default "test".
	ID string
	// Size of the disk and Data of the random file, in bytes; default 200 and 20 MiB.
	Size, Data int64
	// StayUp leaves the booted machine running; otherwise it powers off after the marker.
	StayUp bool
}

// An Image is the same disk in two formats.
type Image struct {
	RawPath     string `json:"raw_path"`
	QCOW2Path   string `json:"qcow2_path"`
	RawSHA256   string `json:"raw_sha256"`
	QCOW2SHA256 string `json:"qcow2_sha256"`
	// Marker begins the line the booted system prints. MarkerFor completes it.
	Marker string `json:"marker"`
	ID     string `json:"id"`
}

func (i Image) files() []string { return []string{i.RawPath, i.QCOW2Path} }

// MarkerFor is the whole line of the booted system; firmware is "bios" or "efi".
func (i Image) MarkerFor(firmware string) string {
	return i.Marker + " fw=" + firmware + " image=" + i.ID
}

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$`)

// Build makes the image, or returns the one of the same options and kernel that is there.
func Build(ctx context.Context, opt Options) (Image, error) {
	if opt.ID == "" {
		opt.ID = "test"
	}
	if opt.Size == 0 {
		opt.Size = DefaultSize
	}
	if opt.Data == 0 {
		opt.Data = DefaultData
	}
	if !validID.MatchString(opt.ID) {
		return Image{}, fmt.Errorf("image id %q must be letters, digits, dots and hyphens", opt.ID)
	}
	kernel, err := digest(opt.Kernel)
	if err != nil {
		return Image{}, fmt.Errorf("kernel of the test image: %w", err)
	}
	if opt.Size%mebi != 0 || opt.Data < 0 || opt.Size < opt.Data+64*mebi {
		return Image{}, fmt.Errorf("image of %d bytes: it must be whole MiB and 64 MiB larger "+
			"than its data (%d)", opt.Size, opt.Data)
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d %d %t", recipe, kernel, opt.ID,
		opt.Size, opt.Data, opt.StayUp))
	name := "guest-" + hex.EncodeToString(key[:8])
	manifest := filepath.Join(opt.Dir, name+".json")
	if image, ok := cached[Image](manifest); ok {
		return image, nil
	}
	if err := os.MkdirAll(opt.Dir, 0o755); err != nil {
		return Image{}, fmt.Errorf("make image directory: %w", err)
	}
	work, err := os.MkdirTemp(opt.Dir, ".guest-*")
	if err != nil {
		return Image{}, fmt.Errorf("make image directory: %w", err)
	}
	defer os.RemoveAll(work)
	b := builder{Options: opt, dir: work, disk: filepath.Join(work, "disk.raw")}
	if err := b.build(ctx); err != nil {
		return Image{}, fmt.Errorf("build test image: %w", err)
	}
	return b.keep(ctx, filepath.Join(opt.Dir, name), manifest)
}

// cached reads a manifest. It is written last, so images it names are whole; whether they are
// still there is looked at.
func cached[T interface{ files() []string }](manifest string) (image T, ok bool) {
	data, err := os.ReadFile(manifest)
	if err != nil || json.Unmarshal(data, &image) != nil {
		return image, false
	}
	for _, path := range image.files() {
		if _, err := os.Stat(path); err != nil {
			return image, false
		}
	}
	return image, true
}

// keepManifest writes a manifest by way of the directory work.
func keepManifest(work, path string, image any) error {
	text, err := json.MarshalIndent(image, "", "  ")
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	list := filepath.Join(work, "manifest")
	err = errors.Join(os.WriteFile(list, text, 0o644), os.Rename(list, path))
	if err != nil {
		return fmt.Errorf("keep manifest of test image: %w", err)
	}
	return nil
}

// keep converts the finished disk, hashes both files and moves them to their place.
func (b builder) keep(ctx context.Context, base, manifest string) (Image, error) {
	base, err := filepath.Abs(base)
	if err != nil {
		return Image{}, fmt.Errorf("name image: %w", err)
	}
	image := Image{RawPath: base + ".raw", QCOW2Path: base + ".qcow2",
		Marker: marker, ID: b.ID}
	qcow2 := filepath.Join(b.dir, "disk.qcow2")
	err = b.run(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", b.disk, qcow2)
	if err != nil {
		return Image{}, err
	}
	if image.RawSHA256, err = digest(b.disk); err != nil {
		return Image{}, err
	}
	if image.QCOW2SHA256, err = digest(qcow2); err != nil {
		return Image{}, err
	}
	err = errors.Join(os.Rename(b.disk, image.RawPath), os.Rename(qcow2, image.QCOW2Path))
	if err != nil {
		return Image{}, fmt.Errorf("keep test image: %w", err)
	}
	return image, keepManifest(b.dir, manifest, image)
}

// digest is the SHA-256 of a file, in hexadecimal.
func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("hash image: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// writeRandom fills a file with bytes that do not compress and that depend on id alone.
func writeRandom(path, id string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write random data: %w", err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8(sha256.Sum256([]byte(id))), size)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write random data: %w", err)
	}
	return nil
}

// run runs a tool of Debian; an error carries what the tool said, or how to get it.
func (b builder) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	// sgdisk is in /usr/sbin, which the PATH of a user may lack. mtools would refuse to write
	// where a geometry does not fit, which no firmware cares about.
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1", "LC_ALL=C",
		"PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil: // it was killed for that
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%s is not installed: run scripts/packages.sh", name)
	case err != nil:
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
