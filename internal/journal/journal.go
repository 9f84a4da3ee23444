// Package journal is the timeline of each machine: what it did and what it was told, from
// whoever saw it. It gathers entries and writes them in batches, so that a DHCP packet does not
// wait for a disk, and wakes those who follow. Where entries are kept, and how many, is left to
// the store.
package journal

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ingot/internal/ingot"
)

// Query selects entries, in the order in which they were appended. It is an alias, so that a
// store need not import the journal.
type Query = struct {
	Node string // UUID; "" is any
	// MAC is a port's address, "" any. Without a node it selects entries of machines unknown then.
	MAC   string
	After int64 // entries with a greater Seq only
	// Limit is the greatest number of entries, the oldest ones first; 0 is no limit.
	Limit int
	// Last is the greatest number of entries, the newest ones; 0 is no limit. They come in the
	// same order as always.
	Last int
}

// Store keeps entries. AppendJournal stores all of them, in that order, or none, and gives them
// a Seq greater than any before; ingot.Unavailable says that the same call may work later. Both
// may be called concurrently.
type Store interface {
	AppendJournal(ctx context.Context, entries []ingot.Entry) error
	Journal(ctx context.Context, q Query) ([]ingot.Entry, error)
	// Now is the time of all who keep entries there.
	Now() time.Time
}

// Bounds of what waits to be written.
const (
	QueueSize = 32768                 // entries, two seconds of 8000 DHCP exchanges; more are dropped
	BatchSize = 1024                  // entries written at once; a node's many share its pages
	BatchTime = 50 * time.Millisecond // for which the first entry of a batch waits for others
	MaxText   = 4096                  // bytes of Entry.Text; the rest is cut off

	retryTime = time.Second     // between two tries while the store is unavailable
	flushTime = 5 * time.Second // for writing the rest at the end
)

// Journal gathers entries. Its methods may be called concurrently.
type Journal struct {
	store   Store
	log     *slog.Logger
	queue   chan item
	full    chan struct{} // told when a whole batch is in the queue, or somebody waits for it
	dropped atomic.Int64
	told    int64 // how many drops were logged; used by Run only

	mu sync.Mutex
	// waiting has the nodes (UUID, "" is any) that somebody waits for. Guarded by mu.
	waiting map[string]*waiters
}

// item is an entry that waits, or the mark of who waits for those before it.
type item struct {
	entry ingot.Entry
	mark  chan struct{} // closed when all before it are on record, or lost; nil: an entry
}

// batch is what is written at once.
type batch struct {
	entries []ingot.Entry
	marks   []chan struct{}
}

func (b *batch) put(i item) {
	if i.mark != nil {
		b.marks = append(b.marks, i.mark)
		return
	}
	b.entries = append(b.entries, i.entry)
}

// New returns a journal that writes once Run runs; until then entries wait in the queue.
func New(s Store, log *slog.Logger) *Journal {
	return &Journal{store: s, log: log, queue: make(chan item, QueueSize),
		full: make(chan struct{}, 1), waiting: map[string]*waiters{}}
}

