package iscsi

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Operation codes of SPC-4 and SBC-3.
const (
	cdbTestUnitReady  = 0x00
	cdbReserveIn      = 0x5e
	cdbReserveOut     = 0x5f
	actionReadKeys    = 0x00 // service action of cdbReserveIn
	actionRegister    = 0x06 // service action of cdbReserveOut: and ignore existing key
	cdbInquiry        = 0x12
	cdbSyncCache10    = 0x35
	cdbUnmap          = 0x42
	cdbRead16         = 0x88
	cdbWrite16        = 0x8a
	cdbSyncCache16    = 0x91
	cdbWriteSame16    = 0x93
	cdbServiceIn16    = 0x9e
	actionReadCap16   = 0x10 // service action of cdbServiceIn16
	actionLBAStatus   = 0x12 // service action of cdbServiceIn16
	writeSameUnmapBit = 0x08 // byte 1 of WRITE SAME(16)
)

const (
	minBlockSize = 512
	maxBlockSize = 64 << 10

	inquiryLen  = 96
	vpdLen      = 252
	capacityLen = 32

	reserveOutLen = 24
	reserveInLen  = 8 + 1024*8 // the header and more keys than any target has room for

	vpdSupported    = 0x00
	vpdSerial       = 0x80
	vpdIdentity     = 0x83
	vpdBlockLimits  = 0xb0
	vpdProvisioning = 0xb2
)

// disk is what INQUIRY, READ CAPACITY(16) and the vital product data say about the logical unit.
type disk struct {
	vendor, product, revision string

	serial      string // unit serial number; empty if the disk has none
	designators []byte // device identification, as it came; nil if the disk has none

	blockSize int   // bytes
	blocks    int64 // how many

	maxTransfer  int64 // blocks of one READ or WRITE; 0 is no limit
	maxWriteSame int64 // blocks of one WRITE SAME; 0 is no limit
	maxUnmap     int64 // blocks of one UNMAP; 0 is that the disk does not have it

	freed   bool     // freed blocks read as zeros (LBPRZ)
	zeroing zeroMode // the best one that the disk offers
}

// blockCDB is a 16-byte CDB with a block address and a number of blocks, all alike in SBC-3.
func blockCDB(op byte, block int64, count int) (cdb [16]byte) {
	cdb[0] = op
	binary.BigEndian.PutUint64(cdb[2:], uint64(block))
	binary.BigEndian.PutUint32(cdb[10:], uint32(count))
	return cdb
}

// inquiryCDB asks for standard INQUIRY data.
func inquiryCDB() [16]byte {
	return [16]byte{0: cdbInquiry, 4: inquiryLen}
}

// vpdCDB asks for a page of vital product data.
func vpdCDB(page byte) [16]byte {
	const evpd = 1
	return [16]byte{0: cdbInquiry, 1: evpd, 2: page, 4: vpdLen}
}

// capacityCDB is READ CAPACITY(16).
func capacityCDB() [16]byte {
	return [16]byte{0: cdbServiceIn16, 1: actionReadCap16, 13: capacityLen}
}

// peripherals are device types that one meets where a disk was expected (SPC-4 table 142).
var peripherals = map[byte]string{
	0x01: "a tape", 0x03: "a processor", 0x05: "a CD or DVD drive", 0x08: "a medium changer",
	0x0c: "a storage array controller", 0x0d: "an enclosure", 0x1e: "a well known logical unit",
}

// parseInquiry takes the names out of standard INQUIRY data (SPC-4 6.6.2) and refuses everything
// but a disk.
func (d *disk) parseInquiry(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: empty INQUIRY data", errProtocol)
	}
	qualifier, kind := b[0]>>5, b[0]&0x1f
	if qualifier != 0 || kind == 0x1f {
		return fmt.Errorf("there is no such LUN on the target; check the LUN")
	}
	if kind != 0 && kind != 0x0e { // direct access, simplified direct access
		name, ok := peripherals[kind]
		if !ok {
			name = fmt.Sprintf("a device of type %02xh", kind)
		}
		return fmt.Errorf("this LUN is %s and not a disk; check the LUN", name)
	}
	if len(b) < 36 {
		return fmt.Errorf("%w: INQUIRY data of %d bytes", errProtocol, len(b))
	}
	d.vendor, d.product, d.revision = ascii(b[8:16]), ascii(b[16:32]), ascii(b[32:36])
	return nil
}

// ascii trims a padded field and replaces what would spoil a log.
func ascii(b []byte) string {
	clean := func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}
	return strings.Map(clean, strings.Trim(string(b), " \x00"))
}

