package bootd

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A BMC reads a medium in thousands of small ranges, one after the other over one connection. What net/http does
// around each of them takes longer than half of sending it, so such a connection is answered here for as long as
// it asks for plain ranges of one medium; then it is given back (doc/decisions/media.md).

// readers are the connections that were taken from net/http. The zero value is ready.
type readers struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	gone  chan struct{} // not nil: the server stops; closed, and told, when there are none
	told  bool
}

func (k *readers) add(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conns == nil {
		k.conns = map[net.Conn]struct{}{}
	}
	k.conns[c] = struct{}{}
}

func (k *readers) remove(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
	k.tell()
}

// tell tells stop that there are none. Needs mu.
func (k *readers) tell() {
	if k.gone != nil && len(k.conns) == 0 && !k.told {
		k.told = true
		close(k.gone)
	}
}

// wait gives a connection time for its next request; false if the server stops.
func (k *readers) wait(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.gone == nil && c.SetReadDeadline(time.Now().Add(idleTimeout)) == nil
}

// stop ends them: those to which something is sent when they have it, or when ctx ends. To be called once.
func (k *readers) stop(ctx context.Context) {
	k.mu.Lock()
	k.gone = make(chan struct{})
	k.tell()
	for c := range k.conns {
		c.SetReadDeadline(time.Unix(1, 0))
	}
	k.mu.Unlock()
	select {
	case <-k.gone:
		return
	case <-ctx.Done():
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		c.Close()
	}
}

// reader is a connection that was taken from net/http.
type reader struct {
	conn tcpConn
	in   *bufio.Reader // what it sends
	// before and after are what stood around the range in the head that was understood last: a BMC's next one
	// is the same but for that, and need not be parsed.
	before, after []byte
}

// tcpConn is a *net.TCPConn or a *givenBack.
type tcpConn interface {
	net.Conn
	syscall.Conn // for sendfile
}

// end closes a connection that was taken.
func (s *Server) end(c *reader) {
	c.conn.Close()
	s.readers.remove(c.conn)
}

// takeReader takes over the connection of a request, which has then to be answered there, and the connection to
// be closed or given back. false: net/http has it still.
func (s *Server) takeReader(w http.ResponseWriter, r *http.Request) (*reader, bool) {
	if !isPlain(r) {
		return nil, false
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, false
	}
	s.readers.add(conn)
	return &reader{conn: conn.(tcpConn), in: buffered.Reader}, true // listenHTTP has no others
}

// isPlain tells whether a request has nothing that asks for a special answer, but for its range.
func isPlain(r *http.Request) bool {
	for _, name := range []string{"Expect", "Upgrade", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since",
		"If-Unmodified-Since"} {
		if r.Header[name] != nil {
			return false
		}
	}
	return r.Method == http.MethodGet && r.ProtoMajor == 1 && r.ProtoMinor == 1 && r.Host != "" && !r.Close &&
		r.ContentLength == 0 && r.TransferEncoding == nil
}

// readOn answers what comes after a request over its connection.
func (s *Server) readOn(c *reader, r *http.Request) {
	line := []byte("GET " + r.RequestURI + " HTTP/1.1\r\n")
	for s.readers.wait(c.conn) {
		rng, length, err := c.peek(line)
		if err != nil {
			break
		}
		answered := false
		if rng != "" {
			answered, err = s.readNext(c, r, rng)
		}
		if err != nil {
			break
		}
		if !answered {
			s.readers.remove(c.conn)
			c.giveBack(r)
			return
		}
		c.in.Discard(length) // it was peeked at
	}
	s.end(c)
}

// readNext answers a request for a range of the medium that r was for. false: net/http is to do so. After an
// error the connection is of no use.
func (s *Server) readNext(c *reader, r *http.Request, rng string) (answered bool, err error) {
	client := clientOf(r)
	if !s.reads.pass(client) { // net/http notices who hangs up in line
		return false, nil
	}
	defer s.reads.leave(client)
	m, err := s.medium(r.Context(), r.PathValue("uuid"), r.URL.Path)
	if err != nil {
		return false, nil
	}
	part, ok := m.section(rng)
	if !ok {
		return false, nil
	}
	f, err := part.file.take(r.Context())
	if err != nil {
		return false, nil
	}
	defer part.file.give(f)
	s.noteRead(r, m, part.n)
	return true, c.send(f, part)
}

