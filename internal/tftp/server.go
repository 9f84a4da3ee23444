package tftp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Errors a [Handler] returns to choose the code that the client sees. Any other error
// becomes code 0 with a text that tells nothing of the inside.
var (
	ErrNotFound = errors.New("file not found")
	ErrAccess   = errors.New("access violation")
)

// A Request is a read request after decoding.
type Request struct {
	Path   string         // as by [CleanPath]; "undionly.kpxe", never absolute
	Client netip.AddrPort // the client's transfer identifier, RFC 1350 section 4
	Local  netip.Addr     // address the request was sent to; invalid if unknown
}

// Content is what a handler answers. The server closes Reader when the transfer ends.
type Content struct {
	Reader io.ReadCloser
	Size   int64 // bytes; negative if unknown, then the tsize option is not answered
}

// A Handler finds the content of a path. It runs concurrently, once per transfer; ctx ends
// with the transfer.
type Handler func(ctx context.Context, r Request) (Content, error)

// Outcome says how far a transfer came. The values are words of the event journal.
type Outcome string

// The outcomes. Started comes once per accepted request, then exactly one of the others;
// Refused comes alone.
const (
	Started Outcome = "started"
	Done    Outcome = "done"
	// Probed: the client asked for the size and aborted on purpose. EDK2 does so with ERROR 8
	// before every download, Intel's BIOS ROMs with ERROR 0.
	Probed  Outcome = "probed"
	Aborted Outcome = "aborted" // ERROR of the client, or the reader failed
	Lost    Outcome = "lost"    // the client fell silent
	Refused Outcome = "refused" // unknown path, write request, mail mode
)

// An Event tells of one transfer.
type Event struct {
	Outcome  Outcome
	Request  Request
	Size     int64 // of the file; negative if unknown
	Bytes    int64 // acknowledged by the client
	Resent   int   // packets sent more than once
	Duration time.Duration
	Err      error // why, for Aborted, Lost and Refused
}

// A Server answers read requests. The zero value of every field but Handler works.
type Server struct {
	Handler Handler

	// Log gets traffic at debug level. Default: discard.
	Log *slog.Logger

	// Notify is told of every transfer, concurrently. A transfer keeps its place until it
	// returns, and a refusal holds up requests, so it should be quick. Default: nothing.
	Notify func(Event)

	// Timeout is the longest wait for an answer before a packet is sent again. Shorter waits
	// are taken from the measured round trip. A client may set its own (RFC 2349). Default 1 s.
	Timeout time.Duration

	// Retries times Timeout of silence make a client lost. Default 6: firmware that is gone
	// frees its place soon, a switch port in spanning-tree learning is outlived by the
	// client's own repeats.
	Retries int

	// MaxBlock bounds the negotiated block size, bytes. Default 1468: the largest that fits
	// Ethernet without fragments, which PXE ROMs often cannot join. Raise for jumbo frames.
	MaxBlock int

	// MaxWindow bounds the negotiated window, blocks. Default 64.
	MaxWindow int

	// MaxTransfers bounds transfers under way. Further requests are not answered; clients
	// repeat theirs. Default 512.
	MaxTransfers int

	// MaxPerClient bounds transfers under way of one address, so that one machine cannot take
	// all places. Default 128.
	MaxPerClient int

	mu       sync.Mutex // guards running, clients
	running  map[netip.AddrPort]*transfer
	clients  map[netip.Addr]int
	wait     sync.WaitGroup
	defaults sync.Once
}

func (s *Server) setDefaults() {
	s.Log = cmp.Or(s.Log, slog.New(slog.DiscardHandler))
	s.Timeout = cmp.Or(s.Timeout, time.Second)
	s.Retries = cmp.Or(s.Retries, 6)
	s.MaxBlock = cmp.Or(s.MaxBlock, 1468)
	s.MaxWindow = cmp.Or(s.MaxWindow, 64)
	s.MaxTransfers = cmp.Or(s.MaxTransfers, 512)
	s.MaxPerClient = cmp.Or(s.MaxPerClient, 128)
	if s.Notify == nil {
		s.Notify = func(Event) {}
	}
	s.running = make(map[netip.AddrPort]*transfer)
	s.clients = make(map[netip.Addr]int)
}

