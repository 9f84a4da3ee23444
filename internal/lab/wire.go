package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"

	"ingot/internal/sim"
)

// databasePort is that of the database on the bridge, as PostgreSQL's own.
const databasePort = "5432"

// wire is how hosts reach a database that listens at a socket file: over their network, so that who
// is cut off from the machines is cut off from the database, too.
type wire struct {
	listener net.Listener
	socket   string

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu; nil after close
	all   sync.WaitGroup
}

// connect opens the wire and returns the URL of the database at its other end. A database that has
// an address of its own is left as it is.
func connect(n *sim.Network, database string) (w *wire, reached string, err error) {
	u, err := url.Parse(database)
	if err != nil {
		return nil, "", fmt.Errorf("URL of the database: %w", err)
	}
	q := u.Query()
	dir := q.Get("host")
	if u.Host != "" || !strings.HasPrefix(dir, "/") {
		return nil, database, nil
	}
	w = &wire{socket: filepath.Join(dir, ".s.PGSQL."+databasePort), conns: map[net.Conn]bool{}}
	u.Host = net.JoinHostPort(n.Addr().String(), databasePort)
	err = n.Do(func() (err error) {
		w.listener, err = net.Listen("tcp", u.Host)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("open the way to the database: %w", err)
	}
	q.Del("host")
	q.Set("sslmode", "disable") // a socket file has none
	u.RawQuery = q.Encode()
	w.all.Go(w.serve)
	return w, u.String(), nil
}

// serve passes connections on until the listener is closed.
func (w *wire) serve() {
	for {
		conn, err := w.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // who asked has gone
		}
		w.all.Go(func() { w.pass(conn) })
	}
}

// pass carries one connection until either side ends it.
func (w *wire) pass(conn net.Conn) {
	defer conn.Close()
	db, err := net.Dial("unix", w.socket)
	if err != nil {
		return // it is down; who asks is refused as by a host that is up
	}
	defer db.Close()
	if !w.hold(conn) {
		return
	}
	defer w.drop(conn)
	go func() {
		_, _ = io.Copy(db, conn)
		db.Close()
	}()
	_, _ = io.Copy(conn, db)
}

func (w *wire) hold(conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns != nil {
		w.conns[conn] = true
	}
	return w.conns != nil
}

func (w *wire) drop(conn net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, conn)
}

// cut ends all connections, as a failover of the database does.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for conn := range w.conns {
		conn.Close()
	}
}

// close ends the wire.
func (w *wire) close() error {
	err := w.listener.Close()
	w.cut()
	w.mu.Lock()
	w.conns = nil
	w.mu.Unlock()
	w.all.Wait()
	return err
}

// CutDatabase ends all connections of the conductors to the database, as a failover of it does.
func (l *Lab) CutDatabase() {
	if l.wire != nil {
		l.wire.cut()
	}
}

// Unplug pulls the cable of a server that has a host of its own: it reaches neither machines nor
// conductors nor the database. Plug puts it back.
func (s *Server) Unplug(ctx context.Context) error { return s.machine.Unplug(ctx) }

// Plug ends an Unplug.
func (s *Server) Plug(ctx context.Context) error { return s.machine.Plug(ctx) }

// Lose makes the cable of a server that has a host of its own lose so many of 100 packets in each
// direction; 0 mends it.
func (s *Server) Lose(ctx context.Context, percent int) error { return s.machine.Lose(ctx, percent) }
