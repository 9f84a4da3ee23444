// Package iso9660 builds CD images: ISO 9660 (ECMA-119) with Rock Ridge and Joliet, so that Linux,
// Windows and firmware all see the names that were given, and El Torito, so that BIOS and UEFI boot
// them. Files are not copied: an image is read where its files are. It reads no images. Start at [New].
package iso9660

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
	// Content has Size bytes in place of Data; it is read whenever the image is.
	Content io.ReaderAt
	Size    int64
}

// Options are what an image says of itself. The same options and files give the same bytes.
type Options struct {
	Label string    // at most 16 characters
	Time  time.Time // of everything in it
	// BIOS is the path of a file that a BIOS boots, isolinux.bin; it is told in a table of its own
	// where it is (mkisofs -boot-info-table), and has to be in Data. "" is none.
	BIOS string
	// UEFI is the path of a FAT file system that UEFI boots; "" is none.
	UEFI string
}

const (
	sectorSize = 2048
	// systemArea has the sectors before the volume descriptors.
	systemArea = 16
	maxName    = 64 // Joliet 1.0
	maxDepth   = 8  // ECMA-119 6.8.2.1
)

// node is a directory or a file.
type node struct {
	name     string
	file     File
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

// pageSectors are a page of memory. A Content begins at one, so that what is read of an image by whole pages are
// whole pages of the file, which the kernel can send as they are.
const pageSectors = 4096 / sectorSize

// MaxSize is how many bytes the files of an image may have together.
const MaxSize = 1<<32 - 1<<20

// The two trees.
const (
	primary = 0
	joliet  = 1
)

// An Image is laid out and can be read; its files are read where they are.
type Image struct {
	parts []part // in order, without gaps
	size  int64
}

// part is a stretch of an image that is read from somewhere; the rest of it, up to the next part, is
// zeros.
type part struct {
	at, length int64
	from       io.ReaderAt
}

// New lays out an image with the files and the directories that they need.
func New(o Options, files []File) (*Image, error) {
	if n := len(utf16.Encode([]rune(o.Label))); n > 16 {
		return nil, fmt.Errorf("the label %q has more than 16 characters", o.Label)
	}
	root := &node{dir: true}
	root.parent = root
	total := int64(0)
	for _, f := range files {
		if f.Content == nil {
			f.Size = int64(len(f.Data))
		}
		if err := root.add(f); err != nil {
			return nil, err
		}
		if f.Size < 0 || f.Size > MaxSize-total {
			return nil, fmt.Errorf("the files have more than %d bytes", int64(MaxSize))
		}
		total += f.Size
	}
	b := builder{Options: o}
	b.lay(root)
	if err := b.bootable(); err != nil {
		return nil, err
	}
	return b.image(root), nil
}

// Size is the length of the image in bytes, a whole number of sectors.
func (i *Image) Size() int64 { return i.size }

// ReadAt reads the image. Errors of its files are returned, and a file that has become shorter is
// io.ErrUnexpectedEOF.
func (i *Image) ReadAt(buf []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("read before the beginning of an image")
	}
	at, _ := slices.BinarySearchFunc(i.parts, off, func(p part, off int64) int {
		return cmp.Compare(p.at+p.length, off+1)
	})
	for n < len(buf) && off+int64(n) < i.size {
		now, left := off+int64(n), buf[n:]
		if room := i.size - now; int64(len(left)) > room {
			left = left[:room]
		}
		if at == len(i.parts) || now < i.parts[at].at {
			if at < len(i.parts) {
				left = left[:min(int64(len(left)), i.parts[at].at-now)]
			}
			clear(left)
			n += len(left)
			continue
		}
		p := i.parts[at]
		left = left[:min(int64(len(left)), p.at+p.length-now)]
		got, err := p.from.ReadAt(left, now-p.at)
		if n += got; got < len(left) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		if now+int64(got) == p.at+p.length {
			at++
		}
	}
	if n < len(buf) {
		err = io.EOF
	}
	return n, err
}

// Section returns what has all of the n bytes at off, and where they are in it; ok is false if nothing has
// all of them.
func (i *Image) Section(off, n int64) (from io.ReaderAt, at int64, ok bool) {
	k, _ := slices.BinarySearchFunc(i.parts, off, func(p part, off int64) int {
		return cmp.Compare(p.at+p.length, off+1)
	})
	if k == len(i.parts) || off < i.parts[k].at || n > i.parts[k].at+i.parts[k].length-off {
		return nil, 0, false
	}
	return i.parts[k].from, off - i.parts[k].at, true
}

// Build returns the bytes of an image.
func Build(o Options, files []File) ([]byte, error) {
	i, err := New(o, files)
	if err != nil {
		return nil, err
	}
	out := make([]byte, i.Size())
	_, err = i.ReadAt(out, 0)
	return out, err
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
	n.file = f
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
	// catalog is the sector of the boot catalog; 0 is none.
	catalog uint32
	parts   []part
}

func sectors[N int | int64](n N) uint32 { return uint32((n + sectorSize - 1) / sectorSize) }

