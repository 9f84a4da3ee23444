package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/bus"
	"ingot/internal/ingot"
	"ingot/internal/postgres"
	"ingot/internal/store"
)

const (
	broadcastRounds = 21
	broadcastSize   = 64 * kibi // of a boot file
	// meshTimeout bounds the time until all are connected; 50 in one process need 20 s of two cores.
	meshTimeout = 2 * time.Minute
)

// broadcastBounds are the numbers of conductors, and what was aimed at, ms.
var broadcastBounds = []struct {
	conductors int
	bound      float64
}{{3, 50}, {10, 100}, {50, 500}}

// measureBroadcast measures what a deployment waits for before its machine is started.
func measureBroadcast(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: "Broadcast and acknowledgement over conductors",
		How: fmt.Sprintf(`p50 of %d rounds. Conductors of one process, each with a bus, a keeper of boot files with a
directory of its own, and an HTTP socket; the buses are a mesh by TLS over the loopback, all share
PostgreSQL of Debian (fsync on). Bus: one tells all, each tells it back, until all have. Held:
what a deployment does before it starts its machine when all have kernel and ramdisk: ask each for
both by HTTP (Keeper.Await). New: the same just after kernel and ramdisk (%d KiB each) came from
their source and all were told; each fetches them from one that has them and writes them to the
disk before it says yes. Yardstick: what was aimed at.
`, broadcastRounds, broadcastSize/kibi),
	}
	for _, c := range broadcastBounds {
		fmt.Fprintf(b.progress, "  %d conductors\n", c.conductors)
		figures, err := b.broadcast(ctx, c.conductors)
		if errors.Is(err, errNoMesh) {
			s.How += fmt.Sprintf("Not measured: %d conductors; %v: too much else runs here.\n",
				c.conductors, err)
			continue
		}
		if err != nil {
			return s, fmt.Errorf("%d conductors: %w", c.conductors, err)
		}
		for _, f := range figures {
			f.What = fmt.Sprintf("%d conductors, %s", c.conductors, f.What)
			f.Unit, f.Yardstick, f.Beside, f.N = "ms", c.bound, "the aim", broadcastRounds
			s.Figures = append(s.Figures, f)
		}
	}
	return s, nil
}

