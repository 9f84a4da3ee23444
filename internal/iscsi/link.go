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

// link is one logged-in connection, from its login until it ends, for good. Session puts another
// in its place.
type link struct {
	cfg   Config
	conn  net.Conn
	in    *bufio.Reader // used by the reader alone
	param params
	lun   [8]byte

	ended   chan struct{} // closed with the first failure
	stopped chan struct{} // closed when all goroutines have ended and no task is left
	heard   atomic.Int64  // when bytes last came in, Unix nanoseconds
	reset   atomic.Bool   // the disk said that it was powered on or reset

	mu        sync.Mutex // guards the fields below and those of each task that say so
	wake      *sync.Cond // tells the writer that there is something to send, or err
	err       error      // why the link ended
	final     bool       // another link would not help
	tasks     map[uint32]*task
	replies   []outgoing // Data-Out, pings, logout: sent before commands
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
	// unchecked residuals are those of commands whose effect is asked for by another one.
	unchecked bool
	// function makes this a task management request (RFC 7143 11.5) and no SCSI command.
	function byte

	tag     uint32
	timeout time.Duration // Config.CommandTimeout if 0
	done    chan struct{} // closed when nothing touches in and out any more

	// Guarded by link.mu until done is closed.
	writing  bool // the writer is sending from out
	complete bool // the outcome is known
	queued   int  // R2Ts in the outbox
	status   byte // of a task management request the response, RFC 7143 11.6.1
	received int  // bytes of Data-In
	residual residual
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

// newLink starts the goroutines on a connection that has just been logged in.
func newLink(cfg Config, login *login, p params) *link {
	l := &link{
		cfg: cfg, conn: login.conn, param: p, lun: encodeLUN(cfg.LUN),
		ended:     make(chan struct{}),
		stopped:   make(chan struct{}),
		tasks:     make(map[uint32]*task),
		cmdSN:     firstCmdSN,
		maxCmdSN:  login.maxCmdSN,
		expStatSN: login.expStatSN,
	}
	l.in = bufio.NewReaderSize(listener{l}, 64<<10)
	l.wake = sync.NewCond(&l.mu)
	l.heard.Store(time.Now().UnixNano())
	go l.run()
	return l
}

// run owns the connection until the link ends, then lets every waiting caller go.
func (l *link) run() {
	var loops sync.WaitGroup
	loops.Go(func() { l.fail(l.readLoop()) })
	loops.Go(func() { l.fail(l.writeLoop()) })
	loops.Go(l.watch)
	loops.Wait()

	l.mu.Lock()
	for tag, t := range l.tasks {
		delete(l.tasks, tag)
		if !t.complete {
			t.complete, t.err = true, l.err
			close(t.done)
		}
	}
	l.commands, l.replies = nil, nil
	l.mu.Unlock()
	close(l.stopped)
}

// fail ends the link for the given reason; only the first reason counts. A target that breaks the
// protocol would break it again, so that is final. Closing the connection gets the goroutines out
// of whatever they wait for.
func (l *link) fail(reason error) {
	l.end(reason, errors.Is(reason, errProtocol) || errors.Is(reason, ErrClosed))
}

// abandon ends the link for a reason that another link would not cure.
func (l *link) abandon(reason error) { l.end(reason, true) }

func (l *link) end(reason error, final bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || reason == nil {
		return
	}
	l.err, l.final = reason, final
	if !errors.Is(reason, ErrClosed) {
		l.err = fmt.Errorf("%w (%s at %s): %w", ErrLost, l.cfg.Target, l.cfg.Address, reason)
	}
	_ = l.conn.Close() // the reason to fail is known already
	l.wake.Broadcast()
	close(l.ended)
}

// lost is why the link ended, nil while it lasts, and whether another one would not help.
func (l *link) lost() (reason error, final bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err, l.final
}

// Tries of a command that the target answers with BUSY, TASK SET FULL or a unit attention, which
// says that something happened earlier and the command was not executed.
const (
	maxTries  = 8
	busyDelay = 50 * time.Millisecond
)

// do runs one command, again if the target asks for that by its status. It returns when the
// command has ended and nothing refers to its memory any more. A context that ends while the
// command is in flight ends the link, since whether the command took effect is unknown.
func (l *link) do(ctx context.Context, t task) (received int, err error) {
	for try := 1; ; try++ {
		attempt := t
		err = l.attempt(ctx, &attempt)
		if err == nil || try == maxTries {
			return attempt.received, err
		}
		delay, again := l.retryDelay(err, try)
		if !again {
			return attempt.received, err
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-l.ended: // the next attempt says why
		case <-ctx.Done():
			timer.Stop()
			return 0, fmt.Errorf("%s: %w", t.op, context.Cause(ctx))
		}
		timer.Stop()
	}
}

// retryDelay says whether the command that failed with err is worth another try, and when.
func (l *link) retryDelay(err error, try int) (time.Duration, bool) {
	var status *StatusError
	if errors.As(err, &status) {
		busy := status.Status == statusBusy || status.Status == statusTaskSetFull
		return busyDelay << try, busy
	}
	var sense *SenseError
	if !errors.As(err, &sense) || sense.Key != SenseUnitAttention {
		return 0, false
	}
	if sense.losesCache() {
		l.reset.Store(true)
	}
	return 0, true
}

// attempt queues one command and waits for its outcome.
func (l *link) attempt(ctx context.Context, t *task) error {
	if t.timeout == 0 {
		t.timeout = l.cfg.CommandTimeout
	}
	t.done = make(chan struct{})
	if err := l.enqueue(t); err != nil {
		return fmt.Errorf("%s: %w", t.op, err)
	}
	timer := time.AfterFunc(t.timeout, func() { l.abandon(timeoutError(t.op, t.timeout)) })
	defer timer.Stop()
	select {
	case <-t.done:
	case <-ctx.Done():
		l.abandon(fmt.Errorf("%s abandoned: %w", t.op, context.Cause(ctx)))
		<-t.done
	}
	return t.outcome()
}

// enqueue gives the task a tag and hands it to the writer.
func (l *link) enqueue(t *task) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	t.tag = l.newTag()
	l.tasks[t.tag] = t
	l.commands = append(l.commands, t)
	l.wake.Signal()
	return nil
}

