package target

import (
	"encoding/binary"
)

// Operation codes, SPC-4 and SBC-3.
const (
	testUnitReady  = 0x00
	inquiry        = 0x12
	modeSense6     = 0x1a
	readCapacity10 = 0x25
	read10         = 0x28
	write10        = 0x2a
	synchronize10  = 0x35
	unmap          = 0x42
	read16         = 0x88
	write16        = 0x8a
	synchronize16  = 0x91
	writeSame16    = 0x93
	serviceIn16    = 0x9e
	reportLUNs     = 0xa0
)

// maxTransfer bounds what one READ may ask for, in bytes.
const maxTransfer = 4 << 20

// sense is why a command failed.
type sense struct{ key, asc, ascq byte }

var (
	badOpcode   = &sense{0x5, 0x20, 0x00}
	badField    = &sense{0x5, 0x24, 0x00}
	outOfRange  = &sense{0x5, 0x21, 0x00}
	noSuchLUN   = &sense{0x5, 0x25, 0x00}
	readFailed  = &sense{0x3, 0x11, 0x00}
	writeFailed = &sense{0x3, 0x0c, 0x00}
)

// lunOf reads a LUN in flat or peripheral addressing (SAM-5 4.7).
func lunOf(h *header) uint64 { return uint64(binary.BigEndian.Uint16(h[8:]) & 0x3fff) }

// notThere is the INQUIRY data of a logical unit that does not exist.
func notThere() []byte {
	data := make([]byte, 36)
	data[0] = 0x7f
	return data
}

// extent reads offset and length in bytes of a READ, WRITE or WRITE SAME.
func (s *session) extent(cdb [16]byte) (off, n int64, failed *sense) {
	var block, count uint64
	switch cdb[0] {
	case read10, write10:
		block, count = uint64(binary.BigEndian.Uint32(cdb[2:])),
			uint64(binary.BigEndian.Uint16(cdb[7:]))
	default:
		block, count = binary.BigEndian.Uint64(cdb[2:]), uint64(binary.BigEndian.Uint32(cdb[10:]))
	}
	blocks := uint64(s.target.Disk.Size() / BlockSize)
	if block > blocks || count > blocks-block {
		return 0, 0, outOfRange
	}
	return int64(block) * BlockSize, int64(count) * BlockSize, nil
}

// execute runs a command that takes no data.
func (s *session) execute(h *header, cdb [16]byte) error {
	switch cdb[0] {
	case testUnitReady, synchronize10, synchronize16:
		return s.respond(h, nil, 0)
	case inquiry:
		if data := s.inquiry(cdb); data != nil {
			return s.dataIn(h, clip(data, int(binary.BigEndian.Uint16(cdb[3:]))))
		}
		return s.respond(h, badField, 0)
	case modeSense6:
		return s.dataIn(h, clip([]byte{3, 0, 0, 0}, int(cdb[4])))
	case readCapacity10:
		data := make([]byte, 8)
		last := uint64(s.target.Disk.Size()/BlockSize) - 1
		binary.BigEndian.PutUint32(data, uint32(min(last, 0xffffffff)))
		binary.BigEndian.PutUint32(data[4:], BlockSize)
		return s.dataIn(h, data)
	case serviceIn16:
		if cdb[1]&0x1f != 0x10 { // READ CAPACITY(16)
			return s.respond(h, badField, 0)
		}
		data := make([]byte, 32)
		binary.BigEndian.PutUint64(data, uint64(s.target.Disk.Size()/BlockSize)-1)
		binary.BigEndian.PutUint32(data[8:], BlockSize)
		data[14] = 0xc0 // LBPME and LBPRZ: freed blocks read as zeros
		return s.dataIn(h, clip(data, int(binary.BigEndian.Uint32(cdb[10:]))))
	case reportLUNs:
		data := make([]byte, 16)
		data[3] = 8
		binary.BigEndian.PutUint16(data[8:], uint16(s.target.LUN))
		return s.dataIn(h, data)
	case read10, read16:
		return s.read(h, cdb)
	case write10, write16:
		return s.respond(h, nil, 0) // of no blocks
	}
	return s.respond(h, badOpcode, 0)
}

