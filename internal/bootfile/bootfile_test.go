package bootfile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/ingot"
)

func newCache(t *testing.T) *bootfile.Cache {
	t.Helper()
	return bootfile.New(filepath.Join(t.TempDir(), "boot"), nil, slog.New(slog.DiscardHandler))
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c *bootfile.Cache, href, content string) {
	t.Helper()
	f, err := c.Hold(t.Context(), href)
	if err != nil {
		t.Fatal(err)
	}
	want := ingot.File{SHA256: digest(content), Name: "vmlinuz", Size: int64(len(content))}
	if f != want {
		t.Fatalf("Hold = %+v, want %+v", f, want)
	}
	r, err := c.Open(f.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != content {
		t.Fatalf("content %q, %v, want %q", got, err, content)
	}
}

func TestALocalFileIsFollowedWhenItChanges(t *testing.T) {
	t.Parallel()
	c, path := newCache(t), filepath.Join(t.TempDir(), "vmlinuz")
	write(t, path, "first")
	expect(t, c, "file://"+path, "first")
	expect(t, c, path, "first")
	write(t, path, "second one")
	expect(t, c, "file://"+path, "second one")
	// Machines that were told the first digest can still fetch it.
	r, err := c.Open(digest("first"))
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// server serves one file and counts the times it sent the content.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	content string
	sent    atomic.Int32
	gate    chan struct{} // nil: open
}

func newServer(t *testing.T, content string) *server {
	s := &server{content: content}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		body := s.content
		s.mu.Unlock()
		etag := `"` + digest(body) + `"`
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		s.sent.Add(1)
		if s.gate != nil {
			<-s.gate
		}
		io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestAWebFileIsFetchedAgainOnlyWhenItChanged(t *testing.T) {
	t.Parallel()
	c, s := newCache(t), newServer(t, "first")
	for range 3 {
		expect(t, c, s.URL+"/boot/vmlinuz?x=1", "first")
	}
	if n := s.sent.Load(); n != 1 {
		t.Errorf("sent %d times, want 1", n)
	}
	s.mu.Lock()
	s.content = "second"
	s.mu.Unlock()
	expect(t, c, s.URL+"/boot/vmlinuz?x=1", "second")
	if n := s.sent.Load(); n != 2 {
		t.Errorf("sent %d times, want 2", n)
	}
}

func TestConcurrentCallersShareOneFetch(t *testing.T) {
	t.Parallel()
	c, s := newCache(t), newServer(t, "content")
	s.gate = make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range cap(errs) {
		wg.Go(func() {
			_, err := c.Hold(t.Context(), s.URL+"/vmlinuz")
			errs <- err
		})
	}
	close(s.gate)
	wg.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := s.sent.Load(); n != 1 {
		t.Errorf("sent %d times, want 1", n)
	}
}

func TestACallerThatGivesUpDoesNotWait(t *testing.T) {
	t.Parallel()
	c, s := newCache(t), newServer(t, "content")
	s.gate = make(chan struct{})
	defer close(s.gate)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Hold(ctx, s.URL+"/vmlinuz"); err == nil {
		t.Error("a file was held that nobody sent")
	}
}

func TestALostFileIsFetchedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := bootfile.New(dir, nil, slog.New(slog.DiscardHandler))
	s := newServer(t, "content")
	expect(t, c, s.URL+"/vmlinuz", "content")
	if err := os.Remove(filepath.Join(dir, digest("content"))); err != nil {
		t.Fatal(err)
	}
	expect(t, c, s.URL+"/vmlinuz", "content")
}

func TestABrokenTransferLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := bootfile.New(dir, nil, slog.New(slog.DiscardHandler))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "only this")
	}))
	defer s.Close()
	_, err := c.Hold(t.Context(), s.URL+"/vmlinuz")
	if ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestASilentSourceIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"", "the beginning"} {
		c := newCache(t)
		c.IdleTimeout = 50 * time.Millisecond
		ended := make(chan struct{})
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if answer != "" {
				io.WriteString(w, answer)
				w.(http.Flusher).Flush()
			}
			select {
			case <-r.Context().Done():
			case <-ended:
			}
		}))
		_, err := c.Hold(t.Context(), s.URL+"/vmlinuz")
		if ingot.KindOf(err) != ingot.Unavailable ||
			!strings.Contains(err.Error(), "sent nothing for 50ms; look at its server") {
			t.Errorf("after %q: error %v", answer, err)
		}
		close(ended)
		s.Close()
	}
}

func TestWhatKilledFetchesLeftIsRemoved(t *testing.T) {
	t.Parallel()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "vmlinuz")
	c := bootfile.New(dir, nil, slog.New(slog.DiscardHandler))
	old, running := filepath.Join(dir, "fetch-1"), filepath.Join(dir, "fetch-2")
	for _, name := range []string{old, running, path} {
		write(t, name, "content")
	}
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	expect(t, c, path, "content")
	if _, err := os.Stat(old); err == nil {
		t.Error("the file of a killed fetch is still there")
	}
	if _, err := os.Stat(running); err != nil {
		t.Errorf("the file of a running fetch: %v", err)
	}
}

