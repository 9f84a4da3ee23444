package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// rereads is how long a BMC tries to read on where a server breaks off. The software of a machine
	// gives a drive 30 s for one read.
	rereads = 25 * time.Second
	// readTimeout is after how long of silence a BMC takes a server for dead.
	readTimeout = 5 * time.Second
	// rereadPause is between two tries.
	rereadPause = 200 * time.Millisecond
)

// A slot is the part of a BMC that reads what is in a virtual drive: from a URL, when the machine does, and again
// where it was if the server breaks off. To QEMU it is a web server on loopback.
type slot struct {
	net *Network
	web *http.Transport
	// persists tells whether a read is tried again.
	persists func() bool

	mu     sync.Mutex // guards the fields below
	url    string     // of the medium
	tag    string     // ETag of what was read of it
	server *http.Server
	at     string // where QEMU reads
}

// show has the slot read a URL from now on, and returns where.
func (s *slot) show(url string) (at string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.url != url {
		s.url, s.tag = url, ""
	}
	if s.server != nil {
		return s.at, nil
	}
	var l net.Listener
	err = s.net.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("virtual drive: %w", err)
	}
	s.server, s.at = &http.Server{Handler: http.HandlerFunc(s.serve)}, "http://"+l.Addr().String()+"/medium"
	go s.server.Serve(l) // until close
	return s.at, nil
}

// close ends the slot.
func (s *slot) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return nil
	}
	defer s.web.CloseIdleConnections()
	return s.server.Close()
}

// serve answers QEMU, which asks for a range.
func (s *slot) serve(w http.ResponseWriter, r *http.Request) {
	var first, last int64
	n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
	if n < 2 { // it opens the medium
		s.open(w, r)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/*", first, last))
	w.Header().Set("Content-Length", strconv.FormatInt(last+1-first, 10))
	w.WriteHeader(http.StatusPartialContent)
	for begun := time.Now(); first <= last; {
		got, err := s.read(r.Context(), w, first, last)
		if first += got; got > 0 {
			begun = time.Now()
		}
		if err == nil {
			continue
		}
		if !s.persists() || time.Since(begun) > rereads || errors.Is(err, errOther) || r.Context().Err() != nil {
			s.net.opts.Log.Warn("the BMC cannot read its medium", "error", err)
			panic(http.ErrAbortHandler) // the machine has a read error
		}
		time.Sleep(rereadPause)
	}
}

// open tells QEMU how large the medium is.
func (s *slot) open(w http.ResponseWriter, r *http.Request) {
	resp, err := s.ask(r.Context(), http.MethodHead, "")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	resp.Body.Close()
	for _, name := range []string{"Accept-Ranges", "Content-Length"} {
		w.Header().Set(name, resp.Header.Get(name))
	}
	w.WriteHeader(resp.StatusCode)
}

// errOther says that there is something else at the URL than before.
var errOther = errors.New("the medium has changed while it was read")

// read copies a part of a range, all of it if nothing fails.
func (s *slot) read(ctx context.Context, w io.Writer, first, last int64) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := s.ask(ctx, http.MethodGet, fmt.Sprintf("bytes=%d-%d", first, last))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent ||
		!strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/", first, last)) {
		return 0, fmt.Errorf("asked for bytes %d to %d: %s", first, last, resp.Status)
	}
	if err := s.same(resp.Header.Get("ETag")); err != nil {
		return 0, err
	}
	silent := time.AfterFunc(readTimeout, cancel)
	defer silent.Stop()
	return io.Copy(w, watched{resp.Body, silent})
}

// same tells whether the bytes are of the medium that was read before.
func (s *slot) same(tag string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tag != "" && s.tag != tag {
		return errOther
	}
	s.tag = tag
	return nil
}

func (s *slot) ask(ctx context.Context, method, part string) (*http.Response, error) {
	s.mu.Lock()
	url := s.url
	s.mu.Unlock()
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	if part != "" {
		r.Header.Set("Range", part)
	}
	return (&http.Client{Transport: s.web}).Do(r)
}

// watched puts off a timer each time that something is read.
type watched struct {
	io.Reader
	silent *time.Timer
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.silent.Reset(readTimeout)
	return n, err
}
