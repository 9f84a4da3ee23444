// Package ext4 writes an empty ext4 file system to a block device that is not this machine's: a
// disk of another machine, over iSCSI, where no mke2fs can be run. It writes a few MiB whatever
// the size, because the kernel initialises what the group descriptors call uninitialised.
//
// It makes what mke2fs makes, less what only matters for growing far and for very large disks:
// blocks of 4096 bytes, one inode for 16 KiB, a journal, checksums of group descriptors
// (uninit_bg). Reading file systems is not its business. Layout:
// Documentation/filesystems/ext4 of Linux. Start
// reading at [Format].
package ext4

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Device is what is formatted. Offsets and lengths are multiples of 4096.
type Device interface {
	io.WriterAt
	// WriteZeroes makes n bytes at off read as zeros.
	WriteZeroes(ctx context.Context, off, n int64) error
}

// Options are what distinguishes one file system from another; the same options give the same
// bytes.
type Options struct {
	UUID  [16]byte // in reading order
	Label string   // at most 16 bytes
	Time  time.Time
}

const (
	blockSize      = 4096
	groupBlocks    = 8 * blockSize // one block of bitmap describes a group
	inodeSize      = 256
	groupInodes    = groupBlocks * blockSize / (16 << 10)
	tableBlocks    = groupInodes * inodeSize / blockSize
	descriptorSize = 32
	// minBlocks is the smallest file system: one that has room for the shortest journal and data.
	minBlocks = 4096
	// maxBlocks is what 32-bit block numbers can name: 16 TiB.
	maxBlocks = 1<<32 - 1
)

// Inodes with a meaning.
const (
	rootInode    = 2
	journalInode = 8
	lostInode    = 11 // the first that is free for use
)

// Features, by the names of mke2fs.
const (
	compat   = 0x4 /* has_journal */ | 0x8 /* ext_attr */ | 0x20 /* dir_index */
	incompat = 0x2 /* filetype */ | 0x40                         /* extents */
	roCompat = 0x1 /* sparse_super */ | 0x2 /* large_file */ | 0x8 /* huge_file */ |
		0x10 /* uninit_bg */ | 0x20 /* dir_nlink */ | 0x40 /* extra_isize */
)

// Flags of a group.
const (
	inodeUninit = 1
	blockUninit = 2
)

var le = binary.LittleEndian

// filesystem is the layout.
type filesystem struct {
	Options
	blocks  int64
	groups  int64
	gdt     int64 // blocks of group descriptors
	journal int64 // blocks
}

// MinSize and MaxSize bound what Format takes, in bytes.
const (
	MinSize = minBlocks * blockSize
	MaxSize = maxBlocks * blockSize
)

// Format makes an empty file system of size bytes at the beginning of d. It may be repeated; the
// superblock is written last, so that there is a file system when all of it is there.
func Format(ctx context.Context, d Device, size int64, o Options) error {
	if size < MinSize || size > MaxSize {
		return fmt.Errorf("ext4 takes %d MiB to 16 TiB, not %d bytes", MinSize>>20, size)
	}
	if len(o.Label) > 16 {
		return fmt.Errorf("the label %q is longer than 16 bytes", o.Label)
	}
	f := layout(size/blockSize, o)
	w := writer{ctx: ctx, d: d}
	w.zero(0, 1) // what was there before is no file system any more
	descriptors := f.descriptors()
	f.writeFirstGroup(&w)
	f.writeLastBitmap(&w)
	for g := f.groups - 1; g >= 0; g-- {
		if hasBackup(g) {
			w.write(g*groupBlocks+1, descriptors)
			w.write(g*groupBlocks, f.superblock(g))
		}
	}
	if w.err != nil {
		return fmt.Errorf("make ext4: %w", w.err)
	}
	return nil
}

// layout decides how many groups there are. A last group that would be nothing but overhead is
// left out.
func layout(blocks int64, o Options) filesystem {
	f := filesystem{Options: o, blocks: blocks, journal: 16384}
	if blocks < 1<<17 {
		f.journal = 1024
	}
	for {
		f.groups = (f.blocks + groupBlocks - 1) / groupBlocks
		f.gdt = (f.groups*descriptorSize + blockSize - 1) / blockSize
		rest := f.blocks % groupBlocks
		if rest == 0 || f.groups == 1 || rest >= f.overhead(f.groups-1)+64 {
			return f
		}
		f.blocks -= rest
	}
}

