package tftp

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
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

// Content is what a handler answers. Reader should have its bytes at hand: all transfers wait for
// it. Close, unless nil, is called when the transfer ends.
type Content struct {
	Reader io.ReaderAt
	Size   int64 // bytes
	Close  func() error
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
	Size     int64 // of the file; negative for Refused
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
	// returns. Refusals beyond MaxTransfers at a time are not told of. Default: nothing.
	Notify func(Event)

	// Timeout is the longest wait for an answer before a packet is sent again. Shorter waits
	// are taken from the measured round trip. A client may set its own (RFC 2349). Default 1 s.
	Timeout time.Duration

	// Retries times Timeout of silence make a client lost. Default 6: firmware that is gone
	// frees its place soon, a switch port in spanning-tree learning is outlived by the
	// client's own repeats.
	Retries int

	// MaxBlock bounds the negotiated block size, bytes; over IPv6 it is 20 less. Default 1468:
	// the largest that fits Ethernet without fragments, which PXE ROMs often cannot join. Raise
	// for jumbo frames.
	MaxBlock int

	// MaxWindow bounds the negotiated window, blocks. Default 64.
	MaxWindow int

	// MaxTransfers bounds transfers under way. Further requests are not answered; clients
	// repeat theirs. A transfer takes about 2 KiB. Default 2048.
	MaxTransfers int

	// MaxPerClient bounds transfers under way of one address, so that one machine cannot take
	// all places. Default 512: there may be a rack behind one address.
	MaxPerClient int

	// SinglePort answers from the port that was asked instead of a port of its own for transfers,
	// for networks whose address translation or firewall lets nothing else through. Clients
	// are told apart by their address and port. Default false, as RFC 1350 has it.
	SinglePort bool

	mu       sync.Mutex // guards places, clients
	places   int        // taken
	clients  map[netip.Addr]int
	refusals *semaphore.Weighted // that are being told of
	defaults sync.Once
}

func (s *Server) setDefaults() {
	s.Log = cmp.Or(s.Log, slog.New(slog.DiscardHandler))
	s.Timeout = cmp.Or(s.Timeout, time.Second)
	s.Retries = cmp.Or(s.Retries, 6)
	s.MaxBlock = cmp.Or(s.MaxBlock, 1468)
	s.MaxWindow = cmp.Or(s.MaxWindow, 64)
	s.MaxTransfers = cmp.Or(s.MaxTransfers, 2048)
	s.MaxPerClient = cmp.Or(s.MaxPerClient, 512)
	if s.Notify == nil {
		s.Notify = func(Event) {}
	}
	s.clients = make(map[netip.Addr]int)
	s.refusals = semaphore.NewWeighted(int64(s.MaxTransfers))
}

// Serve answers requests on conn until ctx ends, then waits for its transfers, which end
// with ctx too. It returns nil then, or the error of the socket. It closes conn. A socket of IPv6
// that takes IPv4, too, serves both. Several Serve of one Server may run at once.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	s.defaults.Do(s.setDefaults)
	defer conn.Close()
	v, err := newService(ctx, s, conn)
	if err != nil {
		return err
	}
	return v.run()
}

// admit reserves a place for a transfer, if there is one.
func (s *Server) admit(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places >= s.MaxTransfers || s.clients[client] >= s.MaxPerClient {
		return false
	}
	s.places++
	s.clients[client]++
	return true
}

// release gives a place back.
func (s *Server) release(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places--
	if s.clients[client]--; s.clients[client] <= 0 {
		delete(s.clients, client)
	}
}

// tell reports an event.
func (s *Server) tell(e Event) {
	s.Log.Debug("tftp transfer", "outcome", e.Outcome, "client", e.Request.Client,
		"path", e.Request.Path, "bytes", e.Bytes, "resent", e.Resent, "error", e.Err)
	s.Notify(e)
}
