package fat_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/fat"
	"ingot/internal/testkit"
)

func TestAFileIsReadFromWhatOthersMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	long := string(noise(50_000))
	file := filepath.Join(dir, "parameters.txt")
	if err := os.WriteFile(file, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"a floppy": {"-n", "ir-vfd-dev"},
		"FAT12":    {"-F", "12", "-n", "ir-vfd-dev", "-s", "1"},
		"FAT16":    {"-F", "16", "-n", "ir-vfd-dev", "-s", "2"},
	} {
		image := filepath.Join(dir, strings.ReplaceAll(name, " ", ""))
		testkit.Run(t, "truncate", "-s", map[bool]string{true: "1440K", false: "8M"}[name != "FAT16"], image)
		testkit.Run(t, "mkfs.vfat", append(args, image)...)
		testkit.Run(t, "mcopy", "-i", image, file, "::deleted")
		testkit.Run(t, "mcopy", "-i", image, file, "::SHORT.TXT")
		testkit.Run(t, "mdel", "-i", image, "::deleted")
		testkit.Run(t, "mcopy", "-i", image, file, "::parameters.txt")
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, want := range []string{"parameters.txt", "SHORT.TXT"} {
			label, data, err := fat.ReadFile(f, want)
			if err != nil || label != "ir-vfd-dev" || string(data) != long {
				t.Errorf("%s: %s: label %q, %d bytes, %v", name, want, label, len(data), err)
			}
		}
		if label, _, err := fat.ReadFile(f, "deleted"); !errors.Is(err, fs.ErrNotExist) || label != "ir-vfd-dev" {
			t.Errorf("%s: what is not there: %v of %q", name, err, label)
		}
	}
}

func TestWhatIsNoFileSystemIsNotRead(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{"nothing": nil, "short": make([]byte, 100), "zeros": make([]byte, 1<<20),
		"noise": noise(1 << 20)} {
		if _, _, err := fat.ReadFile(bytes.NewReader(data), "x"); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// FuzzReadFile: whatever is in a drive, reading it ends, with no more than the file may have.
func FuzzReadFile(f *testing.F) {
	image, err := fat.Build(fat.Options{Label: "ir-vfd-dev", Size: 20 << 10}, []fat.File{{Path: "parameters.txt",
		Data: []byte("a=b\n")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image)
	f.Fuzz(func(t *testing.T, image []byte) {
		_, data, err := fat.ReadFile(bytes.NewReader(image), "parameters.txt")
		if len(data) > 1<<20 || err != nil && data != nil {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	})
}