// Add puts an entry on record soon; it never waits. Time is the store's now if it is not set, Level is info,
// and Seq is given later. Data is written later too: the caller must not change it any more.
func (j *Journal) Add(e ingot.Entry) {
	if e.Time.IsZero() {
		e.Time = j.store.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	if e.Level == "" {
		e.Level = ingot.LevelInfo
	}
	e.MAC = strings.ToLower(e.MAC)
	e.Text = bounded(e.Text)
	select {
	case j.queue <- item{entry: e}:
	default:
		j.dropped.Add(1)
	}
	if len(j.queue) >= BatchSize {
		j.hurry()
	}
}

// hurry ends the wait for more entries.
func (j *Journal) hurry() {
	select {
	case j.full <- struct{}{}:
	default:
	}
}

// Flush returns when what was added before is on record, or was lost, or with the error of ctx.
func (j *Journal) Flush(ctx context.Context) error {
	mark := make(chan struct{})
	select {
	case j.queue <- item{mark: mark}:
	case <-ctx.Done():
		return ctx.Err()
	}
	j.hurry()
	select {
	case <-mark:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bounded makes text that a machine may have sent fit to be stored and shown.
func bounded(text string) string {
	if len(text) > MaxText {
		text = text[:MaxText] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// Dropped returns how many entries were lost since the start: those that came while the queue
// was full, and those the store refused.
func (j *Journal) Dropped() int64 { return j.dropped.Load() }

// Query returns entries that were written. One that was added within BatchTime may be missing.
func (j *Journal) Query(ctx context.Context, q Query) ([]ingot.Entry, error) {
	return j.store.Journal(ctx, q)
}

// Wait returns nil as soon as the node (UUID; "" is any) has an entry with a Seq greater than
// after, which may be at once, or the error of ctx. It sees entries written through this
// Journal.
func (j *Journal) Wait(ctx context.Context, node string, after int64) error {
	for {
		w := j.join(node) // before the look, or an entry in between would be missed
		newer, err := j.store.Journal(ctx, Query{Node: node, After: after, Limit: 1})
		if err != nil || len(newer) > 0 {
			j.leave(node, w)
			return err
		}
		select {
		case <-w.woken:
		case <-ctx.Done():
			j.leave(node, w)
			return ctx.Err()
		}
	}
}

// waiters is a group that waits for the same node.
type waiters struct {
	woken chan struct{} // closed when there is an entry
	count int
}

func (j *Journal) join(node string) *waiters {
	j.mu.Lock()
	defer j.mu.Unlock()
	w, ok := j.waiting[node]
	if !ok {
		w = &waiters{woken: make(chan struct{})}
		j.waiting[node] = w
	}
	w.count++
	return w
}

// leave is for who was not woken: the last one leaves nothing behind.
func (j *Journal) leave(node string, w *waiters) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if w.count--; w.count == 0 && j.waiting[node] == w {
		delete(j.waiting, node)
	}
}

// wake ends the waits for the nodes of the entries, and those for any node.
func (j *Journal) wake(entries []ingot.Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	end := func(node string) {
		if w, ok := j.waiting[node]; ok {
			close(w.woken)
			delete(j.waiting, node)
		}
	}
	end("")
	for _, e := range entries {
		end(e.Node)
	}
}

// Run writes what is added until ctx ends, then what is left in the queue, and returns nil.
func (j *Journal) Run(ctx context.Context) error {
	writing, cancel := grace(ctx, flushTime)
	defer cancel()
	for ctx.Err() == nil {
		j.write(writing, j.gather(ctx))
	}
	for left := (batch{}); j.take(&left) > 0; left = (batch{}) {
		j.write(writing, left)
	}
	return nil
}

// grace returns a context that ends a while after ctx.
func grace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(d):
			cancel()
		case <-longer.Done():
		}
	})
	return longer, func() { stop(); cancel() }
}

// gather waits for an entry and a little longer for more. It returns none when ctx has ended. It
// sleeps while they come: to be woken by each would cost whoever adds it more than adding.
func (j *Journal) gather(ctx context.Context) (b batch) {
	select {
	case <-ctx.Done():
		return b
	case i := <-j.queue:
		b.put(i)
	}
	if len(j.queue) < BatchSize && len(b.marks) == 0 {
		wait := time.NewTimer(BatchTime)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-j.full: // or was, before the last batch: then this one is small
		case <-ctx.Done():
		}
	}
	j.take(&b)
	return b
}

// take adds what is in the queue now, and returns how much that was.
func (j *Journal) take(b *batch) (n int) {
	b.entries = slices.Grow(b.entries, min(len(j.queue), BatchSize))
	for ; len(b.entries) < BatchSize; n++ {
		select {
		case i := <-j.queue:
			b.put(i)
		default:
			return n
		}
	}
	return n
}

// write stores a batch. If the store refuses it, the entries are written one by one, so that
// one bad entry does not cost the others.
func (j *Journal) write(ctx context.Context, b batch) {
	defer func() {
		for _, mark := range b.marks {
			close(mark)
		}
	}()
	if len(b.entries) == 0 {
		return
	}
	err := j.append(ctx, b.entries)
	if err != nil {
		for i := range b.entries {
			if e := j.append(ctx, b.entries[i:i+1]); e != nil {
				err = e
				j.dropped.Add(1)
			}
		}
	}
	if lost := j.Dropped(); lost > j.told {
		j.log.WarnContext(ctx, "journal entries lost", "count", lost-j.told, "err", err)
		j.told = lost
	}
}

// append stores entries and wakes those who wait for them. It tries again as long as the store
// is unavailable and ctx lasts; the queue fills up meanwhile.
func (j *Journal) append(ctx context.Context, entries []ingot.Entry) error {
	for {
		err := j.store.AppendJournal(ctx, entries)
		if err == nil {
			j.wake(entries)
			return nil
		}
		if ingot.KindOf(err) != ingot.Unavailable {
			return err
		}
		select {
		case <-time.After(retryTime):
		case <-ctx.Done():
			return err
		}
	}
}
