package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/agent"
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
		got, err := agent.ChooseDisk(c.disks)
		if err != nil || got.Name != c.want {
			t.Errorf("of %v %s is chosen (%v), want %s", c.disks, got.Name, err, c.want)
		}
	}
	if _, err := agent.ChooseDisk(nil); err == nil || !strings.Contains(err.Error(), "generic") {
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
	want := []agent.Disk{{Name: "sda", Bytes: gib}, {Name: "vda", Bytes: gib, Discards: true}}
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
	got, err := agent.FindDisk(t.Context(), dir, time.Minute, 100*time.Millisecond)
	if err != nil || got.Name != "sda" {
		t.Errorf("disk is %v (%v), want sda", got, err)
	}
	_, err = agent.FindDisk(t.Context(), t.TempDir(), time.Millisecond, time.Millisecond)
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
