package target

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// Opcodes, RFC 7143 11.2.1.2.
const (
	opNopOut         = 0x00
	opCommand        = 0x01
	opTaskManagement = 0x02
	opLogin          = 0x03
	opDataOut        = 0x05
	opLogout         = 0x06
	opNopIn          = 0x20
	opResponse       = 0x21
	opTaskResponse   = 0x22
	opLoginResponse  = 0x23
	opDataIn         = 0x25
	opLogoutResponse = 0x26
	opR2T            = 0x31
	opReject         = 0x3f
)

const (
	noTag = 0xffffffff
	// maxSegment is the MaxRecvDataSegmentLength we declare, and the size of a session's buffer.
	maxSegment = 256 << 10
	maxBurst   = 1 << 20
	// window is how many commands an initiator may send ahead.
	window = 64
)

// header is a Basic Header Segment.
type header [48]byte

func (h *header) opcode() byte               { return h[0] & 0x3f }
func (h *header) immediate() bool            { return h[0]&0x40 != 0 }
func (h *header) uint32(at int) uint32       { return binary.BigEndian.Uint32(h[at:]) }
func (h *header) setUint32(at int, v uint32) { binary.BigEndian.PutUint32(h[at:], v) }
func (h *header) setUint16(at int, v uint16) { binary.BigEndian.PutUint16(h[at:], v) }

// session is one connection.
type session struct {
	target   *Target
	conn     net.Conn
	in       *bufio.Reader
	buf      []byte // data segment of the PDU that was read last
	out      []byte // PDU that is written
	statSN   uint32
	expCmdSN uint32
	maxSend  int // data segment limit of the initiator
	maxBurst int
	writes   map[uint32]*write // by initiator task tag
}

// write is a command whose data is on its way.
type write struct {
	cdb      [16]byte
	off      int64 // on the disk, bytes
	length   int   // expected data transfer length
	received int
	r2tSN    uint32
	burst    int // bytes that the last R2T still awaits
	failed   *sense
	header   header
}

func newSession(t *Target, conn net.Conn) *session {
	return &session{target: t, conn: conn, in: bufio.NewReaderSize(conn, 64<<10),
		buf: make([]byte, maxSegment), statSN: 1, maxSend: 8192, maxBurst: maxBurst,
		writes: make(map[uint32]*write)}
}

// next reads a PDU. Its data segment is valid until the next one.
func (s *session) next() (*header, []byte, error) {
	var h header
	if _, err := io.ReadFull(s.in, h[:]); err != nil {
		return nil, nil, err
	}
	if _, err := s.in.Discard(int(h[4]) * 4); err != nil { // additional headers
		return nil, nil, err
	}
	n := int(h.uint32(4) & 0xffffff)
	if n > maxSegment {
		return nil, nil, fmt.Errorf("%w: a data segment of %d bytes", errProtocol, n)
	}
	if _, err := io.ReadFull(s.in, s.buf[:n]); err != nil {
		return nil, nil, err
	}
	_, err := s.in.Discard(-n & 3)
	return &h, s.buf[:n], err
}

// send writes a PDU with sequence numbers filled in. status says that it takes a StatSN.
func (s *session) send(h *header, data []byte, status bool) error {
	h.setUint32(4, uint32(len(data)))
	h.setUint32(24, s.statSN)
	h.setUint32(28, s.expCmdSN)
	h.setUint32(32, s.expCmdSN+window-1)
	if status {
		s.statSN++
	}
	s.out = append(append(s.out[:0], h[:]...), data...)
	s.out = append(s.out, make([]byte, -len(data)&3)...)
	_, err := s.conn.Write(s.out)
	return err
}

// run serves the session until it ends.
func (s *session) run() error {
	if err := s.login(); err != nil {
		return err
	}
	for {
		h, data, err := s.next()
		if err != nil {
			return err
		}
		if op := h.opcode(); op != opDataOut && !h.immediate() {
			s.expCmdSN = h.uint32(24) + 1
		}
		switch h.opcode() {
		case opCommand:
			err = s.command(h, data)
		case opDataOut:
			err = s.dataOut(h, data)
		case opNopOut:
			if h.uint32(16) != noTag {
				r := s.answer(h, opNopIn)
				r.setUint32(20, noTag)
				err = s.send(&r, data, true)
			}
		case opTaskManagement:
			r := s.answer(h, opTaskResponse)
			r[2] = 5 // not supported
			err = s.send(&r, nil, true)
		case opLogout:
			r := s.answer(h, opLogoutResponse)
			return s.send(&r, nil, true)
		default:
			r := s.answer(h, opReject)
			r[2] = 0x05 // command not supported
			r.setUint32(16, noTag)
			err = s.send(&r, h[:], true)
		}
		if err != nil {
			return err
		}
	}
}

