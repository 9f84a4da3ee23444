package pxe

import (
	"maps"
	"sync"
	"time"
)

const (
	// askFor is for how long a machine asks again while its rows cannot be read. A machine that is
	// being deployed shall not boot what is on its disk because of a short outage of ours; one in
	// use shall, when the outage is long.
	askFor = 2 * time.Minute
	// forget is how long after its last question a machine counts as a new one. The longest pause
	// between two questions is a minute and a half.
	forget = 3 * time.Minute
	// maxAsking bounds what strangers can make us remember.
	maxAsking = 10000
)

// outage knows since when each machine asks in vain. The zero value works.
type outage struct {
	mu     sync.Mutex // guards asking
	asking map[string]asked
}

// asked is when a machine asked, at first and last.
type asked struct{ first, last time.Time }

// tired notes that a machine asks in vain, and tells whether it has done so for long enough.
func (o *outage) tired(machine string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	a, ok := o.asking[machine]
	if !ok || now.Sub(a.last) > forget {
		a.first = now
	}
	if !ok && len(o.asking) >= maxAsking {
		maps.DeleteFunc(o.asking, func(_ string, a asked) bool { return now.Sub(a.last) > forget })
	}
	if a.last = now; ok || len(o.asking) < maxAsking {
		if o.asking == nil {
			o.asking = map[string]asked{}
		}
		o.asking[machine] = a
	}
	return now.Sub(a.first) >= askFor
}
