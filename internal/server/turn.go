package server

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/vip"
)

// turn is a lock of the store that this process takes.
type turn struct {
	store      *store.Store
	name, life string
}

var _ vip.Lock = turn{}

// Take is of vip.Lock.
func (t turn) Take(ctx context.Context) (bool, error) { return t.store.Lock(ctx, t.name, t.life) }

// Give is of vip.Lock.
func (t turn) Give(ctx context.Context) error { return t.store.Unlock(ctx, t.name, t.life) }

const (
	// turnPause is how often a BMC is asked for that another conductor talks to, turnPauseMax later on.
	turnPause    = 50 * time.Millisecond
	turnPauseMax = 200 * time.Millisecond
	// turnRest is how long this process leaves a BMC alone after a turn, so that those who ask find it free.
	turnRest = 300 * time.Millisecond
	// giveTimeout bounds the end of a turn. One that does not end in the store is this process's still, and
	// ends with its next one.
	giveTimeout = 5 * time.Second
)

// alone is driver.BMCOptions.Alone: BMCs that several nodes have are talked to by one conductor at a time. nil for
// a server that is alone.
func (s *server) alone() func(ctx context.Context, n *ingot.Node, address string) (func(), error) {
	if !s.store.Shared() {
		return nil
	}
	r := &rests{until: map[string]time.Time{}}
	return func(ctx context.Context, n *ingot.Node, address string) (func(), error) {
		shares, err := s.store.SharesBMC(ctx, n.ID, address)
		if err != nil && ctx.Err() == nil {
			// Most are not shared, and what is under way there goes on without the store, too.
			s.log.Warn("whether other nodes have this BMC is not known; going on", "bmc", address, "error", err)
		}
		if !shares || err != nil {
			return func() {}, nil
		}
		driver.Wait(ctx, r.left(address)) // wait tells whether time is up
		done, err := wait(ctx, turn{s.store, "bmc " + address, s.boot.Life}, address, s.log)
		if err != nil {
			return nil, err
		}
		return func() {
			done()
			r.begin(address)
		}, nil
	}
}

// rests are until when BMCs that several nodes have are left to others, by address.
type rests struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

func (r *rests) left(address string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.until[address])
}

func (r *rests) begin(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.until, func(_ string, until time.Time) bool { return time.Now().After(until) })
	r.until[address] = time.Now().Add(turnRest)
}

// wait takes a BMC's turn.
func wait(ctx context.Context, t turn, address string, log *slog.Logger) (done func(), err error) {
	for pause := turnPause; ; pause = min(2*pause, turnPauseMax) {
		held, err := t.Take(ctx)
		if held {
			break
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("a turn at a BMC cannot be taken; tried again", "bmc", address, "error", err)
		}
		if !driver.Wait(ctx, pause) {
			return nil, ingot.Errorf(ingot.Unavailable, "BMC %s, which several nodes have, is busy with an operation of "+
				"another conductor: %w", address, ctx.Err())
		}
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveTimeout)
		defer cancel()
		if err := t.Give(ctx); err != nil {
			log.Warn("others wait for a BMC until it is used here again", "bmc", address, "error", err)
		}
	}, nil
}