func TestWhatCannotBeServedIsRefused(t *testing.T) {
	t.Parallel()
	c, dir := newCache(t), t.TempDir()
	c.MaxSize = 10
	c.AllowedPaths = []string{dir}
	inside := filepath.Join(dir, "vmlinuz")
	write(t, inside, "0123456789")
	expect(t, c, "file://"+inside, "0123456789")
	write(t, filepath.Join(dir, "empty"), "")
	write(t, filepath.Join(dir, "large"), "0123456789a")
	outside := filepath.Join(t.TempDir(), "secret")
	write(t, outside, "secret")
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for href, want := range map[string]string{
		"":                        "no URL",
		"ftp://host/vmlinuz":      `cannot fetch "ftp" URLs`,
		"file://host/vmlinuz":     "absolute path",
		"vmlinuz":                 "absolute path",
		"file://" + dir:           "not a regular file",
		"file://" + dir + "/no":   "no such file",
		"file://" + dir + "/link": "outside of the directories",
		"file://" + outside:       "outside of the directories",
		"file://" + dir + "/../" + filepath.Base(filepath.Dir(outside)) + "/secret": "outside",
		"file://" + dir + "/empty": "empty",
		"file://" + dir + "/large": "larger than 10 bytes",
	} {
		_, err := c.Hold(t.Context(), href)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("Hold(%q) = %v, want Invalid with %q", href, err, want)
		}
	}
}

func TestOpenTakesDigestsOnly(t *testing.T) {
	t.Parallel()
	c := newCache(t)
	for _, name := range []string{
		"", "..", "../../etc/passwd", strings.Repeat("A", 64), strings.Repeat("a", 63),
		strings.Repeat("a", 64), strings.Repeat("/", 64),
	} {
		if _, err := c.Open(name); ingot.KindOf(err) != ingot.NotFound {
			t.Errorf("Open(%q) = %v, want NotFound", name, err)
		}
	}
}

// What an active machine boots is asked for years later, by a server that was started again and
// whose source is gone.
func TestS1_10_HeldFilesOutliveTheServerAndTheSource(t *testing.T) {
	t.Parallel()
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "vmlinuz")
	write(t, path, "kernel")
	log := slog.New(slog.DiscardHandler)
	if _, err := bootfile.New(dir, nil, log).Hold(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	again := bootfile.New(dir, nil, log)
	for i := range 20 { // other deployments come and go
		write(t, path, fmt.Sprint("other kernel ", i))
		if _, err := again.Hold(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	f, err := again.Open(digest("kernel"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// A conductor that lies, breaks off, refuses or has nothing is passed over; what is kept is what was
// asked for.
func TestOtherConductorsAreNotTrusted(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("kernel", 10_000)
	var asked atomic.Int32
	peers := map[string]http.HandlerFunc{
		"lies": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "something else") },
		"breaks": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, content[:100])
			panic(http.ErrAbortHandler)
		},
		"refuses":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"has none": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"is silent": func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
	}
	c := bootfile.New(t.TempDir(), nil, slog.New(slog.DiscardHandler))
	c.IdleTimeout = 300 * time.Millisecond
	var urls []string
	for _, h := range peers {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if !bootfile.HeldOnly(r) {
				t.Error("a conductor is asked for more than what it holds")
			}
			h(w, r)
		}))
		t.Cleanup(s.Close)
		urls = append(urls, s.URL)
	}
	c.Peers = func() []string { return slices.Clone(urls) }
	if _, err := c.Fetch(t.Context(), digest(content)); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("error %v", err)
	}
	if got := int(asked.Load()); got != len(peers) {
		t.Errorf("%d were asked of %d", got, len(peers))
	}
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, content)
	}))
	t.Cleanup(good.Close)
	urls = append(urls, good.URL)
	f, err := c.Fetch(t.Context(), digest(content))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != content {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// roundTripper answers requests without a network.
type roundTripper func(r *http.Request) string

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r,
		Body: io.NopCloser(strings.NewReader(f(r)))}, nil
}

// A conductor that has sent wrong bytes is named in the log, and asked again only after a while.
func TestAConductorThatSentWrongBytesIsNotAskedForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := map[string]int{}
		lies := true
		client := &http.Client{}
		var log bytes.Buffer
		c := bootfile.New(t.TempDir(), client, slog.New(slog.NewTextHandler(&log, nil)))
		c.Peers = func() []string { return []string{"http://bad"} }
		fetch := func(content string) error {
			client.Transport = roundTripper(func(r *http.Request) string {
				if asked[r.URL.Host]++; lies {
					return "something else"
				}
				return content
			})
			f, err := c.Fetch(t.Context(), digest(content))
			if err == nil {
				f.Close()
			}
			return err
		}
		for i := range 5 {
			if err := fetch(fmt.Sprint("kernel ", i)); ingot.KindOf(err) != ingot.NotFound {
				t.Errorf("error %v", err)
			}
		}
		if asked["bad"] != 1 || strings.Count(log.String(), "of=http://bad") != 1 {
			t.Errorf("it was asked %d times\n%s", asked["bad"], &log)
		}
		time.Sleep(10 * time.Minute)
		lies = false
		if err := fetch("kernel"); err != nil || asked["bad"] != 2 {
			t.Errorf("later: %v, asked %d times", err, asked["bad"])
		}
	})
}

// A machine that gives up does not end the fetch: when it comes again the file is there.
func TestAFetchOutlivesWhoWaitsForIt(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		fmt.Fprint(w, "kernel")
	}))
	t.Cleanup(peer.Close)
	c := bootfile.New(t.TempDir(), nil, slog.New(slog.DiscardHandler))
	c.Peers = func() []string { return []string{peer.URL} }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Fetch(ctx, digest("kernel")); ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("error %v", err)
	}
	close(release)
	f, err := c.Fetch(t.Context(), digest("kernel"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
