package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// tick is how often transfers are looked at for packets to be sent again.
const tick = 10 * time.Millisecond

// service is one Serve: its sockets and the transfers under way. Packets of all clients are read
// and answered in batches by one goroutine, because waking one for each packet costs more than
// the packet does.
type service struct {
	server   *Server
	ctx      context.Context
	requests *socket
	// transfers are two, because a packet of the transfer that a client's next request replaced
	// may be read after that request; it must not reach the next transfer. In single-port
	// mode, where packets are read in order, it is requests alone.
	transfers []*socket
	all       []*socket

	mu       sync.Mutex // guards running, its transfers, busyTold, and sending
	running  map[peer]*transfer
	busyTold time.Time      // when the log was told that there was no place
	wait     sync.WaitGroup // of everything that open and finish start
	busy     chan struct{}  // there are transfers
}

// newService takes over conn.
func newService(ctx context.Context, s *Server, conn *net.UDPConn) (*service, error) {
	v := &service{server: s, ctx: ctx, running: make(map[peer]*transfer),
		busy: make(chan struct{}, 1)}
	var err error
	if v.requests, err = newSocket(conn, true); err != nil {
		return nil, err
	}
	v.all = []*socket{v.requests}
	if s.SinglePort {
		v.transfers = v.all
		return v, nil
	}
	for range 2 {
		twin, err := sibling(conn)
		if err != nil {
			v.closeSockets()
			return nil, err
		}
		t, err := newSocket(twin, false)
		if err != nil {
			twin.Close()
			v.closeSockets()
			return nil, err
		}
		v.transfers, v.all = append(v.transfers, t), append(v.all, t)
	}
	return v, nil
}

func (v *service) closeSockets() {
	for _, s := range v.all {
		s.conn.Close()
	}
}

// run answers until ctx ends or the socket fails.
func (v *service) run() error {
	group, ctx := errgroup.WithContext(v.ctx)
	for _, s := range v.all {
		group.Go(func() error { return v.read(ctx, s) })
	}
	group.Go(func() error {
		v.watch(ctx)
		v.closeSockets()
		return nil
	})
	err := group.Wait()
	v.stop()
	v.wait.Wait()
	return err
}

// read answers the packets of one socket. It returns nil when ctx ends.
func (v *service) read(ctx context.Context, s *socket) error {
	for {
		n, err := s.receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("receive TFTP request: %w", err)
		case err != nil:
			// An error of an earlier packet (ICMP) surfaced; the socket goes on working.
			v.server.Log.Debug("tftp receive", "error", err)
		}
		v.mu.Lock()
		s.out.soft = s.out.soft || err != nil
		now := time.Now()
		for i := range n {
			v.handle(s, i, now)
		}
		v.flush()
		v.mu.Unlock()
	}
}

// handle takes packet i of a batch.
func (v *service) handle(s *socket, i int, now time.Time) {
	p := s.in.packet(i)
	if len(p) < 2 {
		return
	}
	op := binary.BigEndian.Uint16(p)
	if s == v.requests && op != opAck && op != opError {
		v.accept(s, i)
		return
	}
	// A packet of a stranger (RFC 1350 section 4: unknown transfer identifier) is not answered:
	// ERROR would reach the client's next transfer if this is a late packet of its last.
	t := v.running[peerOf(&s.in.names[i])]
	if t == nil || s != t.socket || t.phase == opening {
		return
	}
	if block, err := parseAck(p); err == nil {
		if t.acknowledge(block, now) {
			v.finish(t, nil)
		} else if t.failure != nil {
			v.fail(t)
		}
		return
	}
	if remote, err := parseError(p); err == nil {
		v.finish(t, remote)
	}
}

// accept starts the transfer that a packet asks for.
func (v *service) accept(s *socket, i int) {
	p := s.in.packet(i)
	key := peerOf(&s.in.names[i])
	r, err := parseRequest(p)
	if err != nil {
		// Not answered: whoever sends this to port 69 has no transfer that could be told.
		v.server.Log.Debug("tftp packet ignored", "client", key.address(), "error", err)
		return
	}
	old := v.running[key]
	if old != nil && old.raw == string(p) {
		return // repeated: its transfer runs
	}
	t := &transfer{raw: string(p), ask: r, key: key, start: time.Now(), socket: s}
	t.req.Client = key.address()
	t.route, t.req.Local = s.in.route(i)
	path, ok := CleanPath(r.path)
	t.req.Path = path
	switch {
	case r.op == opWrite:
		v.refuse(t, CodeAccess, "read only server")
		return
	case r.mode != "octet" && r.mode != "netascii":
		// netascii is served as octet: boot files are binary, and firmware that asks for
		// netascii does not convert.
		v.refuse(t, CodeIllegal, "mode must be octet")
		return
	case !ok:
		t.req.Path = fmt.Sprintf("%q", r.path)
		v.refuse(t, CodeAccess, "path leaves the tree")
		return
	}
	if old != nil {
		// The client gave up and asks for something else from the same port; its ERROR was lost.
		v.finish(old, errReplaced)
	}
	if !v.server.admit(t.req.Client.Addr()) {
		// Once a minute: clients repeat, and everybody can send requests.
		if t.start.Sub(v.busyTold) >= time.Minute {
			v.busyTold = t.start
			v.server.Log.Warn("tftp busy, requests not answered", "client", t.req.Client, "path", path)
		}
		return
	}
	t.socket = v.transfers[0]
	if old != nil && old.socket == t.socket {
		t.socket = v.transfers[len(v.transfers)-1]
	}
	t.ctx, t.cancel = context.WithCancel(v.ctx)
	v.running[key] = t
	select {
	case v.busy <- struct{}{}:
	default:
	}
	v.wait.Go(func() { v.open(t) })
}

