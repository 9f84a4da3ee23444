package iso9660_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ingot/internal/iso9660"
	"ingot/internal/testkit"
)

var options = iso9660.Options{Label: "config-2", Time: time.Unix(1_700_000_000, 0)}

func files() []iso9660.File {
	list := []iso9660.File{
		{Path: "openstack/latest/meta_data.json", Data: []byte(`{"uuid": "1"}`)},
		{Path: "openstack/latest/user_data", Data: bytes.Repeat([]byte("user"), 2000)},
		{Path: "openstack/2012-08-10/meta_data.json", Data: []byte("{}")},
		{Path: "ec2/latest/Meta-Data.Json", Data: nil},
		{Path: "schnee ☃.txt", Data: []byte("snow")},
	}
	for i := range 60 { // more than a sector of records
		list = append(list, iso9660.File{Path: fmt.Sprintf("many/a long file name %d.text", i),
			Data: []byte{byte(i)}})
	}
	return list
}

func build(t *testing.T) string {
	t.Helper()
	image, err := iso9660.Build(options, files())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "iso")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOthersSeeTheFilesInBothTrees(t *testing.T) {
	t.Parallel()
	path := build(t)
	if out := testkit.Run(t, "blkid", "-p", path); !strings.Contains(out, `LABEL="config-2"`) ||
		!strings.Contains(out, `TYPE="iso9660"`) {
		t.Errorf("blkid: %s", out)
	}
	for _, tree := range []string{"-R", "-J"} {
		out := testkit.Run(t, "isoinfo", tree, "-f", "-i", path)
		for _, f := range files() {
			if !strings.Contains(out, "/"+f.Path) &&
				(tree == "-R" || !strings.Contains(f.Path, "☃")) {
				t.Errorf("isoinfo %s lacks %s:\n%s", tree, f.Path, out)
			}
		}
		name := "/openstack/latest/user_data"
		if tree == "-J" {
			name += ";1"
		}
		out = testkit.Run(t, "isoinfo", tree, "-i", path, "-x", name)
		if out != strings.Repeat("user", 2000) {
			t.Errorf("user_data by isoinfo %s has %d bytes", tree, len(out))
		}
	}
	if out := testkit.Run(t, "isoinfo", "-f", "-i", path); !strings.Contains(out,
		"/OPENSTAC/LATEST/META_DAT.JSO;1") {
		t.Errorf("isoinfo: %s", out)
	}
}

func TestXorrisoTakesItOut(t *testing.T) {
	t.Parallel()
	path, dir := build(t), filepath.Join(t.TempDir(), "out")
	testkit.Run(t, "xorriso", "-osirrox", "on", "-indev", path, "-extract", "/", dir)
	testkit.Run(t, "chmod", "-R", "u+w", dir)
	for _, f := range files() {
		got, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil || !bytes.Equal(got, f.Data) {
			t.Errorf("%s: %d bytes, %v; want %d", f.Path, len(got), err, len(f.Data))
		}
	}
}

func TestTheSameFilesGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	a, _ := iso9660.Build(options, files())
	b, err := iso9660.Build(options, files())
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("different, %v", err)
	}
}

func TestWhatCannotBeStoredIsRefused(t *testing.T) {
	t.Parallel()
	for want, list := range map[string][]iso9660.File{
		"no path":  {{Path: "../x"}},
		"is no pa": {{Path: "/x"}},
		"twice":    {{Path: "a/b"}, {Path: "a/b"}},
		`"a"`:      {{Path: "a"}, {Path: "a/b"}},
		"too long": {{Path: strings.Repeat("x", 63)}},
		"deep":     {{Path: "1/2/3/4/5/6/7/8/9"}},
	} {
		if _, err := iso9660.Build(options, list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", list, err, want)
		}
	}
	long := iso9660.Options{Label: "seventeen letters"}
	if _, err := iso9660.Build(long, nil); err == nil {
		t.Error("a long label was taken")
	}
}

