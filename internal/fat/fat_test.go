package fat_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ingot/internal/fat"
	"ingot/internal/testkit"
)

const kib = 1 << 10

var options = fat.Options{Label: "ir-vfd-dev", Time: time.Date(2023, 11, 14, 22, 13, 21, 0, time.UTC),
	Serial: 0x1234ABCD}

// noise are bytes of which no two sectors are the same.
func noise(n int) []byte {
	out := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(out)
	return out
}

func files() []fat.File {
	list := []fat.File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: noise(950_000)},
		{Path: "EFI/BOOT/grubx64.efi", Data: noise(2_600_123)},
		{Path: "EFI/debian/grub.cfg", Data: []byte("normal\n")},
		{Path: "empty", Data: nil},
		{Path: "schnee ☃ 🏔.txt", Data: []byte("snow")},
		{Path: strings.Repeat("n", 255), Data: []byte("long")},
		{Path: ".disk/info", Data: noise(2048)},
		{Path: "PARAME~1.TXT", Data: []byte("short")},
		{Path: "parameters.txt", Data: []byte("long")},
		{Path: "parame~2.txt", Data: []byte("both")},
	}
	for i := range 300 { // more than a cluster of records
		list = append(list, fat.File{Path: fmt.Sprintf("many/a long file name %d.text", i), Data: []byte{byte(i)}})
	}
	return list
}

// build writes an image to a file, of which fsck.fat finds nothing to say but what it is.
func build(t *testing.T, o fat.Options, list []fat.File) (path, said string) {
	t.Helper()
	image, err := fat.Build(o, list)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "fat")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	said = testkit.Run(t, "fsck.fat", "-n", "-v", path)
	_, rest, _ := strings.Cut(said, "sectors total\n")
	if want := "Checking for unused clusters.\n" + path + ": "; !strings.HasPrefix(rest, want) ||
		strings.Count(rest, "\n") != 2 {
		t.Fatalf("fsck.fat:\n%s", said)
	}
	return path, said
}

// mtools runs a program of mtools with names in UTF-8.
func mtools(t *testing.T, name, image string, args ...string) string {
	t.Helper()
	return testkit.Run(t, "env", append([]string{"LC_ALL=C.UTF-8", "MTOOLSRC=/dev/null", name, "-i", image},
		args...)...)
}

// read is what mcopy takes out of an image, path to content.
func read(t *testing.T, image string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	mtools(t, "mcopy", image, "-s", "-n", "::/", dir)
	out := make(map[string]string)
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		out[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// contents is what mcopy takes out, which knows no surrogates.
func contents(list []fat.File) map[string]string {
	out := make(map[string]string)
	for _, f := range list {
		out[strings.ReplaceAll(f.Path, "🏔", "__")] = string(f.Data)
	}
	return out
}

func checkContents(t *testing.T, image string, list []fat.File) {
	t.Helper()
	got, want := read(t, image), contents(list)
	if names := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); names != "" {
		t.Fatalf("mcopy takes out other files:\n%s", names)
	}
	for path := range want {
		if got[path] != want[path] {
			t.Errorf("%q has other bytes: %d, want %d", path, len(got[path]), len(want[path]))
		}
	}
}

func TestOthersReadNamesAndBytes(t *testing.T) {
	t.Parallel()
	image, said := build(t, options, files())
	checkContents(t, image, files())
	for _, want := range []string{"2048 bytes per cluster", "12 bit entries", "Media byte 0xf8"} {
		if !strings.Contains(said, want) {
			t.Errorf("fsck.fat does not say %q:\n%s", want, said)
		}
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte("\x3C\xD8\xD4\xDF")) { // U+1F3D4
		t.Error("no pair of surrogates")
	}
	if out := mtools(t, "mtype", image, "::/efi/Debian/GRUB.CFG"); out != "normal\n" {
		t.Errorf("mtype: %q", out)
	}
	out := testkit.Run(t, "blkid", "-p", image)
	for _, want := range []string{` LABEL="ir-vfd-dev"`, `LABEL_FATBOOT="ir-vfd-dev"`, `UUID="1234-ABCD"`,
		`VERSION="FAT12"`, `TYPE="vfat"`} {
		if !strings.Contains(out, want) {
			t.Errorf("blkid does not say %s: %s", want, out)
		}
	}
}

// A name of the user's is never taken by one that is made up, and a made-up one is like Windows's.
func TestShortNamesAreDifferent(t *testing.T) {
	t.Parallel()
	list := files()
	for i := range 12 {
		list = append(list, fat.File{Path: fmt.Sprintf("d/longname%d.conf", i)})
	}
	image, _ := build(t, options, list)
	out := mtools(t, "mdir", image, "-/", "::/")
	for _, want := range []string{
		"PARAME~1 TXT         5 2023-11-14  22:13 \n",
		"PARAME~3 TXT         4 2023-11-14  22:13  parameters.txt",
		"PARAME~2 TXT         4 2023-11-14  22:13  parame~2.txt",
		"LONGNA~1 CON         0 2023-11-14  22:13  longname0.conf",
		"LONGN~10 CON         0 2023-11-14  22:13  longname7.conf",
		"BOOTX64  EFI    950000 2023-11-14  22:13 \n",
		"GRUBX64  EFI   2600123 2023-11-14  22:13  grubx64.efi",
		"EMPTY                0 2023-11-14  22:13  empty",
		"DISK~1       <DIR>     2023-11-14  22:13  .disk",
		"SCHNEE~1 TXT         4 2023-11-14  22:13  schnee ☃ __.txt",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("mdir does not say %q:\n%s", want, out)
		}
	}
}

