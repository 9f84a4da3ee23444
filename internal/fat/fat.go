// Package fat builds FAT12 and FAT16 file systems in memory, with long names (VFAT) and without a
// partition table: what UEFI boots from, and the floppy that goes into a BMC; and reads a file from such a
// floppy. Start at [Build] and [ReadFile].
package fat

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// File is a regular file of a file system.
type File struct {
	Path string // relative, with slashes: EFI/BOOT/BOOTX64.EFI
	Data []byte
}

// Options are what a file system says of itself. The same options and files, in whatever order, give
// the same bytes.
type Options struct {
	Label  string    // at most 11 characters of ASCII, kept in lower case; "" is none
	Time   time.Time // of everything in it, to two seconds, from 1980 to 2107
	Serial uint32    // of the volume: 0x12345678 is the UUID 1234-5678
	// Size is bytes, a multiple of 512; 0 is what the files need, in steps of 32 KiB from 2880 KiB.
	// FloppySize is laid out as a floppy, all else as a disk.
	Size int64
}

// FloppySize is the bytes of a floppy of 3.5 inches.
const FloppySize = 1440 << 10

const (
	recordSize = 32
	// leastSize is what grub-mkrescue takes for UEFI: firmware has booted from it for many years.
	leastSize = 2880 << 10
	// sizeStep is whole tracks.
	sizeStep = 32 << 10
	// maxRecords is what 16 bits of the boot sector can say of the root directory in whole sectors;
	// the size of other directories ends there as well (2 MiB).
	maxRecords = 1<<16 - sectorSize/recordSize
)

// Attributes of a record in a directory.
const (
	attrLabel     = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLongName  = 0x0F
)

// node is a directory or a file.
type node struct {
	name     string
	data     []byte // of a file
	dir      bool
	children map[string]*node // by folded name
	parent   *node            // nil for the root
	short    [11]byte
	long     []uint16 // name in UTF-16; nil if short says it
	cluster  int      // first; 0 is none, and the root directory
}

// Build returns the bytes of a file system with the files and the directories that they need.
func Build(o Options, files []File) ([]byte, error) {
	if err := checkLabel(o.Label); err != nil {
		return nil, err
	}
	root := &node{dir: true}
	for _, f := range files {
		if err := root.add(f); err != nil {
			return nil, err
		}
	}
	v := volume{Options: o}
	if err := v.name(root); err != nil {
		return nil, err
	}
	if err := v.fit(root); err != nil {
		return nil, err
	}
	v.image = make([]byte, v.total*sectorSize)
	v.boot()
	v.table = []uint16{0xFF00 | uint16(v.media()), endOfChain}
	v.place(root)
	v.write(root)
	v.tables()
	return v.image, nil
}

// add puts a file into the tree below n.
func (n *node) add(f File) error {
	if !fs.ValidPath(f.Path) || f.Path == "." {
		return fmt.Errorf("%q is no path of a file", f.Path)
	}
	parts := strings.Split(f.Path, "/")
	for i, name := range parts {
		if err := checkName(name); err != nil {
			return err
		}
		last := i == len(parts)-1
		c := n.children[fold(name)]
		switch {
		case c == nil:
			c = &node{name: name, dir: !last, parent: n}
			if n.children == nil {
				n.children = make(map[string]*node)
			}
			n.children[fold(name)] = c
		case last || !c.dir || c.name != name:
			return fmt.Errorf("%q is there twice, if only in another case", path.Join(parts[:i+1]...))
		}
		n = c
	}
	n.data = f.Data
	return nil
}

// sorted are the children in the order in which everything is done.
func (n *node) sorted() []*node {
	return slices.SortedFunc(maps.Values(n.children), func(a, b *node) int {
		return cmp.Compare(a.name, b.name)
	})
}

// volume is a file system that is being written.
type volume struct {
	Options
	geometry
	image []byte
	table []uint16 // of every cluster, the one that follows it
}

// name gives short names to everything below d, and sees that directories do not become too large.
func (v *volume) name(d *node) error {
	d.shorten()
	if n := v.records(d); n > maxRecords {
		return fmt.Errorf("the directory %q has %d records, more than %d", d.name, n, maxRecords)
	}
	for _, c := range d.sorted() {
		if !c.dir {
			continue
		}
		if err := v.name(c); err != nil {
			return err
		}
	}
	return nil
}

