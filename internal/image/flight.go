package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// progressInterval is the time between two reports of progress.
const progressInterval = 250 * time.Millisecond

// flights are downloads in progress, each shared by everybody who wants its file.
type flights struct {
	mu    sync.Mutex
	going map[route]*flight // guarded by mu
}

// route is what those have in common who share a download. The same content from two places is
// two downloads, because one place may fail where the other does not.
type route struct {
	// source is a URL, path that of the file to be. Temporary files begin with path. What writes no
	// file has no path.
	source, path string
}

// flight is one download. It lasts as long as someone waits for it.
type flight struct {
	cancel  context.CancelFunc
	waiters int // guarded by flights.mu; zero once everybody has left

	done        chan struct{}
	err         error // valid once done is closed
	have, total atomic.Int64
}

// work is what a flight does; it calls note as it goes.
type work func(ctx context.Context, note func(done, total int64)) error

// do runs run for r, or waits for the one that runs already, and returns its error. When
// ctx ends, do returns early; the work itself ends when the last waiter has left.
func (g *flights) do(ctx context.Context, r route, progress func(done, total int64),
	run work) error {
	for {
		f, ok := g.join(ctx, r, run)
		if ok {
			return g.wait(ctx, f, progress)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// join returns the flight for r, starting it if there is none. It is not ok if the flight
// was abandoned and is about to end: its error would be about that.
func (g *flights) join(ctx context.Context, r route, run work) (*flight, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.going[r]; f != nil {
		if f.waiters == 0 {
			return f, false
		}
		f.waiters++
		return f, true
	}
	if r.path != "" {
		g.sweep(filepath.Dir(r.path))
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{cancel: cancel, waiters: 1, done: make(chan struct{})}
	f.total.Store(-1)
	g.going[r] = f
	go func() {
		f.err = run(ctx, func(done, total int64) {
			f.have.Store(done)
			f.total.Store(total)
		})
		cancel()
		g.mu.Lock()
		delete(g.going, r)
		g.mu.Unlock()
		close(f.done)
	}()
	return f, true
}

func (g *flights) wait(ctx context.Context, f *flight, progress func(done, total int64)) error {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-f.done:
			progress(f.have.Load(), f.total.Load())
			return f.err
		case <-ticker.C:
			progress(f.have.Load(), f.total.Load())
		case <-ctx.Done():
			g.leave(f)
			return context.Cause(ctx)
		}
	}
}

// leave gives up waiting. The last one ends the download and waits for that.
func (g *flights) leave(f *flight) {
	g.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	g.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
}

// sweep removes what downloads of earlier lives of the process left in dir. A partial file is
// worth nothing here: nobody knows whether its blocks reached the disk. The caller holds mu, so
// no flight can begin meanwhile; what cannot be removed is met again by who needs the name.
func (g *flights) sweep(dir string) {
	left, err := named(dir, "sha", tempMark)
	if err != nil {
		return
	}
	for _, temp := range left {
		if !g.owns(temp) {
			os.Remove(temp)
		}
	}
}

// owns tells whether a download in progress writes temp. The caller holds mu.
func (g *flights) owns(temp string) bool {
	for r := range g.going {
		if strings.HasPrefix(temp, r.path) {
			return true
		}
	}
	return false
}
