package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
)

// shortestWait bounds the measured retransmission wait from below: emulated and slow
// firmware may take milliseconds to write a block away.
const shortestWait = 25 * time.Millisecond

// transfer sends one file to one client over its own socket. One goroutine owns it.
type transfer struct {
	server *Server
	req    Request
	ask    rrq
	ctx    context.Context // of this transfer only; ended by leave, by a newer request, by Serve
	cancel context.CancelFunc
	start  time.Time

	conn    *net.UDPConn
	content io.Reader
	size    int64
	bytes   int64 // acknowledged
	resent  int
	opened  bool // an OACK was sent and no block yet acknowledged: a size probe ends here

	block  int           // block size
	window int           // blocks in flight
	fixed  bool          // the client named a timeout: use it as it is
	wait   time.Duration // first wait before sending again; doubles with each repeat
	known  bool          // wait rests on a measurement
	limit  time.Duration // longest wait
	in     []byte        // receive buffer
}

// run does the transfer and reports it.
func (t *transfer) run() {
	s := t.server
	content, err := s.Handler(t.ctx, t.req)
	if err != nil {
		t.refuse(err)
		return
	}
	defer content.Reader.Close()
	if t.conn, err = dial(t.req); err != nil {
		t.report(Aborted, err)
		return
	}
	defer t.conn.Close()
	defer context.AfterFunc(t.ctx, func() { t.conn.SetDeadline(time.Unix(1, 0)) })()

	t.content, t.size = content.Reader, content.Size
	t.in = make([]byte, 4+maxName)
	t.report(Started, nil)
	err = t.negotiate()
	if err == nil {
		err = t.send()
	}
	t.finish(err)
}

// dial opens the transfer's own socket. It is connected, so packets of strangers (RFC 1350
// section 4: unknown transfer identifier) never arrive, and a client that closed its port is
// noticed at once.
func dial(req Request) (*net.UDPConn, error) {
	remote := net.UDPAddrFromAddrPort(req.Client)
	if req.Local.IsValid() {
		local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(req.Local, 0))
		if c, err := net.DialUDP("udp", local, remote); err == nil {
			return c, nil
		}
		// A directed broadcast looks like a unicast address until one binds to it.
	}
	c, err := net.DialUDP("udp", nil, remote)
	if err != nil {
		return nil, fmt.Errorf("open transfer socket to %s: %w", req.Client, err)
	}
	return c, nil
}

// refuse tells the client what a handler's error means.
func (t *transfer) refuse(err error) {
	code, text := CodeUndefined, "internal error"
	switch {
	case errors.Is(err, ErrNotFound):
		code, text = CodeNotFound, "file not found"
	case errors.Is(err, ErrAccess):
		code, text = CodeAccess, "access violation"
	}
	if c, dialErr := dial(t.req); dialErr == nil {
		c.Write(encodeError(code, text))
		c.Close()
	}
	t.report(Refused, err)
}

// finish reports the end of a transfer by the error that ended it.
func (t *transfer) finish(err error) {
	var remote *RemoteError
	switch {
	case err == nil:
		t.report(Done, nil)
	case errors.As(err, &remote) && t.opened &&
		(remote.Code == CodeOption || remote.Code == CodeUndefined):
		t.report(Probed, nil)
	case errors.As(err, &remote):
		t.report(Aborted, err)
	case errors.Is(err, errSilent), errors.Is(err, syscall.ECONNREFUSED):
		t.report(Lost, err)
	case t.ctx.Err() != nil:
		// Nothing is sent: a client that has asked anew from the same port would take the
		// ERROR for the answer to its new request.
		t.report(Aborted, err)
	default:
		t.conn.Write(encodeError(CodeUndefined, "transfer ended by server"))
		t.report(Aborted, err)
	}
}

func (t *transfer) report(o Outcome, err error) {
	e := Event{Outcome: o, Request: t.req, Size: t.size, Bytes: t.bytes, Resent: t.resent,
		Duration: time.Since(t.start), Err: err}
	t.server.Log.Debug("tftp transfer", "outcome", o, "client", t.req.Client, "path", t.req.Path,
		"bytes", t.bytes, "resent", t.resent, "error", err)
	t.server.Notify(e)
}

// negotiate answers the client's options and waits for their acknowledgement, RFC 2347.
// Unknown and senseless options are left out of the answer, which refuses them.
func (t *transfer) negotiate() error {
	t.block, t.window = 512, 1
	t.limit = t.server.Timeout
	t.wait = t.limit
	var agreed []option
	agree := func(name string, n int64) {
		agreed = append(agreed, option{name, strconv.FormatInt(n, 10)})
	}
	for _, o := range t.ask.options {
		switch o.name {
		case "blksize":
			// RFC 2348: 8 to 65464; the server may answer a smaller one.
			if n, ok := t.ask.number(o.name, 8, 65464); ok {
				t.block = min(int(n), t.server.MaxBlock)
				agree(o.name, int64(t.block))
			}
		case "tsize":
			if _, ok := t.ask.number(o.name, 0, 1<<62); ok && t.size >= 0 {
				agree(o.name, t.size)
			}
		case "timeout":
			// RFC 2349: seconds, 1 to 255. It must be answered with the same value.
			if n, ok := t.ask.number(o.name, 1, 255); ok {
				t.limit, t.fixed = time.Duration(n)*time.Second, true
				t.wait = t.limit
				agree(o.name, n)
			}
		case "windowsize":
			// RFC 7440: 1 to 65535; the server may answer a smaller one.
			if n, ok := t.ask.number(o.name, 1, 65535); ok {
				t.window = min(int(n), t.server.MaxWindow)
				agree(o.name, int64(t.window))
			}
		}
	}
	if len(agreed) == 0 {
		return nil
	}
	t.opened = true
	oack := encodeOACK(agreed)
	_, err := t.exchange([][]byte{oack}, func(ack uint16) (int, bool) { return 1, ack == 0 })
	return err
}