// send answers with a section of an open file, whose place stays as it is.
func (c *reader) send(f *os.File, part section) error {
	head := fmt.Appendf(make([]byte, 0, 512), "HTTP/1.1 206 Partial Content\r\nDate: %s\r\n"+
		"Content-Type: %s\r\nCache-Control: %s\r\nETag: %s\r\nAccept-Ranges: bytes\r\nContent-Range: %s\r\n"+
		"Content-Length: %d\r\n\r\n", time.Now().UTC().Format(http.TimeFormat), mediumType, mediumCaching, part.tag,
		part.rng, part.n)
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	from, end := part.at, part.at+part.n
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		for failed == nil && (len(head) > 0 || from < end) {
			n := 0
			if len(head) > 0 { // its packet is filled with what comes
				n, failed = unix.SendmsgN(int(fd), head, nil, nil, unix.MSG_MORE)
				head = head[max(n, 0):]
			} else if n, failed = unix.Sendfile(int(fd), int(f.Fd()), &from, int(end-from)); n == 0 && failed == nil {
				failed = io.ErrUnexpectedEOF
			}
			switch failed {
			case unix.EINTR:
				failed = nil
			case unix.EAGAIN:
				failed = nil
				return false
			}
		}
		return true
	})
	return cmp.Or(err, failed)
}

// peek waits for a request, and leaves it where it is; length is that of its head. rng is its Range, "" if it does
// not begin with that line, is not plain or has none. The error is that of the connection before there was a whole
// one.
func (c *reader) peek(line []byte) (rng string, length int, err error) {
	for {
		seen, _ := c.in.Peek(c.in.Buffered())
		if n := min(len(seen), len(line)); !bytes.Equal(seen[:n], line[:n]) {
			return "", 0, nil
		}
		if end := bytes.Index(seen, []byte("\r\n\r\n")); end >= 0 {
			length = end + 4
			break
		}
		if len(seen) == c.in.Size() {
			return "", 0, nil
		}
		if _, err := c.in.Peek(len(seen) + 1); err != nil {
			return "", 0, err
		}
	}
	head, _ := c.in.Peek(length)
	if rng, ok := c.likeLast(head); ok {
		return rng, length, nil
	}
	whole := bufio.NewReaderSize(bytes.NewReader(head), length)
	next, err := http.ReadRequest(whole)
	if err != nil || !isPlain(next) || whole.Buffered() > 0 { // lines may end without \r: those would be two
		return "", 0, nil
	}
	if ranges := next.Header["Range"]; len(ranges) == 1 {
		rng = ranges[0]
		c.remember(head, rng)
	}
	return rng, length, nil
}

// likeLast tells the Range of a head which is like the one before in all else.
func (c *reader) likeLast(head []byte) (rng string, ok bool) {
	rest, ok := bytes.CutPrefix(head, c.before)
	if !ok || c.before == nil {
		return "", false
	}
	value, ok := bytes.CutSuffix(rest, c.after)
	return string(value), ok && !bytes.ContainsAny(value, "\r\n")
}

// remember keeps a head with a Range for likeLast, if its line is as most clients write it.
func (c *reader) remember(head []byte, rng string) {
	const name = "\r\nRange: "
	c.before, c.after = nil, nil
	if at := bytes.Index(head, []byte(name+rng+"\r\n")); at >= 0 {
		at += len(name)
		c.before, c.after = bytes.Clone(head[:at]), bytes.Clone(head[at+len(rng):])
	}
}

// giveBack has net/http answer what was sent over the connection of r and not answered yet.
func (c *reader) giveBack(r *http.Request) {
	unread, _ := c.in.Peek(c.in.Buffered())
	back := &givenBack{ahead: bytes.Clone(unread)}
	switch conn := c.conn.(type) {
	case *givenBack:
		back.TCPConn, back.ahead = conn.TCPConn, append(back.ahead, conn.ahead...)
	case *net.TCPConn:
		back.TCPConn = conn
	}
	back.SetReadDeadline(time.Time{})
	l := &oneConn{back}
	// It returns when it has begun with the connection, or at once if it is shut down.
	r.Context().Value(http.ServerContextKey).(*http.Server).Serve(l)
	if l.conn != nil {
		back.Close()
	}
}

// givenBack is a connection of which net/http reads anew what was read ahead.
type givenBack struct {
	*net.TCPConn
	ahead []byte
}

func (g *givenBack) Read(p []byte) (int, error) {
	if len(g.ahead) == 0 {
		return g.TCPConn.Read(p)
	}
	n := copy(p, g.ahead)
	g.ahead = g.ahead[n:]
	return n, nil
}

// oneConn listens for a connection that is there; conn is nil when it was accepted.
type oneConn struct{ conn net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, net.ErrClosed
	}
	conn := l.conn
	l.conn = nil
	return conn, nil
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
