package iscsi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Session is one logged-in connection to one logical unit. All methods may be called
// concurrently. A session ends with Close, or by itself when anything goes wrong with the
// connection or the protocol; from then on every call fails with an error matching ErrLost (or
// ErrClosed). Close must be called in either case.
type Session struct {
	cfg   Config
	conn  net.Conn
	in    *bufio.Reader // used by the reader alone
	param params
	lun   [8]byte
	disk  disk

	slots   chan struct{} // one for each command in flight, Config.QueueDepth in all
	ended   chan struct{} // closed with the first failure
	stopped chan struct{} // closed when both goroutines have ended and no task is left

	unaligned sync.Mutex   // held while blocks are read, changed and written back
	zeroing   atomic.Int32 // zeroMode

	mu        sync.Mutex // guards the fields below and those of each task that say so
	wake      *sync.Cond // tells the writer that there is something to send, or err
	err       error      // why the session ended
	tasks     map[uint32]*task
	replies   []outgoing // Data-Out, pongs, logout: sent before commands
	commands  []*task    // not sent yet, in order
	nextTag   uint32
	cmdSN     uint32 // of the next command
	maxCmdSN  uint32 // last one that the target takes
	expStatSN uint32
	closing   bool // logout is queued or sent
}

// task is one SCSI command from queueing to its status.
type task struct {
	op  string // for errors: "write 8 blocks at block 0"
	cdb [16]byte
	in  []byte // where Data-In goes; nil for other commands
	out []byte // what is written; nil for other commands

	tag     uint32
	timeout time.Duration // Config.CommandTimeout if 0
	done    chan struct{} // closed when nothing touches in and out any more

	// Guarded by Session.mu until done is closed.
	writing  bool // the writer is sending from out
	complete bool // the outcome is known
	queued   int  // R2Ts in the outbox
	status   byte
	received int // bytes of Data-In
	residual int // bytes that the target did not transfer, by its own account
	sense    []byte
	err      error
}

// outgoing is an entry of the outbox: a PDU without data, or the answer to an R2T.
type outgoing struct {
	header header
	task   *task // of Data-Out; nil for other PDUs
	offset int   // in task.out
	length int
}

// newSession starts the goroutines on a connection that has just been logged in.
func newSession(cfg Config, l *login, p params) *Session {
	s := &Session{
		cfg: cfg, conn: l.conn, param: p, lun: encodeLUN(cfg.LUN),
		in:        bufio.NewReaderSize(l.conn, 64<<10),
		slots:     make(chan struct{}, cfg.QueueDepth),
		ended:     make(chan struct{}),
		stopped:   make(chan struct{}),
		tasks:     make(map[uint32]*task),
		cmdSN:     firstCmdSN,
		maxCmdSN:  l.maxCmdSN,
		expStatSN: l.expStatSN,
	}
	s.wake = sync.NewCond(&s.mu)
	s.zeroing.Store(int32(zeroTrial))
	go s.run()
	return s
}

// run owns the connection until the session ends, then lets every waiting caller go.
func (s *Session) run() {
	var loops sync.WaitGroup
	loops.Go(func() { s.fail(s.readLoop()) })
	loops.Go(func() { s.fail(s.writeLoop()) })
	loops.Wait()

	s.mu.Lock()
	for tag, t := range s.tasks {
		delete(s.tasks, tag)
		if !t.complete {
			t.complete, t.err = true, s.err
			close(t.done)
		}
	}
	s.commands, s.replies = nil, nil
	s.mu.Unlock()
	close(s.stopped)
}

// fail ends the session for the given reason; only the first reason counts. Closing the
// connection gets both goroutines out of whatever they wait for.
func (s *Session) fail(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || reason == nil {
		return
	}
	s.err = reason
	if !errors.Is(reason, ErrClosed) {
		s.err = fmt.Errorf("%w (%s at %s): %w", ErrLost, s.cfg.Target, s.cfg.Address, reason)
	}
	_ = s.conn.Close() // the reason to fail is known already
	s.wake.Broadcast()
	close(s.ended)
}

// Tries of a command that the target answers with BUSY, TASK SET FULL or a unit attention, which
// says that something happened earlier and the command was not executed.
const (
	maxTries  = 8
	busyDelay = 50 * time.Millisecond
)

