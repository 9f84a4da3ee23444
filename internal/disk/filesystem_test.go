package disk_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/disk"
	"ingot/internal/testkit"
)

func TestFileSystemsAreIdentifiedAsBlkidDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size int64
		mkfs []string
	}{
		{8 * mib, []string{"mke2fs", "-q", "-F", "-t", "ext2"}},
		{8 * mib, []string{"mke2fs", "-q", "-F", "-t", "ext3"}},
		{8 * mib, []string{"mke2fs", "-q", "-F", "-t", "ext4"}},
		{40 * mib, []string{"mkfs.vfat", "-F", "32"}}, {16 * mib, []string{"mkfs.vfat", "-F", "16"}},
		{320 * mib, []string{"mkfs.xfs", "-q"}}, {128 * mib, []string{"mkfs.btrfs", "-q"}},
	} {
		path := filepath.Join(t.TempDir(), "fs")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(c.size); err != nil {
			t.Fatal(err)
		}
		testkit.Run(t, c.mkfs[0], append(c.mkfs[1:], path)...)
		want := strings.TrimSpace(testkit.Run(t, "blkid", "-p", "-o", "value", "-s", "UUID", path))
		head := make([]byte, mib)
		if _, err := f.ReadAt(head, 0); err != nil {
			t.Fatal(err)
		}
		got, ok := disk.Identify(head)
		if !ok || got.UUID != want {
			t.Errorf("%v: %+v, want UUID %s", c.mkfs, got, want)
		}
	}
	if got, ok := disk.Identify(make([]byte, mib)); ok {
		t.Errorf("nothing is %+v", got)
	}
}

func TestSwapIsWhatOthersCallSwap(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "swap")
	head := disk.SwapHeader(64*mib, [16]byte{0xab, 1: 1, 15: 0xcd}, "swap1")
	if err := os.WriteFile(path, head, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64*mib); err != nil {
		t.Fatal(err)
	}
	out := testkit.Run(t, "swaplabel", path)
	for _, want := range []string{"LABEL: swap1", "UUID:  ab010000-0000-0000-0000-0000000000cd"} {
		if !strings.Contains(out, want) {
			t.Errorf("swaplabel lacks %q: %s", want, out)
		}
	}
	out = testkit.Run(t, "file", "-s", path)
	if !strings.Contains(out, "Linux swap file, 4k page size, little endian, version 1, "+
		"size 16383 pages") {
		t.Errorf("file: %s", out)
	}
}

// Whatever an image begins with, looking for a file system in it does no harm.
func FuzzIdentify(f *testing.F) {
	f.Add([]byte("XFSB"))
	f.Add(append(make([]byte, 1024+0x38), 0x53, 0xEF))
	f.Fuzz(func(t *testing.T, head []byte) {
		if got, ok := disk.Identify(head); ok != (got.UUID != "") {
			t.Errorf("%+v, %v", got, ok)
		}
	})
}
