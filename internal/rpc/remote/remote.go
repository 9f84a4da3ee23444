// Package remote brings what the API asks of conductors to the one that owns the node, over the
// bus: Router asks, Serve answers. It decides only where to; what is asked is package rpc's, who
// owns is package ingot's. An owner that does not answer is no reason to fail: any conductor that
// has the hardware type can reserve any node.
package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"ingot/internal/bus"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

const (
	// timeout bounds a call; conductors wait for BMCs meanwhile.
	timeout = 2 * time.Minute
	// acceptWithin is how long after it was sent a call may be begun. One that reaches a conductor
	// which was stopped for a while is refused: somebody else has done it by then.
	acceptWithin = 5 * time.Second
	// look is how often a caller that waits looks whether the owner is still alive.
	look = 500 * time.Millisecond
)

// Router is the conductor that the API asks: it hands each call to the owner of the node.
type Router struct {
	// Local is the conductor of this process, Host its name.
	Local rpc.Conductor
	Host  string
	Bus   *bus.Bus
	Store *store.Store
	// Members returns the conductors there are.
	Members func() []*ingot.Conductor
	// Lease returns a context that ends when others may take the local conductor for dead: whoever
	// has asked it for something does that elsewhere then. nil: it never does.
	Lease func() context.Context
	Log   *slog.Logger
}

var _ rpc.Conductor = (*Router)(nil)

// request is a call on the wire.
type request struct {
	Method string
	// Until is when it has to be begun, by the store's clock.
	Until time.Time
	Args  json.RawMessage
}

// answer is what comes back: a value, or an error with its kind.
type answer struct {
	Value json.RawMessage `json:",omitempty"`
	Kind  ingot.Kind      `json:",omitempty"`
	Error string          `json:",omitempty"`
	// Unknown tells that the one who was asked is of an older version, which has no such call.
	Unknown bool `json:",omitempty"`
}

// subject is where a conductor hears calls.
func subject(host string) string { return "conductor." + bus.Address(host) }

// place is where a call is done: by the conductor host, or, if that does not answer, here, if this
// one may: it is in the group of the node and has its hardware type.
type place struct {
	host string
	here bool
}

// ofNode returns who shall do something with a node: its owner, or, if all who could be are draining,
// one of them. Unavailable if there is none: a conductor of another group may not reach its BMC.
func (r *Router) ofNode(ctx context.Context, ident string) (place, error) {
	members := r.Members()
	if len(members) == 0 {
		return place{r.Host, true}, nil
	}
	n, err := r.Store.Node(ctx, ident)
	if err != nil {
		return place{}, err
	}
	p := place{host: ingot.Owner(members, n)}
	for _, m := range members {
		if !m.Alive || m.Group != n.ConductorGroup || !m.Has(n.Driver) {
			continue
		}
		p.here = p.here || m.Hostname == r.Host
		if p.host == "" {
			p.host = m.Hostname
		}
	}
	if p.host == "" {
		return p, ingot.Errorf(ingot.Unavailable, "No valid host was found. Reason: No conductor "+
			`service registered which supports driver %s for conductor group "%s".`, n.Driver,
			n.ConductorGroup)
	}
	return p, nil
}

// ofDriver returns who knows a hardware type: this one if it does.
func (r *Router) ofDriver(driver string) place {
	other := r.Host
	for _, m := range r.Members() {
		switch {
		case !m.Alive || !m.Has(driver):
		case m.Hostname == r.Host:
			return place{r.Host, true}
		default:
			other = m.Hostname
		}
	}
	return place{other, true}
}

// call asks a conductor and decodes its answer into out, which may be nil; at is this one to do it
// here, which is also done when the other one is gone.
func (r *Router) call(ctx context.Context, at place, method string, args, out any,
	here func(rpc.Conductor) error) error {
	if at.host == r.Host {
		return here(r.Local)
	}
	until := r.Store.Now().Add(acceptWithin)
	text, err := encode(args)
	if err != nil {
		return err
	}
	message, err := json.Marshal(request{Method: method, Until: until, Args: text})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	a, err := r.ask(ctx, at.host, message, until)
	if a.Unknown {
		err = ingot.Errorf(ingot.Unavailable, "%s", a.Error)
	}
	if ingot.KindOf(err) == ingot.Unavailable && at.here {
		r.Log.Warn("the owner does not answer; doing it here", "owner", at.host, "method", method,
			"error", err)
		return here(r.Local)
	}
	if err != nil {
		return err
	}
	if a.Kind != "" || a.Error != "" {
		return &ingot.Error{Kind: a.Kind, Message: a.Error}
	}
	if out == nil {
		return nil
	}
	return decode(a.Value, out)
}

// ask waits for the answer as long as the owner is alive. Unavailable if it is not, and has not
// begun, or its lease has ended, so that what it still does counts for nothing.
func (r *Router) ask(ctx context.Context, host string, message []byte, until time.Time) (answer,
	error) {
	type result struct {
		data []byte
		err  error
	}
	got := make(chan result, 1)
	go func() {
		data, err := r.Bus.Call(ctx, subject(host), message)
		got <- result{data, err}
	}()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case res := <-got:
			if res.err != nil {
				return answer{}, res.err
			}
			var a answer
			if err := decode(res.data, &a); err != nil {
				return a, fmt.Errorf("answer of conductor %s: %w", host, err)
			}
			return a, nil
		case <-tick.C:
			if r.Store.Now().After(until) && !r.lives(host) {
				return answer{}, ingot.Errorf(ingot.Unavailable, "the lease of conductor %s has "+
					"ended", host)
			}
		}
	}
}

func (r *Router) lives(host string) bool {
	for _, m := range r.Members() {
		if m.Hostname == host {
			return m.Alive
		}
	}
	return false
}

func encode(v any) (json.RawMessage, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a call: %w", err)
	}
	return text, nil
}

// decode keeps numbers as they were written.
func decode(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return ingot.Errorf(ingot.Invalid, "decode a message of the bus: %w", err)
	}
	return nil
}
