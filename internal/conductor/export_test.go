package conductor

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// CrashWhen makes the conductor behave as a killed process from the moment on at which the
// function says so: it is asked before each write of a row. Call it before Run.
func CrashWhen(c *Conductor, now func() bool) {
	c.crash = func() error {
		if c.pool.stopping() || now() {
			c.pool.kill()
			return errors.New("the process was killed (test)")
		}
		return nil
	}
}

// Crashed tells whether the conductor was killed by CrashWhen.
func Crashed(c *Conductor) bool { return c.crash != nil && c.pool.stopping() }

func (p *pool) kill() {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.abandon()
}

// Wake makes every reconciler look now instead of at its next time.
func (c *Conductor) Wake() {
	c.look()
}

// BootDue is bootDue.
func BootDue(c *Conductor, n *ingot.Node, now time.Time) bool { return c.bootDue(n, now) }

// WaitInLine is waitInLine.
func WaitInLine(ctx context.Context, c *Conductor, n *ingot.Node, since time.Time) (heard time.Time,
	waited time.Duration, err error) {
	w, err := c.waitInLine(ctx, n, since)
	return w.heard, w.waited, err
}

// EachNode is eachNode.
func EachNode(ctx context.Context, c *Conductor, fn func(*ingot.Node)) error {
	return c.eachNode(ctx, store.NodeFilter{}, fn)
}

// SetPage sets how many nodes eachNode reads at once. Call it before Run.
func SetPage(c *Conductor, nodes int) { c.page = nodes }

// Doubt is doubt.
func Doubt(c *Conductor, uuid string) { c.doubt(uuid) }

// Owns is owns.
func Owns(c *Conductor, n *ingot.Node) bool { return c.owns(n) }

// Lease is lease.
type Lease struct{ l *lease }

// NewLease is newLease.
func NewLease(length time.Duration, log *slog.Logger, renewed func()) Lease {
	return Lease{newLease(context.Background(), length, log, renewed)}
}

// Check and the others are those of lease.
func (l Lease) Check() error             { return l.l.check() }
func (l Lease) Renew(sent time.Time)     { l.l.renew(sent) }
func (l Lease) Present() context.Context { return l.l.present() }
func (l Lease) Stop()                    { l.l.stop() }

// Running is how many tasks are at work.
func Running(c *Conductor) int { return c.pool.running() }

// Bereave has a conductor believe that another one died at a time.
func Bereave(c *Conductor, at time.Time) { c.bereaved.Store(at.UnixMicro()) }

// Stranded is stranded.
func Stranded(ctx context.Context, c *Conductor, n *ingot.Node) (string, error) {
	return c.stranded(ctx, n)
}

// RestoreMedia looks once for media of servers that are gone.
func RestoreMedia(ctx context.Context, c *Conductor) error { return c.restoreMedia(ctx) }

// Asked is asked.
type Asked struct{ *asked }

// NewAsked is newAsked.
func NewAsked(most int) Asked { return Asked{newAsked(most)} }

// One is one.
func (a Asked) One(ctx context.Context, ask func()) { a.one(ctx, ask) }

// Pending is for how many nodes something is left to be done.
func Pending(c *Conductor) int {
	c.asked.mu.Lock()
	defer c.asked.mu.Unlock()
	return len(c.asked.nodes)
}

// Following tells whether a heartbeat is followed up.
func Following(c *Conductor) bool {
	c.asked.mu.Lock()
	defer c.asked.mu.Unlock()
	for _, p := range c.asked.nodes {
		if p.going {
			return true
		}
	}
	return false
}

// FollowLeft is followLeft.
func FollowLeft(c *Conductor) { _ = c.followLeft(context.Background()) }
