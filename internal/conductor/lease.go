package conductor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"ingot/internal/ingot"
)

// errLeaseEnded is why the context of work ends whose conductor others may take for dead.
var errLeaseEnded = errors.New("the lease of this conductor has ended")

// lease is the time for which this conductor may act. It is measured by the monotonic clock from
// before the heartbeat was sent, so it ends before the row says so to others, also when the process
// was stopped or the answer took long. Where no other process has the store nobody takes over, and
// the lease has no end.
type lease struct {
	length time.Duration // 0: no end
	log    *slog.Logger
	// renewed is called when the lease goes on after it had ended.
	renewed func()

	mu sync.Mutex // guards what follows
	// until has a monotonic reading; zero before the first heartbeat.
	until time.Time
	timer *time.Timer
	// work is the context of all that the lease is for, a child of all. It is kept here, against
	// the custom, for the reason given at pool.
	all, work context.Context
	end       context.CancelCauseFunc
}

// newLease returns a lease that work under all needs. It has not begun.
func newLease(all context.Context, length time.Duration, log *slog.Logger, renewed func()) *lease {
	l := &lease{length: length, log: log, renewed: renewed, all: all}
	l.work, l.end = context.WithCancelCause(all)
	if length > 0 {
		l.end(errLeaseEnded)
	}
	return l
}

// renew says that a heartbeat which was sent then has been recorded.
func (l *lease) renew(sent time.Time) {
	if l.length <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look() // what ended before must have ended, though nobody looked
	first := l.until.IsZero()
	if until := sent.Add(l.length); until.After(l.until) {
		l.until = until
	}
	left := time.Until(l.until)
	if left <= 0 || l.all.Err() != nil {
		return
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(left, func() { _ = l.check() })
	} else {
		l.timer.Reset(left)
	}
	if l.work.Err() == nil {
		return
	}
	l.work, l.end = context.WithCancelCause(l.all)
	if !first {
		l.log.Warn("the lease is renewed; work goes on")
		l.renewed()
	}
}

// look ends the work if it is time; mu is held.
func (l *lease) look() {
	if l.until.IsZero() || l.work.Err() != nil || time.Now().Before(l.until) {
		return
	}
	l.end(errLeaseEnded)
	l.log.Error("the lease has ended without a heartbeat on record: others may take over; nothing "+
		"is begun, and what runs is ended, until one is", "lease", l.length,
		"over_since", time.Since(l.until).Round(time.Millisecond))
}

// check returns Unavailable if the conductor may not act now. The work has been told to end then.
func (l *lease) check() error {
	if l.length <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.look(); l.work.Err() == nil {
		return nil
	}
	return ingot.Errorf(ingot.Unavailable, "%w: it has not reached the database for %s; ask "+
		"another one, or try again soon", errLeaseEnded, l.length)
}

// present returns the context of work that begins now. It ends with the lease, before check returns
// an error, and stays ended when the lease is renewed: others may have taken what it was done for.
func (l *lease) present() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.work
}

// Lease returns a context that ends when others may take this conductor for dead; it has ended if
// they may now. What is begun under it must not be begun later.
func (c *Conductor) Lease() context.Context {
	_ = c.lease.check()
	return c.lease.present()
}

// LeaseLeft is for how long this conductor may act yet; 0 if others may take it for dead. Where the lease has no
// end it is a long time.
func (c *Conductor) LeaseLeft() time.Duration {
	l := c.lease
	if l.length <= 0 {
		return time.Hour
	}
	if l.check() != nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, time.Until(l.until))
}

// bind returns a context that ends with the present lease, too.
func (l *lease) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	work := l.present()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(work, func() { cancel(context.Cause(work)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// stop ends the lease for good, without a word.
func (l *lease) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.end(errLeaseEnded)
}
