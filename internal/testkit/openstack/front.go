package openstack

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
)

// Front is a proxy before one service, which a test can break.
type Front struct {
	// URL is what to tell the program under test in place of the service's.
	URL string

	requests atomic.Int64
	trouble  atomic.Pointer[http.HandlerFunc]
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
		Transport: &http.Transport{},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.requests.Add(1)
		if trouble := f.trouble.Load(); trouble != nil {
			(*trouble)(w, r)
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
	if with == nil {
		f.trouble.Store(nil)
		return
	}
	f.trouble.Store(&with)
}

// Requests is how many requests there were.
func (f *Front) Requests() int64 { return f.requests.Load() }

// HangUp ends a connection without an answer, as a service does that has died; for Break.
func HangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// Status answers with a status and no more; for Break.
func Status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}
