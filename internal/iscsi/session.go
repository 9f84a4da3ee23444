package iscsi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Session is the use of one logical unit. All methods may be called concurrently.
//
// A session outlives its connection: when that is lost, commands that the target has not answered
// are repeated on a new one, and callers notice a delay at most. The session ends with Close, or by
// itself when the target does not come back within Config.ReconnectTimeout, when another disk
// comes back in its place, when data that it had taken is gone, or when going on would make no
// sense (a command timed out, a context ended, the protocol was broken). From then on every call
// fails with an error that matches ErrLost (or ErrClosed). Close must be called in either case.
type Session struct {
	cfg  Config
	isid [6]byte // stays, so that each login replaces the session before on the target
	disk disk

	slots     chan struct{} // one for each command in flight, Config.QueueDepth in all
	first     chan struct{} // room for one: the command that tries out a new link
	unaligned sync.Mutex    // held while blocks are read, changed and written back
	zeroing   atomic.Int32  // zeroMode

	relinks sync.WaitGroup // the one that is under way
	mu      sync.Mutex     // guards the fields below
	link    *link
	back    chan struct{}      // closed when the relink that is under way has ended; nil if none is
	stop    context.CancelFunc // ends that relink
	err     error              // why the session ended
	outage  time.Time          // when the link was lost; zero once a command succeeded after that
	witness uint64             // key by which a target shows that it was not restarted; 0 if it has none
	written uint64             // commands that changed the disk and were acknowledged
	flushed uint64             // how many of them are on stable storage
}

// do runs one command; see link.do. When the connection is lost meanwhile, it runs it again on the
// next one: every command that this package sends has the same effect twice as once, and no caller
// can have sent a later one for the same blocks, since this one has not returned yet.
func (s *Session) do(ctx context.Context, t task) (received int, err error) {
	if ctx.Err() != nil { // a free slot is as good a case, for select
		return 0, fmt.Errorf("%s: %w", t.op, context.Cause(ctx))
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, fmt.Errorf("%s: %w", t.op, context.Cause(ctx))
	}
	for {
		received, lost, err := s.try(ctx, t)
		if !lost {
			return received, err
		}
	}
}

// try runs a command on the link that there is; lost tells that it has no answer because the link
// was lost. As long as no command got through since an earlier loss they go one at a time: more at
// once would all be under way, and none done, when a bad network cuts the connection again.
func (s *Session) try(ctx context.Context, t task) (received int, lost bool, err error) {
	l, err := s.current(ctx)
	if err != nil {
		return 0, false, fmt.Errorf("%s: %w", t.op, err)
	}
	if s.untried() {
		select {
		case s.first <- struct{}{}:
			defer func() { <-s.first }()
		case <-ctx.Done():
			return 0, false, fmt.Errorf("%s: %w", t.op, context.Cause(ctx))
		}
	}
	received, err = l.do(ctx, t)
	if errors.Is(err, ErrLost) || errors.Is(err, ErrClosed) {
		return 0, true, err
	}
	return received, false, s.settle(l, t, err)
}

// untried tells whether no command got through since the connection was lost.
func (s *Session) untried() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.outage.IsZero()
}

// settle notes that the target has answered a command. If the disk said in between that it lost
// its memory, the session ends: what it had acknowledged before may be gone.
func (s *Session) settle(l *link, t task, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outage = time.Time{}
	if l.reset.Swap(false) && s.written != s.flushed {
		l.abandon(errForgot)
		s.err, _ = l.lost()
		return fmt.Errorf("%s: %w", t.op, s.err)
	}
	if err == nil && t.out != nil {
		s.written++
	}
	return err
}

// logoutTimeout bounds the logout when the caller's context does not.
const logoutTimeout = 5 * time.Second

// Close logs out, closes the connection and waits until everything is freed. Calls in flight fail
// with ErrClosed. The error tells that the target did not confirm the logout in time; nothing is
// left behind even then. Closing a session that has ended before is not an error.
func (s *Session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, logoutTimeout)
	defer cancel()
	s.forgetWitness(ctx)
	s.mu.Lock()
	if s.err == nil {
		s.err = ErrClosed
	}
	if s.back != nil {
		s.stop()
	}
	s.mu.Unlock()
	s.relinks.Wait() // from here on nobody replaces the link
	return s.link.close(ctx)
}
