package bootd

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// Bounds of downloads over HTTP.
const (
	// maxTransfers are sent at once unless the configuration says otherwise. With more, each gets so
	// little that firmware gives up.
	maxTransfers = 256
	// maxTransfersOf one address are sent at once, so that nobody takes all of them. A machine
	// needs one or two; machines behind one address take turns.
	maxTransfersOf = 8
	// maxWaiting of one address wait in the line; more are refused.
	maxWaiting = 128
)

// stallTime is how long a client may take nothing at all. Slowness is no reason to end a download.
const stallTime = 2 * time.Minute

// transfers are the places for downloads. Machines whose script says so have asked for one before
// they load (line.go). All others wait with their connection: first come, first served, before
// those machines, for they cannot be told to wait, except that a client who has as many transfers as
// one may have lets others pass. The zero value is free.
type transfers struct {
	// places is how many there are; 0 is maxTransfers.
	places int

	mu      sync.Mutex
	running int                      // guarded by mu, as all below; of others than machines
	of      map[netip.Addr]*transfer // clients with anything running or waiting
	waiting list.List                // of *waiter, the oldest first
	line    line
}

// transfer counts what a client has.
type transfer struct{ running, waiting int }

type waiter struct {
	client  netip.Addr
	admit   chan struct{} // closed when its turn has come
	element *list.Element // nil once it has
}

// enter waits for a turn, which leave ends. Errors: Unavailable if the client has too many waiting,
// or that of ctx.
func (t *transfers) enter(ctx context.Context, client netip.Addr) error {
	w, err := t.join(client)
	if err != nil {
		return err
	}
	select {
	case <-w.admit: // as most are: BMCs come for each range of a medium
		return nil
	default:
	}
	// Promises end with time, which wakes nobody.
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for waits := true; waits; {
		select {
		case <-w.admit:
			return nil
		case <-look.C:
			t.sweep()
		case <-ctx.Done():
			waits = false
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.element == nil { // its turn came meanwhile
		t.end(client)
		return ctx.Err()
	}
	t.waiting.Remove(w.element)
	t.of[client].waiting--
	t.forget(client)
	return ctx.Err()
}

func (t *transfers) join(client netip.Addr) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.client(client)
	if c.waiting >= maxWaiting {
		return nil, ingot.Errorf(ingot.Unavailable, "%d downloads of %s wait already", c.waiting,
			client)
	}
	c.waiting++
	w := &waiter{client: client, admit: make(chan struct{})}
	w.element = t.waiting.PushBack(w)
	t.advance()
	return w, nil
}

// client needs mu, and the caller to count something or to forget it.
func (t *transfers) client(client netip.Addr) *transfer {
	if t.of == nil {
		t.of = map[netip.Addr]*transfer{}
	}
	c := t.of[client]
	if c == nil {
		c = &transfer{}
		t.of[client] = c
	}
	return c
}

// leave ends a turn.
func (t *transfers) leave(client netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(client)
}

// end needs mu.
func (t *transfers) end(client netip.Addr) {
	t.running--
	t.of[client].running--
	t.forget(client)
	t.advance()
}

// forget drops a client who has nothing here any more. Needs mu.
func (t *transfers) forget(client netip.Addr) {
	if *t.of[client] == (transfer{}) {
		delete(t.of, client)
	}
}

// advance admits whoever may be. Needs mu.
func (t *transfers) advance() {
	for e := t.waiting.Front(); e != nil && t.free() > 0; {
		w, next := e.Value.(*waiter), e.Next()
		if c := t.of[w.client]; c.running < maxTransfersOf {
			t.waiting.Remove(e)
			w.element = nil
			t.running++
			c.running++
			c.waiting--
			close(w.admit)
		}
		e = next
	}
}

// free is the number of places that are neither taken nor promised. Needs mu.
func (t *transfers) free() int { return t.forMachines() - len(t.line.holders) }

// forMachines is the number of places that others leave to machines. Needs mu.
func (t *transfers) forMachines() int { return cmp.Or(t.places, maxTransfers) - t.running }

// sweep gives the places to others that were promised to machines which have not come.
func (t *transfers) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.line.sweep(time.Now())
	t.advance()
}

// turn tells whether the machine of a node may load its boot files now.
func (t *transfers) turn(node string) netboot.Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.line.turn(node, time.Now(), t.forMachines())
}

// busy tells whether a machine that comes now would have to wait.
func (t *transfers) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.free() <= len(t.line.tickets)
}

// begin lets a machine load a file if its turn has come.
func (t *transfers) begin(node string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.line.begin(node, time.Now())
}

// pass is enter for those that better try elsewhere than wait.
func (t *transfers) pass(client netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free() <= len(t.line.tickets) || t.waiting.Len() > 0 {
		return false
	}
	c := t.client(client)
	if c.running >= maxTransfersOf {
		return false
	}
	t.running++
	c.running++
	return true
}

// finish is the end of what begin allowed; done says that the machine has everything.
func (t *transfers) finish(node string, done bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.line.finish(node, time.Now(), done)
	t.advance()
}

// listenHTTP listens for machines, on IPv4 and IPv6 where the address leaves that open. The kernel
// ends a connection whose peer has taken nothing for the time of stall: tcp(7), TCP_USER_TIMEOUT,
// which connections inherit. A deadline in the program would interrupt sendfile for it, and would
// not tell slow from stalled.
func listenHTTP(ctx context.Context, address string, stall time.Duration) (net.Listener, error) {
	return listenWith(ctx, address, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stall.Milliseconds()))
	})
}

// listenAhead is listenHTTP at an address that the host has now and then: ip(7), IP_FREEBIND.
func listenAhead(ctx context.Context, address string, stall time.Duration) (net.Listener, error) {
	return listenWith(ctx, address, func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stall.Milliseconds())))
	})
}

func listenWith(ctx context.Context, address string, set func(fd int) error) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = set(int(fd)) }); e != nil {
			return e
		}
		return err
	}}
	lc.SetMultipathTCP(false) // has no such option
	return lc.Listen(ctx, "tcp", address)
}
