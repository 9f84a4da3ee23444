package device_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"ingot/internal/agent/device"
	"ingot/internal/deploy"
	"ingot/internal/directio"
)

var _ deploy.Disk = (*device.Disk)(nil)

// places are file systems of disk and memory.
func places(t *testing.T) []string {
	memory, err := os.MkdirTemp("/dev/shm", "ingot-device-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	return []string{t.TempDir(), memory}
}

func TestADiskKeepsWhatIsWrittenAndForgetsWhatIsZeroed(t *testing.T) {
	t.Parallel()
	for _, dir := range places(t) {
		path := filepath.Join(dir, "disk")
		old := bytes.Repeat([]byte{0xA5}, 4<<20+700)
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := device.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if d.Size() != 4<<20+512 || d.BlockSize() != 512 {
			t.Errorf("%d bytes in blocks of %d; a disk ends with a block", d.Size(), d.BlockSize())
		}
		fresh := directio.Buffer(1 << 20)
		for i := range fresh {
			fresh[i] = byte(i*7 + 1)
		}
		want := bytes.Clone(old)
		copy(want[1<<20:], fresh)
		copy(want[3<<20+512:], fresh[:512])
		clear(want[2<<20+512 : 3<<20])
		if _, err := d.WriteAt(fresh, 1<<20); err != nil {
			t.Error(err)
		}
		if _, err := d.WriteAt(fresh[:512], 3<<20+512); err != nil {
			t.Error(err)
		}
		if err := d.WriteZeroes(t.Context(), 2<<20+512, 1<<20-512); err != nil {
			t.Error(err)
		}
		if err := d.Sync(t.Context()); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("in %s: content differs (%v)", dir, err)
		}
	}
}

func TestADiskThatIsNotWantedAnyMoreIsNotWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := device.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d.WriteZeroes(ctx, 0, 4096) == nil || d.Sync(ctx) == nil {
		t.Error("a cancelled disk went on")
	}
	if got, _ := os.ReadFile(path); got[0] != 1 {
		t.Error("zeroed after the end")
	}
}