// newTag is a task tag that is not in use. mu is held.
func (l *link) newTag() uint32 {
	tag := l.nextTag
	for tag == noTag || l.tasks[tag] != nil {
		tag++
	}
	l.nextTag = tag + 1
	return tag
}

// outcome is the error of a task that is done.
func (t *task) outcome() error {
	switch {
	case t.err != nil:
		return fmt.Errorf("%s: %w", t.op, t.err)
	case t.status == statusGood:
		return t.checkResidual()
	case t.function != 0:
		return &StatusError{Op: t.op, Status: t.status}
	case t.status == statusCheck:
		sense, err := parseSense(t.op, t.sense)
		if err != nil {
			return err
		}
		return sense
	}
	return &StatusError{Op: t.op, Status: t.status}
}

// residual is what a response says about bytes that were not transferred (RFC 7143 11.4.5).
type residual struct {
	under, over bool
	count       int
}

// residualOf reads the flags and the count of a response, or of Data-In with status.
func residualOf(h *header) residual {
	return residual{
		under: h.flags()&flagUnderflow != 0,
		over:  h.flags()&flagOverflow != 0,
		count: int(h.uint32(44)),
	}
}

// checkResidual compares the target's account of a command that succeeded with what was
// transferred: one that says success and moved other bytes than were asked for has not succeeded.
// Less Data-In than there is room for is no fault, if the count agrees: the caller sees how much
// it got. A target that does not mention it at all is forgiven for the same reason.
func (t *task) checkResidual() error {
	r, missing := t.residual, len(t.in)-t.received
	switch {
	case t.unchecked:
		return nil
	case r.under && r.over:
		return fmt.Errorf("%s: %w: success, but both too few and too many bytes",
			t.op, errProtocol)
	case r.over && r.count > 0:
		return fmt.Errorf("%s: %w: success, but it wanted to transfer %d bytes more",
			t.op, errProtocol, r.count)
	case r.under && t.out != nil && r.count > 0:
		return fmt.Errorf("%s: %w: success, but %d of %d bytes were not taken",
			t.op, errProtocol, r.count, len(t.out))
	case r.under && t.in != nil && r.count != missing:
		return fmt.Errorf("%s: %w: it says that %d bytes are missing, but %d of %d came",
			t.op, errProtocol, r.count, t.received, len(t.in))
	}
	return nil
}

// sendLogout asks the target to close the session (RFC 7143 11.14) and waits for its answer.
func (l *link) sendLogout(ctx context.Context) error {
	h := newHeader(opLogoutRequest)
	h[0] |= flagImmediate
	h[1] = flagFinal // reason 0: close the session
	l.mu.Lock()
	if !l.closing && l.err == nil {
		l.closing = true
		l.replies = append(l.replies, outgoing{header: h})
		l.wake.Signal()
	}
	l.mu.Unlock()

	select {
	case <-l.ended: // by the answer, see logoutResponse
		return nil
	case <-ctx.Done():
		return fmt.Errorf("log out of %s at %s: %w",
			l.cfg.Target, l.cfg.Address, context.Cause(ctx))
	}
}

// close logs out, as far as ctx allows, and waits until everything is freed.
func (l *link) close(ctx context.Context) error {
	err := l.sendLogout(ctx)
	l.fail(ErrClosed)
	<-l.stopped
	return err
}