// parseCapacity reads READ CAPACITY(16) data (SBC-3 5.16.2).
func (d *disk) parseCapacity(b []byte) error {
	if len(b) < 12 {
		return fmt.Errorf("%w: READ CAPACITY data of %d bytes", errProtocol, len(b))
	}
	last := binary.BigEndian.Uint64(b)
	size := binary.BigEndian.Uint32(b[8:])
	if size < minBlockSize || size > maxBlockSize || size&(size-1) != 0 {
		return fmt.Errorf("the disk has blocks of %d bytes; supported are powers of two "+
			"from %d to %d", size, minBlockSize, maxBlockSize)
	}
	if last >= 1<<63/uint64(size)-1 {
		return fmt.Errorf("%w: a disk of %d blocks of %d bytes", errProtocol, last, size)
	}
	d.blockSize, d.blocks = int(size), int64(last)+1
	d.freed = len(b) > 14 && b[14]&0x40 != 0
	return nil
}

// vpdPage takes the content off a page of vital product data, or nil if it is another page.
func vpdPage(page byte, b []byte) []byte {
	if len(b) < 4 || b[1] != page {
		return nil
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	return b[4:min(4+n, len(b))]
}

// parseKeys reads the reservation keys in READ KEYS data (SPC-4 6.15.2).
func parseKeys(b []byte) []uint64 {
	if len(b) < 8 {
		return nil
	}
	n := min(uint64(len(b)-8), uint64(binary.BigEndian.Uint32(b[4:])))
	var keys []uint64
	for list := b[8 : 8+n]; len(list) >= 8; list = list[8:] {
		keys = append(keys, binary.BigEndian.Uint64(list))
	}
	return keys
}

// parseLimits reads the Block Limits page (SBC-3 6.5.3), offsets less the page header.
func (d *disk) parseLimits(page []byte) {
	if len(page) >= 8 {
		d.maxTransfer = int64(binary.BigEndian.Uint32(page[4:]))
	}
	if len(page) >= 20 {
		d.maxUnmap = int64(binary.BigEndian.Uint32(page[16:]))
	}
	if len(page) >= 40 {
		n := binary.BigEndian.Uint64(page[32:])
		d.maxWriteSame = int64(min(n, 1<<62))
	}
}

// parseProvisioning chooses from the Logical Block Provisioning page (SBC-3 6.5.4) how to free
// blocks: by WRITE SAME (LBPWS) before UNMAP (LBPU), which may do less than it was asked for.
func (d *disk) parseProvisioning(page []byte) {
	const lbpu, lbpws = 0x80, 0x40
	if len(page) < 2 || page[1]&lbpu == 0 {
		d.maxUnmap = 0
	}
	switch {
	case len(page) < 2 || !d.freed:
	case page[1]&lbpws != 0:
		d.zeroing = zeroUnmap
	case d.maxUnmap > 0:
		d.zeroing = zeroFree
	}
}

const (
	// unmapLen is the parameter list of an UNMAP of one range, SBC-3 5.28.
	unmapLen = 24
	// statusLen is room for 32 extents of GET LBA STATUS data.
	statusLen = 8 + 32*16
)

// unmapTask is UNMAP of one range. tgt says of each that it took none of the parameter list.
func unmapTask(block, count int64) task {
	list := make([]byte, unmapLen)
	binary.BigEndian.PutUint16(list, unmapLen-2)
	binary.BigEndian.PutUint16(list[2:], unmapLen-8)
	binary.BigEndian.PutUint64(list[8:], uint64(block))
	binary.BigEndian.PutUint32(list[16:], uint32(count))
	return task{op: fmt.Sprintf("free %d blocks at block %d", count, block),
		cdb: [16]byte{0: cdbUnmap, 8: unmapLen}, out: list, unchecked: true}
}

// extent is a run of blocks that are all freed or all not.
type extent struct {
	block, count int64
	freed        bool
}

// parseStatus reads GET LBA STATUS data (SBC-3 5.3.2): extents without gaps from the given block
// on. The last one may exceed what was asked about.
func parseStatus(b []byte, block int64) ([]extent, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("%w: GET LBA STATUS data of %d bytes", errProtocol, len(b))
	}
	var list []extent
	for b = b[8:]; len(b) >= 16; b = b[16:] {
		first, count := binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint32(b[8:]))
		if count == 0 {
			break // padding
		}
		if first > 1<<62 || int64(first) > block {
			return nil, fmt.Errorf("%w: GET LBA STATUS data leaves block %d out",
				errProtocol, block)
		}
		end := int64(first) + count
		if end <= block {
			return nil, fmt.Errorf("%w: GET LBA STATUS data goes back to block %d",
				errProtocol, first)
		}
		// 1 is deallocated, 2 anchored: reserved, but reads the same.
		status := b[12] & 0xf
		list = append(list, extent{block, end - block, status == 1 || status == 2})
		block = end
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: GET LBA STATUS data without an extent", errProtocol)
	}
	return list, nil
}