// Serve answers requests on conn until ctx ends, then waits for its transfers, which end
// with ctx too. It returns nil then, or the error of the socket. It closes conn. Several
// Serve of one Server may run at once.
func (s *Server) Serve(ctx context.Context, conn net.PacketConn) error {
	s.defaults.Do(s.setDefaults)
	ctx, cancel := context.WithCancel(ctx)
	defer s.wait.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()

	in := newReceiver(conn)
	buf := make([]byte, maxRequest+1)
	for {
		n, client, local, err := in.receive(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("receive TFTP request: %w", err)
		case err != nil:
			// Errors of earlier packets (ICMP) surface here; the socket goes on working.
			s.Log.Debug("tftp receive", "error", err)
			continue
		}
		s.accept(ctx, conn, packet{append([]byte(nil), buf[:n]...), client, local})
	}
}

// packet is one datagram with where it came from and where it was sent to.
type packet struct {
	data   []byte
	client netip.AddrPort
	local  netip.Addr
}

// accept starts the transfer that a packet asks for.
func (s *Server) accept(ctx context.Context, conn net.PacketConn, p packet) {
	r, err := parseRequest(p.data)
	if err != nil {
		// Not answered: whoever sends this to port 69 has no transfer that could be told.
		s.Log.Debug("tftp packet ignored", "client", p.client, "error", err)
		return
	}
	path, ok := CleanPath(r.path)
	req := Request{Path: path, Client: p.client, Local: p.local}
	switch {
	case r.op == opWrite:
		s.refuse(conn, req, CodeAccess, "read only server")
		return
	case r.mode != "octet" && r.mode != "netascii":
		// netascii is served as octet: boot files are binary, and firmware that asks for
		// netascii does not convert.
		s.refuse(conn, req, CodeIllegal, "mode must be octet")
		return
	case !ok:
		req.Path = fmt.Sprintf("%q", r.path)
		s.refuse(conn, req, CodeAccess, "path leaves the tree")
		return
	}
	t := s.admit(ctx, req, r)
	if t == nil {
		return
	}
	s.wait.Go(func() {
		defer s.leave(t)
		t.run()
	})
}

// admit reserves a place for a transfer. It returns nil for a repeated request whose
// transfer runs, and when all places are taken.
func (s *Server) admit(ctx context.Context, req Request, r rrq) *transfer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.running[req.Client]; old != nil {
		if old.req.Path == req.Path {
			return nil
		}
		// The client gave up and asks for something else from the same port; its ERROR was lost.
		old.cancel()
		delete(s.running, req.Client)
	}
	address := req.Client.Addr()
	if len(s.running) >= s.MaxTransfers || s.clients[address] >= s.MaxPerClient {
		s.Log.Warn("tftp busy, request not answered", "client", req.Client, "path", req.Path)
		return nil
	}
	t := &transfer{server: s, req: req, ask: r, size: -1, start: time.Now()}
	t.ctx, t.cancel = context.WithCancel(ctx)
	s.running[req.Client] = t
	s.clients[address]++
	return t
}

// leave gives the place of a transfer back.
func (s *Server) leave(t *transfer) {
	t.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[t.req.Client] == t {
		delete(s.running, t.req.Client)
	}
	address := t.req.Client.Addr()
	if s.clients[address]--; s.clients[address] <= 0 {
		delete(s.clients, address)
	}
}

// refuse answers a request that starts no transfer.
func (s *Server) refuse(conn net.PacketConn, req Request, code Code, text string) {
	to := net.UDPAddrFromAddrPort(req.Client)
	if _, err := conn.WriteTo(encodeError(code, text), to); err != nil {
		s.Log.Debug("tftp send", "client", req.Client, "error", err)
	}
	s.Notify(Event{Outcome: Refused, Request: req, Size: -1, Err: errors.New(text)})
}