func (b *bench) broadcast(ctx context.Context, n int) (figures []figure, err error) {
	p, err := postgres.Start("fsync=on")
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	st, err := store.Open(ctx, store.Options{URL: p.URL})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	dir, err := os.MkdirTemp(b.temp, "broadcast-")
	if err != nil {
		return nil, err
	}
	source, stop, err := serveHTTP(small{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &meeting{store: st, dir: dir, source: source, acknowledged: make(chan uint64, n)}
	defer func() {
		cancel()
		m.close()
		stop()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := m.open(ctx, n); err != nil {
		return nil, err
	}
	var told, held, fresh []float64
	for i := range uint64(broadcastRounds) {
		took, err := m.tell(ctx, i+1)
		if err != nil {
			return nil, err
		}
		told = append(told, took)
		files, took, err := m.fresh(ctx)
		if err != nil {
			return nil, err
		}
		fresh = append(fresh, took)
		if took, err = m.await(ctx, files); err != nil {
			return nil, err
		}
		held = append(held, took)
	}
	return []figure{{What: "bus", Value: median(told)}, {What: "held", Value: median(held)},
		{What: "new", Value: median(fresh)}}, nil
}

// meeting is conductors that hear one another; the first one speaks.
type meeting struct {
	store        *store.Store
	dir          string
	source       string // URL below which each path is a file
	acknowledged chan uint64

	keepers []*bootfile.Keeper
	buses   []*bus.Bus
	urls    []string
	stops   []func()
	running sync.WaitGroup
	files   int
}

const (
	wakeSubject  = "boot.files" // as in package server
	askSubject   = "bench.ask"
	replySubject = "bench.reply"
)

// errNoMesh says that the processors did not suffice to connect all.
var errNoMesh = fmt.Errorf("not all were connected within %s", meshTimeout)

func (m *meeting) open(ctx context.Context, n int) error {
	key := make([]byte, bus.KeySize)
	rand.Read(key)
	var addresses []string
	deadline := time.Now().Add(meshTimeout)
	for i := range n { // one after the other, as hosts are started
		if err := m.add(i, key); err != nil {
			return err
		}
		if err := m.buses[i].SetPeers(addresses); err != nil {
			return err
		}
		for m.buses[i].Peers() < i {
			if time.Now().After(deadline) {
				return errNoMesh
			}
			if err := pause(ctx); err != nil {
				return err
			}
		}
		addresses = append(addresses, m.buses[i].MeshAddress())
	}
	err := m.buses[0].Handle(replySubject, func(_ context.Context, data []byte) []byte {
		m.acknowledged <- binary.BigEndian.Uint64(data)
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range m.keepers {
		m.running.Go(func() { _ = k.Run(ctx) }) // never fails
	}
	// The mesh is whole when all have answered.
	for {
		round, cancel := context.WithTimeout(ctx, time.Second)
		_, err := m.tell(round, 0)
		cancel()
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return errNoMesh
		}
	}
}

// add makes conductor i.
func (m *meeting) add(i int, key []byte) error {
	b, err := bus.Open(bus.Options{Mesh: &bus.Mesh{Listen: "127.0.0.1:0", Key: key}})
	if err != nil {
		return err
	}
	m.buses = append(m.buses, b)
	log := slog.New(slog.DiscardHandler)
	files := bootfile.New(filepath.Join(m.dir, fmt.Sprint(i)), &http.Client{Transport: &http.Transport{}},
		log)
	files.Peers = func() (urls []string) {
		for j, url := range m.urls {
			if j != i {
				urls = append(urls, url)
			}
		}
		return urls
	}
	url, stop, err := serveHTTP(filesOf(files))
	if err != nil {
		return err
	}
	m.urls, m.stops = append(m.urls, url), append(m.stops, stop)
	k := &bootfile.Keeper{Cache: files, Store: m.store, Host: fmt.Sprint(i), Log: log,
		Quorum: bootfile.Quorum{Timeout: time.Minute}}
	k.Tell = func() { _ = b.Tell(wakeSubject, nil) } // others learn of it later
	k.Others = func(string) map[string]string {
		urls := map[string]string{}
		for j, url := range m.urls {
			if j != i {
				urls[fmt.Sprint(j)] = url
			}
		}
		return urls
	}
	m.keepers = append(m.keepers, k)
	wake := b.Handle(wakeSubject, func(context.Context, []byte) []byte {
		k.Wake()
		return nil
	})
	return errors.Join(wake, b.Handle(askSubject, func(_ context.Context, data []byte) []byte {
		_ = b.Tell(replySubject, data) // a lost one is missed
		return nil
	}))
}

func (m *meeting) close() {
	m.running.Wait()
	for _, stop := range m.stops {
		stop()
	}
	for _, b := range m.buses {
		b.Close()
	}
}

// filesOf answers for the files of a conductor, as package bootd does.
func filesOf(files *bootfile.Cache) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /files/{digest}/{name}", func(w http.ResponseWriter, r *http.Request) {
		var f *os.File
		var err error
		if bootfile.HeldOnly(r) {
			f, err = files.Open(r.PathValue("digest"))
		} else {
			f, err = files.Fetch(r.Context(), r.PathValue("digest"))
		}
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		http.ServeContent(w, r, "", time.Time{}, f)
	})
	return mux
}

// tell tells all conductors a number, and returns the milliseconds until all have told it back.
func (m *meeting) tell(ctx context.Context, number uint64) (float64, error) {
	start := time.Now()
	data := binary.BigEndian.AppendUint64(nil, number)
	if err := m.buses[0].Tell(askSubject, data); err != nil {
		return 0, err
	}
	for left := len(m.buses); left > 0; {
		select {
		case got := <-m.acknowledged:
			if got == number {
				left--
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return milliseconds(start), nil
}

func milliseconds(since time.Time) float64 {
	return float64(time.Since(since).Microseconds()) / 1e3
}

// fresh has the first conductor hold a new kernel and ramdisk, and returns the milliseconds from
// then on until all do.
func (m *meeting) fresh(ctx context.Context) (files []ingot.File, took float64, err error) {
	for range 2 {
		m.files++
		f, err := m.keepers[0].Hold(ctx, fmt.Sprintf("%s/%d", m.source, m.files))
		if err != nil {
			return nil, 0, err
		}
		files = append(files, f)
	}
	took, err = m.await(ctx, files)
	return files, took, err
}

// await returns the milliseconds that a deployment waits for the others.
func (m *meeting) await(ctx context.Context, files []ingot.File) (float64, error) {
	start := time.Now()
	problem := ""
	err := m.keepers[0].Await(ctx, "", files, func(level, text string) {
		if level == ingot.LevelWarning {
			problem = text
		}
	})
	if err == nil && problem != "" {
		err = errors.New(problem)
	}
	return milliseconds(start), err
}

// small is a web server with a small file at each path, and no two alike.
type small struct{}

func (small) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content := make([]byte, broadcastSize)
	rand.Read(content)
	w.Header().Set("ETag", `"`+r.URL.Path+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}
