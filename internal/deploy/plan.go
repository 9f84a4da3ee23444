package deploy

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"ingot/internal/disk"
	"ingot/internal/ext4"
	"ingot/internal/ingot"
)

// Role is what a partition of a plan is for; it is also its name in a GPT.
type Role string

// Roles, in the order in which they are on the disk: Ironic's.
const (
	Ephemeral   Role = "ephemeral0"
	Swap        Role = "swap1"
	ConfigDrive Role = "config-2"
	Root        Role = "root"
)

// ConfigDriveSize is the size of the partition of a config drive, and the most that one may have.
const ConfigDriveSize = 64 << 20

// Request is what the partitions of a disk shall be. Sizes are bytes; 0 is no such partition.
type Request struct {
	Label                 disk.Label
	Root, Swap, Ephemeral int64
	ConfigDrive           bool
	// LocalBoot makes a BIOS start the boot loader in the root partition; MBR only.
	LocalBoot bool
	// Seed makes the identifiers: the same seed, the same identifiers.
	Seed string
}

// Plan is where everything goes. It is decided before anything is written.
type Plan struct {
	Table disk.Table
	seed  string
	local bool
}

// NewPlan lays the partitions out on a disk of size bytes. An error tells what does not fit.
func NewPlan(r Request, size int64, sector int) (Plan, error) {
	if r.LocalBoot && r.Label != disk.MBR {
		return Plan{}, ingot.Errorf(ingot.Invalid, "a BIOS starts a boot loader in a partition only "+
			"from a table of kind msdos, not %.20q; set disk_label:msdos", r.Label)
	}
	p := Plan{seed: r.Seed, local: r.LocalBoot, Table: disk.Table{Label: r.Label, Size: size, Sector: sector,
		ID: identifier(r.Seed, "disk")}}
	at := p.Table.First()
	for _, part := range []struct {
		role Role
		size int64
		kind disk.Type
	}{
		{Ephemeral, r.Ephemeral, disk.Linux}, {Swap, r.Swap, disk.Swap},
		{ConfigDrive, map[bool]int64{true: ConfigDriveSize}[r.ConfigDrive], disk.Linux},
		{Root, r.Root, disk.Linux},
	} {
		if part.size <= 0 {
			continue
		}
		if part.size > size { // also keeps the sum from overflowing
			return Plan{}, ingot.Errorf(ingot.Invalid, "a partition %s of %d MiB is asked for, but "+
				"the disk has %d MiB; ask for less (root_gb, swap_mb, ephemeral_gb) or choose a "+
				"larger disk (root_device hints)", part.role, part.size>>20, size>>20)
		}
		// What comes next must be aligned; no size is less than asked for.
		n := (part.size + disk.Align - 1) / disk.Align * disk.Align
		err := p.Table.Add(disk.Partition{Start: at, Size: n, Type: part.kind,
			GUID: identifier(r.Seed, part.role), Name: string(part.role),
			Active: r.LocalBoot && part.role == Root})
		if err != nil {
			return Plan{}, ingot.Errorf(ingot.Invalid, "%w", err)
		}
		at += n
	}
	if last := p.Table.Last(); at > last {
		return Plan{}, ingot.Errorf(ingot.Invalid, "the partitions take %d MiB (%s), but the disk "+
			"has room for %d MiB; ask for less (root_gb, swap_mb, ephemeral_gb) or choose a "+
			"larger disk (root_device hints)", at>>20, p, last>>20)
	}
	if r.Ephemeral > 0 && (r.Ephemeral < ext4.MinSize || r.Ephemeral > ext4.MaxSize) {
		return Plan{}, ingot.Errorf(ingot.Invalid, "an ephemeral partition of %d MiB cannot be "+
			"made; ext4 takes %d MiB to 16 TiB", r.Ephemeral>>20, ext4.MinSize>>20)
	}
	return p, nil
}

// identifier makes a random-looking GUID (RFC 9562 version 8) of a partition or a disk.
func identifier(seed string, role Role) disk.GUID {
	g := disk.GUID(digest(seed, string(role)))
	g[7] = g[7]&0x0F | 0x80 // the byte with the version, in the order of the disk
	return g
}

// uuid makes one of the file system in a partition, in reading order.
func uuid(seed string, role Role) [16]byte {
	u := digest(seed, string(role)+" file system")
	u[6] = u[6]&0x0F | 0x80
	return u
}

func digest(seed, what string) [16]byte {
	sum := sha256.Sum256([]byte("ingot " + seed + " " + what))
	sum[8] = sum[8]&0x3F | 0x80
	return [16]byte(sum[:16])
}

// Part returns the partition with a role; false if there is none.
func (p Plan) Part(role Role) (disk.Partition, bool) {
	for _, part := range p.Table.Partitions {
		if part.Name == string(role) {
			return part, true
		}
	}
	return disk.Partition{}, false
}

// String is for people: "gpt: 1 swap1 512 MiB at 1 MiB, 2 root 10240 MiB at 513 MiB".
func (p Plan) String() string {
	var parts []string
	for _, part := range p.Table.Partitions {
		parts = append(parts, fmt.Sprintf("%d %s %d MiB at %d MiB", part.Number, part.Name,
			part.Size>>20, part.Start>>20))
	}
	return string(p.Table.Label) + ": " + strings.Join(parts, ", ")
}

// CheckKept tells whether the ephemeral partition of the plan is on the disk already, where the
// plan has it; head is the first MiB of the disk.
func (p Plan) CheckKept(head []byte) error {
	want, ok := p.Part(Ephemeral)
	if !ok {
		return ingot.Errorf(ingot.Invalid,
			"preserve_ephemeral is set, but instance_info has no ephemeral_gb")
	}
	const hint = "; the disk was left as it is. Deploy without preserve_ephemeral, which " +
		"makes a new, empty one"
	old, err := disk.Parse(head, p.Table.Size, p.Table.Sector)
	if err != nil {
		return ingot.Errorf(ingot.Invalid,
			"there is no ephemeral partition to preserve: %w%s", err, hint)
	}
	for _, have := range old.Partitions {
		if have.Number != want.Number {
			continue
		}
		if old.Label == p.Table.Label && have.Start == want.Start && have.Size == want.Size {
			return nil
		}
		return ingot.Errorf(ingot.Invalid, "the ephemeral partition cannot be preserved: the disk "+
			"has %d MiB at %d MiB in a table of kind %s, and instance_info asks for %d MiB at %d "+
			"MiB in one of kind %s%s", have.Size>>20, have.Start>>20, old.Label, want.Size>>20,
			want.Start>>20, p.Table.Label, hint)
	}
	return ingot.Errorf(ingot.Invalid, "there is no ephemeral partition to preserve: the disk has "+
		"no partition %d%s", want.Number, hint)
}