func TestTheFloppyIsIronics(t *testing.T) {
	t.Parallel()
	theirs := filepath.Join(t.TempDir(), "ironic")
	testkit.Run(t, "/usr/bin/python3", "testdata/floppy.py", theirs, "ipa-api-url=http://10.1.0.1:6385", "a=b")
	list := []fat.File{{Path: "parameters.txt", Data: []byte("ipa-api-url=http://10.1.0.1:6385\na=b")}}
	o := options
	o.Size = fat.FloppySize
	ours, _ := build(t, o, list)
	checkContents(t, theirs, list)
	checkContents(t, ours, list)
	a, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(ours)
	if err != nil || len(a) != len(b) {
		t.Fatalf("%d bytes, %v, want %d", len(b), err, len(a))
	}
	// All but the maker's name, the serial number, code, and in the root directory the times.
	const tables, root, data = 512, 19 * 512, 33 * 512
	for name, r := range map[string][2]int{"boot sector": {11, 39}, "label and type": {43, 62},
		"signature": {510, tables}, "tables": {tables, root}, "label": {root, root + 12},
		"names": {root + 32, root + 32*3 + 12}, "place and size": {root + 32*3 + 26, root + 32*4},
		"rest": {root + 32*4, len(a)}} {
		if !bytes.Equal(a[r[0]:r[1]], b[r[0]:r[1]]) {
			t.Errorf("%s: %q, Ironic has %q", name, b[r[0]:min(r[1], r[0]+data)], a[r[0]:min(r[1], r[0]+data)])
		}
	}
}

// number is what a program said.
func number(t *testing.T, said, pattern string) int {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("no %s in:\n%s", pattern, said)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Sizes around those where the clusters become larger, and the entries of the table wider.
func TestEverySizeIsOneOrTheOther(t *testing.T) {
	t.Parallel()
	list := []fat.File{{Path: "some/file.txt", Data: noise(10_000)}}
	for _, size := range []int64{40 * kib, 100 * kib, fat.FloppySize - 512, fat.FloppySize, fat.FloppySize + 512,
		2880 * kib, 8160 * kib, 8180 * kib, 8184 * kib, 8192 * kib, 8200 * kib, 8224 * kib, 8228*kib + 512,
		8256 * kib, 16 * 1024 * kib, 32 * 1024 * kib, 33*1024*kib + 512, 131_300 * kib, 131_328 * kib} {
		o := options
		o.Size = size
		image, said := build(t, o, list)
		checkContents(t, image, list)
		clusters, bits := number(t, said, `(\d+) data clusters`), number(t, said, `(\d+) bit entries`)
		if bits == 12 && (clusters < 1 || clusters >= 4085-16) ||
			bits == 16 && (clusters < 4085+16 || clusters >= 65525-16) || bits != 12 && bits != 16 {
			t.Errorf("%d bytes have %d clusters and %d bits", size, clusters, bits)
		}
		if info, err := os.Stat(image); err != nil || info.Size() != size {
			t.Errorf("%v, %v, want %d bytes", info.Size(), err, size)
		}
	}
}

func TestFilesFitToTheLastCluster(t *testing.T) {
	t.Parallel()
	const room = 2847 * 512 // of a floppy
	o := options
	o.Size = fat.FloppySize
	list := []fat.File{{Path: "A", Data: noise(room - 512)}, {Path: "B", Data: []byte("b")}}
	image, said := build(t, o, list)
	checkContents(t, image, list)
	if !strings.Contains(said, "2847/2847 clusters") {
		t.Errorf("fsck.fat:\n%s", said)
	}
	list[0].Data = noise(room + 1)
	if _, err := fat.Build(o, list); err == nil || !strings.Contains(err.Error(), " 1024 bytes are missing") {
		t.Errorf("%v", err)
	}
	// As small as it can be.
	o.Size = 0
	image, _ = build(t, o, files())
	info, err := os.Stat(image)
	if err != nil || info.Size()%(32*kib) != 0 {
		t.Fatalf("%v, %v", info, err)
	}
	o.Size = info.Size() - 32*kib
	if _, err := fat.Build(o, files()); err == nil || !strings.Contains(err.Error(), "bytes are missing") {
		t.Errorf("files fit into less than %d bytes: %v", info.Size(), err)
	}
}

func TestManyRecordsInTheRoot(t *testing.T) {
	t.Parallel()
	var list []fat.File
	for i := range 700 {
		list = append(list, fat.File{Path: fmt.Sprintf("%d", i), Data: []byte{byte(i)}})
	}
	image, _ := build(t, options, list)
	checkContents(t, image, list)
	o := options
	o.Size = fat.FloppySize
	o.Label = ""
	if _, err := fat.Build(o, list); err == nil || !strings.Contains(err.Error(), "700 records") {
		t.Errorf("%v", err)
	}
	image, _ = build(t, o, list[:224])
	checkContents(t, image, list[:224])
	if out := testkit.Run(t, "blkid", "-p", image); strings.Contains(out, "LABEL") {
		t.Errorf("blkid: %s", out)
	}
}

func TestTheSameFilesGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	list := files()
	a, _ := fat.Build(options, list)
	slices.Reverse(list)
	o := options
	o.Time = o.Time.In(time.FixedZone("", 3600))
	b, err := fat.Build(o, list)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("different, %v", err)
	}
}

