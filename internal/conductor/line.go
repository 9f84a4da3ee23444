package conductor

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"ingot/internal/ingot"
)

// line lets a bounded number of nodes into what is costly, the copy of an image, and keeps the
// others in order. Nobody who waits holds anything: a ticket is a note in memory, which a
// conductor that starts writes again from the rows (resumeAbandoned).
//
// It is fair between projects first and by age second: the next place goes to the project
// (lessee, else owner) that has the fewest, and within it to the node that waits longest. So one
// that deploys five hundred machines does not keep out one that deploys a single one, and nobody
// starves: whoever waits is the oldest of a project without a place after a while.
type line struct {
	size int

	mu      sync.Mutex        // guards what follows
	inside  map[string]string // project by UUID
	waiting []*ticket         // by age
}

// ticket is a node's place in the line.
type ticket struct {
	uuid    string
	project string
	since   time.Time
	id      int64 // of the row, for equal times
	// told is the last position that was told, 0 before the first time.
	told int
}

func newLine(size int) *line { return &line{size: size, inside: map[string]string{}} }

// newTicket: a node waits since its state changed last, which is on record and therefore the
// same after a restart.
func newTicket(n *ingot.Node) *ticket {
	k := &ticket{uuid: n.UUID, project: cmp.Or(n.Lessee, n.Owner), id: n.ID}
	if n.ProvisionUpdatedAt != nil {
		k.since = *n.ProvisionUpdatedAt
	}
	return k
}

// has tells whether the node has a place; whoever got it for the node is about to use it.
func (l *line) has(uuid string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, in := l.inside[uuid]
	return in
}

// length is how many nodes have a place, and how many wait for one.
func (l *line) length() (inside, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inside), len(l.waiting)
}

// enter takes a place for the node if there is one and nobody was there before; who has one
// keeps it.
func (l *line) enter(k *ticket) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, in := l.inside[k.uuid]; in {
		return true
	}
	if len(l.waiting) > 0 || len(l.inside) >= l.size {
		return false
	}
	l.inside[k.uuid] = k.project
	return true
}

// join makes the node wait, and tells how many are before it; news says that this is less than
// half of what was told last, so worth telling again.
func (l *line) join(k *ticket) (before int, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.find(k.uuid); i >= 0 {
		k = l.waiting[i]
	} else if _, in := l.inside[k.uuid]; !in {
		l.waiting = append(l.waiting, k)
		slices.SortStableFunc(l.waiting, func(a, b *ticket) int {
			return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id))
		})
	}
	before = max(l.find(k.uuid), 0)
	news = k.told == 0 || before+1 <= k.told/2
	if news {
		k.told = before + 1
	}
	return before, news
}

// next gives a free place to whoever's turn it is.
func (l *line) next() (uuid string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 || len(l.inside) >= l.size {
		return "", false
	}
	has := map[string]int{}
	for _, project := range l.inside {
		has[project]++
	}
	k := slices.MinFunc(l.waiting, func(a, b *ticket) int { // the first of equal ones
		return cmp.Compare(has[a.project], has[b.project])
	})
	l.waiting = slices.DeleteFunc(l.waiting, func(o *ticket) bool { return o == k })
	l.inside[k.uuid] = k.project
	return k.uuid, true
}

// leave gives the place back, or the wait up; it tells whether somebody may go in now.
func (l *line) leave(uuid string) (more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, in := l.inside[uuid]; in {
		delete(l.inside, uuid)
	} else if i := l.find(uuid); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	return len(l.waiting) > 0 && len(l.inside) < l.size
}

// find returns the index of a ticket, -1 if there is none; mu is held.
func (l *line) find(uuid string) int {
	return slices.IndexFunc(l.waiting, func(k *ticket) bool { return k.uuid == uuid })
}
