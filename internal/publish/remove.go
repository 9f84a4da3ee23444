package publish

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/swift"
)

// Remover takes media back from where they were put. What cannot be removed now is tried again until it
// has ended by itself, so nothing has to wait for it. Its fields are not changed once it runs.
type Remover struct {
	// Account has the objects; nil if there is no Swift any more: they end.
	Account Objects
	// Folder is that of this host, if it has one.
	Folder *Folder
	// Needs tells whether a node's media are still to be there.
	Needs func(ctx context.Context, node string) (bool, error)
	Log   *slog.Logger

	mu   sync.Mutex // guards late
	late map[Record]time.Time
}

const (
	// patience bounds one try, which a node waits for.
	patience = 10 * time.Second
	// retryEvery is the pause between tries.
	retryEvery = time.Minute
	// giveUp is after how long there is nothing left to remove, whatever an object's life was.
	giveUp = 24 * time.Hour
	// sweepEvery is how often the folder is looked through.
	sweepEvery = time.Hour
)

// Remove removes a medium, or has that done later. One that is gone is as good as removed. later tells why
// it is there still.
func (r *Remover) Remove(ctx context.Context, at Record) (later error) {
	err := r.remove(ctx, at)
	if err == nil || at.Store == InFolder {
		return err // files of the node's next deployment have such names, too; Sweep knows which are needed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.late == nil {
		r.late = map[Record]time.Time{}
	}
	r.late[at] = time.Now().Add(giveUp)
	return err
}

func (r *Remover) remove(ctx context.Context, at Record) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch {
	case at.Store == InFolder:
		if _, err := os.Stat(filepath.Dir(at.Place)); errors.Is(err, fs.ErrNotExist) {
			return ingot.Errorf(ingot.NotFound, "this host has no such directory; the server that has put it there removes "+
				"it within the hour")
		}
		names, err := named(at.Place, at.Name, "")
		if err != nil {
			return err
		}
		return removeFiles(at.Place, names)
	case at.Store == InSwift && r.Account != nil:
		err := r.Account.Delete(ctx, at.Place, at.Name)
		if ingot.KindOf(err) == ingot.NotFound { // the container is gone, too
			return nil
		}
		return err
	}
	return nil
}

// Run removes later what has to be, until ctx ends.
func (r *Remover) Run(ctx context.Context) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for swept := (time.Time{}); ; {
		if r.Folder != nil && time.Since(swept) >= sweepEvery {
			swept = time.Now()
			err := r.Folder.Sweep(func(node string) (bool, error) { return r.Needs(ctx, node) })
			if err != nil && ctx.Err() == nil {
				r.Log.Warn("virtual media that nobody needs are there still; tried again", "after", sweepEvery, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r.retry(ctx)
	}
}

func (r *Remover) retry(ctx context.Context) {
	r.mu.Lock()
	late := maps.Clone(r.late)
	r.mu.Unlock()
	for at, until := range late {
		err := r.remove(ctx, at)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && time.Now().Before(until):
			r.Log.Warn("a virtual medium is there still; tried again", "store", at.Store, "place", at.Place,
				"name", at.Name, "error", swift.Shorten(err.Error()))
			continue
		}
		r.mu.Lock()
		delete(r.late, at)
		r.mu.Unlock()
	}
}
