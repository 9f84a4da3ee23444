package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"syscall"
	"time"
)

// shortestWait bounds the measured retransmission wait from below: emulated and slow
// firmware may take milliseconds to write a block away.
const shortestWait = 25 * time.Millisecond

// phase is how far a transfer is.
type phase int

const (
	opening  phase = iota // the handler looks for the content
	offering              // an OACK is in flight; a size probe ends here
	sending               // blocks are in flight
	over
)

// transfer is one file on its way to one client. It is a state machine without a goroutine: what
// it sends is collected by its socket. service.mu guards all of it but what is set once.
type transfer struct {
	req    Request         // set once, as are the next ones
	raw    string          // the request as it came, to know it again
	ask    rrq             //
	key    peer            //
	ctx    context.Context // of this transfer only; ended with it
	cancel context.CancelFunc
	start  time.Time
	socket *socket
	route  route

	phase   phase
	content Content
	result  error // why it is over; nil is done
	failure error // of the socket; ends the transfer
	resent  int

	block  int    // block size
	window int    // blocks in flight
	oack   []byte // answer to the options

	blocks int64 // of the file, the last is shorter than block
	acked  int64 // blocks the client has
	first  int64 // the highest block that was sent at all
	flight int   // blocks behind acked that were sent last
	twice  bool  // of the blocks in flight some were sent before
	echo   bool  // so it was with the flight before: the client may acknowledge that one again

	timing timing
}

// Bounds of what a client's own timeout (RFC 2349) may do: it must not keep a place for half an
// hour for each forged request. Firmware asks for a few seconds.
const (
	maxTimeout = 60 // seconds; a longer one is not agreed to
	maxSilence = time.Minute
)

// timing says when packets are sent again.
type timing struct {
	limit    time.Duration // longest wait
	wait     time.Duration // first wait, doubles with each repeat
	fixed    bool          // the client named a timeout: use it as it is
	known    bool          // wait rests on a measurement
	began    time.Time     // when the packets in flight were first sent
	repeated bool          // they were sent again
	current  time.Duration
	deadline time.Time
}

// begin starts the wait for the answer to new packets.
func (w *timing) begin(now time.Time) {
	w.began, w.repeated, w.current, w.deadline = now, false, w.wait, now.Add(w.wait)
}

// repeat starts the wait for the answer to packets that were sent again.
func (w *timing) repeat(now time.Time) {
	w.repeated = true
	if !w.fixed {
		w.current = min(2*w.current, w.limit)
	}
	w.deadline = now.Add(w.current)
}

// answered adapts the wait to the time an answer took; only answers to packets sent once
// count (Karn's rule), for others cannot be attributed.
func (w *timing) answered(now time.Time) {
	if w.fixed || w.repeated {
		return
	}
	wait := 8 * now.Sub(w.began)
	if !w.known {
		w.wait, w.known = wait, true
	}
	w.wait = min(max(wait, (w.wait+wait)/2, shortestWait), w.limit)
}

// begin sends the first packets of a transfer whose content is known.
func (t *transfer) begin(s *Server, now time.Time) {
	t.negotiate(s)
	t.blocks = t.content.Size/int64(t.block) + 1
	t.timing.begin(now)
	if t.oack == nil {
		t.phase = sending
		t.send()
		return
	}
	t.phase = offering
	t.say(t.oack)
}

// negotiate answers the client's options, RFC 2347. Unknown and senseless options are left out
// of the answer, which refuses them.
func (t *transfer) negotiate(s *Server) {
	t.block, t.window = 512, 1
	t.timing.limit, t.timing.wait = s.Timeout, s.Timeout
	var agreed []option
	agree := func(name string, n int64) {
		agreed = append(agreed, option{name, strconv.FormatInt(n, 10)})
	}
	for _, o := range t.ask.options {
		switch o.name {
		case "blksize":
			// RFC 2348: 8 to 65464; the server may answer a smaller one.
			if n, ok := t.ask.number(o.name, 8, 65464); ok {
				t.block = min(int(n), s.MaxBlock)
				if t.req.Client.Addr().Is6() {
					// The header is 20 bytes longer than the one of IPv4.
					t.block = min(t.block, max(s.MaxBlock-20, 8))
				}
				agree(o.name, int64(t.block))
			}
		case "tsize":
			if _, ok := t.ask.number(o.name, 0, 1<<62); ok {
				agree(o.name, t.content.Size)
			}
		case "timeout":
			// RFC 2349: seconds, 1 to 255. It must be answered with the same value or not at all.
			if n, ok := t.ask.number(o.name, 1, maxTimeout); ok {
				t.timing.limit, t.timing.fixed = time.Duration(n)*time.Second, true
				t.timing.wait = t.timing.limit
				agree(o.name, n)
			}
		case "windowsize":
			// RFC 7440: 1 to 65535; the server may answer a smaller one.
			if n, ok := t.ask.number(o.name, 1, 65535); ok {
				t.window = min(int(n), s.MaxWindow)
				agree(o.name, int64(t.window))
			}
		}
	}
	if len(agreed) > 0 {
		t.oack = encodeOACK(agreed)
	}
}

