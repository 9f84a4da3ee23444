package dhcp

import (
	"sync"
	"time"
)

// The bounds of a limit: firmware sends a packet each few seconds, a relay may repeat some.
const (
	perSecond  = 50
	maxClients = 1 << 16 // remembered within a second; packets of further ones pass
)

// A limit counts the packets of each client within a second, so that one that floods us takes
// no place from the others. The zero value works.
type limit[C comparable] struct {
	mu    sync.Mutex // guards the next ones
	since time.Time
	count map[C]int
}

// pass tells whether a packet of a client is within the limit.
func (l *limit[C]) pass(client C) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.since) >= time.Second {
		l.since = now
		if len(l.count) > 1024 {
			l.count = nil // gives the memory of a flood back
		}
		clear(l.count)
	}
	if l.count == nil {
		l.count = map[C]int{}
	}
	n := l.count[client]
	if n == 0 && len(l.count) >= maxClients {
		return true
	}
	l.count[client] = n + 1
	return n < perSecond
}
