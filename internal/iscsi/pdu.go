package iscsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// opcode is the kind of a PDU, RFC 7143 11.2.1.2.
type opcode byte

const (
	opNopOut         opcode = 0x00
	opCommand        opcode = 0x01
	opManageRequest  opcode = 0x02
	opLoginRequest   opcode = 0x03
	opDataOut        opcode = 0x05
	opLogoutRequest  opcode = 0x06
	opNopIn          opcode = 0x20
	opResponse       opcode = 0x21
	opManageResponse opcode = 0x22
	opLoginResponse  opcode = 0x23
	opDataIn         opcode = 0x25
	opLogoutResponse opcode = 0x26
	opR2T            opcode = 0x31
	opAsync          opcode = 0x32
	opReject         opcode = 0x3f
)

const (
	headerLen = 48

	flagImmediate = 0x40 // byte 0: do not count this request in CmdSN
	flagFinal     = 0x80 // byte 1
	flagRead      = 0x40 // byte 1 of a command
	flagWrite     = 0x20 // byte 1 of a command
	attrSimple    = 0x01 // byte 1 of a command: simple task attribute
	flagUnderflow = 0x02 // byte 1 of a response: the residual count says what is missing
	flagOverflow  = 0x04 // byte 1 of a response: the residual count says what was too much
	flagStatus    = 0x01 // byte 1 of Data-In: the status is in this PDU

	// resetUnit is the task management function LOGICAL UNIT RESET, RFC 7143 11.5.1.
	resetUnit = 5

	// noTag is the reserved value of both task tags, RFC 7143 11.2.1.8.
	noTag = 0xffffffff

	// loginSegment is the data segment limit that holds until the other side declares its own,
	// RFC 7143 13.12.
	loginSegment = 8192
	// ourSegment is the MaxRecvDataSegmentLength we declare.
	ourSegment = 256 << 10
	minSegment = 512
	maxSegment = 1<<24 - 1
)

// errProtocol is part of every error caused by a target that breaks the protocol.
var errProtocol = errors.New("the target broke the iSCSI protocol")

// header is the Basic Header Segment of a PDU, RFC 7143 11.2.1. Numbers are big-endian at the
// offsets that the RFC's diagrams give.
type header [headerLen]byte

func newHeader(op opcode) header {
	var h header
	h[0] = byte(op)
	return h
}

func (h *header) opcode() opcode      { return opcode(h[0] & 0x3f) }
func (h *header) flags() byte         { return h[1] }
func (h *header) extraLen() int       { return int(h[4]) * 4 }
func (h *header) dataLen() int        { return int(h.uint32(4) & maxSegment) }
func (h *header) tag() uint32         { return h.uint32(16) }
func (h *header) transferTag() uint32 { return h.uint32(20) }
func (h *header) uint32(at int) uint32 {
	return binary.BigEndian.Uint32(h[at:])
}

func (h *header) setDataLen(n int)           { h.setUint32(4, uint32(n)) }
func (h *header) setTag(tag uint32)          { h.setUint32(16, tag) }
func (h *header) setTransferTag(ttt uint32)  { h.setUint32(20, ttt) }
func (h *header) setCmdSN(sn uint32)         { h.setUint32(24, sn) }
func (h *header) setExpStatSN(sn uint32)     { h.setUint32(28, sn) }
func (h *header) setUint32(at int, v uint32) { binary.BigEndian.PutUint32(h[at:], v) }

// padLen is how many zero bytes follow a data segment of n bytes, RFC 7143 11.1.
func padLen(n int) int { return -n & 3 }

// readHeader reads a Basic Header Segment and skips additional ones, which nothing we negotiate
// uses. A data segment above limit is refused here, before anybody makes room for it. digest tells
// that a header digest follows. The error is io.EOF alone when the connection ended between two
// PDUs.
func readHeader(r io.Reader, h *header, limit int, digest Digest) error {
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	if digest != crc32c {
		if err := h.checkLen(limit); err != nil {
			return err
		}
	}
	var extra [255 * 4]byte
	if _, err := io.ReadFull(r, extra[:h.extraLen()]); err != nil {
		return midPDU(err)
	}
	if digest != crc32c {
		return nil
	}
	// Nothing in a header means anything before this.
	sum := checksum(checksum(0, h[:]), extra[:h.extraLen()])
	if err := checkDigest(r, "header", sum); err != nil {
		return err
	}
	return h.checkLen(limit)
}

func (h *header) checkLen(limit int) error {
	if n := h.dataLen(); n > limit {
		return fmt.Errorf("%w: a data segment of %d bytes, above the %d we declared",
			errProtocol, n, limit)
	}
	return nil
}

// readData fills dst from the data segment of h and consumes what is left of it, its padding and
// its digest, if there is one.
func readData(r io.Reader, h *header, dst []byte, digest Digest) error {
	if h.dataLen() == 0 {
		return nil
	}
	if _, err := io.ReadFull(r, dst); err != nil {
		return midPDU(err)
	}
	rest := int64(h.dataLen() - len(dst) + padLen(h.dataLen()))
	if digest != crc32c {
		_, err := io.CopyN(io.Discard, r, rest)
		return midPDU(err)
	}
	sum := crc32.New(castagnoli)
	_, _ = sum.Write(dst) // a hash takes everything
	if _, err := io.CopyN(sum, r, rest); err != nil {
		return midPDU(err)
	}
	return checkDigest(r, "data", sum.Sum32())
}

// crc32c is the digest that is in use when both sides agreed on it (RFC 7143 13.1).
const crc32c Digest = "CRC32C"

// digestLen is how many bytes a digest takes. They are in the order that the CRC's bit order
// implies, lowest first.
const digestLen = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDigest is a PDU that was damaged on its way.
var errDigest = errors.New("bytes were changed on the way")

// checksum goes on from sum over more bytes.
func checksum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

// checkDigest reads a digest and compares it with what it should be.
func checkDigest(r io.Reader, of string, want uint32) error {
	var b [digestLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return midPDU(err)
	}
	if got := binary.LittleEndian.Uint32(b[:]); got != want {
		return fmt.Errorf("%w: the %s digest is %08x and should be %08x", errDigest, of, got, want)
	}
	return nil
}

// midPDU marks an end of file inside a PDU as what it is.
func midPDU(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// encodeLUN is the eight byte form of a logical unit number: peripheral device addressing below
// 256, flat space addressing above (SAM-5 4.7.7).
func encodeLUN(lun uint64) [8]byte {
	if lun < 256 {
		return [8]byte{1: byte(lun)}
	}
	return [8]byte{0x40 | byte(lun>>8), byte(lun)}
}
