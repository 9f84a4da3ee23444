package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"ingot/internal/ingot"
)

// settled are the states in which nothing more happens by itself.
var settled = []string{
	"enroll", "manageable", "available", "active", "error", "deploy failed", "clean failed",
}

// A watch follows one node until it settles, printing its journal.
type watch struct {
	client *Client
	out    io.Writer
	after  int64 // journal position to start from
}

// newWatch notes where the journal stands before the caller asks for something.
func newWatch(ctx context.Context, c *Client, ident string, out io.Writer) (*watch, error) {
	w := &watch{client: c, out: out}
	for {
		entries, err := c.Journal(ctx, ident, w.after, 0)
		if err != nil || len(entries) == 0 {
			return w, err
		}
		w.after = entries[len(entries)-1].Seq
	}
}

// until prints what happens until the node settles; an error unless it settles in want.
func (w *watch) until(ctx context.Context, ident, want string) error {
	d := newDisplay(w.out)
	d.start = time.Now()
	defer d.close()
	for {
		n, err := w.client.Node(ctx, ident)
		if err != nil {
			return err
		}
		done := n.TargetProvisionState == "" && n.Reservation == "" &&
			slices.Contains(settled, n.ProvisionState) ||
			slices.Contains([]string{"deploy failed", "clean failed", "error"}, n.ProvisionState)
		wait := 2 * time.Second
		if done {
			wait = 0
		}
		entries, err := w.client.Journal(ctx, ident, w.after, wait)
		if err != nil {
			return err
		}
		w.print(d, entries)
		if !done {
			continue
		}
		if n.ProvisionState != want {
			return failed(n, want)
		}
		return nil
	}
}

func (w *watch) print(d *display, entries []ingot.Entry) {
	for _, e := range entries {
		d.entry(e)
		w.after = e.Seq
	}
}

func failed(n *Node, want string) error {
	reason := n.LastError
	if reason == "" {
		reason = "no reason on record; see `ingot node journal " + n.UUID + "`"
	}
	label := n.Name
	if label == "" {
		label = n.UUID
	}
	return &exitError{ExitFailed, fmt.Errorf("node %s is %s, not %s: %w",
		label, n.ProvisionState, want, errors.New(printable(reason)))}
}
