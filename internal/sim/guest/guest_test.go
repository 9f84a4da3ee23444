package guest_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/ramdisk"
	"ingot/internal/sim/guest"
	"ingot/internal/testkit"
)

// kernel is Debian's kernel for virtual machines, from the cache of package ramdisk, which wants
// some static program for an agent.
func kernel(t *testing.T) string {
	t.Helper()
	built, err := ramdisk.Build(t.Context(), ramdisk.Options{OutDir: t.TempDir(),
		AgentPath: "/bin/busybox"})
	if err != nil {
		t.Fatal(err)
	}
	return built.Kernel.Path
}

// boot runs a machine from the image until it powers itself off; its console must hold want.
func boot(t *testing.T, image, want string, args ...string) {
	t.Helper()
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal("qemu-system-x86_64 is not installed: run scripts/packages.sh")
	}
	console := filepath.Join(t.TempDir(), "console")
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	start := time.Now()
	cmd := exec.CommandContext(ctx, program, append([]string{"-accel", "tcg", "-cpu", "max",
		"-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:" + console, "-snapshot",
		"-drive", "file=" + image + ",if=virtio,format=" + filepath.Ext(image)[1:]}, args...)...)
	out, err := cmd.CombinedOutput() // ends by the guest's power off
	text, _ := os.ReadFile(console)
	if err != nil || !bytes.Contains(text, []byte(want)) {
		t.Fatalf("machine: %v: %s\nconsole, which must hold %q:\n%s", err, out, want, text)
	}
	t.Logf("%s after %.1f s", want, time.Since(start).Seconds())
}

func TestImageBootsUnderBothFirmwaresAndIsReused(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	opt := guest.Options{Dir: t.TempDir(), Kernel: kernel(t), ID: "image-7"}
	start := time.Now()
	image, err := guest.Build(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("built in %.1f s", time.Since(start).Seconds())
	t.Run("BIOS", func(t *testing.T) {
		t.Parallel()
		boot(t, image.RawPath, "INGOT-DEPLOYED-OS fw=bios image=image-7")
	})
	t.Run("UEFI", func(t *testing.T) {
		t.Parallel()
		boot(t, image.QCOW2Path, image.MarkerFor("efi"), "-drive",
			"if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd")
	})

	out, err := exec.Command("qemu-img", "compare", image.RawPath, image.QCOW2Path).
		CombinedOutput()
	if err != nil {
		t.Errorf("raw and qcow2 differ: %v: %s", err, out)
	}
	out, err = exec.Command("sha256sum", image.RawPath, image.QCOW2Path).Output()
	want := image.RawSHA256 + "  " + image.RawPath + "\n" + image.QCOW2SHA256 + "  " +
		image.QCOW2Path + "\n"
	if err != nil || string(out) != want {
		t.Errorf("digests are\n%swant\n%s", out, want)
	}
	before, err := os.Stat(image.RawPath)
	if err != nil {
		t.Fatal(err)
	}
	again, err := guest.Build(t.Context(), opt)
	if err != nil || again != image {
		t.Errorf("second build gave %v (%v), want the first image", again, err)
	}
	if after, err := os.Stat(image.RawPath); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Error("the second build wrote the image anew")
	}
	opt.StayUp = true
	other, err := guest.Build(t.Context(), opt)
	if err != nil || other.RawPath == image.RawPath {
		t.Errorf("other options gave %v (%v), want another image", other, err)
	}
}

func TestImpossibleImagesAreRefused(t *testing.T) {
	t.Parallel()
	for want, opt := range map[string]guest.Options{
		"kernel":      {Kernel: "/does/not/exist"},
		"letters":     {Kernel: "/etc/passwd", ID: "a b"},
		"whole MiB":   {Kernel: "/etc/passwd", Size: 200<<20 + 1},
		"than its da": {Kernel: "/etc/passwd", Size: 100 << 20, Data: 90 << 20},
	} {
		opt.Dir = t.TempDir()
		if _, err := guest.Build(t.Context(), opt); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q in it", err, want)
		}
	}
}

func TestARootImageIsThatOfItsModules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := func(data string) guest.Root {
		t.Helper()
		r, err := guest.BuildRoot(t.Context(), dir, []guest.Module{{Name: "ext4", Data: []byte(data)}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	written := func(r guest.Root) time.Time {
		t.Helper()
		info, err := os.Stat(r.Path)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	first := build("of kernel 1")
	testkit.Run(t, "e2fsck", "-fn", first.Path)
	before := written(first)
	if again := build("of kernel 1"); again != first || !written(again).Equal(before) {
		t.Errorf("second build gave %v, want %v as it was", again, first)
	}
	if other := build("of kernel 2"); other.Path == first.Path ||
		other.RamdiskPath == first.RamdiskPath {
		t.Errorf("modules of another kernel gave %v again", other)
	}
	if err := os.Remove(first.RamdiskPath); err != nil {
		t.Fatal(err)
	}
	if again := build("of kernel 1"); again.RamdiskPath != first.RamdiskPath {
		t.Errorf("%v, want the names of %v", again, first)
	}
	if _, err := os.Stat(first.RamdiskPath); err != nil {
		t.Error(err)
	}
}
