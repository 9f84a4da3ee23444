package server

import (
	"cmp"
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

var _ waited = turn{}

// waited is what waits for turns need; who has it may be unknown.
type waited interface {
	vip.Lock
	Holder(ctx context.Context) (string, error)
}

// Take is of vip.Lock.
func (t turn) Take(ctx context.Context) (bool, error) { return t.store.Lock(ctx, t.name, t.life) }

// Give is of vip.Lock.
func (t turn) Give(ctx context.Context) error { return t.store.Unlock(ctx, t.name, t.life) }

// Holder tells which conductor has it, "" if none is known.
func (t turn) Holder(ctx context.Context) (string, error) { return t.store.LockHolder(ctx, t.name) }

const (
	// turnPatience is how long a BMC's turn is waited for, in times of what one that is gone may cost whoever has it:
	// more than a site has conductors that queue for one. A lock that was not given back must hold up nobody for good.
	turnPatience = 10
	// turnTold is after how long the log has that one is waited for, and how often what goes wrong with that.
	turnTold = 5 * time.Second
	// turnPause is how often a BMC is asked for that another conductor talks to, turnPauseMax later on.
	turnPause    = 50 * time.Millisecond
	turnPauseMax = 200 * time.Millisecond
	// turnRest is how long this process leaves a BMC alone after a turn, so that those who ask find it free.
	turnRest = 300 * time.Millisecond
	// giveTimeout bounds the end of a turn, which is tried again until then. One that does not end in the
	// store is this process's still, and ends with its next one.
	giveTimeout = 5 * time.Second
)

// alone is driver.BMCOptions.Alone: BMCs that several nodes have are talked to by one conductor at a time. nil for
// a server that is alone.
func (s *server) alone() func(ctx context.Context, n *ingot.Node, address string) (func(), error) {
	if !s.store.Shared() {
		return nil
	}
	limit := turnPatience * driver.Patience * cmp.Or(time.Duration(s.cfg.Conductor.BMCTimeout), 10*time.Second)
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
		waiting, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		done, err := wait(waiting, turn{s.store, "bmc " + address, s.boot.Life}, address, s.log)
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

// wait takes a BMC's turn, for as long as ctx lets it.
func wait(ctx context.Context, t waited, address string, log *slog.Logger) (done func(), err error) {
	give := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveTimeout)
		defer cancel()
		err := t.Give(ctx)
		for err != nil && driver.Wait(ctx, turnPauseMax) {
			err = t.Give(ctx)
		}
		if err != nil {
			log.Warn("others wait for a BMC until it is used here again", "bmc", address, "error", err)
		}
	}
	begun, told, unclear := time.Now(), false, false
	var warn error
	sometimes := driver.Sometimes(turnTold, func() {
		log.Warn("a turn at a BMC cannot be taken; tried again", "bmc", address, "error", warn)
	})
	for pause := turnPause; ; pause = min(2*pause, turnPauseMax) {
		held, err := t.Take(ctx)
		if held {
			return give, nil
		}
		if unclear = unclear || err != nil; err != nil && ctx.Err() == nil {
			warn = err
			sometimes()
		}
		if !told && time.Since(begun) >= turnTold {
			log.Info("a BMC is waited for", "bmc", address, "holder", holder(ctx, t))
			told = true
		}
		if driver.Wait(ctx, pause) {
			continue
		}
		if unclear {
			give() // a take may have succeeded though its answer was lost
		}
		return nil, ingot.Errorf(ingot.Unavailable, "BMC %s, which several nodes have, is busy with an operation of %s "+
			"for %s: %w", address, holder(ctx, t), time.Since(begun).Round(time.Second), ctx.Err())
	}
}

// holder names who has a turn, also when the time to wait for it is over.
func holder(ctx context.Context, t waited) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveTimeout)
	defer cancel()
	if name, err := t.Holder(ctx); err == nil && name != "" {
		return "conductor " + name
	}
	return "another conductor"
}