// send transmits the file window by window.
func (t *transfer) send() error {
	var (
		flight [][]byte // packets sent and not acknowledged
		last   uint16   // number of the last acknowledged block
		end    bool     // the final, short block is in flight or acknowledged
		slots  = make([][]byte, t.window)
		next   int // slot of the next block; it is free, for at most t.window are in flight
	)
	for i := range slots {
		slots[i] = make([]byte, t.block+4)
	}
	for {
		for !end && len(flight) < t.window {
			p, err := t.read(slots[next], last+uint16(len(flight))+1)
			if err != nil {
				return err
			}
			next = (next + 1) % t.window
			end = len(p) < t.block+4
			flight = append(flight, p)
		}
		if len(flight) == 0 {
			return nil
		}
		n, err := t.exchange(flight, func(ack uint16) (int, bool) {
			d := int(ack - last)
			return d, d >= 1 && d <= len(flight)
		})
		if err != nil {
			// Firmware that closed its port after the last block was sent has what it wanted;
			// only its acknowledgement was lost.
			if !end || !errors.Is(err, syscall.ECONNREFUSED) {
				return err
			}
			n = len(flight)
		}
		t.opened = false
		for _, p := range flight[:n] {
			t.bytes += int64(len(p) - 4)
		}
		last += uint16(n)
		flight = flight[n:]
	}
}

// read fills one DATA packet. A packet shorter than the block size is the last.
func (t *transfer) read(p []byte, number uint16) ([]byte, error) {
	binary.BigEndian.PutUint16(p, opData)
	binary.BigEndian.PutUint16(p[2:], number)
	n, err := io.ReadFull(t.content, p[4:])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("read block %d of %s: %w", number, t.req.Path, err)
	}
	return p[:4+n], nil
}

var errSilent = errors.New("client fell silent")

// exchange sends packets until accept takes an acknowledgement, and returns how many packets
// it covers. Packets are sent again when nothing useful came for a while, t.wait at first. An old
// acknowledgement does not make a lone packet go out again: that would double every packet
// for the rest of the transfer (the Sorcerer's Apprentice, RFC 1123 section 4.2.3.1). In a
// window it tells of a gap (RFC 7440 section 4), so the window is sent again, once.
func (t *transfer) exchange(packets [][]byte, accept func(uint16) (int, bool)) (int, error) {
	var (
		began   = time.Now()
		wait    = t.wait
		giveUp  = began.Add(t.limit * time.Duration(t.server.Retries+1))
		sent    = 0
		gapSeen = false
	)
	for {
		if err := t.transmit(packets, sent); err != nil {
			return 0, err
		}
		sent++
		deadline := time.Now().Add(wait)
		for {
			ack, err := t.receive(deadline)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return 0, err
			}
			if n, ok := accept(ack); ok {
				if sent == 1 {
					t.measured(time.Since(began))
				}
				return n, nil
			}
			if len(packets) > 1 && !gapSeen {
				gapSeen = true
				break
			}
		}
		if err := t.ctx.Err(); err != nil {
			return 0, fmt.Errorf("transfer cancelled: %w", err)
		}
		if time.Now().After(giveUp) {
			return 0, fmt.Errorf("%w for %s", errSilent, time.Since(began).Round(time.Millisecond))
		}
		if !t.fixed {
			wait = min(2*wait, t.limit)
		}
	}
}

// transmit sends all packets; sent tells how often they were sent before.
func (t *transfer) transmit(packets [][]byte, sent int) error {
	for _, p := range packets {
		if _, err := t.conn.Write(p); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return fmt.Errorf("send to %s: %w", t.req.Client, err)
		}
	}
	if sent > 0 {
		t.resent += len(packets)
	}
	return nil
}

// measured adapts the wait to the time an answer took; only answers to packets sent once
// count (Karn's rule), for others cannot be attributed.
func (t *transfer) measured(roundTrip time.Duration) {
	if t.fixed {
		return
	}
	if !t.known {
		t.wait, t.known = 8*roundTrip, true
	}
	t.wait = min(max(8*roundTrip, (t.wait+8*roundTrip)/2, shortestWait), t.limit)
}

// receive returns the next acknowledged block number. A RemoteError ends the transfer.
func (t *transfer) receive(deadline time.Time) (uint16, error) {
	for {
		if err := t.ctx.Err(); err != nil {
			return 0, fmt.Errorf("transfer cancelled: %w", err)
		}
		if err := t.conn.SetReadDeadline(deadline); err != nil {
			return 0, fmt.Errorf("set deadline: %w", err)
		}
		n, err := t.conn.Read(t.in)
		if err != nil {
			return 0, fmt.Errorf("receive from %s: %w", t.req.Client, err)
		}
		if remote, err := parseError(t.in[:n]); err == nil {
			return 0, remote
		}
		if ack, err := parseAck(t.in[:n]); err == nil {
			return ack, nil
		}
		// Anything else is no answer; the wait goes on.
	}
}
