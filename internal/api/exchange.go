package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"ingot/internal/ingot"
)

// requestIDHeader carries the id with which the log speaks of a request.
const requestIDHeader = "Openstack-Request-Id"

// exchange is what the outermost handler knows about a request and its answer.
type exchange struct {
	http.ResponseWriter
	id       string
	route    string // pattern, set when it is known
	suffixed bool
	status   int
}

// WriteHeader notes the status.
func (e *exchange) WriteHeader(status int) {
	if e.status == 0 {
		e.status = status
	}
	e.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (e *exchange) Unwrap() http.ResponseWriter { return e.ResponseWriter }

type exchangeKey struct{}

// exchangeOf returns the exchange that serve put into the request's context.
func exchangeOf(r *http.Request) *exchange {
	return r.Context().Value(exchangeKey{}).(*exchange)
}

// serve is everything around the routes: an id, the canonical path, and an answer, a log line
// and an observation for whatever happens.
func (a *API) serve(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		e := &exchange{ResponseWriter: w, id: "req-" + ingot.NewUUID()}
		e.Header().Set(requestIDHeader, e.id)
		ctx := context.WithValue(r.Context(), exchangeKey{}, e)
		inner := r.WithContext(ctx)
		location := *r.URL
		location.Path, e.suffixed = canonical(r.URL.Path)
		location.RawPath = ""
		inner.URL = &location
		defer func() {
			if p := recover(); p != nil {
				a.panicked(e, inner, p)
			}
			took := time.Since(start)
			a.o.Observe(Observation{Route: e.route, Method: r.Method, Status: e.status,
				Duration: took})
			if a.o.Log.Enabled(ctx, slog.LevelDebug) { // the arguments alone are seven allocations
				a.o.Log.DebugContext(ctx, "request", "request", e.id, "method", r.Method,
					"path", r.URL.Path, "status", e.status, "duration", took)
			}
		}()
		mux.ServeHTTP(e, inner)
	})
}

// panicked turns a bug into an answer, so that one request does not take others with it.
func (a *API) panicked(e *exchange, r *http.Request, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	a.o.Log.ErrorContext(r.Context(), "panic in a handler", "request", e.id, "method", r.Method,
		"path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if e.status != 0 {
		return
	}
	writeFault(e, http.StatusInternalServerError, fault("Server", "Internal error; the log of "+
		"the service tells more under the request id "+e.id+"."))
}
