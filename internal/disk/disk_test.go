package disk_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ingot/internal/disk"
	"ingot/internal/testkit"
)

const mib = 1 << 20

var (
	id    = disk.MustGUID("11111111-2222-4333-8444-555555555555")
	rootG = disk.MustGUID("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
	swapG = disk.MustGUID("01234567-89ab-4cde-8f01-23456789abcd")
)

// table is a disk with swap and root.
func table(label disk.Label, size int64, sector int) disk.Table {
	t := disk.Table{Label: label, Size: size, Sector: sector, ID: id, Partitions: []disk.Partition{
		{Number: 1, Start: mib, Size: 16 * mib, Type: disk.Swap, GUID: swapG, Name: "swap"},
		{Number: 3, Start: 17 * mib, Size: 32 * mib, Type: disk.Linux, GUID: rootG,
			Name: "root ☃", Attributes: 4},
	}}
	if label == disk.MBR {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			p.GUID, p.Name, p.Attributes, p.Type.GPT = disk.GUID{}, "", 0, disk.GUID{}
		}
		t.Partitions[1].Active = true
		t.ID = disk.GUID{0x78, 0x56, 0x34, 0x12}
	} else {
		for i := range t.Partitions {
			t.Partitions[i].Type.MBR = 0
		}
	}
	return t
}

// write makes a disk image with the table.
func write(t *testing.T, tab disk.Table) string {
	t.Helper()
	head := make([]byte, disk.HeadSize)
	extents, err := tab.Encode(head)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, e := range append(extents, disk.Extent{Data: head}) {
		if _, err := f.WriteAt(e.Data, e.Off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(tab.Size); err != nil {
		t.Fatal(err)
	}
	return path
}

// dump is what sfdisk -J says.
type dump struct {
	Table struct {
		Label, ID  string
		LastLBA    int64
		Partitions []struct {
			Node, Type, UUID, Name string
			Start, Size            int64
			Bootable               bool
		}
	} `json:"partitiontable"`
}

func sfdisk(t *testing.T, path string) dump {
	t.Helper()
	var d dump
	out := testkit.Run(t, "sfdisk", "-J", path)
	// What it thinks of a damaged table comes first.
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOthersReadWhatIsWritten(t *testing.T) {
	t.Parallel()
	const size = 64*mib + 5*512
	gpt := write(t, table(disk.GPT, size, 512))
	if out := testkit.Run(t, "sgdisk", "--verify", gpt); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	d := sfdisk(t, gpt).Table
	if d.Label != "gpt" || !strings.EqualFold(d.ID, id.String()) || len(d.Partitions) != 2 ||
		d.LastLBA != size/512-34 {
		t.Errorf("sfdisk: %+v", d)
	}
	p := d.Partitions[1]
	if p.Start != 17*mib/512 || p.Size != 32*mib/512 || p.Name != "root ☃" ||
		!strings.HasSuffix(p.Node, "3") || !strings.EqualFold(p.UUID, rootG.String()) ||
		p.Type != "0FC63DAF-8483-4772-8E79-3D69D8477DE4" {
		t.Errorf("sfdisk: %+v", p)
	}
	testkit.Run(t, "parted", "--script", gpt, "unit", "s", "print")

	mbr := write(t, table(disk.MBR, size, 512))
	d = sfdisk(t, mbr).Table
	if d.Label != "dos" || d.ID != "0x12345678" || len(d.Partitions) != 2 {
		t.Errorf("sfdisk: %+v", d)
	}
	p = d.Partitions[1]
	if p.Start != 17*mib/512 || p.Size != 32*mib/512 || p.Type != "83" || !p.Bootable {
		t.Errorf("sfdisk: %+v", p)
	}
	if out := testkit.Run(t, "parted", "--script", mbr, "unit", "s", "print"); !strings.Contains(out,
		"boot") {
		t.Errorf("parted: %s", out)
	}
}

func TestOthersReadSectorsOf4096(t *testing.T) {
	t.Parallel()
	path := write(t, table(disk.GPT, 64*mib, 4096))
	out := testkit.Run(t, "fdisk", "-b", "4096", "-l", "-o", "Start,Sectors", path)
	for _, want := range []string{"Disklabel type: gpt", "4352    8192"} {
		if !strings.Contains(out, want) || strings.Contains(out, "corrupt") {
			t.Errorf("fdisk lacks %q:\n%s", want, out)
		}
	}
}

func TestTheBackupAloneIsEnough(t *testing.T) {
	t.Parallel()
	path := write(t, table(disk.GPT, 64*mib, 512))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 33*512), 512); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if d := sfdisk(t, path).Table; d.Label != "gpt" || len(d.Partitions) != 2 {
		t.Errorf("sfdisk reads %+v from the backup", d)
	}
}

func TestWhatOthersWriteIsRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	blank := func() {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 64*mib); err != nil {
			t.Fatal(err)
		}
	}
	head := func() []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b[:disk.HeadSize]
	}
	blank()
	testkit.Run(t, "sgdisk", "-n", "2:2048:+8M", "-c", "2:data", "-u", "2:"+rootG.String(), "-t",
		"2:8300", "-U", id.String(), path)
	got, err := disk.Parse(head(), 64*mib, 512)
	if err != nil {
		t.Fatal(err)
	}
	want := disk.Table{Label: disk.GPT, Size: 64 * mib, Sector: 512, ID: id,
		Partitions: []disk.Partition{{Number: 2, Start: mib, Size: 8 * mib,
			Type: disk.Type{GPT: disk.Linux.GPT}, GUID: rootG, Name: "data"}}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(disk.Table{})); diff != "" {
		t.Error(diff)
	}
	blank()
	testkit.Run(t, "parted", "--script", path, "mklabel", "msdos", "mkpart", "primary", "ext4", "1MiB",
		"9MiB", "mkpart", "extended", "9MiB", "100%", "mkpart", "logical", "10MiB", "20MiB")
	got, err = disk.Parse(head(), 64*mib, 512)
	if err != nil || got.Label != disk.MBR || len(got.Partitions) != 2 || got.End() != 64*mib {
		t.Errorf("parted's table is %+v, %v", got, err)
	}
	blank()
	testkit.Run(t, "mke2fs", "-q", "-F", path)
	if _, err := disk.Parse(head(), 64*mib, 512); !errors.Is(err, disk.ErrNoTable) {
		t.Errorf("a file system without a table: %v", err)
	}
	testkit.Run(t, "mkfs.vfat", "-I", path)
	if _, err := disk.Parse(head(), 64*mib, 512); !errors.Is(err, disk.ErrNoTable) {
		t.Errorf("a FAT without a table: %v", err)
	}
}