var errReplaced = errors.New("the client asked for something else")

// refuse answers a request that starts no transfer. It is told of unless too many are.
func (v *service) refuse(t *transfer, code Code, text string) {
	t.say(encodeError(code, text))
	if !v.server.refusals.TryAcquire(1) {
		return
	}
	v.wait.Go(func() {
		defer v.server.refusals.Release(1)
		v.server.Notify(t.event(Refused, errors.New(text)))
	})
}

// open finds the content of a transfer and sends its first packets.
func (v *service) open(t *transfer) {
	content, err := v.server.Handler(t.ctx, t.req)
	if err != nil {
		code, text := CodeUndefined, "internal error"
		switch {
		case errors.Is(err, ErrNotFound):
			code, text = CodeNotFound, "file not found"
		case errors.Is(err, ErrAccess):
			code, text = CodeAccess, "access violation"
		}
		v.mu.Lock()
		if t.phase != over {
			t.say(encodeError(code, text))
			v.remove(t)
			v.flush()
		}
		v.mu.Unlock()
		v.leave(t, Refused, err)
		return
	}
	// Before the client can answer, so that it is the first event.
	t.content = content
	v.server.tell(t.event(Started, nil))
	v.mu.Lock()
	if t.phase == over {
		v.wait.Go(func() { v.close(t) })
	} else {
		t.begin(v.server, time.Now())
		if t.failure != nil {
			v.fail(t)
		}
		v.flush()
	}
	v.mu.Unlock()
}

// watch sends packets again whose time has come.
func (v *service) watch(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-v.busy:
		case <-ctx.Done():
			return
		}
		ticker.Reset(tick)
		for busy := true; busy; {
			select {
			case <-ticker.C:
				busy = v.check(time.Now())
			case <-ctx.Done():
				return
			}
		}
		ticker.Stop()
	}
}

// check looks at all transfers and tells whether there are any.
func (v *service) check(now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.running {
		if err := t.check(now, v.server.Retries); err != nil {
			v.finish(t, err)
		} else if t.failure != nil {
			v.fail(t)
		}
	}
	v.flush()
	return len(v.running) > 0
}

// flush sends what was collected, and ends the transfers of clients that cannot be reached.
func (v *service) flush() {
	for _, s := range v.all {
		s.flush()
		for _, t := range s.out.failed {
			if v.running[t.key] == t {
				v.finish(t, t.failure)
			}
		}
		s.out.failed = s.out.failed[:0]
		if s.out.soft {
			s.out.soft = false
			s.refused(func(p peer) {
				if t := v.running[p]; t != nil && t.phase != opening {
					v.finish(t, t.refused())
				}
			})
		}
	}
}

// fail ends a transfer whose content cannot be read, and tells its client.
func (v *service) fail(t *transfer) {
	t.say(encodeError(CodeUndefined, "transfer ended by server"))
	v.finish(t, t.failure)
}

// finish ends a transfer. To tell of it may take long and is done beside.
func (v *service) finish(t *transfer, result error) {
	opened := t.phase != opening
	v.remove(t)
	t.result = result
	if opened {
		v.wait.Go(func() { v.close(t) })
	}
}

// remove takes a transfer from those under way.
func (v *service) remove(t *transfer) {
	t.phase = over
	t.cancel()
	if v.running[t.key] == t {
		delete(v.running, t.key)
	}
}

// close gives back what a transfer holds, and tells of its end.
func (v *service) close(t *transfer) {
	if t.content.Close != nil {
		t.content.Close()
	}
	outcome, err := t.outcome()
	v.leave(t, outcome, err)
}

// leave tells of the end of a transfer and gives its place back.
func (v *service) leave(t *transfer, o Outcome, err error) {
	v.server.tell(t.event(o, err))
	v.server.release(t.req.Client.Addr())
}

// stop ends all transfers. Nothing is sent: clients repeat, perhaps to a successor.
func (v *service) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.running {
		v.finish(t, fmt.Errorf("transfer cancelled: %w", context.Canceled))
	}
}
