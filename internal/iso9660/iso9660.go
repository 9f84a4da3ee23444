// Package iso9660 builds CD images in memory: ISO 9660 (ECMA-119) with Rock Ridge and Joliet, so
// that Linux, Windows and firmware all see the names that were given. It reads none and makes no
// bootable ones. Start at [Build].
package iso9660

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

// File is a regular file of an image.
type File struct {
	Path string // relative, with slashes: openstack/latest/meta_data.json
	Data []byte
}

// Options are what an image says of itself. The same options and files give the same bytes.
type Options struct {
	Label string    // at most 16 characters
	Time  time.Time // of everything in it
}

const (
	sectorSize = 2048
	// firstSector follows the system area and the three volume descriptors.
	firstSector = 16 + 3
	maxName     = 64 // Joliet 1.0
	maxDepth    = 8  // ECMA-119 6.8.2.1
	maxSize     = 1 << 31
)

// node is a directory or a file.
type node struct {
	name     string
	data     []byte
	dir      bool
	children []*node
	parent   *node
	short    string // name in the primary tree
	extent   uint32 // of a file
	// Of a directory, in either tree.
	in [2]place
}

// place is where a directory is in one tree, and its number in the path table.
type place struct {
	extent, size uint32
	number       uint16
}

// The two trees.
const (
	primary = 0
	joliet  = 1
)

// Build returns an image with the files and the directories that they need.
func Build(o Options, files []File) ([]byte, error) {
	if n := len(utf16.Encode([]rune(o.Label))); n > 16 {
		return nil, fmt.Errorf("the label %q has more than 16 characters", o.Label)
	}
	root := &node{dir: true}
	root.parent = root
	total := 0
	for _, f := range files {
		if err := root.add(f); err != nil {
			return nil, err
		}
		if total += len(f.Data); total > maxSize {
			return nil, fmt.Errorf("the files have more than %d bytes", maxSize)
		}
	}
	b := builder{Options: o}
	b.lay(root)
	return b.write(root), nil
}

// add puts a file into the tree below n.
func (n *node) add(f File) error {
	if !fs.ValidPath(f.Path) || f.Path == "." {
		return fmt.Errorf("%q is no path of a file in an image", f.Path)
	}
	parts := strings.Split(f.Path, "/")
	if len(parts) > maxDepth {
		return fmt.Errorf("%q is more than %d levels deep", f.Path, maxDepth)
	}
	for i, name := range parts {
		if len(utf16.Encode([]rune(name)))+len(";1") > maxName || len(name) > 2*maxName {
			return fmt.Errorf("the name %q is too long", name)
		}
		last := i == len(parts)-1
		at := slices.IndexFunc(n.children, func(c *node) bool { return c.name == name })
		switch {
		case at < 0:
			n.children = append(n.children, &node{name: name, dir: !last, parent: n})
			n = n.children[len(n.children)-1]
		case last || !n.children[at].dir:
			return fmt.Errorf("%q is there twice", path.Join(parts[:i+1]...))
		default:
			n = n.children[at]
		}
	}
	n.data = f.Data
	return nil
}

// builder lays out and writes one image.
type builder struct {
	Options
	dirs   [2][]*node // in the order of the path table
	files  []*node
	tables [2]uint32 // sector of the little-endian path table; the big-endian one follows
	length [2]int    // bytes of a path table
	next   uint32    // first free sector
	out    []byte
}

func sectors(n int) uint32 { return uint32((n + sectorSize - 1) / sectorSize) }

// lay decides in which sector everything begins.
func (b *builder) lay(root *node) {
	b.next = firstSector
	for tree := range b.dirs {
		b.dirs[tree] = []*node{root}
		for i := 0; i < len(b.dirs[tree]); i++ { // grows on the way: breadth first
			d := b.dirs[tree][i]
			d.in[tree].number = uint16(i + 1)
			if tree == primary {
				d.shorten()
			}
			for _, c := range d.sorted(tree) {
				if c.dir {
					b.dirs[tree] = append(b.dirs[tree], c)
				} else if tree == primary {
					b.files = append(b.files, c)
				}
			}
		}
		b.length[tree] = len(b.pathTable(tree, binary.LittleEndian))
		b.tables[tree] = b.next
		b.next += 2 * sectors(b.length[tree])
	}
	for tree, dirs := range b.dirs {
		for _, d := range dirs {
			n := sectors(len(b.directory(d, tree)))
			d.in[tree].extent, d.in[tree].size = b.next, n*sectorSize
			b.next += n
		}
	}
	for _, f := range b.files {
		f.extent = b.next
		b.next += sectors(len(f.data))
	}
}

