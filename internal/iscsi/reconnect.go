package iscsi

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Delays between tries to connect again: short ones for a connection that was merely cut, longer
// ones for a target that is starting.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

var (
	// errForgot ends a session whose target has lost power or was restarted while it held data
	// that it had acknowledged but not flushed. Which of it survived nobody can tell.
	errForgot = errors.New("the target was restarted, and what it had taken since the last flush " +
		"may be gone; write everything again")
	// errOtherDisk ends a session whose address leads to another disk now.
	errOtherDisk = errors.New("another disk answers at this address now")
)

// current is the link to use. If it was lost, it waits until it is replaced, or the session ended.
func (s *Session) current(ctx context.Context) (*link, error) {
	for {
		s.mu.Lock()
		if s.err != nil {
			defer s.mu.Unlock()
			return nil, s.err
		}
		reason, final := s.link.lost()
		switch {
		case reason == nil:
			defer s.mu.Unlock()
			return s.link, nil
		case final, s.cfg.ReconnectTimeout < 0:
			s.err = reason
			s.mu.Unlock()
			continue
		case s.back == nil:
			s.startReconnect(context.WithoutCancel(ctx), reason)
		}
		back := s.back
		s.mu.Unlock()
		select {
		case <-back:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// startReconnect starts to replace the link, which was lost for the given reason. mu is held.
func (s *Session) startReconnect(ctx context.Context, reason error) {
	if s.outage.IsZero() {
		s.outage = time.Now()
	}
	lost, since, back := s.link, s.outage, make(chan struct{})
	ctx, s.stop = context.WithDeadline(ctx, since.Add(s.cfg.ReconnectTimeout))
	s.back = back
	s.relinks.Go(func() {
		defer close(back)
		<-lost.stopped
		s.reconnect(ctx, since, reason)
	})
}

// reconnect replaces the lost link, or ends the session.
func (s *Session) reconnect(ctx context.Context, since time.Time, reason error) {
	next, err := s.dialAgain(ctx)
	if err == nil && s.cfg.OnReconnect != nil {
		s.cfg.OnReconnect(reason, time.Since(since))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.back, s.stop = nil, nil
	switch {
	case err == nil:
		s.link = next
	case s.err != nil: // closed meanwhile
	case hopeless(err):
		s.err = fmt.Errorf("%w; then, connecting again: %w", reason, err)
	default:
		s.err = fmt.Errorf("%w; tried for %v to connect again: %w; check the machine and the "+
			"network between, then write everything again", reason,
			time.Since(since).Round(time.Millisecond), err)
	}
}

// dialAgain tries to connect until it succeeds, ctx ends, or a new try makes no sense.
func (s *Session) dialAgain(ctx context.Context) (*link, error) {
	var last error
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		if ctx.Err() == nil {
			l, err := s.dialOnce(ctx)
			if err == nil {
				return l, nil
			}
			if hopeless(err) {
				return nil, err
			}
			if last == nil || ctx.Err() == nil { // else it says no more than that time is up
				last = err
			}
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if last == nil {
				last = context.Cause(ctx)
			}
			return nil, last
		}
	}
}

// hopeless tells whether a failure to connect again would repeat itself. A target that refuses may
// just be starting and not know its disks yet, but one that wants other credentials is another.
func hopeless(err error) bool {
	var refused *LoginError
	if errors.As(err, &refused) {
		return refused.Class == 2 && refused.Detail == 1
	}
	return errors.Is(err, errOtherDisk) || errors.Is(err, errForgot) || errors.Is(err, errImpostor)
}

// dialOnce makes a new link and makes sure that the same disk is behind it, in the state in which
// it was left.
func (s *Session) dialOnce(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	l, err := dialLink(ctx, s.cfg, s.isid)
	if err != nil {
		return nil, err
	}
	if err := s.recognize(ctx, l); err != nil {
		l.fail(ErrClosed)
		<-l.stopped
		return nil, err
	}
	return l, nil
}

// recognize compares the disk of a new link with that of the session.
func (s *Session) recognize(ctx context.Context, l *link) error {
	d, err := l.learn(ctx)
	if err != nil {
		return err
	}
	if err := s.disk.same(&d); err != nil {
		return err
	}
	forgot := l.reset.Swap(false)
	if s.witness != 0 {
		kept, err := l.hasKey(ctx, s.witness)
		if err != nil {
			return err
		}
		if forgot = !kept; forgot {
			if err := l.register(ctx, s.witness); err != nil {
				return err
			}
		}
	}
	s.mu.Lock()
	gone := forgot && s.written != s.flushed
	s.mu.Unlock()
	if gone {
		return errForgot
	}
	return l.settleDown(ctx)
}

// settleDown makes sure that no command of the link before is still under way: it could come after
// our repetition of it, and even after what is written next to the same place. The login should
// have ended them all (RFC 7143 6.3.5), but tgt lets one finish that its disk is working on.
// A target that knows no reset of a unit is trusted to have.
func (l *link) settleDown(ctx context.Context) error {
	_, err := l.do(ctx, task{op: "reset the unit", function: resetUnit})
	var refused *StatusError
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	err = l.awaitReady(ctx) // takes the unit attention about it
	l.reset.Store(false)
	return err
}

// same refuses a disk that is not d. Serial number and designators are compared as bytes; a target
// that gives each disk the same ones can be told by the size alone.
func (d *disk) same(other *disk) error {
	for _, c := range []struct {
		what        string
		before, now string
	}{
		{"vendor", d.vendor, other.vendor},
		{"product", d.product, other.product},
		{"serial number", d.serial, other.serial},
		{"block size", fmt.Sprint(d.blockSize), fmt.Sprint(other.blockSize)},
		{"number of blocks", fmt.Sprint(d.blocks), fmt.Sprint(other.blocks)},
	} {
		if c.before != c.now {
			return fmt.Errorf("%w (%s was %s and is %s); nothing was written to it",
				errOtherDisk, c.what, c.before, c.now)
		}
	}
	if !bytes.Equal(d.designators, other.designators) {
		return fmt.Errorf("%w (device identification %x and not %x); nothing was written to it",
			errOtherDisk, other.designators, d.designators)
	}
	return nil
}

// A target that loses power forgets the reservation keys that were registered with it, unless it
// was asked to keep them (APTPL, SPC-4 5.13.5), but the loss of a connection leaves them alone. So a
// key that nobody reserves anything with, and that keeps nobody off the disk, is the witness that
// the target's memory, and the data in its write cache, has survived. Unit attentions are none:
// some targets (tgt) report a power-on at each login, others (LIO) never do.

// bearWitness registers a key. A disk that cannot keep one goes without.
func (s *Session) bearWitness(ctx context.Context) error {
	if s.cfg.ReconnectTimeout < 0 {
		return nil
	}
	var key [8]byte
	_, _ = rand.Read(key[:])
	s.witness = binary.BigEndian.Uint64(key[:]) | 1
	err := s.link.register(ctx, s.witness)
	if err == nil {
		var kept bool
		if kept, err = s.link.hasKey(ctx, s.witness); kept {
			return nil
		}
	}
	s.witness = 0
	var sense *SenseError
	var status *StatusError
	if errors.As(err, &sense) || errors.As(err, &status) {
		return nil
	}
	return err
}

// forgetWitness takes the key back, unless that had to wait for something else.
func (s *Session) forgetWitness(ctx context.Context) {
	s.mu.Lock()
	l, key := s.link, s.witness
	if s.err != nil || s.back != nil {
		key = 0
	}
	s.mu.Unlock()
	if key == 0 || !l.idle() {
		return
	}
	_ = l.register(ctx, 0) // a key that stays does no harm
}

// idle tells whether no command is in flight.
func (l *link) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil && len(l.tasks) == 0
}

// register sets the reservation key of this initiator, until power is lost; 0 takes it back
// (PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY, SPC-4 6.16).
func (l *link) register(ctx context.Context, key uint64) error {
	parameters := make([]byte, reserveOutLen)
	binary.BigEndian.PutUint64(parameters[8:], key)
	_, err := l.do(ctx, task{
		op:  "register a reservation key",
		cdb: [16]byte{0: cdbReserveOut, 1: actionRegister, 8: reserveOutLen},
		out: parameters,
	})
	return err
}

// hasKey tells whether a key is registered (PERSISTENT RESERVE IN, READ KEYS, SPC-4 6.15.2).
func (l *link) hasKey(ctx context.Context, key uint64) (bool, error) {
	buf := make([]byte, reserveInLen)
	cdb := [16]byte{0: cdbReserveIn, 1: actionReadKeys}
	binary.BigEndian.PutUint16(cdb[7:], reserveInLen)
	n, err := l.do(ctx, task{op: "read the reservation keys", cdb: cdb, in: buf})
	if err != nil {
		return false, err
	}
	return slices.Contains(parseKeys(buf[:n]), key), nil
}
