package deploy_test

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ingot/internal/deploy"
	"ingot/internal/disk"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

const greeting = "STARTED-BY-THE-ROOT-PARTITION"

// loaderImage is a partition image that carries SYSLINUX, which says the greeting.
func loaderImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	image, config := filepath.Join(dir, "root.img"), filepath.Join(dir, "syslinux.cfg")
	for path, content := range map[string][]byte{image: make([]byte, 16*mib),
		config: []byte("SERIAL 0\nSAY " + greeting + "\nPROMPT 1\n")} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Run(t, "mformat", "-i", image, "-T", "32768", "-h", "16", "-s", "32", "::")
	testkit.Run(t, "mcopy", "-i", image, config, "::/syslinux.cfg")
	testkit.Run(t, "syslinux", "--install", image)
	return image
}

// cursor is what the firmware moves the cursor with, now and then in the middle of a word.
var cursor = regexp.MustCompile(`\x1b\[[0-9;?=]*[A-Za-z]`)

// console starts a machine with a BIOS from the disk and waits until its console shows all of
// the texts.
func console(t *testing.T, content []byte, texts ...string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal("qemu-system-x86_64 is missing; install it: scripts/packages.sh")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// Without graphics the firmware shows its text screen on the serial port.
	cmd := exec.CommandContext(ctx, program, "-accel", "tcg", "-machine", "pc,graphics=off", "-m",
		"64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-drive", "file="+path+",if=virtio,format=raw")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	r := bufio.NewReader(out)
	for !containsAll(cursor.ReplaceAllString(seen.String(), ""), texts) {
		b, err := r.ReadByte()
		if err != nil {
			t.Errorf("the console must show %q: %v\n%q", texts, err, seen.String())
			break
		}
		seen.WriteByte(b)
	}
	cancel()
	cmd.Wait()
	t.Logf("%q after %.1f s", texts, time.Since(start).Seconds())
}

func containsAll(s string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(s, text) {
			return false
		}
	}
	return true
}

// Real firmware starts the loader of a partition image from where the plan put it.
func TestABIOSStartsTheLoaderInTheRootPartition(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	r := request
	r.Label, r.LocalBoot = disk.MBR, true
	p := plan(t, r, diskSize, 512)
	d := newMemDisk(diskSize, 512)
	result, err := deploy.WritePartitions(t.Context(), d, p, deploy.Contents{
		Image: open(t, loaderImage(t)), Now: time.Now()}, deploy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !result.BootSector {
		t.Error("the image's boot sector was not seen")
	}
	root, _ := p.Part(deploy.Root)
	if !root.Active || root.Number != 4 {
		t.Errorf("root partition %+v", root)
	}
	console(t, d.content, greeting)

	// What an operator sees if something happened to the disk since.
	active := 446 + 16*(root.Number-1)
	broken := func(change func(content []byte)) []byte {
		content := bytes.Clone(d.content)
		change(content)
		return content
	}
	const next = "No bootable device" // the firmware, at the end of its boot order
	console(t, broken(func(b []byte) { b[active] = 0 }), "No active partition", next)
	console(t, broken(func(b []byte) { b[active+11] = 0x7F }),
		"Cannot read the active partition", next)
	console(t, broken(func(b []byte) { b[root.Start+511] = 0 }),
		"The active partition has no boot loader", next)
}

func TestLocalBootNeedsATableThatABIOSKnows(t *testing.T) {
	t.Parallel()
	r := request
	r.Label, r.LocalBoot = disk.GPT, true
	if _, err := deploy.NewPlan(r, diskSize, 512); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "disk_label:msdos") {
		t.Error(err)
	}
}
