package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// maxLine bounds a line from the conductor.
const maxLine = 4096

// An Outcome is what the conductor says about the disk it has written.
type Outcome struct {
	Done   bool
	Reason string // of a failure
}

// ParseOutcome reads "done" or "failed <reason>". A trailing line end is not part of it.
func ParseOutcome(line string) (Outcome, error) {
	word, reason, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	switch {
	case word == "done" && reason == "":
		return Outcome{Done: true}, nil
	case word == "failed":
		return Outcome{Reason: printable(reason)}, nil
	}
	return Outcome{}, fmt.Errorf("%.40q is neither done nor failed", line)
}

// A Listener hears the outcome of the deploy. It answers every connection, also after the
// first outcome: a conductor that was restarted says it again.
type Listener struct {
	listener net.Listener
	outcome  chan Outcome
	conns    sync.WaitGroup
}

// Listen opens the listener on an address such as ":10000". Serve must be called.
func Listen(address string) (*Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the outcome: %w", err)
	}
	return &Listener{listener: l, outcome: make(chan Outcome, 1)}, nil
}

// Addr is where the listener listens.
func (l *Listener) Addr() net.Addr { return l.listener.Addr() }

// Outcome delivers the first outcome, once.
func (l *Listener) Outcome() <-chan Outcome { return l.outcome }

// Serve answers until the context ends; then it closes the listener and returns nil.
func (l *Listener) Serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { l.listener.Close() })()
	defer l.conns.Wait()
	slots := make(chan struct{}, 16) // one conductor, some repetitions; not a crowd
	for {
		conn, err := l.listener.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		default: // out of sockets, say; the listener lives on
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		slots <- struct{}{}
		l.conns.Go(func() {
			defer func() { <-slots }()
			defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
			l.answer(conn)
		})
	}
}

// answer reads lines until the other side closes. Ironic of 2014 sent done without a line end
// and closed, so the end of the connection ends a line too.
func (l *Listener) answer(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, maxLine)
	for {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		line, err := in.ReadSlice('\n')
		if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
			return
		}
		outcome, bad := ParseOutcome(string(line))
		if bad != nil {
			fmt.Fprintf(conn, "error %s\n", bad)
			return
		}
		select {
		case l.outcome <- outcome:
		default: // a repetition
		}
		if _, werr := io.WriteString(conn, "ok\n"); werr != nil || err != nil {
			return
		}
	}
}
