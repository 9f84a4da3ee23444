package keystone

import (
	"errors"
	"math"
	"sync"
	"time"
)

// rest keeps us from asking a Keystone that does not answer, or not us: each request would wait for
// its time-out. It is asked again after a pause, which grows.
type rest struct {
	mu    sync.Mutex // guards what follows
	until time.Time
	pause time.Duration
	why   error
}

const (
	firstPause = 2 * time.Second
	lastPause  = 30 * time.Second
)

// Silence is an error of a Keystone that does not answer (of kind Unavailable), or does not let us in.
type Silence struct {
	// Wait is how long to wait before asking again.
	Wait time.Duration
	Err  error
}

// Error says why.
func (s *Silence) Error() string { return s.Err.Error() }

// Unwrap returns why.
func (s *Silence) Unwrap() error { return s.Err }

// RetryAfter returns in how many seconds Keystone is asked again; 0 if err has nothing to do with that.
func RetryAfter(err error) int {
	if s, ok := errors.AsType[*Silence](err); ok {
		return int(math.Ceil(s.Wait.Seconds()))
	}
	return 0
}

// check returns the error of the last attempt for as long as there shall be no other.
func (r *rest) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wait := time.Until(r.until); wait > 0 {
		return &Silence{wait, r.why}
	}
	return nil
}

// after begins a pause because of err, and returns err with its length.
func (r *rest) after(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wait := time.Until(r.until); wait > 0 {
		return &Silence{wait, err} // several asked at the same time
	}
	r.pause = min(lastPause, max(firstPause, 2*r.pause))
	r.until, r.why = time.Now().Add(r.pause), err
	return &Silence{r.pause, err}
}

// over ends it: Keystone has answered.
func (r *rest) over() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pause, r.until = 0, time.Time{}
}
