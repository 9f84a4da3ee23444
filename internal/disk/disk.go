// Package disk reads and writes partition tables: MBR ("msdos") and GPT.
//
// It is pure: a table is parsed from the head of a disk, its first [HeadSize] bytes, and encoded
// into it. Who writes the bytes where, and when, is the caller's business, because the order
// decides whether a disk that was not finished can boot (package deploy). What a table does not
// describe (boot code, hybrid entries) stays as it is in the head. Identifiers are given by the
// caller, so that a repeated deployment writes the same bytes.
//
// Start reading at [Table]. Formats: UEFI 2.10 chapter 5 (GPT, protective MBR), and for MBR the
// de facto standard in the same chapter (5.2.1).
package disk

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Label is the kind of a partition table, as Ironic's capability disk_label names it.
type Label string

// Labels.
const (
	MBR Label = "msdos"
	GPT Label = "gpt"
)

const (
	// HeadSize is how much of a disk Parse and Encode want: all of either table.
	HeadSize = 1 << 20
	// Align is what partitions that this project makes are aligned to, in bytes.
	Align = 1 << 20
)

// ErrNoTable says that there is no partition table.
var ErrNoTable = errors.New("there is no partition table")

// Table is a partition table. Sizes and offsets are bytes, multiples of the sector size.
type Table struct {
	Label  Label
	Size   int64 // of the disk
	Sector int   // logical sector: a power of two of at least 512
	// ID is the disk GUID of a GPT; of an MBR the first 4 bytes are its signature.
	ID         GUID
	Partitions []Partition // by ascending Number

	entries int // of the GPT's array; 0 is the usual 128
}

// Partition is an entry of a table.
type Partition struct {
	Number      int // from 1
	Start, Size int64
	Type        Type
	// GUID, Name and Attributes exist in a GPT only; a name has at most 36 UTF-16 units.
	GUID       GUID
	Name       string
	Attributes uint64
	// Active marks the partition that a BIOS boot sector starts; MBR only.
	Active bool
}

// End is the offset behind the partition.
func (p Partition) End() int64 { return p.Start + p.Size }

// Type says what a partition is for; which half counts depends on the label.
type Type struct {
	MBR byte
	GPT GUID
}

// Types of partitions.
var (
	Linux = Type{0x83, MustGUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")}
	Swap  = Type{0x82, MustGUID("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F")}
	// EFISystem is for the loaders that UEFI starts, BIOSBoot for the part of GRUB that a BIOS's GPT has no place for.
	EFISystem = Type{0xEF, MustGUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")}
	BIOSBoot  = Type{GPT: MustGUID("21686148-6449-6E6F-744E-656564454649")}
)

// protective is the MBR type of the partition that keeps the ignorant off a GPT.
const protective = 0xEE

// GUID is an identifier in the byte order of the disk: three little-endian fields, then bytes.
type GUID [16]byte

// ParseGUID reads the text form, 8-4-4-4-12 hex digits.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(g) || len(s) != 36 {
		return GUID{}, fmt.Errorf("%.40q is no GUID", s)
	}
	copy(g[:], b)
	return g.swap(), nil
}

// MustGUID is ParseGUID for constants; it panics.
func MustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// swap turns disk order into reading order and back.
func (g GUID) swap() GUID {
	slices.Reverse(g[0:4])
	slices.Reverse(g[4:6])
	slices.Reverse(g[6:8])
	return g
}

// String returns the text form in lower case.
func (g GUID) String() string {
	g = g.swap()
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[0:4], g[4:6], g[6:8], g[8:10], g[10:16])
}

// Extent is bytes and where on the disk they belong.
type Extent struct {
	Off  int64
	Data []byte
}

// Parse reads the table in the head of a disk with size bytes in sectors of the given size. A
// head may be shorter than HeadSize if the disk is. A damaged table is an error, one that is not
// there ErrNoTable. Of a disk with both kinds the GPT counts.
func Parse(head []byte, size int64, sector int) (Table, error) {
	t := Table{Size: size, Sector: sector}
	if err := t.checkGeometry(); err != nil {
		return Table{}, err
	}
	if len(head) < sector || head[510] != 0x55 || head[511] != 0xAA {
		return Table{}, ErrNoTable
	}
	return t.parse(head)
}

