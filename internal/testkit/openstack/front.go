package openstack

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Front is a proxy before one service, which a test can break.
type Front struct {
	// URL is what to tell the program under test in place of the service's.
	URL string

	requests atomic.Int64

	mu      sync.Mutex // guards what follows; each may be nil
	trouble http.HandlerFunc
	watch   func(*http.Request)
	change  func(*http.Response) error
}

// NewFront starts a proxy before the service at a URL, for as long as the test runs.
func NewFront(t testing.TB, service string) *Front {
	t.Helper()
	target, err := url.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	f := &Front{}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = target.Host },
		Transport: &http.Transport{DisableKeepAlives: true}, // see SignIn
		ModifyResponse: func(r *http.Response) error {
			f.mu.Lock()
			change := f.change
			f.mu.Unlock()
			if change == nil {
				return nil
			}
			return change(r)
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		f.mu.Lock()
		watch, trouble := f.watch, f.trouble
		f.mu.Unlock()
		if watch != nil {
			watch(r)
		}
		if trouble != nil {
			trouble(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f.URL = server.URL
	return f
}

// Break has all requests answered by a handler and not by the service; nil mends it.
func (f *Front) Break(with http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trouble = with
}

// Watch has a function called with all requests, which may be several at the same time.
func (f *Front) Watch(watch func(*http.Request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watch = watch
}

// Change has a function change all answers of the service.
func (f *Front) Change(change func(*http.Response) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change = change
}

// Requests is how many requests there were.
func (f *Front) Requests() int64 { return f.requests.Load() }

// Slow is for Change: the service's clock is slow by so much, in its answers' headers and in all times
// that Keystone tells.
func Slow(by time.Duration) func(*http.Response) error {
	return func(r *http.Response) error {
		if at, err := http.ParseTime(r.Header.Get("Date")); err == nil {
			r.Header.Set("Date", at.Add(-by).UTC().Format(http.TimeFormat))
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		body = moment.ReplaceAllFunc(body, func(text []byte) []byte {
			at, err := time.Parse(time.RFC3339, string(text))
			if err != nil {
				return text
			}
			return []byte(at.Add(-by).Format("2006-01-02T15:04:05.000000Z"))
		})
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
}

var moment = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z`)

// HangUp ends a connection without an answer, as a service does that has died; for Break.
func HangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Status answers with a status and no more; for Break.
func Status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}
