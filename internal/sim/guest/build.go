package guest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"ingot/internal/cpio"
)

const (
	mebi = 1 << 20
	// marker begins the line of the booted system.
	marker = "INGOT-DEPLOYED-OS"
	// partition is where the only partition begins, in bytes.
	partition = mebi
	// bootRecord is SYSLINUX's code for the first 440 bytes of a GPT disk: it starts the
	// partition that has the legacy-boot attribute. From Debian's syslinux-common.
	bootRecord = "/usr/lib/syslinux/mbr/gptmbr.bin"
	// shell is the only program of the booted system, from Debian's busybox-static.
	shell = "/bin/busybox"
)

// initScript is process 1 of the booted system.
const initScript = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
fw=bios
[ -d /sys/firmware/efi ] && fw=efi
id= end=
for a in $(cat /proc/cmdline); do
	case $a in
	ingot_image=*) id=${a#*=} ;;
	ingot_end=*) end=${a#*=} ;;
	esac
done
echo "` + marker + ` fw=$fw image=$id"
[ "$end" = stay ] || poweroff -f
while :; do sleep 3600; done
`

type builder struct {
	Options
	dir  string // work directory
	disk string // raw image in it
}

func (b builder) build(ctx context.Context) error {
	if err := b.partition(ctx); err != nil {
		return err
	}
	files, err := b.files(ctx)
	if err != nil {
		return err
	}
	at := b.disk + "@@" + strconv.Itoa(partition)
	sectors := strconv.FormatInt((b.Size-2*mebi)/512, 10)
	if err := b.run(ctx, "mformat", "-i", at, "-F", "-T", sectors, "-H", "2048",
		"-N", "1960", "-v", "INGOT", "::"); err != nil {
		return err
	}
	if err := b.run(ctx, "mmd", "-i", at, "::/EFI", "::/EFI/BOOT"); err != nil {
		return err
	}
	for _, f := range files {
		if err := b.run(ctx, "mcopy", "-i", at, f[0], "::"+f[1]); err != nil {
			return err
		}
	}
	return b.run(ctx, "syslinux", "--install", "--offset", strconv.Itoa(partition), b.disk)
}

// partition makes the disk: one EFI system partition, which attribute 2 makes the one that a
// BIOS starts too (UEFI specification 2.10, table 5.8), and the boot record.
func (b builder) partition(ctx context.Context) error {
	f, err := os.Create(b.disk)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(b.Size); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	end := strconv.FormatInt((b.Size-mebi)/512-1, 10)
	if err := b.run(ctx, "sgdisk", "-o", "-n", "1:2048:"+end, "-t", "1:ef00", "-A", "1:set:2",
		"-U", "496e676f-7400-4000-8000-000000000001",
		"-u", "1:496e676f-7400-4000-8000-000000000002", b.disk); err != nil {
		return err
	}
	code, err := os.ReadFile(bootRecord)
	if err != nil {
		return fmt.Errorf("%w: run scripts/packages.sh", err)
	}
	if len(code) > 440 {
		return fmt.Errorf("%s has %d bytes and would overwrite the partition table", bootRecord,
			len(code))
	}
	if _, err := f.WriteAt(code, 0); err != nil {
		return fmt.Errorf("write boot record: %w", err)
	}
	return nil
}

// files prepares what goes into the partition: pairs of path here and path there.
func (b builder) files(ctx context.Context) ([][2]string, error) {
	initrd, err := userSpace()
	if err != nil {
		return nil, err
	}
	end := "poweroff"
	if b.StayUp {
		end = "stay"
	}
	cmdline := "console=ttyS0 quiet panic=-1 ingot_image=" + b.ID + " ingot_end=" + end
	list := [][2]string{{b.Kernel, "/vmlinuz"}}
	for _, f := range []struct{ name, to, text string }{
		{"initrd", "/initrd", string(initrd)},
		{"syslinux.cfg", "/syslinux.cfg", "DEFAULT ingot\nPROMPT 0\nLABEL ingot\n" +
			" KERNEL /vmlinuz\n INITRD /initrd\n APPEND " + cmdline + "\n"},
		{"grub.cfg", "/EFI/BOOT/grub.cfg", "linux /vmlinuz " + cmdline +
			"\ninitrd /initrd\nboot\n"},
	} {
		path := filepath.Join(b.dir, f.name)
		if err := os.WriteFile(path, []byte(f.text), 0o644); err != nil {
			return nil, fmt.Errorf("write %s: %w", f.name, err)
		}
		list = append(list, [2]string{path, f.to})
	}
	efi := filepath.Join(b.dir, "boot.efi")
	if err := b.run(ctx, "grub-mkimage", "-O", "x86_64-efi", "-p", "/EFI/BOOT", "-o", efi,
		"part_gpt", "fat", "normal", "linux", "boot"); err != nil {
		return nil, err
	}
	data := filepath.Join(b.dir, "data")
	if err := writeRandom(data, b.ID, b.Data); err != nil {
		return nil, err
	}
	return append(list, [2]string{efi, "/EFI/BOOT/BOOTX64.EFI"},
		[2]string{data, "/data.bin"}), nil
}

// userSpace packs busybox and the init script.
func userSpace() ([]byte, error) {
	program, err := os.ReadFile(shell)
	if err != nil {
		return nil, fmt.Errorf("%w: run scripts/packages.sh", err)
	}
	return pack(program, initScript, []string{"sh", "mount", "cat", "sleep", "poweroff"})
}

// pack makes a RAM file system of busybox with some applets, a script as process 1, and files.
func pack(busybox []byte, script string, applets []string, more ...cpio.Entry) ([]byte, error) {
	entries := []cpio.Entry{
		cpio.Dir("dev", 0o755), cpio.CharDevice("dev/console", 0o600, 5, 1),
		cpio.Dir("proc", 0o755), cpio.Dir("sys", 0o755),
		cpio.Dir("bin", 0o755), cpio.File("bin/busybox", 0o755, busybox),
		cpio.File("init", 0o755, []byte(script)),
	}
	for _, applet := range applets {
		entries = append(entries, cpio.Symlink("bin/"+applet, "busybox"))
	}
	entries = append(entries, more...)
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			return nil, fmt.Errorf("pack user space: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack user space: %w", err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("compress user space: %w", err)
	}
	defer enc.Close()
	return enc.EncodeAll(archive.Bytes(), nil), nil
}