// hasBackup tells whether a group begins with superblock and descriptors: 0, 1 and the powers of
// 3, 5 and 7 do (sparse_super).
func hasBackup(g int64) bool {
	if g <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := g
		for n%base == 0 {
			n /= base
		}
		if n == 1 {
			return true
		}
	}
	return false
}

// bitmaps is the first block of group g behind the copies: its block bitmap, followed by inode
// bitmap and inode table.
func (f *filesystem) bitmaps(g int64) int64 {
	if hasBackup(g) {
		return g*groupBlocks + 1 + f.gdt
	}
	return g * groupBlocks
}

// overhead is how many blocks of a group are taken by its own description.
func (f *filesystem) overhead(g int64) int64 {
	return f.bitmaps(g) - g*groupBlocks + 2 + tableBlocks
}

// length is how many blocks a group has.
func (f *filesystem) length(g int64) int64 { return min(groupBlocks, f.blocks-g*groupBlocks) }

// data is the first block of the root directory, followed by lost+found and the journal.
func (f *filesystem) data() int64 { return f.overhead(0) }

// used is how many blocks of group g are not free.
func (f *filesystem) used(g int64) int64 {
	n := f.overhead(g)
	if g == 0 {
		n += 2 + f.journal
	}
	return n
}

func (f *filesystem) descriptors() []byte {
	all := make([]byte, f.gdt*blockSize)
	for g := range f.groups {
		d := all[g*descriptorSize:][:descriptorSize]
		bitmaps := f.bitmaps(g)
		le.PutUint32(d[0:], uint32(bitmaps))
		le.PutUint32(d[4:], uint32(bitmaps+1))
		le.PutUint32(d[8:], uint32(bitmaps+2))
		le.PutUint16(d[12:], uint16(f.length(g)-f.used(g)))
		inodes, flags := uint16(groupInodes), uint16(inodeUninit|blockUninit)
		if g == f.groups-1 {
			flags = inodeUninit // the end of the file system is not in the middle of its bitmap
		}
		if g == 0 {
			inodes, flags = groupInodes-lostInode, 0
			le.PutUint16(d[16:], 2) // directories
		}
		le.PutUint16(d[14:], inodes)
		le.PutUint16(d[18:], flags)
		le.PutUint16(d[28:], inodes) // at the end of the table, never used: not to be read
		var number [4]byte
		le.PutUint32(number[:], uint32(g))
		sum := crc16(0xFFFF, f.UUID[:])
		sum = crc16(crc16(sum, number[:]), d[:30])
		le.PutUint16(d[30:], sum)
	}
	return all
}

// crc16 continues the checksum of group descriptors (CRC-16/ANSI, reflected).
func crc16(sum uint16, data []byte) uint16 {
	for _, b := range data {
		sum ^= uint16(b)
		for range 8 {
			sum = sum>>1 ^ 0xA001*(sum&1)
		}
	}
	return sum
}

// superblock is the first block of group g.
func (f *filesystem) superblock(g int64) []byte {
	block := make([]byte, blockSize)
	s := block
	if g == 0 {
		s = block[1024:]
	}
	free := int64(0)
	for i := range f.groups {
		free += f.length(i) - f.used(i)
	}
	now := uint32(f.Time.Unix())
	for at, v := range map[int]uint32{
		0: uint32(f.groups * groupInodes), 4: uint32(f.blocks), 8: uint32(f.blocks / 20),
		12: uint32(free), 16: uint32(f.groups*groupInodes - lostInode),
		24: 2, 28: 2, 32: groupBlocks, 36: groupBlocks, 40: groupInodes,
		48: now, 64: now, 264: now, 76: 1, 84: lostInode,
		92: compat, 96: incompat, 100: roCompat, 224: journalInode,
		352: 1, // directory hashes of signed characters
	} {
		le.PutUint32(s[at:], v)
	}
	for at, v := range map[int]uint16{
		54: 0xFFFF, // no check by mount count
		56: 0xEF53,
		58: 1, // clean
		60: 1, // go on after errors
		88: inodeSize, 90: uint16(g),
		348: 32, 350: 32, // bytes of inodes in use beyond 128
	} {
		le.PutUint16(s[at:], v)
	}
	copy(s[104:], f.UUID[:])
	copy(s[120:136], f.Label)
	copy(s[236:252], f.UUID[:]) // seed of directory hashes: any will do
	s[252] = 1                  // half MD4
	return block
}

