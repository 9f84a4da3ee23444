package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
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
}

func (d Disk) String() string {
	return fmt.Sprintf("/dev/%s %.1f GiB", d.Name, float64(d.Bytes)/(1<<30))
}

// errNoDisk is the answer of a machine without a disk that could be written.
var errNoDisk = errors.New("no disk found that can be written. Check the disk and its " +
	"controller in the firmware set-up; if it needs a driver that the cloud kernel lacks, " +
	"use a deploy ramdisk of flavour generic")

// ChooseDisk returns the smallest disk of at least 4 GiB, or else the smallest; of equal ones
// the first by name.
func ChooseDisk(disks []Disk) (Disk, error) {
	if len(disks) == 0 {
		return Disk{}, errNoDisk
	}
	return slices.MinFunc(disks, func(a, b Disk) int {
		if small, other := a.Bytes < comfortable, b.Bytes < comfortable; small != other {
			if small {
				return 1
			}
			return -1
		}
		if a.Bytes != b.Bytes {
			if a.Bytes < b.Bytes {
				return -1
			}
			return 1
		}
		if len(a.Name) != len(b.Name) { // sdb before sdaa
			return len(a.Name) - len(b.Name)
		}
		return strings.Compare(a.Name, b.Name)
	}), nil
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

// findDisk waits until the machine shows a disk and then until no more appear: controllers are
// scanned in the background, and the choice needs all of them.
func findDisk(ctx context.Context, sysBlock string, patience, settle time.Duration) (Disk, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var seen []Disk
	changed := time.Now()
	for {
		disks, err := listDisks(sysBlock)
		if err != nil {
			return Disk{}, err
		}
		if !slices.Equal(disks, seen) {
			seen, changed = disks, time.Now()
		}
		if len(seen) > 0 && time.Since(changed) >= settle {
			return ChooseDisk(seen)
		}
		select {
		case <-ctx.Done():
			return ChooseDisk(seen)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
