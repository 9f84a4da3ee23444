package journal

import (
	"sync"
	"time"
)

// Hourly lets the first mention of a name through, and the next one an hour later: machines repeat
// their requests for ever, and an operator needs one line to act on. The zero value works. It is
// safe for concurrent use.
type Hourly struct {
	mu     sync.Mutex // guards the next ones
	last   map[string]time.Time
	minute time.Time // when the current minute of counting began
	count  int       // of mentions since then
}

// maxNames and maxMentions bound what strangers on the wire can make us remember and tell.
const (
	maxNames    = 4096
	maxMentions = 100 // a minute
)

// First tells whether this mention is one to tell of.
func (h *Hourly) First(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if t, ok := h.last[name]; ok && now.Sub(t) < time.Hour {
		return false
	}
	if now.Sub(h.minute) >= time.Minute {
		h.minute, h.count = now, 0
	}
	if h.count >= maxMentions {
		return false // it is mentioned in a calmer minute, if it still asks then
	}
	if h.last == nil || len(h.last) >= maxNames {
		h.last = map[string]time.Time{} // rather twice than never
	}
	h.last[name] = now
	h.count++
	return true
}