// answer begins the PDU that answers h.
func (s *session) answer(h *header, op byte) header {
	var r header
	r[0], r[1] = op, 0x80
	copy(r[16:20], h[16:20])
	return r
}

// command takes a SCSI command.
func (s *session) command(h *header, data []byte) error {
	w := &write{length: int(h.uint32(20)), header: *h}
	copy(w.cdb[:], h[32:48])
	if lun := lunOf(h); lun != s.target.LUN && w.cdb[0] != reportLUNs {
		if w.cdb[0] == inquiry {
			return s.dataIn(h, notThere())
		}
		return s.respond(h, noSuchLUN, 0)
	}
	if h[1]&0x20 == 0 || w.length == 0 {
		return s.execute(h, w.cdb)
	}
	w.off, w.failed = s.writeRange(w)
	s.writes[h.uint32(16)] = w
	return s.accept(w, data, 0)
}

// dataOut takes data of a write.
func (s *session) dataOut(h *header, data []byte) error {
	w := s.writes[h.uint32(16)]
	if w == nil {
		return fmt.Errorf("%w: data for a command that was not sent", errProtocol)
	}
	w.burst -= len(data)
	return s.accept(w, data, int(h.uint32(40)))
}

// accept puts data at its place, and asks for more or ends the command.
func (s *session) accept(w *write, data []byte, at int) error {
	if at != w.received || at+len(data) > w.length {
		return fmt.Errorf("%w: data at %d, expected at %d of %d", errProtocol, at, w.received,
			w.length)
	}
	if w.failed == nil {
		w.failed = s.store(w, data, int64(at))
	}
	w.received += len(data)
	if w.received == w.length {
		delete(s.writes, w.header.uint32(16))
		return s.respond(&w.header, w.failed, 0)
	}
	if w.burst > 0 {
		return nil
	}
	w.burst = min(w.length-w.received, s.maxBurst)
	r := s.answer(&w.header, opR2T)
	copy(r[8:16], w.header[8:16])
	r.setUint32(20, w.header.uint32(16)) // target transfer tag
	r.setUint32(36, w.r2tSN)
	r.setUint32(40, uint32(w.received))
	r.setUint32(44, uint32(w.burst))
	w.r2tSN++
	return s.send(&r, nil, false)
}

// respond ends a command, well or with sense data.
func (s *session) respond(h *header, failed *sense, residual uint32) error {
	r := s.answer(h, opResponse)
	if residual > 0 {
		r[1] |= 0x02 // underflow
		r.setUint32(44, residual)
	}
	if failed == nil {
		return s.send(&r, nil, true)
	}
	r[3] = 0x02 // CHECK CONDITION
	data := make([]byte, 20)
	data[1] = 18 // sense length
	data[2], data[4], data[9] = 0x70, failed.key, 10
	data[14], data[15] = failed.asc, failed.ascq
	return s.send(&r, data, true)
}

// dataIn answers a command with data, the status in the last PDU.
func (s *session) dataIn(h *header, data []byte) error {
	want := int(h.uint32(20))
	residual := 0
	if len(data) > want {
		data = data[:want]
	}
	residual = want - len(data)
	if len(data) == 0 {
		return s.respond(h, nil, uint32(residual))
	}
	for at, sn := 0, uint32(0); at < len(data); sn++ {
		n := min(len(data)-at, s.maxSend)
		r := s.answer(h, opDataIn)
		r.setUint32(20, noTag)
		r.setUint32(36, sn)
		r.setUint32(40, uint32(at))
		last := at+n == len(data)
		if last {
			r[1] |= 0x01 // with status
			if residual > 0 {
				r[1] |= 0x02
				r.setUint32(44, uint32(residual))
			}
		} else {
			r[1] = 0
		}
		if err := s.send(&r, data[at:at+n], last); err != nil {
			return err
		}
		at += n
	}
	return nil
}