// say sends one packet that is no block.
func (t *transfer) say(packet []byte) {
	n := copy(t.socket.add(len(packet)), packet)
	t.socket.commit(t, n)
}

// send sends the window behind the last acknowledged block. Content is read again for blocks
// that are sent again, so a transfer holds no packets.
func (t *transfer) send() {
	t.twice = t.twice || t.first > t.acked
	t.flight = int(min(int64(t.window), t.blocks-t.acked))
	for n := t.acked + 1; n <= t.acked+int64(t.flight); n++ {
		p := t.socket.add(4 + t.block)
		binary.BigEndian.PutUint16(p, opData)
		binary.BigEndian.PutUint16(p[2:], uint16(n)) // rolls over
		at := (n - 1) * int64(t.block)
		length := int(min(int64(t.block), t.content.Size-at))
		if got, err := t.content.Reader.ReadAt(p[4:4+length], at); got < length {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			t.failure = fmt.Errorf("read block %d of %s: %w", n, t.req.Path, err)
			return
		}
		t.socket.commit(t, 4+length)
		if n <= t.first {
			t.resent++
		}
	}
	t.first = max(t.first, t.acked+int64(t.flight))
}

// acknowledge takes an ACK and tells whether it was the last one. An old acknowledgement does not
// make a lone block go out again: that would double every block for the rest of the transfer (the
// Sorcerer's Apprentice, RFC 1123 section 4.2.3.1). In a window the last one, repeated, tells of
// a gap at its begin (RFC 7440 section 4), so the window is sent again; but once, and not if it
// may be the answer to blocks that came twice, for then all further windows would.
func (t *transfer) acknowledge(block uint16, now time.Time) bool {
	switch t.phase {
	case offering:
		if block != 0 {
			return false
		}
		t.phase = sending
	case sending:
		n := int(block - uint16(t.acked))
		if n < 1 || n > t.flight {
			if n == 0 && t.flight > 1 && !t.twice && !t.echo {
				t.send()
				t.timing.repeat(now)
			}
			return false
		}
		t.acked += int64(n)
		if t.acked == t.blocks {
			return true
		}
	default:
		return false
	}
	t.timing.answered(now)
	t.timing.begin(now)
	t.echo, t.twice = t.twice, false
	t.send()
	return false
}

var errSilent = errors.New("client fell silent")

// check sends what is in flight again if its time has come, and returns an error if the client
// is to be given up.
func (t *transfer) check(now time.Time, retries int) error {
	if t.phase == opening || now.Before(t.timing.deadline) {
		return nil
	}
	silence, limit := now.Sub(t.timing.began), t.timing.limit
	if silence >= min(limit*time.Duration(retries+1), max(maxSilence, 2*limit)) {
		return fmt.Errorf("%w for %s", errSilent, silence.Round(time.Millisecond))
	}
	if t.phase == offering {
		t.resent++
		t.say(t.oack)
	} else {
		t.send()
	}
	t.timing.repeat(now)
	return nil
}

// refused ends a transfer whose client has closed its port. Firmware that did so after the last
// block was sent has what it wanted; only its acknowledgement was lost.
func (t *transfer) refused() error {
	if t.phase == sending && t.acked+int64(t.flight) == t.blocks {
		t.acked = t.blocks
		return nil
	}
	return fmt.Errorf("send to %s: %w", t.req.Client, syscall.ECONNREFUSED)
}

// bytes is how much of the file the client has.
func (t *transfer) bytes() int64 { return min(t.acked*int64(t.block), t.content.Size) }

// outcome says how a transfer that is over ended, and the error to tell.
func (t *transfer) outcome() (Outcome, error) {
	var remote *RemoteError
	told := t.oack != nil && t.first == 0 // the size and no more
	switch {
	case t.result == nil:
		return Done, nil
	case told && errors.As(t.result, &remote) &&
		(remote.Code == CodeOption || remote.Code == CodeUndefined),
		told && errors.Is(t.result, errReplaced):
		return Probed, nil
	case errors.Is(t.result, errSilent), errors.Is(t.result, syscall.ECONNREFUSED):
		return Lost, t.result
	}
	return Aborted, t.result
}

// event tells of a transfer.
func (t *transfer) event(o Outcome, err error) Event {
	e := Event{Outcome: o, Request: t.req, Size: t.content.Size, Bytes: t.bytes(),
		Resent: t.resent, Duration: time.Since(t.start), Err: err}
	if o == Refused {
		e.Size = -1
	}
	return e
}
