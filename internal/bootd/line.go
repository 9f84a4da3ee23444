package bootd

import (
	"cmp"
	"slices"
	"time"

	"ingot/internal/netboot"
)

// Times of the line before the boot files.
const (
	// promiseTime is how long a machine that was admitted may load nothing. iPXE begins at once.
	promiseTime = 15 * time.Second
	// maxAsk is the longest time until a machine that waits is told to ask again, ticketTime how
	// long its ticket is good without: that, the time to fetch a script, and some to spare.
	maxAsk     = 15 * time.Second
	ticketTime = maxAsk + 25*time.Second
	// guess is how long a machine is taken to load before the first one has. Until then those that
	// wait ask more often, for the guess may be much too long.
	guess    = 20 * time.Second
	guessAsk = 5 * time.Second
)

const (
	// maxTickets bounds the memory: 200 bytes each.
	maxTickets = 8192
	// lastOnes is how many of the last machines the mean time is about, roughly.
	lastOnes = 16
	// maxOfHolder are the connections of one machine that was admitted.
	maxOfHolder = 2
)

// line is the machines that load boot files, or wait to be let in: first come, first served, one
// place for each machine however often it asks. It waits for nothing and knows no clock. The zero
// value is empty.
type line struct {
	holders map[string]*holder // by UUID of the node
	tickets []*ticket          // in the order of their numbers
	of      map[string]*ticket
	last    int64 // number given
	// mean is how long a machine held its place, 0 before the first one.
	mean  time.Duration
	count int
	swept time.Time
}

// holder is a machine that was admitted.
type holder struct {
	since, seen time.Time
	running     int // downloads
}

// ticket is a machine that waits.
type ticket struct {
	number             int64
	node               string
	since, seen, noted time.Time
}

// turn lets a machine in if one of the places that are free is not for somebody before it; else it
// has a ticket from now on, unless there are too many.
func (l *line) turn(node string, now time.Time, places int) netboot.Turn {
	l.sweep(now)
	free := places - len(l.holders)
	if h := l.holders[node]; h != nil {
		h.seen = now
		return netboot.Turn{Tag: node}
	}
	k := l.of[node]
	ahead := len(l.tickets)
	if k != nil {
		ahead = l.place(k)
	}
	if ahead < free {
		var waited time.Duration
		if k != nil {
			waited = now.Sub(k.since)
			l.drop(k)
		}
		l.admit(node, now)
		return netboot.Turn{Tag: node, Waited: waited}
	}
	start := max(l.start(ahead, now, free), time.Second)
	t := netboot.Turn{Place: ahead + 1, Sending: len(l.holders), Start: start,
		Ask: l.ask(start)}
	if k == nil {
		if len(l.tickets) >= maxTickets {
			return netboot.Turn{Sending: len(l.holders), Start: start, Ask: 2 * maxAsk}
		}
		k = l.queue(node, now)
	}
	k.seen = now
	if t.News = now.Sub(k.noted) >= netboot.TurnNews; t.News {
		k.noted = now
	}
	return t
}

func (l *line) queue(node string, now time.Time) *ticket {
	l.last++
	k := &ticket{number: l.last, node: node, since: now}
	if l.of == nil {
		l.of = map[string]*ticket{}
	}
	l.of[node] = k
	l.tickets = append(l.tickets, k)
	return k
}

func (l *line) admit(node string, now time.Time) {
	if l.holders == nil {
		l.holders = map[string]*holder{}
	}
	l.holders[node] = &holder{since: now, seen: now}
}

// begin tells whether a machine was admitted and may load a file now.
func (l *line) begin(node string, now time.Time) bool {
	h := l.holders[node]
	if h == nil || h.running >= maxOfHolder {
		return false
	}
	h.running++
	h.seen = now
	return true
}

// finish is the end of what begin allowed. The last file done ends the machine's stay.
func (l *line) finish(node string, now time.Time, done bool) {
	h := l.holders[node]
	h.running--
	h.seen = now
	if !done || h.running > 0 {
		return
	}
	delete(l.holders, node)
	l.count = min(l.count+1, lastOnes)
	l.mean += (now.Sub(h.since) - l.mean) / time.Duration(l.count)
}

// sweep forgets machines that did not come back. A look at all of them once a second is enough.
func (l *line) sweep(now time.Time) {
	if now.Sub(l.swept) < time.Second {
		return
	}
	l.swept = now
	for node, h := range l.holders {
		if h.running == 0 && now.Sub(h.seen) >= promiseTime {
			delete(l.holders, node)
		}
	}
	l.tickets = slices.DeleteFunc(l.tickets, func(k *ticket) bool {
		lost := now.Sub(k.seen) >= ticketTime
		if lost {
			delete(l.of, k.node)
		}
		return lost
	})
}

// place is how many tickets are before k.
func (l *line) place(k *ticket) int {
	i, _ := slices.BinarySearchFunc(l.tickets, k.number, func(o *ticket, number int64) int {
		return cmp.Compare(o.number, number)
	})
	return i
}

func (l *line) drop(k *ticket) {
	i := l.place(k)
	l.tickets = slices.Delete(l.tickets, i, i+1)
	delete(l.of, k.node)
}

// start estimates when the machine with so many before it is let in: each place becomes free when
// its machine has had it for the mean time, and again and again after that. A machine that takes
// longer than the mean is taken to be nearly done.
func (l *line) start(ahead int, now time.Time, free int) time.Duration {
	mean := l.mean
	if l.count == 0 {
		mean = guess
	}
	ends := make([]time.Duration, max(free, 0), max(free, 0)+len(l.holders)+1)
	for _, h := range l.holders {
		ends = append(ends, max(mean-now.Sub(h.since), mean/8))
	}
	if len(ends) == 0 { // others have all places
		ends = append(ends, mean)
	}
	slices.Sort(ends)
	return ends[ahead%len(ends)] + time.Duration(ahead/len(ends))*mean
}

// ask is how long a machine is to sleep that is to start then: until it starts if that is soon, else
// half of it, for much may change.
func (l *line) ask(start time.Duration) time.Duration {
	longest := maxAsk
	if l.count == 0 {
		longest = guessAsk
	}
	if start > 10*time.Second {
		start /= 2
	}
	return min(max(start, time.Second), longest)
}
