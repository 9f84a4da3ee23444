package conductor

import (
	"context"
	"sync"
	"time"

	"ingot/internal/ingot"
)

// pool knows what runs, so that the end of the process can wait for it, and lends out workers:
// a bounded number of operations goes on at once, the others wait without holding anything.
type pool struct {
	size int
	// work ends when tasks must abandon what they do. It is kept here, against the custom,
	// because tasks outlive the request that starts them and belong to the pool.
	work    context.Context
	abandon context.CancelFunc

	mu      sync.Mutex // guards what follows
	busy    int        // all that runs
	hired   int        // workers that are lent out
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

// enter says that something runs; Unavailable when it must not begin. It ends with leave, or
// with spawn.
func (p *pool) enter() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.opened || p.closing {
		return ingot.Errorf(ingot.Unavailable,
			"the conductor is starting or stopping and takes no work; try again soon")
	}
	p.busy++
	return nil
}

func (p *pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	p.settle()
}

// hire takes a worker; false when all are busy. It is given back with dismiss.
func (p *pool) hire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hired >= p.size {
		return false
	}
	p.hired++
	return true
}

func (p *pool) dismiss() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hired--
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

// spawn runs fn for a caller who has entered, and leaves.
func (p *pool) spawn(fn func()) {
	go func() {
		defer p.leave()
		fn()
	}()
}

// running is how much runs.
func (p *pool) running() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy
}

// working is how many workers are lent out.
func (p *pool) working() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hired
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
