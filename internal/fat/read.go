package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// ErrNone says that something is no file system of this kind.
var ErrNone = errors.New("no FAT12 or FAT16 file system")

// maxLong is how long a name may be, units of UTF-16.
const maxLong = 255

// maxFile bounds what ReadFile reads.
const maxFile = 1 << 20

// ReadFile reads a small file from the root directory, and the label. The error is [ErrNone] for what is no file
// system that this package could have built, and [fs.ErrNotExist] without the file. A file of more than 1 MiB is
// an error.
func ReadFile(r io.ReaderAt, name string) (label string, data []byte, err error) {
	v, err := mount(r)
	if err != nil {
		return "", nil, err
	}
	root := make([]byte, v.rootRecords*recordSize)
	if _, err := r.ReadAt(root, v.rootAt); err != nil {
		return "", nil, fmt.Errorf("read the root directory: %w", err)
	}
	var first int
	var size int64 = -1
	var long []uint16
	for ; len(root) >= recordSize && root[0] != 0; root = root[recordSize:] {
		rec := root[:recordSize]
		switch attributes := rec[11]; {
		case rec[0] == 0xE5: // deleted
			long = nil
			continue
		case attributes == attrLongName:
			if len(long) <= maxLong {
				long = append(longPart(rec), long...) // the last part comes first
			}
			continue
		case attributes&attrLabel != 0:
			label = strings.TrimRight(string(rec[:11]), " ")
		case attributes&attrDirectory == 0 && strings.EqualFold(nameOf(rec, long), name):
			first = int(binary.LittleEndian.Uint16(rec[26:]))
			size = int64(binary.LittleEndian.Uint32(rec[28:]))
		}
		long = nil
	}
	switch {
	case size < 0:
		return label, nil, fs.ErrNotExist
	case size > maxFile:
		return label, nil, fmt.Errorf("%s has %d bytes, more than %d", name, size, maxFile)
	}
	data, err = v.file(r, first, size)
	return label, data, err
}

// mounted is where things are in a file system that is read.
type mounted struct {
	table       []byte
	wide        bool // FAT16
	rootAt      int64
	rootRecords int
	dataAt      int64
	clusterSize int64
	clusters    int
}

// mount reads the boot sector and the first table.
func mount(r io.ReaderAt) (v mounted, err error) {
	var b [sectorSize]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return v, fmt.Errorf("read the boot sector: %w", err)
	}
	word := func(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
	total := word(19)
	if total == 0 {
		total = int64(binary.LittleEndian.Uint32(b[32:]))
	}
	perCluster, reserved, tables, tableSize := int64(b[13]), word(14), int64(b[16]), word(22)
	v.rootRecords = int(word(17))
	if b[510] != 0x55 || b[511] != 0xAA || word(11) != sectorSize || perCluster == 0 || perCluster&(perCluster-1) != 0 ||
		reserved == 0 || tables == 0 || tables > 2 || tableSize == 0 || v.rootRecords == 0 {
		return v, ErrNone
	}
	rootStart := reserved + tables*tableSize
	dataStart := rootStart + (int64(v.rootRecords)*recordSize+sectorSize-1)/sectorSize
	count := (total - dataStart) / perCluster
	if total <= dataStart || count >= 65525 {
		return v, ErrNone // FAT32, or nothing at all
	}
	v.wide, v.clusters = count >= 4085, int(count)
	v.rootAt, v.dataAt, v.clusterSize = rootStart*sectorSize, dataStart*sectorSize, perCluster*sectorSize
	v.table = make([]byte, min(tableSize*sectorSize, 2*65536))
	if _, err := r.ReadAt(v.table, reserved*sectorSize); err != nil {
		return v, fmt.Errorf("read the table: %w", err)
	}
	return v, nil
}

// next is the cluster after one; ok is false at the end, and where the table is damaged.
func (v *mounted) next(cluster int) (next int, ok bool) {
	at := cluster * 2
	if !v.wide {
		at = cluster * 3 / 2
	}
	if at+2 > len(v.table) {
		return 0, false
	}
	next = int(binary.LittleEndian.Uint16(v.table[at:]))
	switch {
	case v.wide:
	case cluster%2 == 1:
		next >>= 4
	default:
		next &= 0xFFF
	}
	return next, v.has(next)
}

// has tells whether there is a cluster of that number.
func (v *mounted) has(cluster int) bool { return cluster >= 2 && cluster < v.clusters+2 }

// file reads size bytes from a cluster on.
func (v *mounted) file(r io.ReaderAt, cluster int, size int64) ([]byte, error) {
	var out bytes.Buffer
	for ok := v.has(cluster); int64(out.Len()) < size; cluster, ok = v.next(cluster) {
		if !ok {
			return nil, errors.New("a file ends before its size")
		}
		part := make([]byte, min(v.clusterSize, size-int64(out.Len())))
		if _, err := r.ReadAt(part, v.dataAt+int64(cluster-2)*v.clusterSize); err != nil {
			return nil, fmt.Errorf("read a cluster: %w", err)
		}
		out.Write(part)
	}
	return out.Bytes(), nil
}

// longPart are the characters that a record has of a long name.
func longPart(rec []byte) (units []uint16) {
	for unit := range unitsPerRecord {
		c := binary.LittleEndian.Uint16(rec[longAt(unit):])
		if c == 0 || c == 0xFFFF {
			break
		}
		units = append(units, c)
	}
	return units
}

// nameOf is the name of a record after its long one.
func nameOf(rec []byte, long []uint16) string {
	if long != nil {
		return string(utf16.Decode(long))
	}
	base, ext := strings.TrimRight(string(rec[:8]), " "), strings.TrimRight(string(rec[8:11]), " ")
	if ext == "" {
		return base
	}
	return base + "." + ext
}