// writeFirstGroup writes bitmaps, inodes, directories and journal.
func (f *filesystem) writeFirstGroup(w *writer) {
	bitmaps := f.bitmaps(0)
	w.write(bitmaps, bitmap(f.used(0), f.length(0)))
	w.write(bitmaps+1, bitmap(lostInode, groupInodes))

	inodes := make([]byte, blockSize)
	root, lost, journal := f.data(), f.data()+1, f.data()+2
	f.inode(inodes, file{rootInode, 0o40755, 3, root, 1})
	f.inode(inodes, file{lostInode, 0o40700, 2, lost, 1})
	f.inode(inodes, file{journalInode, 0o100600, 1, journal, f.journal})
	w.write(bitmaps+2, inodes)

	w.write(root, directory(entry{rootInode, "."}, entry{rootInode, ".."},
		entry{lostInode, "lost+found"}))
	w.write(lost, directory(entry{lostInode, "."}, entry{rootInode, ".."}))
	// An old journal in the same place must not be replayed.
	w.zero(journal+1, f.journal-1)
	w.write(journal, f.journalStart())
}

// writeLastBitmap writes the one block bitmap beside the first that the kernel does not make up.
func (f *filesystem) writeLastBitmap(w *writer) {
	if g := f.groups - 1; g > 0 {
		w.write(f.bitmaps(g), bitmap(f.used(g), f.length(g)))
	}
}

// bitmap marks the first used of count, and what lies beyond count.
func bitmap(used, count int64) []byte {
	b := make([]byte, blockSize)
	for i := range int64(groupBlocks) {
		if i < used || i >= count {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// file is an inode with one extent.
type file struct {
	inode, mode, links int
	start, blocks      int64
}

func (f *filesystem) inode(table []byte, i file) {
	b := table[(i.inode-1)*inodeSize:][:inodeSize]
	now := uint32(f.Time.Unix())
	le.PutUint16(b[0:], uint16(i.mode))
	le.PutUint32(b[4:], uint32(i.blocks*blockSize))
	for _, at := range []int{8, 12, 16, 144} { // access, change, modification, creation
		le.PutUint32(b[at:], now)
	}
	le.PutUint16(b[26:], uint16(i.links))
	le.PutUint32(b[28:], uint32(i.blocks*blockSize/512))
	le.PutUint32(b[32:], 0x80000) // the file is described by extents
	e := b[40:]
	le.PutUint16(e[0:], 0xF30A)
	le.PutUint16(e[2:], 1) // extents
	le.PutUint16(e[4:], 4) // room for
	le.PutUint16(e[16:], uint16(i.blocks))
	le.PutUint32(e[20:], uint32(i.start))
	le.PutUint16(b[128:], 32) // bytes in use beyond 128
}

type entry struct {
	inode int
	name  string
}

// directory is a block of entries, all of them directories.
func directory(entries ...entry) []byte {
	b := make([]byte, blockSize)
	at := 0
	for i, e := range entries {
		length := (8 + len(e.name) + 3) &^ 3
		if i == len(entries)-1 {
			length = blockSize - at
		}
		le.PutUint32(b[at:], uint32(e.inode))
		le.PutUint16(b[at+4:], uint16(length))
		b[at+6], b[at+7] = byte(len(e.name)), 2
		copy(b[at+8:], e.name)
		at += length
	}
	return b
}

// journalStart is the superblock of an empty journal (Linux, fs/jbd2; big-endian).
func (f *filesystem) journalStart() []byte {
	b := make([]byte, blockSize)
	for at, v := range map[int]uint32{
		0: 0xC03B3998, 4: 4 /* superblock, version 2 */, 12: blockSize, 16: uint32(f.journal),
		20: 1 /* first block of the log */, 24: 1 /* first transaction */, 64: 1, /* users */
	} {
		binary.BigEndian.PutUint32(b[at:], v)
	}
	copy(b[48:], f.UUID[:])
	return b
}

// writer remembers the first error.
type writer struct {
	ctx context.Context
	d   Device
	err error
}

func (w *writer) write(block int64, data []byte) {
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err == nil {
		_, w.err = w.d.WriteAt(data, block*blockSize)
	}
}

func (w *writer) zero(block, n int64) {
	if w.err == nil {
		w.err = w.d.WriteZeroes(w.ctx, block*blockSize, n*blockSize)
	}
}