// shorten gives the children names as ECMA-119 wants them (level 1), different from one another.
func (n *node) shorten() {
	taken := make(map[string]bool)
	clean := func(s string, most int) string {
		s = strings.Map(func(r rune) rune {
			if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
				return r
			}
			return '_'
		}, strings.ToUpper(s))
		return s[:min(len(s), most)]
	}
	slices.SortFunc(n.children, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	for _, c := range n.children {
		base, ext := c.name, ""
		if at := strings.LastIndexByte(c.name, '.'); !c.dir && at >= 0 {
			base, ext = c.name[:at], "."+clean(c.name[at+1:], 3)
		} else if !c.dir {
			ext = "."
		}
		base = clean(base, 8)
		for i := 0; base == "" || taken[base+ext]; i++ {
			number := fmt.Sprintf("%03d", i)
			base = base[:min(len(base), 8-len(number))] + number
		}
		taken[base+ext] = true
		c.short = base + ext
		if !c.dir {
			c.short += ";1"
		}
	}
}

// label is the name of n in a tree, as bytes.
func (n *node) label(tree int) string {
	if tree == primary {
		return n.short
	}
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`*/:;?\`, r) || r < ' ' {
			return '_'
		}
		return r
	}, n.name)
	if !n.dir {
		name += ";1"
	}
	return ucs2(name)
}

// ucs2 is the encoding of Joliet, big-endian.
func ucs2(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	return string(b)
}

// sorted are the children in the order of a directory.
func (n *node) sorted(tree int) []*node {
	return slices.SortedFunc(slices.Values(n.children), func(a, b *node) int {
		return cmp.Compare(a.label(tree), b.label(tree))
	})
}

// directory is the content of a directory.
func (b *builder) directory(d *node, tree int) []byte {
	out := b.record(nil, d, tree, "\x00")
	out = b.record(out, d.parent, tree, "\x01")
	for _, c := range d.sorted(tree) {
		out = b.record(out, c, tree, c.label(tree))
	}
	return out
}

// record appends a directory record (ECMA-119 9.1), which does not cross a sector.
func (b *builder) record(out []byte, n *node, tree int, name string) []byte {
	r := make([]byte, 33, 256)
	extent, size := n.extent, uint32(len(n.data))
	if n.dir {
		extent, size = n.in[tree].extent, n.in[tree].size
		r[25] = 2
	}
	both32(r[2:], extent)
	both32(r[10:], size)
	copy(r[18:], b.stamp())
	both16(r[28:], 1) // volume
	r[32] = byte(len(name))
	r = append(r, name...)
	if len(r)%2 != 0 {
		r = append(r, 0)
	}
	if tree == primary {
		r = b.rockRidge(r, n, name)
	}
	if len(r)%2 != 0 {
		r = append(r, 0)
	}
	r[0] = byte(len(r))
	if room := sectorSize - len(out)%sectorSize; room < len(r) {
		out = append(out, make([]byte, room)...)
	}
	return append(out, r...)
}

// rockRidge appends the system use entries (SUSP 1.10, RRIP 1.09) that give a POSIX system name,
// mode and times.
func (b *builder) rockRidge(r []byte, n *node, name string) []byte {
	if name == "\x00" && n.parent == n {
		r = append(r, 'S', 'P', 7, 1, 0xBE, 0xEF, 0)
	}
	mode, links := uint32(0o100444), uint32(1)
	if n.dir {
		mode, links = 0o40555, 2
		for _, c := range n.children {
			if c.dir {
				links++
			}
		}
	}
	px := make([]byte, 36)
	copy(px, "PX\x24\x01")
	both32(px[4:], mode)
	both32(px[12:], links)
	r = append(r, px...)
	stamp := b.stamp()
	r = append(r, 'T', 'F', byte(5+3*len(stamp)), 1, 0x0E) // modified, accessed, changed
	for range 3 {
		r = append(r, stamp...)
	}
	switch name {
	case "\x00":
		if n.parent == n {
			const id = "RRIP_1991A"
			r = append(r, 'E', 'R', byte(8+len(id)), 1, byte(len(id)), 0, 0, 1)
			r = append(r, id...)
		}
	case "\x01":
	default:
		r = append(r, 'N', 'M', byte(5+len(n.name)), 1, 0)
		r = append(r, n.name...)
	}
	return r
}

// stamp is the time in a directory record.
func (b *builder) stamp() []byte {
	t := b.Time.UTC()
	year := min(max(t.Year(), 1900), 1900+255)
	return []byte{byte(year - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()),
		byte(t.Minute()), byte(t.Second()), 0}
}

// pathTable lists the directories (ECMA-119 9.4).
func (b *builder) pathTable(tree int, order binary.AppendByteOrder) []byte {
	var out []byte
	for _, d := range b.dirs[tree] {
		name := "\x00"
		if d.parent != d {
			name = d.label(tree)
		}
		out = append(out, byte(len(name)), 0)
		out = order.AppendUint32(out, d.in[tree].extent)
		out = order.AppendUint16(out, d.parent.in[tree].number)
		out = append(out, name...)
		if len(name)%2 != 0 {
			out = append(out, 0)
		}
	}
	return out
}

// write puts everything where lay wants it.
func (b *builder) write(root *node) []byte {
	b.out = make([]byte, int(b.next)*sectorSize)
	b.put(16, b.descriptor(primary, root))
	b.put(17, b.descriptor(joliet, root))
	b.put(18, []byte("\xFFCD001\x01"))
	for tree, dirs := range b.dirs {
		b.put(b.tables[tree], b.pathTable(tree, binary.LittleEndian))
		b.put(b.tables[tree]+sectors(b.length[tree]), b.pathTable(tree, binary.BigEndian))
		for _, d := range dirs {
			b.put(d.in[tree].extent, b.directory(d, tree))
		}
	}
	for _, f := range b.files {
		b.put(f.extent, f.data)
	}
	return b.out
}

func (b *builder) put(sector uint32, data []byte) {
	copy(b.out[int(sector)*sectorSize:], data)
}

// descriptor is a volume descriptor (ECMA-119 8.4 and 8.5).
func (b *builder) descriptor(tree int, root *node) []byte {
	d := make([]byte, sectorSize)
	text := func(at, n int, s string) {
		blank := " "
		if tree == joliet {
			s, blank = ucs2(s), "\x00 "
		}
		copy(d[at:at+n], s+strings.Repeat(blank, n/len(blank)))
	}
	copy(d, "\x01CD001\x01")
	if tree == joliet {
		d[0] = 2
		copy(d[88:], "%/E") // UCS-2 level 3
	}
	text(8, 32, "LINUX")
	text(40, 32, b.Label)
	both32(d[80:], b.next)
	both16(d[120:], 1)
	both16(d[124:], 1)
	both16(d[128:], sectorSize)
	both32(d[132:], uint32(b.length[tree]))
	binary.LittleEndian.PutUint32(d[140:], b.tables[tree])
	binary.BigEndian.PutUint32(d[148:], b.tables[tree]+sectors(b.length[tree]))
	// The root's record has no system use area here.
	r := b.record(nil, root, joliet, "\x00")
	both32(r[2:], root.in[tree].extent)
	both32(r[10:], root.in[tree].size)
	copy(d[156:], r)
	for _, at := range []int{190, 318, 446, 574} {
		text(at, 128, "")
	}
	for _, at := range []int{702, 739, 776} {
		text(at, 37, "")
	}
	date := b.Time.UTC().Format("20060102150405") + "00\x00"
	copy(d[813:], date)
	copy(d[830:], date)
	copy(d[847:], strings.Repeat("0", 16)) // does not expire
	copy(d[864:], date)
	d[881] = 1
	return d
}

func both16(b []byte, v uint16) {
	binary.LittleEndian.PutUint16(b, v)
	binary.BigEndian.PutUint16(b[2:], v)
}

func both32(b []byte, v uint32) {
	binary.LittleEndian.PutUint32(b, v)
	binary.BigEndian.PutUint32(b[4:], v)
}