// do runs one command, again if the target asks for that by its status. It returns when the
// command has ended and nothing refers to its memory any more. A context that ends while the
// command is in flight ends the session, since whether the command took effect is unknown.
func (s *Session) do(ctx context.Context, t task) (received int, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, fmt.Errorf("%s: %w", t.op, context.Cause(ctx))
	}
	for try := 1; ; try++ {
		attempt := t
		err = s.attempt(ctx, &attempt)
		if err == nil || try == maxTries {
			return attempt.received, err
		}
		delay, again := retryDelay(err, try)
		if !again {
			return attempt.received, err
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-s.ended: // the next attempt says why
		case <-ctx.Done():
			timer.Stop()
			return 0, fmt.Errorf("%s: %w", t.op, context.Cause(ctx))
		}
		timer.Stop()
	}
}

// retryDelay says whether the command that failed with err is worth another try, and when.
func retryDelay(err error, try int) (time.Duration, bool) {
	var status *StatusError
	if errors.As(err, &status) {
		busy := status.Status == statusBusy || status.Status == statusTaskSetFull
		return busyDelay << try, busy
	}
	var sense *SenseError
	return 0, errors.As(err, &sense) && sense.Key == SenseUnitAttention
}

// attempt queues one command and waits for its outcome.
func (s *Session) attempt(ctx context.Context, t *task) error {
	if t.timeout == 0 {
		t.timeout = s.cfg.CommandTimeout
	}
	t.done = make(chan struct{})
	if err := s.enqueue(t); err != nil {
		return fmt.Errorf("%s: %w", t.op, err)
	}
	timer := time.AfterFunc(t.timeout, func() { s.fail(timeoutError(t.op, t.timeout)) })
	defer timer.Stop()
	select {
	case <-t.done:
	case <-ctx.Done():
		s.fail(fmt.Errorf("%s abandoned: %w", t.op, context.Cause(ctx)))
		<-t.done
	}
	return t.outcome()
}

// enqueue gives the task a tag and hands it to the writer.
func (s *Session) enqueue(t *task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	for t.tag = s.nextTag; t.tag == noTag || s.tasks[t.tag] != nil; t.tag++ {
	}
	s.nextTag = t.tag + 1
	s.tasks[t.tag] = t
	s.commands = append(s.commands, t)
	s.wake.Signal()
	return nil
}

// outcome is the error of a task that is done.
func (t *task) outcome() error {
	switch {
	case t.err != nil:
		return fmt.Errorf("%s: %w", t.op, t.err)
	case t.status == statusGood && t.out != nil && t.residual > 0:
		return fmt.Errorf("%s: %w: success, but %d of %d bytes were not taken",
			t.op, errProtocol, t.residual, len(t.out))
	case t.status == statusGood:
		return nil
	case t.status == statusCheck:
		sense, err := parseSense(t.op, t.sense)
		if err != nil {
			return err
		}
		return sense
	}
	return &StatusError{Op: t.op, Status: t.status}
}

// logoutTimeout bounds the logout when the caller's context does not.
const logoutTimeout = 5 * time.Second

// Close logs out, closes the connection and waits until everything is freed. Calls in flight fail
// with ErrClosed. The error tells that the target did not confirm the logout in time; nothing is
// left behind even then. Closing a session that has ended before is not an error.
func (s *Session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, logoutTimeout)
	defer cancel()
	err := s.sendLogout(ctx)
	s.fail(ErrClosed)
	<-s.stopped
	return err
}

// sendLogout asks the target to close the session (RFC 7143 11.14) and waits for its answer.
func (s *Session) sendLogout(ctx context.Context) error {
	h := newHeader(opLogoutRequest)
	h[0] |= flagImmediate
	h[1] = flagFinal // reason 0: close the session
	s.mu.Lock()
	if !s.closing && s.err == nil {
		s.closing = true
		s.replies = append(s.replies, outgoing{header: h})
		s.wake.Signal()
	}
	s.mu.Unlock()

	select {
	case <-s.ended: // by the answer, see logoutResponse
		return nil
	case <-ctx.Done():
		return fmt.Errorf("log out of %s at %s: %w",
			s.cfg.Target, s.cfg.Address, context.Cause(ctx))
	}
}
