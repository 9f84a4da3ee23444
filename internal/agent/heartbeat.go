package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	// defaultHeartbeat is that of Ironic.
	defaultHeartbeat = 300 * time.Second
	// quickBeat is the interval while an image is written, and while an answer is awaited.
	quickBeat = 5 * time.Second
	// eagerBeats is how often in a row a heartbeat is repeated quickly when nobody commands after it:
	// a conductor that held the lock of the node did not look at it.
	eagerBeats = 6
	// deafness is how long an agent goes on that no server wants to hear of.
	deafness = 30 * time.Minute
)

// Heartbeat is the body of one.
type Heartbeat struct {
	// Callback is where the agent listens.
	Callback string `json:"callback_url"`
	Version  string `json:"agent_version"`
	Token    string `json:"agent_token"`
	// Certificate is the one to believe, in PEM form.
	Certificate string `json:"agent_verify_ca"`
}

// heart tells the server again and again that this agent is there.
type heart struct {
	caller *Caller // of its own
	beat   Heartbeat
	// timeout is how long the server waits for a heartbeat, quick the interval when there is news.
	timeout, quick time.Duration
	// busy tells whether an image is written: its progress is news.
	busy func() bool

	now chan struct{} // of one place: beat at once

	mu    sync.Mutex
	eager int // heartbeats to repeat quickly
}

func newHeart(caller *Caller, beat Heartbeat, timeout time.Duration, busy func() bool) *heart {
	return &heart{caller: caller, beat: beat, timeout: timeout, quick: quickBeat, busy: busy,
		now: make(chan struct{}, 1), eager: eagerBeats}
}

// hurry has the next heartbeat sent at once, and repeated until somebody commands.
func (h *heart) hurry() {
	h.expect(eagerBeats)
	select {
	case h.now <- struct{}{}:
	default: // one is on its way
	}
}

// heard ends the repetition: somebody has asked this agent.
func (h *heart) heard() { h.expect(0) }

func (h *heart) expect(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.eager = n
}

// interval is the time to the next heartbeat, given whether the last one was taken.
func (h *heart) interval(taken bool) time.Duration {
	if !taken {
		return h.quick + rand.N(h.quick)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy() || h.eager > 0 {
		return h.quick
	}
	return time.Duration((0.3 + 0.3*rand.Float64()) * float64(h.timeout))
}

// run sends heartbeats until the context ends, or nobody has taken one for a long time.
func (h *heart) run(ctx context.Context) error {
	var past history
	last := time.Now()
	for {
		begin := time.Now()
		err := h.caller.beat(ctx, h.beat, &past)
		if err == nil || h.busy() {
			last = time.Now()
		}
		if err == nil {
			past = history{}
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(last) > deafness {
			return fmt.Errorf("no server has taken a heartbeat for %s; the last answer: %s", deafness,
				past.text)
		}
		h.mu.Lock()
		h.eager = max(0, h.eager-1)
		h.mu.Unlock()
		h.sleep(ctx, begin, err == nil)
	}
}

// sleep waits for the next heartbeat. What is news by then is looked at in between.
func (h *heart) sleep(ctx context.Context, begin time.Time, taken bool) {
	due := begin.Add(h.interval(taken))
	for {
		wait := min(time.Until(due), h.quick)
		if wait <= 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-h.now:
			return
		case <-time.After(wait):
		}
		if h.busy() {
			due = begin.Add(h.quick)
		}
	}
}

// beat tells one server, whichever takes it. An error that another time may be none is said once.
func (c *Caller) beat(ctx context.Context, body Heartbeat, past *history) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode heartbeat: %w", err)
	}
	_, err = c.round(ctx, call{method: http.MethodPost, path: "/v1/heartbeat/" + c.Node,
		version: heartbeatVersion, body: data}, past)
	if r := (*Refusal)(nil); errors.As(err, &r) && r.Error() != past.text {
		past.text = r.Error()
		c.say(past.text + "; trying again")
	}
	return err
}
