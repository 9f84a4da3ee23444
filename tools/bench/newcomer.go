package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/ingot"
	"ingot/internal/postgres"
	"ingot/internal/store"
)

const (
	newcomerFiles  = 50
	newcomerSize   = 100_000_000 // bytes of each
	newcomerRounds = 3
	// copiesAtOnce of the yardstick, as many as of ingot.
	copiesAtOnce = 4
)

// measureNewcomer measures how soon a conductor that joins has what another one has.
func measureNewcomer(ctx context.Context, b *bench) (s section, err error) {
	files, err := b.room()
	if err != nil {
		return s, err
	}
	s = section{
		Title: "New conductor: boot files from its peer",
		How: fmt.Sprintf(`%d boot files of %d MB are wished for and held by one bin/ingot serve. A second one with
an empty cache joins (PostgreSQL of Debian on this host): from its exec until its boot_tree, which
it tells with each heartbeat (here each 100 ms), is that of the first. Yardstick: the same files
read from net/http by loopback and written, %d at once, each flushed to the disk before it is
renamed; nothing is hashed. Taken in turns; caches are empty and flushed before. Median of %d.
Origin asked: requests at the web server that is the files' source while conductors joined.
`, files, newcomerSize/1_000_000, copiesAtOnce, newcomerRounds),
	}
	p, err := postgres.Start("fsync=on")
	if err != nil {
		return s, err
	}
	defer p.Stop()
	st, err := store.Open(ctx, store.Options{URL: p.URL})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	origin := &origin{}
	url, stop, err := serveHTTP(origin)
	if err != nil {
		return s, err
	}
	defer stop()
	for i := range files {
		if err := st.WantBootFile(ctx, fmt.Sprintf("%s/%d", url, i)); err != nil {
			return s, err
		}
	}
	n := &newcomer{bench: b, store: st, database: p.URL, files: files}
	dir := filepath.Join(b.temp, "first")
	first, err := n.start(ctx, "first", dir)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, first.stop(), os.RemoveAll(dir)) }()
	if n.tree, err = n.whole(ctx, dir); err != nil {
		return s, err
	}
	before := origin.asked.Load()
	var joins, copies []float64
	for range newcomerRounds {
		took, err := n.join(ctx)
		if err != nil {
			return s, err
		}
		joins = append(joins, took.Seconds())
		if took, err = n.copy(ctx, filepath.Join(dir, "boot")); err != nil {
			return s, err
		}
		copies = append(copies, took.Seconds())
	}
	bytes := float64(files) * newcomerSize
	s.Figures = []figure{
		{What: fmt.Sprintf("%d files of %d MB", files, newcomerSize/1_000_000), Unit: "s",
			Value: median(joins), Yardstick: median(copies), Beside: "raw copy", N: newcomerRounds},
		{What: "that is", Unit: "MB/s", Value: bytes / median(joins) / 1e6,
			Yardstick: bytes / median(copies) / 1e6, Beside: "raw copy", N: newcomerRounds},
		{What: "origin asked", Unit: "times", Value: float64(origin.asked.Load() - before),
			N: newcomerRounds},
	}
	return s, nil
}