func TestTimesAreThoseOfFAT(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		time time.Time
		want string
	}{
		{time.Time{}, "1980-01-01   0:00"},
		{time.Date(2107, 12, 31, 23, 59, 59, 0, time.UTC), "2107-12-31  23:59"},
		{time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC), "2107-12-31  23:59"},
		{time.Date(2024, 2, 29, 1, 30, 0, 0, time.FixedZone("", 7200)), "2024-02-28  23:30"},
	} {
		o := options
		o.Time = c.time
		image, _ := build(t, o, []fat.File{{Path: "X"}})
		if out := mtools(t, "mdir", image, "::/"); !strings.Contains(out, c.want) {
			t.Errorf("mdir does not say %s:\n%s", c.want, out)
		}
	}
}

func TestWhatCannotBeStoredIsRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("🏔", 127)
	for _, c := range []struct {
		want  string
		paths []string
	}{
		{"no path", []string{"../x"}},
		{"no path", []string{"/x"}},
		{"no path", []string{"a//b"}},
		{"no path", []string{"."}},
		{"no path", []string{"\xFF"}},
		{`"a/b" is there twice`, []string{"a/b", "a/b"}},
		{`"A/B" is there twice`, []string{"A/b", "A/B"}},
		{`"efi" is there twice`, []string{"EFI/x", "efi/y"}},
		{`"ä" is there twice`, []string{"Ä", "ä"}},
		{`"a" is there twice`, []string{"a", "a/b"}},
		{`"a" is there twice`, []string{"a/b", "a"}},
		{"more than 255 units", []string{long + "xx"}},
		{"forbids", []string{"a/b:c"}},
		{"forbids", []string{"a\x01"}},
		{"forbids", []string{`a\b/c`}},
		{"ends with", []string{"a./b"}},
		{"ends with", []string{"a "}},
	} {
		var list []fat.File
		for _, p := range c.paths {
			list = append(list, fat.File{Path: p})
		}
		if _, err := fat.Build(options, list); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.paths, err, c.want)
		}
	}
	if _, err := fat.Build(options, []fat.File{{Path: long + "x"}}); err != nil {
		t.Errorf("255 units: %v", err)
	}
	for _, label := range []string{"twelve chars", "a/b", "ü", " a", "a "} {
		if _, err := fat.Build(fat.Options{Label: label}, nil); err == nil {
			t.Errorf("the label %q was taken", label)
		}
	}
	for _, size := range []int64{-512, 512, 1000, 100*kib + 1, 1 << 32, 1 << 62} {
		if _, err := fat.Build(fat.Options{Size: size}, nil); err == nil {
			t.Errorf("%d bytes were taken", size)
		}
	}
}

func TestAnyTreeComesBack(t *testing.T) {
	t.Parallel()
	// Few letters, so that names are close to one another.
	name := rapid.OneOf(
		rapid.StringOfN(rapid.SampledFrom([]rune("AB~1.")), 1, 12, -1),
		rapid.StringOfN(rapid.SampledFrom([]rune("aB~12. +☃ä'{}[]")), 1, 40, -1),
		rapid.StringOfN(rapid.Just('x'), 1, 255, -1))
	data := rapid.Map(rapid.IntRange(0, 20_000), noise)
	rapid.Check(t, func(r *rapid.T) {
		o := options
		o.Size = rapid.SampledFrom([]int64{0, 9 << 20}).Draw(r, "size") // FAT12, FAT16
		var names, list []fat.File
		for range rapid.IntRange(0, 40).Draw(r, "files") {
			depth := rapid.IntRange(1, 4).Draw(r, "depth")
			f := fat.File{Path: strings.Join(rapid.SliceOfN(name, depth, depth).Draw(r, "path"), "/"),
				Data: data.Draw(r, "data")}
			more := append(names, fat.File{Path: f.Path})
			if _, err := fat.Build(fat.Options{Size: 800 * kib}, more); err == nil { // else refused with reason
				names, list = more, append(list, f)
			}
		}
		image, _ := build(t, o, list)
		checkContents(t, image, list)
	})
}
