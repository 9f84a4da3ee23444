package iscsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxPongs bounds the pings that may wait for an answer.
const maxPongs = 64

// readLoop handles what the target sends until the session ends.
func (s *Session) readLoop() error {
	var h header
	for {
		if err := readHeader(s.in, &h, ourSegment); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the target closed the connection")
			}
			return fmt.Errorf("receive: %w", err)
		}
		if err := s.dispatch(&h); err != nil {
			return err
		}
	}
}

// dispatch handles one PDU whose header has been read.
func (s *Session) dispatch(h *header) error {
	switch h.opcode() {
	case opDataIn:
		return s.dataIn(h)
	case opR2T:
		s.advance(h, false)
		if err := readData(s.in, h, nil); err != nil {
			return err
		}
		return s.readyToTransfer(h)
	case opResponse:
		return s.response(h)
	case opNopIn:
		return s.ping(h)
	case opLogoutResponse:
		return s.logoutResponse()
	case opAsync:
		return s.async(h)
	case opReject:
		return s.reject(h)
	}
	return fmt.Errorf("%w: unexpected PDU %#02x", errProtocol, byte(h.opcode()))
}

// advance takes over the sequence numbers of a PDU (RFC 7143 4.2.2.1, 4.2.2.2). status tells
// whether the PDU consumes a StatSN.
func (s *Session) advance(h *header, status bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if status {
		s.expStatSN = h.uint32(24) + 1
	}
	exp, limit := h.uint32(28), h.uint32(32)
	if int32(limit-(exp-1)) >= 0 && int32(limit-s.maxCmdSN) > 0 {
		s.maxCmdSN = limit
		s.wake.Signal()
	}
}

// inFlight finds the command that a PDU belongs to.
func (s *Session) inFlight(h *header) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[h.tag()]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: PDU %#02x for a command that is not in flight",
		errProtocol, byte(h.opcode()))
}

// dataIn reads the data straight into the caller's memory (RFC 7143 11.7). The caller cannot
// return meanwhile: only this goroutine completes tasks, or run after it has ended.
func (s *Session) dataIn(h *header) error {
	final := h.flags()&flagStatus != 0
	s.advance(h, final)
	t, err := s.inFlight(h)
	if err != nil {
		return err
	}
	offset, n := int(h.uint32(40)), h.dataLen()
	if offset != t.received || n > len(t.in)-offset {
		return fmt.Errorf("%w: %s: Data-In of %d bytes at %d, after %d of %d",
			errProtocol, t.op, n, offset, t.received, len(t.in))
	}
	if err := readData(s.in, h, t.in[offset:offset+n]); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	t.received += n
	if final {
		s.finish(t, h[3], nil)
	}
	return nil
}

// readyToTransfer queues the data that the target asks for (RFC 7143 11.8).
func (s *Session) readyToTransfer(h *header) error {
	t, err := s.inFlight(h)
	if err != nil {
		return err
	}
	offset, length := int64(h.uint32(40)), int64(h.uint32(44))
	if length == 0 || length > int64(s.param.maxBurst) || offset+length > int64(len(t.out)) {
		return fmt.Errorf("%w: %s: R2T for %d bytes at %d of %d, burst limit %d",
			errProtocol, t.op, length, offset, len(t.out), s.param.maxBurst)
	}
	out := newHeader(opDataOut)
	copy(out[8:16], h[8:16])
	out.setTag(t.tag)
	out.setTransferTag(h.transferTag())

	s.mu.Lock()
	defer s.mu.Unlock()
	if t.queued >= s.param.maxOutstanding {
		return fmt.Errorf("%w: %s: more than %d R2Ts at once",
			errProtocol, t.op, s.param.maxOutstanding)
	}
	t.queued++
	s.replies = append(s.replies,
		outgoing{header: out, task: t, offset: int(offset), length: int(length)})
	s.wake.Signal()
	return nil
}