func TestATableMovesToALargerDisk(t *testing.T) {
	t.Parallel()
	for _, label := range []disk.Label{disk.GPT, disk.MBR} {
		small := table(label, 64*mib, 512)
		head := make([]byte, disk.HeadSize)
		copy(head, "boot code")
		if _, err := small.Encode(head); err != nil {
			t.Fatal(err)
		}
		big, err := disk.Parse(head, 256*mib, 512)
		if err != nil {
			t.Fatal(err)
		}
		last := big.Last()
		p := disk.Partition{Start: last - 64*mib, Size: 64 * mib, Type: disk.Linux, Name: "config-2",
			GUID: swapG}
		p.GUID[0]++
		if err := big.Add(p); err != nil {
			t.Fatal(err)
		}
		extents, err := big.Encode(head)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range append(extents, disk.Extent{Data: head}) {
			if _, err := f.WriteAt(e.Data, e.Off); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(f.Truncate(256*mib), f.Close()); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(head, []byte("boot code")) {
			t.Error("the boot code is gone")
		}
		if label == disk.GPT {
			if out := testkit.Run(t, "sgdisk", "--verify", path); !strings.Contains(out, "No problems") {
				t.Errorf("sgdisk: %s", out)
			}
		}
		d := sfdisk(t, path).Table
		if len(d.Partitions) != 3 || !strings.HasSuffix(d.Partitions[1].Node, "2") ||
			d.Partitions[1].Size != 64*mib/512 {
			t.Errorf("%s: %+v", label, d)
		}
	}
}

func TestTablesThatOthersWouldMisreadAreNotWritten(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*disk.Table){
		"overlaps":                func(t *disk.Table) { t.Partitions[1].Start -= mib },
		"does not fit":            func(t *disk.Table) { t.Partitions[1].Size = 60 * mib },
		"(16777216 bytes at 512)": func(t *disk.Table) { t.Partitions[0].Start = 512 },
		"takes no partition 129":  func(t *disk.Table) { t.Partitions[1].Number = 129 },
		"takes no partition 1":    func(t *disk.Table) { t.Partitions[1].Number = 1 },
		"too long":                func(t *disk.Table) { t.Partitions[0].Name = strings.Repeat("n", 37) },
		"known are msdos and gpt": func(t *disk.Table) { t.Label, t.Partitions = "sun", nil },
		"a disk of 1000 bytes":    func(t *disk.Table) { t.Size = 1000 },
		"in sectors of 500":       func(t *disk.Table) { t.Sector = 500 },
		"beyond what an MBR can": func(t *disk.Table) {
			t.Label, t.Size = disk.MBR, 4<<40
			t.Partitions[1].Start = 3 << 40
		},
	} {
		tab := table(disk.GPT, 64*mib, 512)
		change(&tab)
		head := make([]byte, disk.HeadSize)
		_, err := tab.Encode(head)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if !bytes.Equal(head, make([]byte, len(head))) {
			t.Errorf("%s: the head was written to", want)
		}
	}
	full := table(disk.MBR, 64*mib, 512)
	for i := range 3 {
		err := full.Add(disk.Partition{Start: int64(50+i) * mib, Size: mib})
		if (err != nil) != (i == 2) {
			t.Errorf("partition %d: %v", i, err)
		}
	}
}

