package ext4_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/ext4"
	"ingot/internal/testkit"
)

// sparse is a device in a sparse file.
type sparse struct {
	*os.File
	written int64
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	if off%4096 != 0 || len(p)%4096 != 0 {
		return 0, fmt.Errorf("%d bytes at %d are not whole blocks", len(p), off)
	}
	s.written += int64(len(p))
	return s.File.WriteAt(p, off)
}

func (s *sparse) WriteZeroes(_ context.Context, off, n int64) error {
	zeros := make([]byte, 1<<20)
	for ; n > 0; n, off = n-int64(len(zeros)), off+int64(len(zeros)) {
		zeros = zeros[:min(int64(len(zeros)), n)]
		if _, err := s.File.WriteAt(zeros, off); err != nil {
			return err
		}
	}
	return nil
}

func newSparse(t *testing.T, size int64) *sparse {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return &sparse{File: f}
}

var options = ext4.Options{Label: "ephemeral0", Time: time.Unix(1_700_000_000, 0),
	UUID: [16]byte{0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}

func TestE2fsckFindsNothingToRepair(t *testing.T) {
	t.Parallel()
	const group = 32768 * 4096
	for _, size := range []int64{
		ext4.MinSize, group - 4096, group, group + 4096, group + 600*4096, 2*group + 700*4096,
		1 << 30, 1<<30 + 12345, 10 << 30, 100 << 30,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			d := newSparse(t, size)
			// What was there before must not show through.
			if _, err := d.File.WriteAt(bytes.Repeat([]byte{0xA5}, 80<<20)[:min(size, 80<<20)],
				0); err != nil {
				t.Fatal(err)
			}
			if err := ext4.Format(t.Context(), d, size, options); err != nil {
				t.Fatal(err)
			}
			if d.written > 8<<20 {
				t.Errorf("%d bytes written for an empty file system", d.written)
			}
			if out := testkit.Run(t, "e2fsck", "-f", "-n", d.Name()); !strings.Contains(out,
				"11/") || strings.Contains(out, "Fix") {
				t.Errorf("e2fsck: %s", out)
			}
			out := testkit.Run(t, "blkid", "-p", "-o", "export", d.Name())
			for _, want := range []string{"TYPE=ext4", "LABEL=ephemeral0",
				"UUID=0f010203-0405-0607-0809-0a0b0c0d0e0f"} {
				if !strings.Contains(out, want) {
					t.Errorf("blkid lacks %s:\n%s", want, out)
				}
			}
			os.Remove(d.Name())
		})
	}
}

// debugfs fills the file system as a kernel would, by the bitmaps; e2fsck then sees whether they
// were right. The backup superblocks are good for a repair.
func TestFilesCanBeWrittenAndBackupsRead(t *testing.T) {
	t.Parallel()
	const size = 3<<30 + 4096*1000
	d := newSparse(t, size)
	if err := ext4.Format(t.Context(), d, size, options); err != nil {
		t.Fatal(err)
	}
	content := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(content, bytes.Repeat([]byte("text"), 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 12 { // over the end of the first group
		testkit.Run(t, "debugfs", "-w", "-R", fmt.Sprintf("write %s file%d", content, i), d.Name())
	}
	if out := testkit.Run(t, "e2fsck", "-f", "-n", d.Name()); !strings.Contains(out, "23/") {
		t.Errorf("e2fsck: %s", out)
	}
	// With the primary superblock gone, that of group 3 at block 98304 has it all.
	if _, err := d.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("e2fsck", "-f", "-y", "-b", "98304", "-B", "4096",
		d.Name()).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) ||
		exit.ExitCode() > 1) {
		t.Errorf("repair from a backup: %v\n%s", err, out)
	}
	testkit.Run(t, "e2fsck", "-f", "-n", d.Name())
}

func TestTheKernelMountsIt(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	const size = 1 << 30
	d := newSparse(t, size)
	if err := ext4.Format(t.Context(), d, size, options); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	testkit.Run(t, "mount", "-o", "loop", d.Name(), dir)
	for i := range 40 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 5<<20),
			0o600); err != nil {
			t.Error(err)
		}
	}
	testkit.Run(t, "umount", dir)
	if out := testkit.Run(t, "e2fsck", "-f", "-n", d.Name()); !strings.Contains(out, "51/") {
		t.Errorf("e2fsck: %s", out)
	}
}

func TestTheSameOptionsGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	var first []byte
	for range 2 {
		d := newSparse(t, 64<<20)
		for range 2 {
			if err := ext4.Format(t.Context(), d, 64<<20, options); err != nil {
				t.Fatal(err)
			}
		}
		all, err := os.ReadFile(d.Name())
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, all) {
			t.Error("the second file system differs")
		}
		first = all
	}
}

func TestWhatIsNoFileSystemIsRefused(t *testing.T) {
	t.Parallel()
	d := newSparse(t, 64<<20)
	for _, size := range []int64{0, ext4.MinSize - 1, ext4.MaxSize + 1} {
		if err := ext4.Format(t.Context(), d, size, options); err == nil {
			t.Errorf("a file system of %d bytes was made", size)
		}
	}
	long := options
	long.Label = "seventeen letters"
	if err := ext4.Format(t.Context(), d, 64<<20, long); err == nil {
		t.Error("a long label was taken")
	}
	if d.written != 0 {
		t.Error("something was written")
	}
}
