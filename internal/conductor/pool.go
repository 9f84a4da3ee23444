package conductor

import (
	"context"
	"sync"
	"time"

	"ingot/internal/ingot"
)

// pool runs tasks, a bounded number at once. A slot is taken before work is accepted and put on
// record, so what is on record always has someone to do it.
type pool struct {
	size int
	// work ends when tasks must abandon what they do. It is kept here, against the custom,
	// because tasks outlive the request that starts them and belong to the pool.
	work    context.Context
	abandon context.CancelFunc

	mu      sync.Mutex // guards what follows
	busy    int
	opened  bool
	closing bool
	idle    chan struct{} // closed when closing and nothing is busy
}

func newPool(size int) *pool {
	p := &pool{size: size, idle: make(chan struct{})}
	p.work, p.abandon = context.WithCancel(context.Background())
	return p
}

func (p *pool) open() {
	p.mu.Lock()
	p.opened = true
	p.mu.Unlock()
}

// acquire takes a slot; Unavailable if there is none. Each slot is given back with release or
// by spawn.
func (p *pool) acquire() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.opened || p.closing:
		return ingot.Errorf(ingot.Unavailable,
			"the conductor is starting or stopping and takes no work; try again soon")
	case p.busy >= p.size:
		return ingot.Errorf(ingot.Unavailable, "Requested action cannot be performed due to "+
			"lack of free conductor workers (%d are busy); try again later.", p.busy)
	}
	p.busy++
	return nil
}

func (p *pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	p.settle()
}

// settle tells close when nothing runs any more; mu is held.
func (p *pool) settle() {
	if !p.closing || p.busy > 0 {
		return
	}
	select {
	case <-p.idle:
	default:
		close(p.idle)
	}
}

// spawn runs fn with the caller's slot and gives the slot back.
func (p *pool) spawn(fn func(ctx context.Context)) {
	go func() {
		defer p.release()
		fn(p.work)
	}()
}

// stopping tells tasks not to begin another step.
func (p *pool) stopping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closing
}

// close waits for the tasks, at first patiently, then after telling them to abandon their work;
// it returns how many had to be told.
func (p *pool) close(grace time.Duration) (abandoned int) {
	p.mu.Lock()
	p.closing = true
	p.settle()
	p.mu.Unlock()
	defer p.abandon()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.idle:
		return 0
	case <-timer.C:
	}
	p.mu.Lock()
	abandoned = p.busy
	p.mu.Unlock()
	p.abandon()
	<-p.idle
	return abandoned
}
