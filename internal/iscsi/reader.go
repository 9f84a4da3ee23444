package iscsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// readData is readData with the digest that was settled.
func (l *link) readData(h *header, dst []byte) error {
	return readData(l.in, h, dst, l.param.dataDigest)
}

// maxPongs bounds the pings that may wait for an answer.
const maxPongs = 64

// readLoop handles what the target sends until the session ends.
func (l *link) readLoop() error {
	var h header
	for {
		if err := readHeader(l.in, &h, ourSegment, l.param.headerDigest); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the target closed the connection")
			}
			return fmt.Errorf("receive: %w", explain(err))
		}
		if err := l.dispatch(&h); err != nil {
			return err
		}
	}
}

// dispatch handles one PDU whose header has been read.
func (l *link) dispatch(h *header) error {
	switch h.opcode() {
	case opDataIn:
		return l.dataIn(h)
	case opR2T:
		l.advance(h, false)
		if err := l.readData(h, nil); err != nil {
			return err
		}
		return l.readyToTransfer(h)
	case opResponse:
		return l.response(h)
	case opManageResponse:
		return l.managed(h)
	case opNopIn:
		return l.nopIn(h)
	case opLogoutResponse:
		return l.logoutResponse()
	case opAsync:
		return l.async(h)
	case opReject:
		return l.reject(h)
	}
	return fmt.Errorf("%w: unexpected PDU %#02x", errProtocol, byte(h.opcode()))
}

// advance takes over the sequence numbers of a PDU (RFC 7143 4.2.2.1, 4.2.2.2). status tells
// whether the PDU consumes a StatSN.
func (l *link) advance(h *header, status bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if status {
		l.expStatSN = h.uint32(24) + 1
	}
	exp, limit := h.uint32(28), h.uint32(32)
	if int32(limit-(exp-1)) >= 0 && int32(limit-l.maxCmdSN) > 0 {
		l.maxCmdSN = limit
		l.wake.Signal()
	}
}

// inFlight finds the command that a PDU belongs to.
func (l *link) inFlight(h *header) (*task, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tasks[h.tag()]
	if t != nil && (t.function != 0) == (h.opcode() == opManageResponse) {
		return t, nil
	}
	return nil, fmt.Errorf("%w: PDU %#02x for a command that is not in flight",
		errProtocol, byte(h.opcode()))
}

// dataIn reads the data straight into the caller's memory (RFC 7143 11.7). The caller cannot
// return meanwhile: only this goroutine completes tasks, or run after it has ended.
func (l *link) dataIn(h *header) error {
	final := h.flags()&flagStatus != 0
	l.advance(h, final)
	t, err := l.inFlight(h)
	if err != nil {
		return err
	}
	offset, n := int(h.uint32(40)), h.dataLen()
	if offset != t.received || n > len(t.in)-offset {
		return fmt.Errorf("%w: %s: Data-In of %d bytes at %d, after %d of %d",
			errProtocol, t.op, n, offset, t.received, len(t.in))
	}
	if err := l.readData(h, t.in[offset:offset+n]); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	t.received += n
	if final {
		t.residual = residualOf(h)
		l.finish(t, h[3], nil)
	}
	return nil
}

// readyToTransfer queues the data that the target asks for (RFC 7143 11.8).
func (l *link) readyToTransfer(h *header) error {
	t, err := l.inFlight(h)
	if err != nil {
		return err
	}
	offset, length := int64(h.uint32(40)), int64(h.uint32(44))
	if length == 0 || length > int64(l.param.maxBurst) || offset+length > int64(len(t.out)) {
		return fmt.Errorf("%w: %s: R2T for %d bytes at %d of %d, burst limit %d",
			errProtocol, t.op, length, offset, len(t.out), l.param.maxBurst)
	}
	out := newHeader(opDataOut)
	copy(out[8:16], h[8:16])
	out.setTag(t.tag)
	out.setTransferTag(h.transferTag())

	l.mu.Lock()
	defer l.mu.Unlock()
	if t.queued >= l.param.maxOutstanding {
		return fmt.Errorf("%w: %s: more than %d R2Ts at once",
			errProtocol, t.op, l.param.maxOutstanding)
	}
	t.queued++
	l.replies = append(l.replies,
		outgoing{header: out, task: t, offset: int(offset), length: int(length)})
	l.wake.Signal()
	return nil
}

