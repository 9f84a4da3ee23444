// Package bus carries bytes between conductors, to one who answers or to all, over core NATS. In
// one process its server has no socket at all; several processes form a mesh of their embedded
// servers, with TLS whose certificates come from one shared key (mesh.go), or use a NATS that the
// site has. Nothing is stored: a message that is lost is the loss of time only, because what
// shall be done is in the store. It leaves what the bytes mean to its callers.
package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"ingot/internal/ingot"
)

const (
	// startTimeout bounds the start of the embedded server, which takes milliseconds.
	startTimeout = 20 * time.Second
	// maxPayload is the size of the greatest message, bytes: a config drive travels in a call.
	maxPayload = 64 << 20
	// maxHandlers bounds the messages of one subject that are worked on at once.
	maxHandlers = 256
)

// Options says whom a bus connects. The zero value is one process.
type Options struct {
	// URL names the servers of a NATS that the site has, separated by commas; "" is an embedded
	// server.
	URL string
	// Mesh is how the embedded server meets those of other processes; nil for not at all.
	Mesh *Mesh
	// Log is told when connections are lost and found; nil for nobody.
	Log *slog.Logger
}

// Bus is a connection to all others. Its methods may be called concurrently.
type Bus struct {
	log    *slog.Logger
	server *server.Server // nil when the site has one
	conn   *nats.Conn

	// ctx ends with the bus; handlers get it.
	ctx      context.Context
	stop     context.CancelFunc
	handlers sync.WaitGroup

	peersMu sync.Mutex
	options *server.Options // of the embedded server in a mesh
}

// Open connects. An external server has to be there; later it may go and come back.
func Open(o Options) (*Bus, error) {
	b := &Bus{log: o.Log}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	if err := b.open(o); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bus) open(o Options) (err error) {
	if o.URL != "" {
		b.conn, err = nats.Connect(o.URL, b.connectOptions()...)
		if err != nil {
			return ingot.Errorf(ingot.Unavailable, "connect to NATS at %s: %w; check [cluster] "+
				"nats_url and that the server runs", redacted(o.URL), err)
		}
		return nil
	}
	b.options = &server.Options{ServerName: ingot.NewUUID(), NoSigs: true, NoLog: true,
		DontListen: true, MaxPayload: maxPayload}
	token := rand.Text()
	if o.Mesh != nil {
		if err := o.Mesh.configure(b.options, token); err != nil {
			return err
		}
	}
	if b.server, err = server.NewServer(b.options); err != nil {
		return fmt.Errorf("start the bus: %w", err)
	}
	b.server.SetLoggerV2(&logger{log: b.log}, false, false, false)
	go b.server.Start()
	if !b.server.ReadyForConnections(startTimeout) {
		return ingot.Errorf(ingot.Internal, "the bus did not start within %s", startTimeout)
	}
	b.conn, err = nats.Connect("", append(b.connectOptions(), nats.InProcessServer(b.server),
		nats.Token(token))...)
	if err != nil {
		return fmt.Errorf("connect to the embedded bus: %w", err)
	}
	return nil
}

func (b *Bus) connectOptions() []nats.Option {
	return []nats.Option{
		nats.MaxReconnects(-1),
		// What cannot be sent now is not sent later: a call's caller has gone by then.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if b.ctx.Err() == nil {
				b.log.Warn("lost the bus; calls to other conductors fail until it is back",
					"error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { b.log.Info("the bus is back") }),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			b.log.Warn("bus", "error", err)
		}),
	}
}

// redacted is a list of URLs without passwords.
func redacted(list string) string {
	var out []string
	for part := range strings.SplitSeq(list, ",") {
		if u, err := url.Parse(strings.TrimSpace(part)); err == nil {
			part = u.Redacted()
		}
		out = append(out, part)
	}
	return strings.Join(out, ",")
}

// Close ends the connection when all handlers have returned; their contexts end now.
func (b *Bus) Close() {
	b.stop()
	if b.conn != nil {
		b.conn.Close()
	}
	b.handlers.Wait()
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
}

// Address makes one token of a subject of any text, such as a host name. Subjects are tokens
// separated by dots.
func Address(name string) string { return escaper.Replace(name) }

var escaper = strings.NewReplacer("%", "%25", ".", "%2E", "*", "%2A", ">", "%3E", " ", "%20",
	"\t", "%09", "\r", "%0D", "\n", "%0A")

// Handle answers calls and hears broadcasts to a subject until the bus is closed. Several are
// handled at once. The answer to a broadcast goes nowhere.
func (b *Bus) Handle(subject string, handle func(ctx context.Context, data []byte) []byte) error {
	places := make(chan struct{}, maxHandlers)
	_, err := b.conn.Subscribe(subject, func(m *nats.Msg) {
		select {
		case places <- struct{}{}:
		case <-b.ctx.Done():
			return
		}
		b.handlers.Go(func() {
			defer func() { <-places }()
			answer := handle(b.ctx, m.Data)
			if answer == nil || m.Reply == "" {
				return
			}
			if err := m.Respond(answer); err != nil {
				b.log.Warn("an answer was not sent", "subject", subject, "error", err)
			}
		})
	})
	if err == nil {
		// The server knows of it when this returns, so nothing that is sent later is missed here.
		err = b.conn.Flush()
	}
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return nil
}

// Call sends data to the one who handles a subject and returns the answer. Unavailable if nobody
// does, or if there is no answer before ctx ends.
func (b *Bus) Call(ctx context.Context, subject string, data []byte) ([]byte, error) {
	m, err := b.conn.RequestWithContext(ctx, subject, data)
	switch {
	case err == nil:
		return m.Data, nil
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ingot.Errorf(ingot.Unavailable, "nobody answers to %s: the conductor is gone "+
			"or not connected yet", subject)
	case errors.Is(err, context.Canceled):
		return nil, err
	case errors.Is(err, context.DeadlineExceeded):
		return nil, ingot.Errorf(ingot.Unavailable, "no answer from %s in time", subject)
	}
	return nil, ingot.Errorf(ingot.Unavailable, "call %s: %w", subject, err)
}

// Tell sends data to everybody who handles a subject, itself included, without waiting.
func (b *Bus) Tell(subject string, data []byte) error {
	if err := b.conn.Publish(subject, data); err != nil {
		return ingot.Errorf(ingot.Unavailable, "tell %s: %w", subject, err)
	}
	return nil
}

// logger passes on what the embedded server has to say.
type logger struct {
	log *slog.Logger

	mu sync.Mutex // guards told
	// told is when somebody without the key was last told of.
	told time.Time
}

func (l *logger) Noticef(string, ...any) {}
func (l *logger) Debugf(string, ...any)  {}
func (l *logger) Tracef(string, ...any)  {}
func (l *logger) Warnf(f string, v ...any) {
	l.log.Debug("bus: " + fmt.Sprintf(f, v...))
}

func (l *logger) Errorf(f string, v ...any) {
	text := fmt.Sprintf(f, v...)
	// Either side says so, each second. If its words change they are merely not translated.
	if !strings.Contains(text, "TLS route handshake error") {
		l.log.Warn("bus: " + text)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.told) < time.Minute {
		l.log.Debug("bus: " + text)
		return
	}
	l.told = time.Now()
	l.log.Error("a member of the bus is refused or refuses this one: it has another [cluster] key. "+
		"Give all the same, or none, which is that of the database; calls between them are done "+
		"where they arrive", "error", text)
}

func (l *logger) Fatalf(f string, v ...any) {
	l.log.Error("bus: " + fmt.Sprintf(f, v...))
}
