package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/agent"
	"ingot/internal/roothint"
)

const gib = 1 << 30

func TestSmallestComfortableDiskIsChosen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want  string
		disks []agent.Disk
	}{
		{"sdb", []agent.Disk{{Name: "sda", Bytes: 2 * gib}, {Name: "sdb", Bytes: 4 * gib},
			{Name: "sdc", Bytes: 500 * gib}}},
		{"vdb", []agent.Disk{{Name: "vda", Bytes: 2 * gib}, {Name: "vdb", Bytes: 1 * gib}}},
		{"sdb", []agent.Disk{{Name: "sdaa", Bytes: 9 * gib}, {Name: "sdc", Bytes: 9 * gib},
			{Name: "sdb", Bytes: 9 * gib}}},
	} {
		got, _, err := agent.ChooseDisk(c.disks, roothint.Hints{})
		if err != nil || got.Name != c.want {
			t.Errorf("of %v %s is chosen (%v), want %s", c.disks, got.Name, err, c.want)
		}
	}
	if _, _, err := agent.ChooseDisk(nil, roothint.Hints{}); err == nil || !strings.Contains(err.Error(), "generic") {
		t.Errorf("error without disks is %v, want one that says what to do", err)
	}
}

// block makes an entry of a /sys/block.
func block(t *testing.T, dir, name string, files map[string]string) {
	t.Helper()
	for file, text := range files {
		path := filepath.Join(dir, name, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyDisksThatCanBeWrittenAreListed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := map[string]string{"size": "2097152", "removable": "0", "ro": "0", "device/x": "",
		"queue/discard_max_bytes": "2147450880"}
	with := func(file, text string) map[string]string {
		changed := make(map[string]string)
		for k, v := range whole {
			changed[k] = v
		}
		changed[file] = text
		return changed
	}
	block(t, dir, "vda", whole)
	block(t, dir, "sda", with("queue/discard_max_bytes", "0"))
	block(t, dir, "sdb", with("removable", "1"))
	block(t, dir, "sdc", with("ro", "1"))
	block(t, dir, "sdd", with("size", "0"))
	block(t, dir, "nvme0c0n1", with("hidden", "1"))
	block(t, dir, "sr0", whole)
	block(t, dir, "loop0", map[string]string{"size": "2097152"})
	got, err := agent.ListDisks(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []agent.Disk{
		{Name: "sda", Bytes: gib, Facts: roothint.Facts{Name: "/dev/sda", Bytes: gib}},
		{Name: "vda", Bytes: gib, Discards: true,
			Facts: roothint.Facts{Name: "/dev/vda", Bytes: gib}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDiskThatAppearsLateIsFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	late := time.AfterFunc(100*time.Millisecond, func() {
		block(t, dir, "sda", map[string]string{"size": "8", "device/x": ""})
	})
	defer late.Stop()
	got, _, err := agent.FindDisk(t.Context(), dir, roothint.Hints{}, time.Minute,
		100*time.Millisecond)
	if err != nil || got.Name != "sda" {
		t.Errorf("disk is %v (%v), want sda", got, err)
	}
	_, _, err = agent.FindDisk(t.Context(), t.TempDir(), roothint.Hints{}, time.Millisecond,
		time.Millisecond)
	if err == nil {
		t.Error("a machine without disks gave one")
	}
}

func TestLoadOrderIsKept(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "modules")
	text := "# comment\n/lib/modules/b.ko\n\n /lib/modules/a.ko \n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := agent.ReadModules(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/lib/modules/b.ko", "/lib/modules/a.ko"}, got); diff != "" {
		t.Error(diff)
	}
}

func hints(t *testing.T, object map[string]any) roothint.Hints {
	t.Helper()
	h, err := roothint.Parse(object)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHintsDecideWhichDiskIsTaken(t *testing.T) {
	t.Parallel()
	disk := func(name, model string, size uint64) agent.Disk {
		return agent.Disk{Name: name, Bytes: size * gib, Facts: roothint.Facts{
			Name: "/dev/" + name, Bytes: size * gib, Model: model}}
	}
	disks := []agent.Disk{disk("sdaa", "big", 900), disk("sdb", "big", 900),
		disk("sda", "small", 10)}
	got, remark, err := agent.ChooseDisk(disks, hints(t, map[string]any{"model": "big"}))
	if err != nil || got.Name != "sdb" || !strings.Contains(remark, "the first of 2") ||
		!strings.Contains(remark, "sdaa") {
		t.Errorf("two disks match: %v, %q, %v", got, remark, err)
	}
	got, remark, err = agent.ChooseDisk(disks, hints(t, map[string]any{"size": "< 100"}))
	if err != nil || got.Name != "sda" || remark != "" {
		t.Errorf("one matches: %v, %q, %v", got, remark, err)
	}
	_, _, err = agent.ChooseDisk(disks, hints(t, map[string]any{"serial": "x"}))
	if err == nil || !strings.Contains(err.Error(), `"serial x"; there are: /dev/sdaa 900.0 GiB, `+
		"model big; /dev/sdb") {
		t.Errorf("none matches: %v", err)
	}
}

func TestADiskThatMatchesIsWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	block(t, dir, "sda", map[string]string{"size": "8", "device/model": "other"})
	late := time.AfterFunc(100*time.Millisecond, func() {
		block(t, dir, "sdb", map[string]string{"size": "8", "device/model": "Wanted  "})
	})
	defer late.Stop()
	got, _, err := agent.FindDisk(t.Context(), dir, hints(t, map[string]any{"model": "wanted"}),
		time.Minute, time.Millisecond)
	if err != nil || got.Name != "sdb" {
		t.Errorf("disk is %v (%v), want sdb", got, err)
	}
}

// The trees are those of Linux 6.1 for one disk of each kind.
func TestFactsAreReadAsUdevWould(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path  string
		files map[string]string
		want  roothint.Facts
	}{
		{"pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda", map[string]string{
			"device/model": "INTEL SSDSC2KB48", "device/vendor": "ATA     ",
			"device/wwid": "naa.55cd2e4150f1a2b3", "device/vpd_pg80": "\x00\x80\x00\x08PHYF8391",
			"device/scsi_device/2:0:0:0/x": "", "../../../../../ata_port/ata3/port_no": "1",
		}, roothint.Facts{Model: "INTEL SSDSC2KB48", Vendor: "ATA", Serial: "PHYF8391",
			WWN: "0x55cd2e4150f1a2b3", WWNWithExtension: "0x55cd2e4150f1a2b3", HCTL: "2:0:0:0",
			ByPath: "/dev/disk/by-path/pci-0000:00:1f.2-ata-1"}},
		{"pci0000:00/0000:00:02.0/0000:03:00.0/host0/target0:2:5/0:2:5:0/block/sda",
			map[string]string{
				"device/model": "PERC H730 Mini", "device/vendor": "DELL",
				"device/wwid":                  "naa.6d09466070d5a1002b1f3c1e0a1b2c3d",
				"device/scsi_device/0:2:5:0/x": "", "queue/rotational": "1",
			}, roothint.Facts{Model: "PERC H730 Mini", Vendor: "DELL", HCTL: "0:2:5:0",
				Rotational: true, WWN: "0x6d09466070d5a100",
				WWNWithExtension:   "0x6d09466070d5a1002b1f3c1e0a1b2c3d",
				WWNVendorExtension: "0x2b1f3c1e0a1b2c3d",
				ByPath:             "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:2:5:0"}},
		{"pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1", map[string]string{
			"device/model": "QEMU NVMe Ctrl", "device/serial": "deadbeef", "nsid": "1",
			"wwid": "eui.5254000000000001",
		}, roothint.Facts{Model: "QEMU NVMe Ctrl", Serial: "deadbeef", WWN: "eui.5254000000000001",
			WWNWithExtension: "eui.5254000000000001",
			ByPath:           "/dev/disk/by-path/pci-0000:00:04.0-nvme-1"}},
		{"pci0000:00/0000:00:05.0/virtio2/block/vda", map[string]string{
			"serial": "disk-1", "device/vendor": "0x1af4",
		}, roothint.Facts{Vendor: "0x1af4", Serial: "disk-1",
			ByPath: "/dev/disk/by-path/pci-0000:00:05.0"}},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "devices", c.path)
		c.files["size"] = "8"
		block(t, filepath.Dir(dir), filepath.Base(dir), c.files)
		blocks := filepath.Join(root, "block")
		if err := errors.Join(os.Mkdir(blocks, 0o755),
			os.Symlink(dir, filepath.Join(blocks, filepath.Base(dir)))); err != nil {
			t.Fatal(err)
		}
		got, err := agent.ListDisks(blocks)
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %v, %v", c.path, got, err)
			continue
		}
		c.want.Name, c.want.Bytes = "/dev/"+filepath.Base(dir), 4096
		if diff := cmp.Diff(c.want, got[0].Facts); diff != "" {
			t.Errorf("%s:\n%s", c.path, diff)
		}
	}
}