// bootable is an image that BIOS and UEFI boot, with a file that is read where it is.
func bootable(t *testing.T, content []byte) *iso9660.Image {
	t.Helper()
	o := options
	o.BIOS, o.UEFI = "isolinux/isolinux.bin", "boot/efi.img"
	i, err := iso9660.New(o, []iso9660.File{
		{Path: o.BIOS, Data: bytes.Repeat([]byte("loader"), 1000)},
		{Path: o.UEFI, Data: bytes.Repeat([]byte{1}, 3<<20)},
		{Path: "initrd", Content: bytes.NewReader(content), Size: int64(len(content))},
		{Path: "empty", Content: bytes.NewReader(nil)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestOthersSeeWhatIsBooted(t *testing.T) {
	t.Parallel()
	content := []byte(strings.Repeat("ramdisk", 12345))
	i := bootable(t, content)
	all := make([]byte, i.Size())
	if n, err := i.ReadAt(all, 0); n != len(all) || err != nil {
		t.Fatalf("%d of %d bytes, %v", n, len(all), err)
	}
	path := filepath.Join(t.TempDir(), "iso")
	if err := os.WriteFile(path, all, 0o600); err != nil {
		t.Fatal(err)
	}
	out := testkit.Run(t, "xorriso", "-indev", path, "-report_el_torito", "plain")
	for _, want := range []string{"BIOS  y   none  0x0000  0x00      4 ", "UEFI  y   none  0x0000  0x00   6144 ",
		"/isolinux/isolinux.bin", "/boot/efi.img", "boot-info-table"} {
		if !strings.Contains(out, want) {
			t.Errorf("xorriso does not say %q:\n%s", want, out)
		}
	}
	if got := testkit.Run(t, "isoinfo", "-R", "-i", path, "-x", "/initrd"); got != string(content) {
		t.Errorf("the ramdisk has %d bytes", len(got))
	}
	// Any range is the same bytes.
	rapid.Check(t, func(r *rapid.T) {
		at := rapid.Int64Range(0, i.Size()).Draw(r, "at")
		buf := make([]byte, rapid.IntRange(0, 200_000).Draw(r, "length"))
		n, err := i.ReadAt(buf, at)
		if want := all[at:min(at+int64(len(buf)), i.Size())]; !bytes.Equal(buf[:n], want) ||
			(err == io.EOF) != (n < len(buf)) {
			r.Fatalf("%d bytes of %d, %v", n, len(want), err)
		}
	})
}

func TestAFileThatHasBecomeShorterIsAnError(t *testing.T) {
	t.Parallel()
	content := make([]byte, 10000)
	i, err := iso9660.New(options, []iso9660.File{{Path: "a", Content: bytes.NewReader(content), Size: 20000}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.ReadAt(make([]byte, i.Size()), 0); err != io.ErrUnexpectedEOF {
		t.Errorf("error %v", err)
	}
}

// Pages of the image are pages of what it is made of.
func TestContentBeginsAtAPage(t *testing.T) {
	t.Parallel()
	contents := []*strings.Reader{strings.NewReader("a"), strings.NewReader("b"), strings.NewReader("c")}
	list := files()
	for i, c := range contents {
		list = append(list, iso9660.File{Path: fmt.Sprintf("content%d", i), Content: c, Size: 1})
	}
	image, err := iso9660.New(options, list)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for off := int64(0); off < image.Size(); off++ {
		from, _, _ := image.Section(off, 1)
		for _, c := range contents {
			if from == io.ReaderAt(c) {
				found++
				if off%4096 != 0 {
					t.Errorf("one begins at %d", off)
				}
			}
		}
	}
	if found != len(contents) {
		t.Errorf("%d of them are found", found)
	}
}

func TestWhatIsNotThereIsNotBooted(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]iso9660.Options{
		`"a" is to be booted and not there`: {BIOS: "a"}, `"b" is to be booted and not there`: {UEFI: "b"},
		"no room for a boot information table": {BIOS: "short"},
	} {
		_, err := iso9660.New(o, []iso9660.File{{Path: "short", Data: []byte("x")}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