// fit chooses the geometry.
func (v *volume) fit(root *node) (err error) {
	size := cmp.Or(v.Size, leastSize)
	for {
		if v.geometry, err = newGeometry(size, v.records(root)); err != nil {
			return err
		}
		missing := int64(v.need(root)-v.clusters) * int64(v.clusterSize())
		if missing <= 0 {
			return nil
		}
		if v.Size != 0 {
			return fmt.Errorf("the files do not fit into %d bytes: %d bytes are missing", size, missing)
		}
		size += (missing + sizeStep - 1) / sizeStep * sizeStep
	}
}

// records is how many records the directory d has.
func (v *volume) records(d *node) int {
	n := 2 // . and ..
	if d.parent == nil {
		n = min(len(v.Label), 1)
	}
	for _, c := range d.children {
		n += c.longCount() + 1
	}
	return n
}

// count is how many clusters n has for itself.
func (v *volume) count(n *node) int {
	size := len(n.data)
	switch {
	case n.dir && n.parent == nil:
		size = 0 // has a place of its own
	case n.dir:
		size = v.records(n) * recordSize
	}
	return (size + v.clusterSize() - 1) / v.clusterSize()
}

// need is how many clusters n and everything below it have.
func (v *volume) need(n *node) int {
	sum := v.count(n)
	for _, c := range n.children {
		sum += v.need(c)
	}
	return sum
}

// place gives clusters to n and everything below it, one behind the other.
func (v *volume) place(n *node) {
	if count := v.count(n); count > 0 {
		n.cluster = len(v.table)
		for i := 1; i < count; i++ {
			v.table = append(v.table, uint16(n.cluster+i))
		}
		v.table = append(v.table, endOfChain)
	}
	for _, c := range n.sorted() {
		v.place(c)
	}
}

// write writes n and everything below it.
func (v *volume) write(n *node) {
	data := n.data
	if n.dir {
		data = v.directory(n)
	}
	at := v.rootStart()
	if n.parent != nil {
		at = v.clusterStart(n.cluster)
	}
	if len(data) > 0 {
		copy(v.image[at*sectorSize:], data)
	}
	for _, c := range n.children {
		v.write(c)
	}
}

// directory is the content of the directory d.
func (v *volume) directory(d *node) []byte {
	var out []byte
	switch {
	case d.parent != nil:
		out = v.record(out, shortName(".", ""), attrDirectory, d)
		out = v.record(out, shortName("..", ""), attrDirectory, d.parent)
	case v.Label != "":
		out = v.record(out, v.label(), attrLabel, &node{})
	}
	for _, c := range d.sorted() {
		out = c.longRecords(out)
		attributes := byte(attrArchive)
		if c.dir {
			attributes = attrDirectory
		}
		out = v.record(out, c.short, attributes, c)
	}
	return out
}

// record appends the record of a short name, for where n is.
func (v *volume) record(out []byte, name [11]byte, attributes byte, n *node) []byte {
	date, clock, hundredths := stamp(v.Time)
	r := make([]byte, recordSize)
	copy(r, name[:])
	r[11] = attributes
	r[13] = hundredths
	binary.LittleEndian.PutUint16(r[14:], clock) // created
	binary.LittleEndian.PutUint16(r[16:], date)
	binary.LittleEndian.PutUint16(r[18:], date)  // read
	binary.LittleEndian.PutUint16(r[22:], clock) // written
	binary.LittleEndian.PutUint16(r[24:], date)
	binary.LittleEndian.PutUint16(r[26:], uint16(n.cluster))
	binary.LittleEndian.PutUint32(r[28:], uint32(len(n.data))) // 0 for directories
	return append(out, r...)
}

// label is the label as the boot sector and the root directory have it.
func (v *volume) label() (l [11]byte) {
	copy(l[:], fmt.Sprintf("%-11s", cmp.Or(v.Label, "NO NAME")))
	return l
}

// stamp is a time as records have it, and what its two seconds leave over.
func stamp(t time.Time) (date, clock uint16, hundredths byte) {
	t = t.UTC()
	if first := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC); t.Before(first) {
		t = first
	}
	if last := time.Date(2107, 12, 31, 23, 59, 59, 0, time.UTC); t.After(last) {
		t = last
	}
	date = uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day())
	clock = uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
	return date, clock, byte(t.Second()%2*100 + t.Nanosecond()/int(10*time.Millisecond))
}
