package iscsitest

import (
	"net"
	"sync"
	"testing"
)

// Proxy is a TCP connection to a target that can be cut, frozen or damaged.
type Proxy struct {
	Addr string // host:port to dial in place of the target's

	tasks sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	target   string
	down     bool
	conns    map[net.Conn]bool
	frozen   chan struct{} // closed when traffic may flow again; nil while it flows
	filter   func(toTarget bool, b []byte)
	accepted int
}

// StartProxy forwards connections to a target until the test ends.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{target: target, conns: make(map[net.Conn]bool)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Addr = listener.Addr().String()
	p.tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.tasks.Go(func() { p.forward(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.Thaw()
		p.Down()
		p.tasks.Wait()
	})
	return p
}

// forward copies both ways until one of the two ends.
func (p *Proxy) forward(from net.Conn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	to, err := net.Dial("tcp", target)
	if err != nil {
		_ = from.Close()
		return
	}
	p.mu.Lock()
	up := !p.down
	if up {
		p.conns[from], p.conns[to] = true, true
		p.accepted++
	}
	p.mu.Unlock()
	if up {
		var ways sync.WaitGroup
		ways.Go(func() { p.copy(to, from, true) })
		ways.Go(func() { p.copy(from, to, false) })
		ways.Wait()
	}
	_, _ = from.Close(), to.Close()
	p.mu.Lock()
	delete(p.conns, from)
	delete(p.conns, to)
	p.mu.Unlock()
}

// copy forwards one direction. When it ends it ends the other one.
func (p *Proxy) copy(to, from net.Conn, toTarget bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		frozen, filter := p.frozen, p.filter
		p.mu.Unlock()
		if frozen != nil {
			<-frozen
		}
		if filter != nil && n > 0 {
			filter(toTarget, buf[:n])
		}
		if _, e := to.Write(buf[:n]); e != nil || err != nil {
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

// Cut closes every connection. New ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// Down closes every connection, and new ones at once, until Up. The port stays ours.
func (p *Proxy) Down() {
	p.mu.Lock()
	p.down = true
	p.mu.Unlock()
	p.Cut()
}

// Up takes connections again, to another target if one is given.
func (p *Proxy) Up(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
	if target != "" {
		p.target = target
	}
}

// Freeze stops all traffic, as a target that hangs would, until Thaw.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		p.frozen = make(chan struct{})
	}
}

// Thaw lets traffic flow again.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

// Filter calls do with all that passes from now on, in pieces as they come; it may change them. It
// is called by several goroutines at once.
func (p *Proxy) Filter(do func(toTarget bool, b []byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.filter = do
}

// Accepted is how many connections there have been.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}