// response ends a command (RFC 7143 11.4).
func (s *Session) response(h *header) error {
	s.advance(h, true)
	t, err := s.inFlight(h)
	if err != nil {
		return err
	}
	data := make([]byte, min(h.dataLen(), maxSense))
	if err := readData(s.in, h, data); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if h[2] != 0 {
		return fmt.Errorf("%s: the target could not execute the command (iSCSI response %02xh)",
			t.op, h[2])
	}
	if h.flags()&flagUnderflow != 0 {
		t.residual = int(h.uint32(44))
	}
	s.finish(t, h[3], senseOf(data))
	return nil
}

// maxSense is how much of a response's data segment is kept: two bytes of length and the longest
// sense data that SPC-4 allows.
const maxSense = 2 + 252

// senseOf takes the sense data out of a response's data segment (RFC 7143 11.4.7.2).
func senseOf(data []byte) []byte {
	if len(data) < 2 {
		return nil
	}
	n := int(binary.BigEndian.Uint16(data))
	return data[2:min(2+n, len(data))]
}

// finish records the outcome of a command and lets its caller go, unless the writer is still
// sending its data: then the writer does.
func (s *Session) finish(t *task, status byte, sense []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, t.tag)
	t.complete, t.status, t.sense = true, status, sense
	if !t.writing {
		close(t.done)
	}
}

// ping answers a NOP-In that asks for it (RFC 7143 11.19).
func (s *Session) ping(h *header) error {
	s.advance(h, false)
	if err := readData(s.in, h, nil); err != nil {
		return err
	}
	if h.transferTag() == noTag {
		return nil
	}
	pong := newHeader(opNopOut)
	pong[0] |= flagImmediate
	pong[1] = flagFinal
	copy(pong[8:16], h[8:16])
	pong.setTag(noTag)
	pong.setTransferTag(h.transferTag())

	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := 0
	for _, item := range s.replies {
		if item.task == nil {
			waiting++
		}
	}
	if waiting >= maxPongs {
		return fmt.Errorf("%w: more than %d pings at once", errProtocol, maxPongs)
	}
	s.replies = append(s.replies, outgoing{header: pong})
	s.wake.Signal()
	return nil
}

// logoutResponse ends the session, which is what Close waits for (RFC 7143 11.15). Its code says at
// most that the target had cleaned up before.
func (s *Session) logoutResponse() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		return fmt.Errorf("%w: a logout response that nobody asked for", errProtocol)
	}
	return ErrClosed
}

// Events of an asynchronous message, RFC 7143 11.9.1.
const (
	eventSCSI        = 0
	eventLogout      = 1
	eventDrop        = 2
	eventDropAll     = 3
	eventRenegotiate = 4
	eventVendor      = 255
)

// async handles an asynchronous message. Those about the session announce its end.
func (s *Session) async(h *header) error {
	switch event := h[36]; event {
	case eventSCSI, eventVendor:
		s.advance(h, true)
		return readData(s.in, h, nil)
	case eventLogout:
		return errors.New("the target asked for logout; it is shutting down or being changed")
	case eventDrop, eventDropAll:
		return errors.New("the target announced that it drops the connection")
	case eventRenegotiate:
		return errors.New("the target asked to renegotiate, which is not supported")
	default:
		return fmt.Errorf("the target sent asynchronous event %d", event)
	}
}

// rejectText are the reasons of RFC 7143 11.17.1.
var rejectText = map[byte]string{
	0x02: "data digest error", 0x03: "SNACK rejected", 0x04: "protocol error",
	0x05: "command not supported", 0x06: "too many immediate commands",
	0x07: "task in progress", 0x08: "invalid data acknowledgement",
	0x09: "invalid PDU field", 0x0a: "long operation, no resources",
	0x0b: "deprecated", 0x0c: "waiting for logout",
}

// reject is the target's refusal of something that we sent: the session cannot be trusted further.
func (s *Session) reject(h *header) error {
	var refused [1]byte
	data := refused[:min(h.dataLen(), 1)]
	if err := readData(s.in, h, data); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	text, ok := rejectText[h[2]]
	if !ok {
		text = "unknown reason"
	}
	return fmt.Errorf("the target rejected our PDU %#02x: %s (%02xh)", refused[0]&0x3f, text, h[2])
}
