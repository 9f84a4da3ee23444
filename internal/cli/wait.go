package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ingot/internal/ingot"
)

// settled are the states in which nothing more happens without a target.
var settled = []string{
	"enroll", "manageable", "available", "active",
}

// Entry is a line of a node's journal.
type Entry = ingot.Entry

// Watch asks for verbs and follows the node until it settles.
type Watch struct {
	Client *Client
	Show   func(Entry) // gets each entry of the journal as it comes

	after    int64 // journal position
	accepted bool  // the verb was
	blind    bool  // the journal may not be read
}

// Run asks for a verb and returns when the node has settled: an error unless in state want.
// The context's end stops watching, not the operation.
func (w *Watch) Run(ctx context.Context, ident, verb, want string) error {
	if err := w.skip(ctx, ident); err != nil {
		return err
	}
	if err := w.Client.Provision(ctx, ident, verb); err != nil {
		return err
	}
	w.accepted = true
	for {
		n, err := w.Client.Node(ctx, ident)
		if err != nil {
			return err
		}
		wait := 2 * time.Second
		done := settledIn(n)
		if done {
			wait = 0
		}
		if err := w.show(ctx, ident, wait); err != nil {
			return err
		}
		if done && n.ProvisionState != want {
			return failed(n, want)
		}
		if done {
			return nil
		}
	}
}

// settledIn tells whether nothing more happens to the node by itself.
func settledIn(n *Node) bool {
	switch n.ProvisionState {
	case "deploy failed", "clean failed", "error":
		return n.Reservation == ""
	}
	return n.Reservation == "" && n.TargetProvisionState == "" &&
		slices.Contains(settled, n.ProvisionState)
}

// skip moves to the end of the journal. Who may not read it, as a lessee, goes without.
func (w *Watch) skip(ctx context.Context, ident string) error {
	for {
		entries, err := w.Client.Journal(ctx, ident, w.after, 0)
		if w.blind = ExitCode(err) == ExitForbidden; w.blind {
			return nil
		}
		if err != nil || len(entries) == 0 {
			return err
		}
		w.after = entries[len(entries)-1].Seq
	}
}

// show shows what is new, waiting up to wait for the first entry.
func (w *Watch) show(ctx context.Context, ident string, wait time.Duration) error {
	if w.blind {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			return nil
		}
	}
	entries, err := w.Client.Journal(ctx, ident, w.after, wait)
	for _, e := range entries {
		w.Show(e)
		w.after = e.Seq
	}
	return err
}

func failed(n *Node, want string) error {
	reason := n.LastError
	if reason == "" {
		reason = "no reason on record; see `ingot node journal " + n.UUID + "`"
	}
	return &exitError{ExitFailed, fmt.Errorf("node %s is %s, not %s: %w",
		label(n), n.ProvisionState, want, errors.New(printable(reason)))}
}