func TestDamagedTablesAreNamed(t *testing.T) {
	t.Parallel()
	for at, want := range map[int]string{512 + 56: "checksum of header", 1024 + 60: "of entries",
		512: "no GPT header"} {
		tab := table(disk.GPT, 64*mib, 512)
		head := make([]byte, disk.HeadSize)
		if _, err := tab.Encode(head); err != nil {
			t.Fatal(err)
		}
		head[at] ^= 1
		if _, err := disk.Parse(head, tab.Size, 512); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("byte %d: %v, want %q", at, err, want)
		}
	}
	tab := table(disk.GPT, 64*mib, 512)
	head := make([]byte, disk.HeadSize)
	if _, err := tab.Encode(head); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Parse(head, tab.Size, 4096); err == nil ||
		!strings.Contains(err.Error(), "sectors of another size than 4096") {
		t.Errorf("an image for the other sector size: %v", err)
	}
}

// Whatever an image begins with, Parse says what it is or why not, and a table that was
// understood can be written again and means the same.
func FuzzParse(f *testing.F) {
	const size = 64 << 10
	for _, label := range []disk.Label{disk.GPT, disk.MBR} {
		tab := table(label, size, 512)
		tab.Partitions[0].Start, tab.Partitions[0].Size = 34*512, 512
		tab.Partitions[1].Start, tab.Partitions[1].Size = 36*512, 1024
		head := make([]byte, size)
		if _, err := tab.Encode(head); err != nil {
			f.Fatal(err)
		}
		f.Add(head[:1536], false)
	}
	f.Fuzz(func(t *testing.T, start []byte, large bool) {
		sector := 512
		if large {
			sector = 4096
		}
		head := make([]byte, size)
		copy(head, start)
		tab, err := disk.Parse(head, size, sector)
		if err != nil {
			return
		}
		if _, err := tab.Encode(head); err != nil {
			return // overlapping partitions and the like
		}
		again, err := disk.Parse(head, size, sector)
		if err != nil || tab.ID != again.ID || len(tab.Partitions) != len(again.Partitions) {
			t.Fatalf("%+v became %+v: %v", tab, again, err)
		}
		for i, p := range tab.Partitions {
			if again.Partitions[i] != p {
				t.Errorf("%+v became %+v", p, again.Partitions[i])
			}
		}
	})
}

// What it does is tested by starting it, in package deploy.
func TestBootCodeLeavesRoomForTheTable(t *testing.T) {
	t.Parallel()
	code := disk.BootCode()
	if n := len(code); n > 440 {
		t.Errorf("%d bytes of boot code overwrite the disk signature", n)
	}
	for at, text := range map[int]string{0x79: "No active", 0x8F: "Cannot", 0xB2: "The active"} {
		if !bytes.HasPrefix(code[at:], []byte(text)) {
			t.Errorf("%q is not where the code looks for it", text)
		}
	}
}
