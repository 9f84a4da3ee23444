package journal

import (
	"sync"
	"time"
)

// Hourly lets the first mention of a name through, and the next one an hour later: machines repeat
// their requests for ever, and an operator needs one line to act on. The zero value works. It is
// safe for concurrent use.
type Hourly struct {
	mu   sync.Mutex // guards last
	last map[string]time.Time
}

// maxNames bounds what strangers on the wire can make us remember.
const maxNames = 4096

// First tells whether this mention is one to tell of.
func (h *Hourly) First(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if t, ok := h.last[name]; ok && now.Sub(t) < time.Hour {
		return false
	}
	if h.last == nil {
		h.last = map[string]time.Time{}
	}
	if len(h.last) >= maxNames {
		for k, t := range h.last {
			if now.Sub(t) >= time.Hour {
				delete(h.last, k)
			}
		}
		if len(h.last) >= maxNames {
			return false // a flood of made-up addresses fills neither memory nor log
		}
	}
	h.last[name] = now
	return true
}
