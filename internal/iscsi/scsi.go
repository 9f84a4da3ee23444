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
	cdbRead16         = 0x88
	cdbWrite16        = 0x8a
	cdbSyncCache16    = 0x91
	cdbWriteSame16    = 0x93
	cdbServiceIn16    = 0x9e
	actionReadCap16   = 0x10 // service action of cdbServiceIn16
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

// parseCapacity reads READ CAPACITY(16) data (SBC-3 5.16.2) and returns the LBPRZ bit.
func (d *disk) parseCapacity(b []byte) (zeroed bool, err error) {
	if len(b) < 12 {
		return false, fmt.Errorf("%w: READ CAPACITY data of %d bytes", errProtocol, len(b))
	}
	last := binary.BigEndian.Uint64(b)
	size := binary.BigEndian.Uint32(b[8:])
	if size < minBlockSize || size > maxBlockSize || size&(size-1) != 0 {
		return false, fmt.Errorf("the disk has blocks of %d bytes; supported are powers of two "+
			"from %d to %d", size, minBlockSize, maxBlockSize)
	}
	if last >= 1<<63/uint64(size)-1 {
		return false, fmt.Errorf("%w: a disk of %d blocks of %d bytes", errProtocol, last, size)
	}
	d.blockSize, d.blocks = int(size), int64(last)+1
	return len(b) > 14 && b[14]&0x40 != 0, nil
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
	if len(page) >= 40 {
		n := binary.BigEndian.Uint64(page[32:])
		d.maxWriteSame = int64(min(n, 1<<62))
	}
}

// parseProvisioning reads the LBPWS bit of the Logical Block Provisioning page (SBC-3 6.5.4).
func parseProvisioning(page []byte) bool {
	return len(page) >= 2 && page[1]&0x40 != 0
}
