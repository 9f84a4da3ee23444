package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot/internal/roothint"
)

// comfortable is the size from which a disk is taken to be meant for an operating system and
// not for a boot loader or an installer. Ironic's agent draws the same line.
const comfortable = 4 << 30

// A Disk is a whole disk of the machine.
type Disk struct {
	Name  string // as below /dev: vda, nvme0n1
	Bytes uint64
	// Discards says that the disk takes discard requests.
	Discards bool
	// Facts is what root device hints may ask for.
	Facts roothint.Facts
}

func (d Disk) String() string {
	text := fmt.Sprintf("/dev/%s %.1f GiB", d.Name, float64(d.Bytes)/(1<<30))
	f := d.Facts
	for _, fact := range [][2]string{{"model", f.Model}, {"vendor", f.Vendor},
		{"serial", f.Serial}, {"wwn", f.WWNWithExtension}, {"hctl", f.HCTL}} {
		if fact[1] != "" {
			text += ", " + fact[0] + " " + fact[1]
		}
	}
	if f.Rotational {
		text += ", rotational"
	}
	return printable(text)
}

// errNoDisk is the answer of a machine without a disk that could be written.
var errNoDisk = errors.New("no disk found that can be written. Check the disk and its " +
	"controller in the firmware set-up; if it needs a driver that the cloud kernel lacks, " +
	"use a deploy ramdisk of flavour generic")

// ChooseDisk returns the disk to deploy to, and a remark if others would have done as well. With
// hints it is the first one by name that matches them, as in Ironic; without, the smallest disk
// of at least 4 GiB, or else the smallest, and of equal ones the first by name.
func ChooseDisk(disks []Disk, hints roothint.Hints) (Disk, string, error) {
	if len(disks) == 0 {
		return Disk{}, "", errNoDisk
	}
	if hints.Empty() {
		return slices.MinFunc(disks, func(a, b Disk) int {
			if small, other := a.Bytes < comfortable, b.Bytes < comfortable; small != other {
				if small {
					return 1
				}
				return -1
			}
			return cmp.Or(cmp.Compare(a.Bytes, b.Bytes), byName(a, b))
		}), "", nil
	}
	matching := slices.DeleteFunc(slices.Clone(disks), func(d Disk) bool {
		return !hints.Match(d.Facts)
	})
	if len(matching) == 0 {
		return Disk{}, "", fmt.Errorf("no disk matches the root device hints %q; there are: %s",
			hints, join(disks, "; "))
	}
	slices.SortFunc(matching, byName)
	remark := ""
	if len(matching) > 1 {
		remark = fmt.Sprintf("the first of %d that match the root device hints (%s)",
			len(matching), join(matching, "; "))
	}
	return matching[0], remark, nil
}

// byName sorts sdb before sdaa.
func byName(a, b Disk) int {
	return cmp.Or(cmp.Compare(len(a.Name), len(b.Name)), strings.Compare(a.Name, b.Name))
}

func join(disks []Disk, between string) string {
	texts := make([]string, len(disks))
	for i, d := range disks {
		texts[i] = d.String()
	}
	return strings.Join(texts, between)
}

// listDisks reads the disks from a /sys/block. What has no device behind it (loop, ram, dm,
// md), no medium, or is removable, read-only or a hidden path of a multipath NVMe is left out.
func listDisks(sysBlock string) ([]Disk, error) {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Disk
	for _, e := range entries {
		dir := filepath.Join(sysBlock, e.Name())
		if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
			continue
		}
		sectors := readNumber(filepath.Join(dir, "size")) // of 512 bytes, whatever the disk's
		if sectors == 0 || readNumber(filepath.Join(dir, "removable")) != 0 ||
			readNumber(filepath.Join(dir, "ro")) != 0 ||
			readNumber(filepath.Join(dir, "hidden")) != 0 || strings.HasPrefix(e.Name(), "sr") {
			continue
		}
		disks = append(disks, Disk{
			Name:     e.Name(),
			Bytes:    sectors * 512,
			Discards: readNumber(filepath.Join(dir, "queue/discard_max_bytes")) != 0,
			Facts:    readFacts(dir, e.Name(), sectors*512),
		})
	}
	return disks, nil
}

// readNumber returns the number in a file of sysfs, 0 if there is none.
func readNumber(path string) uint64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// findDisk waits until the machine shows a disk that suits and then until no more appear:
// controllers are scanned in the background, and the choice needs all of them.
func findDisk(ctx context.Context, sysBlock string, w wanted) (Disk, string, error) {
	ctx, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	var seen []Disk
	changed := time.Now()
	for {
		disks, err := listDisks(sysBlock)
		if err != nil {
			return Disk{}, "", err
		}
		if !slices.Equal(disks, seen) {
			seen, changed = disks, time.Now()
		}
		if time.Since(changed) >= w.settle {
			if disk, remark, err := ChooseDisk(seen, w.hints); err == nil {
				return disk, remark, nil
			}
		}
		select {
		case <-ctx.Done():
			return ChooseDisk(seen, w.hints)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// wanted is what findDisk looks for, and for how long.
type wanted struct {
	hints            roothint.Hints
	patience, settle time.Duration
}
