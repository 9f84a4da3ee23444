package agent_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/agent"
)

// orphaned is an image of ext4 that has a file which was deleted while it was open when the system ended, so that who
// mounts it deletes the rest of it.
func orphaned(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	image, script := filepath.Join(dir, "fs"), filepath.Join(dir, "script")
	commands := "write " + script + " a\nset_inode_field <12> links_count 0\nset_super_value last_orphan 12\n"
	if err := os.WriteFile(script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^orphan_file", image)
	run(t, "debugfs", "-w", "-f", script, image)
	return image
}

func TestAFileSystemThatWantsMendingIsReadAsItIs(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("block devices need root")
	}
	image := orphaned(t)
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { run(t, "losetup", "-d", device) })
	dir := filepath.Join(t.TempDir(), "mounted")
	kind, options := agent.ReadableAs("ext")
	undo, err := agent.MountReadOnly(device, dir, kind, options)
	if err != nil {
		t.Fatal(err)
	}
	readOnly, err := exec.Command("blockdev", "--getro", device).Output()
	if _, stat := os.Stat(filepath.Join(dir, "lost+found")); err != nil || stat != nil || string(readOnly) != "1\n" {
		t.Errorf("read-only %q, %v, %v", readOnly, err, stat)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if readOnly, err := exec.Command("blockdev", "--getro", device).Output(); string(readOnly) != "0\n" {
		t.Errorf("read-only after it is unmounted: %q, %v", readOnly, err)
	}
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was changed: %v", err)
	}
}

func TestNothingIsMountedThatCanBeWritten(t *testing.T) {
	t.Parallel()
	image, dir := orphaned(t), filepath.Join(t.TempDir(), "mounted")
	_, err := agent.MountReadOnly(image, dir, "ext4", "noload") // a file takes no ioctl of block devices
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it was about to be mounted")
	}
}
