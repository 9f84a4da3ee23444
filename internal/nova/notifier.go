package nova

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ingot/internal/ingot"
)

// Journal takes what happened; *journal.Journal is one.
type Journal interface{ Add(e ingot.Entry) }

// Bounds of what is done for Nova.
const (
	maxPending = 10_000 // servers whose change waits; of more than that Nova is not told
	maxEvents  = 100    // changes in one request
)

// Notifier tells Nova of changes, one request at a time. Only the newest change of a server is told.
type Notifier struct {
	// Patience is how long Nova may take to answer; NewNotifier sets 10 s.
	Patience time.Duration
	// Pauses are those between the tries of a request, after which it is given up; NewNotifier sets 1 s
	// and 5 s.
	Pauses []time.Duration

	client  *Client
	journal Journal
	log     *slog.Logger

	mu      sync.Mutex // guards what follows
	pending map[string]Change
	order   []string // servers in pending, oldest first
	kick    chan struct{}
}

// NewNotifier returns a notifier. It tells while Run runs.
func NewNotifier(c *Client, j Journal, log *slog.Logger) *Notifier {
	return &Notifier{client: c, journal: j, log: log, pending: map[string]Change{},
		kick: make(chan struct{}, 1), Patience: 10 * time.Second,
		Pauses: []time.Duration{time.Second, 5 * time.Second}}
}

// Tell has Nova be told of a change, soon. It does not block and may be called concurrently. States that
// Nova has no name for are left out.
func (n *Notifier) Tell(c Change) {
	if tags[c.State] == "" || c.Server == "" {
		return
	}
	n.mu.Lock()
	_, waits := n.pending[c.Server]
	full := !waits && len(n.pending) >= maxPending
	if !full {
		n.pending[c.Server] = c
	}
	if !full && !waits {
		n.order = append(n.order, c.Server)
	}
	n.mu.Unlock()
	if full {
		n.giveUp(c, fmt.Errorf("%d changes wait already", maxPending))
		return
	}
	select {
	case n.kick <- struct{}{}:
	default: // one is pending
	}
}

// Run tells until ctx ends. What waits then is not told any more.
func (n *Notifier) Run(ctx context.Context) error {
	for {
		if batch := n.take(); len(batch) > 0 {
			n.send(ctx, batch)
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.kick:
		}
	}
}

// take removes the oldest changes, as many as one request has.
func (n *Notifier) take() []Change {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := min(len(n.order), maxEvents)
	batch := make([]Change, count)
	for i, server := range n.order[:count] {
		batch[i] = n.pending[server]
		delete(n.pending, server)
	}
	n.order = n.order[count:]
	return batch
}

// send tells of changes, and the journals of those of which Nova could not be told.
func (n *Notifier) send(ctx context.Context, batch []Change) {
	refused, err := n.try(ctx, batch)
	switch {
	case errors.Is(err, errNone):
		n.log.DebugContext(ctx, "nobody is told of power states", "error", err)
		return
	case err != nil && ingot.KindOf(err) != ingot.NotFound:
		n.log.WarnContext(ctx, "Nova was not told of power states", "changes", len(batch), "error", err)
	}
	for _, c := range batch {
		if why := errors.Join(err, refused[c.Server]); why != nil {
			n.giveUp(c, why)
			continue
		}
		n.log.DebugContext(ctx, "Nova was told of a power state", "node", c.Node, "server", c.Server,
			"state", c.State)
	}
}

// try sends a request until it is answered, as often as is allowed.
func (n *Notifier) try(ctx context.Context, batch []Change) (refused map[string]error, err error) {
	for i := 0; ; i++ {
		refused, err = n.once(ctx, batch)
		if ingot.KindOf(err) != ingot.Unavailable || i == len(n.Pauses) {
			return refused, err
		}
		n.log.DebugContext(ctx, "Nova is told again", "after", n.Pauses[i], "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(n.Pauses[i]):
		}
	}
}

func (n *Notifier) once(ctx context.Context, batch []Change) (map[string]error, error) {
	asked, cancel := context.WithTimeout(ctx, n.Patience)
	defer cancel()
	refused, err := n.client.tell(asked, batch)
	if err != nil && asked.Err() != nil && ctx.Err() == nil {
		return nil, ingot.Errorf(ingot.Unavailable, "Nova did not answer within %s", n.Patience)
	}
	return refused, err
}

// giveUp puts into the machine's journal that Nova does not know its power state. A server that Nova does
// not have is no trouble: instance_uuid may be of somebody else.
func (n *Notifier) giveUp(c Change, why error) {
	level := ingot.LevelWarning
	if ingot.KindOf(why) == ingot.NotFound {
		level = ingot.LevelInfo
	}
	n.journal.Add(ingot.Entry{Node: c.Node, Source: "power", Level: level, Text: fmt.Sprintf("Nova was not "+
		"told %q: %v; it finds out when it compares power states (its sync_power_state_interval)", c.State,
		why)})
}
