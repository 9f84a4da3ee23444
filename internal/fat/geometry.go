package fat

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

const (
	sectorSize = 512
	copies     = 2 // of the table
	endOfChain = 0xFFFF
	// A cluster of a disk is at least a sector of a CD, which firmware reads whole; 32 KiB is the most
	// that everybody reads.
	leastCluster, maxCluster = 4, 64
	rootRecords              = 512
	floppyRootRecords        = 224
)

// The number of clusters alone says how wide an entry of the table is: below 4085 it is 12 bits, below
// 65525 it is 16. Some readers are wrong by a few, so 16 clusters around the limits are not used
// (Microsoft's FAT specification 1.03, FAT Type Determination).
const (
	max12 = 4084 - 16
	min16 = 4085 + 16
	max16 = 65524 - 16
)

// geometry is how a file system is laid out: reserved sectors, the tables, the root directory, clusters.
type geometry struct {
	floppy      bool
	wide        int // bits of an entry of the table
	total       int // sectors
	reserved    int // sectors before the first table
	tableSize   int // sectors of one table
	rootSize    int // sectors of the root directory
	clusters    int
	perCluster  int // sectors
	rootRecords int
}

// newGeometry lays out so many bytes for a root directory with at least so many records.
func newGeometry(size int64, records int) (geometry, error) {
	g := geometry{floppy: size == FloppySize, rootRecords: rootRecords, perCluster: leastCluster}
	if g.floppy {
		g.rootRecords, g.perCluster = floppyRootRecords, 1
		if records > floppyRootRecords {
			return g, fmt.Errorf("the root directory has %d records, a floppy has %d", records, floppyRootRecords)
		}
	}
	g.rootSize = (max(records, g.rootRecords)*recordSize + sectorSize - 1) / sectorSize
	g.rootRecords = g.rootSize * sectorSize / recordSize
	if size < 0 || size%sectorSize != 0 {
		return g, fmt.Errorf("%d bytes are no whole number of sectors", size)
	}
	if size > max16*(maxCluster+1)*sectorSize {
		return g, fmt.Errorf("%d bytes are too many for FAT16", size)
	}
	g.total = int(size / sectorSize)
	for ; g.perCluster <= maxCluster; g.perCluster *= 2 {
		if g.divide(12); g.clusters > 0 && g.clusters <= max12 {
			return g, nil
		}
		if g.divide(16); g.clusters >= min16 && g.clusters <= max16 {
			return g, nil
		}
	}
	return g, fmt.Errorf("%d bytes are too few or too many for FAT12 and FAT16", size)
}

// divide makes tables with entries of so many bits, no larger than they have to be, and clusters of what
// is left. Clusters begin at a multiple of their size, as those of mkfs.fat.
func (g *geometry) divide(wide int) {
	g.wide = wide
	for g.tableSize = 1; ; g.tableSize++ {
		before := 1 + copies*g.tableSize + g.rootSize
		g.reserved = 1 + (g.perCluster-before%g.perCluster)%g.perCluster
		g.clusters = (g.total - before - g.reserved + 1) / g.perCluster
		if (g.clusters+2)*wide <= g.tableSize*sectorSize*8 {
			return
		}
	}
}

func (g *geometry) clusterSize() int { return g.perCluster * sectorSize }

// rootStart is the sector of the root directory.
func (g *geometry) rootStart() int { return g.reserved + copies*g.tableSize }

// clusterStart is the sector of a cluster; the first is number 2.
func (g *geometry) clusterStart(cluster int) int {
	return g.rootStart() + g.rootSize + (cluster-2)*g.perCluster
}

// media is the byte that tells floppies from disks, in the boot sector and in the tables.
func (g *geometry) media() byte {
	if g.floppy {
		return 0xF0
	}
	return 0xF8
}

// boot writes the boot sector.
func (v *volume) boot() {
	b := v.image
	put16 := func(at, n int) { binary.LittleEndian.PutUint16(b[at:], uint16(n)) }
	// A disk has as many sectors in a track as make whole tracks, which mtools wants, and 64 heads, as
	// SCSI disks of up to 1 GiB.
	track, heads, drive := 1<<min(5, bits.TrailingZeros(uint(v.total))), 64, byte(0x80)
	if v.floppy {
		track, heads, drive = 18, 2, 0
	}
	copy(b, "\xEB\x3C\x90MSWIN4.1") // a jump to what is at 62; the name that all readers take
	put16(11, sectorSize)
	b[13] = byte(v.perCluster)
	put16(14, v.reserved)
	b[16] = copies
	put16(17, v.rootRecords)
	if v.total < 1<<16 {
		put16(19, v.total)
	} else {
		binary.LittleEndian.PutUint32(b[32:], uint32(v.total))
	}
	b[21] = v.media()
	put16(22, v.tableSize)
	put16(24, track)
	put16(26, heads)
	b[36] = drive
	b[38] = 0x29 // the next three are there
	binary.LittleEndian.PutUint32(b[39:], v.Serial)
	label := v.label()
	copy(b[43:], label[:])
	copy(b[54:], fmt.Sprintf("FAT%d   ", v.wide))
	// A BIOS that starts this is told to boot the next device: int 0x18, and if it returns, hlt for ever.
	copy(b[62:], "\xCD\x18\xF4\xEB\xFD")
	copy(b[510:], "\x55\xAA")
}

// tables writes all copies of the table.
func (v *volume) tables() {
	out := make([]byte, v.tableSize*sectorSize)
	for i, next := range v.table {
		switch at := i * v.wide / 8; {
		case v.wide == 16:
			binary.LittleEndian.PutUint16(out[at:], next)
		case i%2 == 0:
			out[at], out[at+1] = byte(next), byte(next>>8&0x0F)
		default:
			out[at] |= byte(next << 4)
			out[at+1] = byte(next >> 4)
		}
	}
	for i := range copies {
		copy(v.image[(v.reserved+i*v.tableSize)*sectorSize:], out)
	}
}
