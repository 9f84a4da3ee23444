package conductor

import (
	"context"
	"sync"
)

// maxAsked is how many agents are asked something at once. A question is a TLS connection and up to 8 MiB of
// an answer; an agent that is not reached takes 15 s.
const maxAsked = 64

// asked knows which nodes' agents are to be asked something after a heartbeat, and which are. A heartbeat is
// followed up when the node is let go by whoever is at work on it: the one who took the heartbeat, or a task
// that had the node when it came. No node is followed up twice at once, and none of its heartbeats is lost.
type asked struct {
	places chan struct{}

	mu    sync.Mutex
	nodes map[string]pending // guarded by mu; by UUID, at most one for each node
}

// pending is what is to be done for a node.
type pending struct {
	wanted bool // a heartbeat has come
	going  bool // one is followed up
	again  bool // and another has come since
}

func newAsked(most int) *asked {
	return &asked{places: make(chan struct{}, most), nodes: map[string]pending{}}
}

func (a *asked) change(uuid string, fn func(*pending)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.nodes[uuid]
	fn(&p)
	if a.nodes[uuid] = p; p == (pending{}) {
		delete(a.nodes, uuid)
	}
}

// want says that a heartbeat has come, before the node is taken: who has it learns of it at the end.
func (a *asked) want(uuid string) { a.change(uuid, func(p *pending) { p.wanted = true }) }

// forget takes that back.
func (a *asked) forget(uuid string) { a.change(uuid, func(p *pending) { p.wanted = false }) }

// begin tells whether a heartbeat is to be followed up now. The caller goes on as long as there is more.
func (a *asked) begin(uuid string) (begun bool) {
	a.change(uuid, func(p *pending) {
		begun = p.wanted && !p.going
		p.again = p.again || p.wanted && p.going
		p.wanted, p.going = false, p.going || begun
	})
	return begun
}

// more tells whether it is to be done once more; if not, it has ended.
func (a *asked) more(uuid string) (more bool) {
	a.change(uuid, func(p *pending) {
		more = p.again
		p.again, p.going = false, more
	})
	return more
}

// one asks an agent when there is a place.
func (a *asked) one(ctx context.Context, ask func()) {
	select {
	case a.places <- struct{}{}:
		defer func() { <-a.places }()
		ask()
	case <-ctx.Done():
	}
}