func (t *Table) checkGeometry() error {
	s := t.Sector
	if s < 512 || s > 1<<16 || s&(s-1) != 0 || t.Size <= 0 || t.Size%int64(s) != 0 {
		return fmt.Errorf("a disk of %d bytes in sectors of %d has no partition table", t.Size, s)
	}
	return nil
}

// First is where the first partition may start.
func (t *Table) First() int64 { return Align }

// Last is the end of what partitions may take, aligned: in front of the backup GPT, or where the
// 32-bit sector numbers of an MBR end.
func (t *Table) Last() int64 {
	last := t.Size
	if t.Label == GPT {
		last -= t.backupSize()
	} else {
		last = min(last, int64(1<<32-1)*int64(t.Sector))
	}
	return max(0, last-last%Align)
}

// End is the end of the last partition, 0 if there is none.
func (t *Table) End() int64 {
	end := int64(0)
	for _, p := range t.Partitions {
		end = max(end, p.End())
	}
	return end
}

// slots is how many partitions the table can hold.
func (t *Table) slots() int {
	if t.Label == MBR {
		return 4
	}
	if t.entries == 0 {
		return defaultEntries
	}
	return t.entries
}

// Add puts a partition into the first free entry and sets its number.
func (t *Table) Add(p Partition) error {
	for n := 1; n <= t.slots(); n++ {
		if !slices.ContainsFunc(t.Partitions, func(p Partition) bool { return p.Number == n }) {
			p.Number = n
			t.Partitions = append(t.Partitions, p)
			slices.SortFunc(t.Partitions, func(a, b Partition) int {
				return cmp.Compare(a.Number, b.Number)
			})
			return nil
		}
	}
	return fmt.Errorf("the %s partition table has no free entry: all %d are taken", t.Label,
		t.slots())
}

// Encode writes the table into head, which holds the first HeadSize bytes of the disk (all of a
// smaller one), and returns what belongs elsewhere: the backup of a GPT.
func (t *Table) Encode(head []byte) ([]Extent, error) {
	if err := t.checkGeometry(); err != nil {
		return nil, err
	}
	if int64(len(head)) < min(HeadSize, t.Size) {
		return nil, fmt.Errorf("a head of %d bytes is too short for a partition table", len(head))
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	switch t.Label {
	case MBR:
		t.encodeMBR(head)
		return nil, nil
	case GPT:
		return t.encodeGPT(head)
	}
	return nil, fmt.Errorf("%.20q is no kind of partition table; known are msdos and gpt", t.Label)
}

// check finds what would make a table that others refuse or misread.
func (t *Table) check() error {
	low, high, s := int64(t.Sector), t.Size, int64(t.Sector)
	if t.Label == GPT {
		low, high = t.firstUsable(), t.Size-t.backupSize()
	}
	sorted := slices.SortedFunc(slices.Values(t.Partitions), func(a, b Partition) int {
		return cmp.Compare(a.Start, b.Start)
	})
	seen, end := make(map[int]bool), low
	for _, p := range sorted {
		switch {
		case p.Number < 1 || p.Number > t.slots() || seen[p.Number]:
			return fmt.Errorf("a %s partition table takes no partition %d", t.Label, p.Number)
		case p.Size <= 0 || p.Start%s != 0 || p.Size%s != 0 || p.Start < low || p.Size > high ||
			p.Start > high-p.Size:
			return fmt.Errorf("partition %d (%d bytes at %d) does not fit into the disk, which "+
				"has room from %d to %d", p.Number, p.Size, p.Start, low, high)
		case p.Start < end:
			return fmt.Errorf("partition %d overlaps another one", p.Number)
		case t.Label == MBR && (p.Start/s > 1<<32-1 || p.Size/s > 1<<32-1):
			return fmt.Errorf("partition %d lies beyond what an MBR can describe (2 TiB with "+
				"sectors of 512 bytes); use disk_label gpt", p.Number)
		}
		seen[p.Number], end = true, p.End()
	}
	return nil
}