func (s *session) read(h *header, cdb [16]byte) error {
	off, n, failed := s.extent(cdb)
	if failed == nil && n > maxTransfer {
		failed = badField
	}
	if failed != nil {
		return s.respond(h, failed, 0)
	}
	data := make([]byte, n)
	if _, err := s.target.Disk.ReadAt(data, off); err != nil {
		return s.respond(h, readFailed, 0)
	}
	return s.dataIn(h, data)
}

// writeRange checks a command that brings data, and says where on the disk it begins.
func (s *session) writeRange(w *write) (int64, *sense) {
	switch w.cdb[0] {
	case write10, write16:
		off, n, failed := s.extent(w.cdb)
		if failed == nil && n != int64(w.length) {
			failed = badField
		}
		return off, failed
	case writeSame16:
		off, _, failed := s.extent(w.cdb)
		if failed == nil && w.length != BlockSize {
			failed = badField
		}
		return off, failed
	case unmap:
		if w.length > maxSegment {
			return 0, badField
		}
		return 0, nil
	}
	return 0, badOpcode
}

// store does with a piece of a command's data what the command says.
func (s *session) store(w *write, data []byte, at int64) *sense {
	if len(data) == 0 {
		return nil
	}
	disk := s.target.Disk
	switch w.cdb[0] {
	case writeSame16:
		if len(data) != BlockSize {
			return badField // in one piece, or not at all
		}
		for _, b := range data {
			if b != 0 {
				return badField // this disk repeats zeros only
			}
		}
		off, n, _ := s.extent(w.cdb)
		if disk.Zero(off, n) != nil {
			return writeFailed
		}
		return nil
	case unmap:
		return s.unmap(w, data)
	}
	if _, err := disk.WriteAt(data, w.off+at); err != nil {
		return writeFailed
	}
	return nil
}

// unmap frees the ranges of a parameter list, SBC-3 5.28.2.
func (s *session) unmap(w *write, data []byte) *sense {
	if len(data) != w.length || len(data) < 8 {
		return badField
	}
	blocks := uint64(s.target.Disk.Size() / BlockSize)
	for d := data[8:]; len(d) >= 16; d = d[16:] {
		block, count := binary.BigEndian.Uint64(d), uint64(binary.BigEndian.Uint32(d[8:]))
		if block > blocks || count > blocks-block {
			return outOfRange
		}
		if s.target.Disk.Zero(int64(block)*BlockSize, int64(count)*BlockSize) != nil {
			return writeFailed
		}
	}
	return nil
}

// inquiry is the standard data or a vital product data page; nil for a page that is not there.
func (s *session) inquiry(cdb [16]byte) []byte {
	if cdb[1]&1 == 0 {
		data := make([]byte, 36)
		data[2], data[3], data[4], data[7] = 6, 2, 31, 2 // SPC-4, command queuing
		copy(data[8:], "INGOT   SIMULATED DISK  1   ")
		return data
	}
	var body []byte
	switch cdb[2] {
	case 0x00:
		body = []byte{0x00, 0x80, 0x83, 0xb0, 0xb2}
	case 0x80:
		body = []byte(s.target.Serial)
	case 0x83:
		id := "INGOT   " + s.target.Serial
		body = append([]byte{0x02, 0x01, 0, byte(len(id))}, id...) // T10 vendor ID, ASCII
	case 0xb0:
		body = make([]byte, 60)
		binary.BigEndian.PutUint32(body[16:], 1<<22) // maximum UNMAP LBA count
		binary.BigEndian.PutUint32(body[20:], 16)    // maximum UNMAP descriptor count
		binary.BigEndian.PutUint64(body[32:], 1<<22) // maximum WRITE SAME length
	case 0xb2:
		body = []byte{0, 0xe4, 2, 0} // UNMAP, WRITE SAME with UNMAP, zeros; thin
	default:
		return nil
	}
	return append([]byte{0, cdb[2], 0, byte(len(body))}, body...)
}

func clip(data []byte, n int) []byte { return data[:min(len(data), n)] }