// room is how many files there is room for, twice and with a reserve.
func (b *bench) room() (int, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(b.temp, &fs); err != nil {
		return 0, fmt.Errorf("look for room on the disk: %w", err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	files := min(newcomerFiles, int((free-2*gibi)/(2*newcomerSize)))
	if files < 1 {
		return 0, fmt.Errorf("%s has %d MB free; %d are needed for one file", b.temp, free/1_000_000,
			(2*newcomerSize+2*gibi)/1_000_000)
	}
	return files, nil
}

// newcomer is conductors that join one that has files.
type newcomer struct {
	*bench
	store    *store.Store
	database string
	files    int
	tree     string // of who has all
}

func (n *newcomer) start(ctx context.Context, host, dir string) (*service, error) {
	boot, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return n.startIngot(ctx, dir, "INGOT_STORE_URL="+n.database, "INGOT_CLUSTER_LISTEN=127.0.0.1:0",
		"INGOT_CONDUCTOR_HOST="+host, "INGOT_BOOT_HTTP_LISTEN="+boot,
		"INGOT_CONDUCTOR_HEARTBEAT_INTERVAL=100ms")
}

// whole waits until the first conductor has all files and returns its tree, which it tells since.
func (n *newcomer) whole(ctx context.Context, dir string) (string, error) {
	for last, since := "", time.Now(); ; {
		c, err := n.store.Conductor(ctx, "first")
		if err != nil && ingot.KindOf(err) != ingot.NotFound {
			return "", err
		}
		held, err := filepath.Glob(filepath.Join(dir, "boot", "????????????????????????????????*"))
		if err != nil {
			return "", err
		}
		if c == nil || c.BootTree != last || len(held) < n.files {
			if c != nil {
				last = c.BootTree
			}
			since = time.Now()
		}
		if time.Since(since) > 2*time.Second {
			return last, nil
		}
		if err := pause(ctx); err != nil {
			return "", err
		}
	}
}

// pause is between two looks.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Millisecond):
		return nil
	}
}

// join starts a second conductor and returns how long it took to have the tree of the first.
func (n *newcomer) join(ctx context.Context) (took time.Duration, err error) {
	dir := filepath.Join(n.temp, "second")
	unix.Sync()
	start := time.Now()
	second, err := n.start(ctx, "second", dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, second.stop(), os.RemoveAll(dir)) }()
	for {
		c, err := n.store.Conductor(ctx, "second")
		switch {
		case err != nil && ingot.KindOf(err) != ingot.NotFound:
			return 0, err
		case err == nil && c.BootTree == n.tree:
			return time.Since(start), nil
		}
		if err := pause(ctx); err != nil {
			return 0, err
		}
	}
}

// copy copies the files of a directory by HTTP and returns how long that took.
func (n *newcomer) copy(ctx context.Context, from string) (took time.Duration, err error) {
	names, err := filepath.Glob(filepath.Join(from, "*"))
	if err != nil {
		return 0, err
	}
	url, stop, err := serveHTTP(http.FileServer(http.Dir(from)))
	if err != nil {
		return 0, err
	}
	defer stop()
	dir := filepath.Join(n.temp, "copy")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	unix.Sync()
	start := time.Now()
	work := make(chan string, len(names))
	for _, name := range names {
		work <- filepath.Base(name)
	}
	close(work)
	var copies sync.WaitGroup
	var mu sync.Mutex // guards err
	for range copiesAtOnce {
		copies.Go(func() {
			for name := range work {
				if failed := copyFile(ctx, url+"/"+name, filepath.Join(dir, name)); failed != nil {
					mu.Lock()
					err = errors.Join(err, failed)
					mu.Unlock()
				}
			}
		})
	}
	copies.Wait()
	return time.Since(start), err
}

// copyFile copies what a URL has to the disk.
func copyFile(ctx context.Context, url, to string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", url, resp.Status)
	}
	f, err := os.Create(to + ".part")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Sync(), f.Close(), os.Rename(f.Name(), to))
}

// origin is a web server with one file at each path, and no two alike.
type origin struct{ asked atomic.Int64 }

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.asked.Add(1)
	w.Header().Set("ETag", `"`+r.URL.Path+`"`)
	w.Header().Set("Content-Length", fmt.Sprint(newcomerSize))
	block := make([]byte, 1_000_000)
	rand.Read(block) // no disk makes it smaller
	for range newcomerSize / len(block) {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// serveHTTP serves on the loopback until stop is called.
func serveHTTP(h http.Handler) (url string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h}
	go server.Serve(l)
	return "http://" + l.Addr().String(), func() { server.Close() }, nil
}
