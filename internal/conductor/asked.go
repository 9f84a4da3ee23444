package conductor

import (
	"context"
	"sync"

	"ingot/internal/driver"
)

// maxAsked is how many agents are asked something at once. A question is a TLS connection and up to 8 MiB of
// an answer; an agent that is not reached takes 15 s.
const maxAsked = 64

// asked knows which nodes' agents are to be asked something after a heartbeat, and which are. A heartbeat is
// followed up when the node is let go by whoever is at work on it: the one who took the heartbeat, or a task
// that had the node when it came. One that nobody here lets go, another conductor's, is looked after now and
// then. No node is followed up twice at once, and none of its heartbeats is lost while this process lives.
type asked struct {
	places chan struct{}

	mu    sync.Mutex
	nodes map[string]pending // guarded by mu; by UUID, at most one for each node
}

// pending is what is to be done for a node.
type pending struct {
	wanted bool // a heartbeat has come
	going  bool // one is followed up
	again  bool // and the node was let go since
	// beat is the last one if it is not on record, some 16 KiB at most; else the zero value.
	beat driver.Heartbeat
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
func (a *asked) want(uuid string, beat driver.Heartbeat) {
	a.change(uuid, func(p *pending) { p.wanted, p.beat = true, beat })
}

// retry says that one is not followed up yet, because somebody has the node again.
func (a *asked) retry(uuid string) { a.change(uuid, func(p *pending) { p.wanted = true }) }

// forget drops what has come: its agent is no more.
func (a *asked) forget(uuid string) {
	a.change(uuid, func(p *pending) { p.wanted, p.beat = false, driver.Heartbeat{} })
}

// beat returns the heartbeat that is to be put on record, the zero value if there is none.
func (a *asked) beat(uuid string) (beat driver.Heartbeat) {
	a.change(uuid, func(p *pending) { beat = p.beat })
	return beat
}

// recorded says that it is, or never will be. One that has come since is kept.
func (a *asked) recorded(uuid string, beat driver.Heartbeat) {
	a.change(uuid, func(p *pending) {
		if p.beat == beat {
			p.beat = driver.Heartbeat{}
		}
	})
}

// left are the nodes with a heartbeat that nobody follows up now.
func (a *asked) left() (uuids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uuid, p := range a.nodes {
		if p.wanted {
			uuids = append(uuids, uuid)
		}
	}
	return uuids
}

// begin tells, when the node is let go, whether a heartbeat is to be followed up now. The caller goes on as
// long as there is more.
func (a *asked) begin(uuid string) (begun bool) {
	a.change(uuid, func(p *pending) {
		if p.going {
			p.again = true
			return
		}
		begun = p.wanted
		p.wanted, p.going = false, begun
	})
	return begun
}

// more tells whether it is to be done once more: another has come, or this one is to be tried again, and the
// node was let go meanwhile. If not, it has ended.
func (a *asked) more(uuid string) (more bool) {
	a.change(uuid, func(p *pending) {
		more = p.wanted && p.again
		p.wanted, p.going, p.again = p.wanted && !more, more, false
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