// lay decides in which sector everything begins.
func (b *builder) lay(root *node) {
	b.next = systemArea + 3 // descriptors of both trees, and their end
	if b.BIOS != "" || b.UEFI != "" {
		b.catalog = b.next + 1 // after one more descriptor
		b.next += 2
	}
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
		if f.file.Content != nil {
			b.next = (b.next + pageSectors - 1) / pageSectors * pageSectors
		}
		f.extent = b.next
		b.next += sectors(f.file.Size)
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
	extent, size := n.extent, uint32(n.file.Size)
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

// bootable looks for the files that are booted, and tells isolinux where it is.
func (b *builder) bootable() error {
	for _, path := range []string{b.BIOS, b.UEFI} {
		if path != "" && b.find(path) == nil {
			return fmt.Errorf("%q is to be booted and not there", path)
		}
	}
	if b.BIOS == "" {
		return nil
	}
	// Bytes 8 to 63 (mkisofs(8), EL TORITO BOOT INFORMATION TABLE).
	f := b.find(b.BIOS)
	const table = 64
	if len(f.file.Data) < table {
		return fmt.Errorf("%q has %d bytes, and no room for a boot information table", b.BIOS, len(f.file.Data))
	}
	data, sum := slices.Clone(f.file.Data), uint32(0)
	for rest := data[table:]; len(rest) > 0; rest = rest[min(4, len(rest)):] {
		var word [4]byte
		copy(word[:], rest)
		sum += binary.LittleEndian.Uint32(word[:])
	}
	clear(data[8:table])
	for i, v := range []uint32{systemArea, f.extent, uint32(len(data)), sum} {
		binary.LittleEndian.PutUint32(data[8+4*i:], v)
	}
	f.file.Data = data
	return nil
}

// find is the file with a path, nil if there is none.
func (b *builder) find(path string) *node {
	for _, f := range b.files {
		if f.file.Path == path {
			return f
		}
	}
	return nil
}

// image puts everything where lay wants it.
func (b *builder) image(root *node) *Image {
	b.put(systemArea, b.descriptor(primary, root))
	next := uint32(systemArea + 1)
	if b.catalog > 0 {
		record := make([]byte, 75) // the boot record (El Torito 2.0)
		copy(record, "\x00CD001\x01EL TORITO SPECIFICATION")
		binary.LittleEndian.PutUint32(record[71:], b.catalog)
		b.put(next, record)
		next++
	}
	b.put(next, b.descriptor(joliet, root))
	b.put(next+1, []byte("\xFFCD001\x01"))
	if b.catalog > 0 {
		b.put(b.catalog, b.bootCatalog())
	}
	for tree, dirs := range b.dirs {
		b.put(b.tables[tree], b.pathTable(tree, binary.LittleEndian))
		b.put(b.tables[tree]+sectors(b.length[tree]), b.pathTable(tree, binary.BigEndian))
		for _, d := range dirs {
			b.put(d.in[tree].extent, b.directory(d, tree))
		}
	}
	for _, f := range b.files {
		switch {
		case f.file.Size == 0:
		case f.file.Content != nil:
			b.parts = append(b.parts, part{int64(f.extent) * sectorSize, f.file.Size, f.file.Content})
		default:
			b.put(f.extent, f.file.Data)
		}
	}
	slices.SortFunc(b.parts, func(a, b part) int { return cmp.Compare(a.at, b.at) })
	return &Image{b.parts, int64(b.next) * sectorSize}
}

func (b *builder) put(sector uint32, data []byte) {
	b.parts = append(b.parts, part{int64(sector) * sectorSize, int64(len(data)), bytes.NewReader(data)})
}

// bootCatalog names what is booted (El Torito 2.1 to 2.5), for BIOS first: firmware of old looks no
// further.
func (b *builder) bootCatalog() []byte {
	const bios, uefi = 0, 0xEF
	first := byte(bios)
	if b.BIOS == "" {
		first = uefi
	}
	c := make([]byte, 32, 128)
	c[0], c[1], c[30], c[31] = 1, first, 0x55, 0xAA
	sum := uint16(0)
	for i := 0; i < len(c); i += 2 {
		sum += binary.LittleEndian.Uint16(c[i:])
	}
	binary.LittleEndian.PutUint16(c[28:], -sum)
	if b.BIOS != "" {
		c = append(c, b.bootEntry(b.BIOS, 4)...) // what isolinux wants to be loaded of it, 4 * 512 bytes
	}
	if b.UEFI == "" {
		return c
	}
	if b.BIOS != "" {
		header := make([]byte, 32)
		header[0], header[1], header[2] = 0x91, uefi, 1 // the last section, of one entry
		c = append(c, header...)
	}
	// Sectors of 512 bytes; 0 where they are too many to say.
	count := (b.find(b.UEFI).file.Size + 511) / 512
	if count > 0xFFFF {
		count = 0
	}
	return append(c, b.bootEntry(b.UEFI, uint16(count))...)
}

// bootEntry is an entry of the catalog without emulation.
func (b *builder) bootEntry(path string, count uint16) []byte {
	e := make([]byte, 32)
	e[0] = 0x88
	binary.LittleEndian.PutUint16(e[6:], count)
	binary.LittleEndian.PutUint32(e[8:], b.find(path).extent)
	return e
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