// response ends a command (RFC 7143 11.4).
func (l *link) response(h *header) error {
	l.advance(h, true)
	t, err := l.inFlight(h)
	if err != nil {
		return err
	}
	data := make([]byte, min(h.dataLen(), maxSense))
	if err := l.readData(h, data); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if h[2] != 0 {
		err := fmt.Errorf("%s: the target could not execute the command (iSCSI response %02xh)",
			t.op, h[2])
		l.abandon(err)
		return err
	}
	t.residual = residualOf(h)
	l.finish(t, h[3], senseOf(data))
	return nil
}

// managed ends a task management request (RFC 7143 11.6).
func (l *link) managed(h *header) error {
	l.advance(h, true)
	t, err := l.inFlight(h)
	if err != nil {
		return err
	}
	if err := l.readData(h, nil); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	l.finish(t, h[2], nil)
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
func (l *link) finish(t *task, status byte, sense []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tasks, t.tag)
	t.complete, t.status, t.sense = true, status, sense
	if !t.writing {
		close(t.done)
	}
}

// nopIn answers a ping of the target (RFC 7143 11.19). Of an answer to ours nothing is needed but
// that it came, see listener, and that it uses up a StatSN.
func (l *link) nopIn(h *header) error {
	l.advance(h, h.tag() != noTag)
	if err := l.readData(h, nil); err != nil {
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

	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := 0
	for _, item := range l.replies {
		if item.task == nil {
			waiting++
		}
	}
	if waiting >= maxPongs {
		return fmt.Errorf("%w: more than %d pings at once", errProtocol, maxPongs)
	}
	l.replies = append(l.replies, outgoing{header: pong})
	l.wake.Signal()
	return nil
}

// logoutResponse ends the session, which is what Close waits for (RFC 7143 11.15). Its code says at
// most that the target had cleaned up before.
func (l *link) logoutResponse() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closing {
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
func (l *link) async(h *header) error {
	switch event := h[36]; event {
	case eventSCSI, eventVendor:
		l.advance(h, true)
		return l.readData(h, nil)
	case eventLogout:
		return errors.New("the target asked for logout; it is shutting down or being changed")
	case eventDrop, eventDropAll:
		return errors.New("the target announced that it drops the connection")
	case eventRenegotiate:
		err := errors.New("the target asked to renegotiate, which is not supported")
		l.abandon(err)
		return err
	default:
		return fmt.Errorf("the target sent asynchronous event %d", event)
	}
}

// rejectText are the reasons of RFC 7143 11.17.1.
var rejectText = map[byte]string{
	rejectDigest: "data digest error", 0x03: "SNACK rejected", 0x04: "protocol error",
	0x05: "command not supported", 0x06: "too many immediate commands",
	0x07: "task in progress", 0x08: "invalid data acknowledgement",
	0x09: "invalid PDU field", 0x0a: "long operation, no resources",
	0x0b: "deprecated", 0x0c: "waiting for logout",
}

// rejectDigest is the reason of a target that received damaged data.
const rejectDigest = 0x02

// reject is the target's refusal of something that we sent. Unless that was damaged on the way, we
// would send the same again.
func (l *link) reject(h *header) error {
	var refused [1]byte
	data := refused[:min(h.dataLen(), 1)]
	if err := l.readData(h, data); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	text, ok := rejectText[h[2]]
	if !ok {
		text = "unknown reason"
	}
	err := fmt.Errorf("the target rejected our PDU %#02x: %s (%02xh)", refused[0]&0x3f, text, h[2])
	if h[2] != rejectDigest {
		l.abandon(err)
	}
	return err
}
