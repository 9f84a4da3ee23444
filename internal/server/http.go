package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ingot/internal/policy"
)

// serveAPI answers on the API's socket until ctx ends; requests that run then have ten seconds.
func (s *server) serveAPI(ctx context.Context) error {
	waiting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           endWith(waiting, s.handler()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		cancel()
		short, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer stop()
		err := srv.Shutdown(short)
		if errors.Is(err, context.DeadlineExceeded) {
			s.log.Warn("requests were broken off; their clients have to repeat them")
			err = srv.Close()
		}
		ended <- err
	}()
	if err := srv.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

// endWith ends long polls, and only those, when the process stops: a GET of a journal has no
// effect that could be cut in half.
func endWith(stop context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last := path.Base(r.URL.Path) // the API forgives a slash or .json at the end
		if r.Method != http.MethodGet || last != "journal" && last != "journal.json" {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(stop, cancel)()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// handler is the API with the two endpoints for operators beside it. It is no ServeMux: that
// would answer paths like //v1/nodes, which clients make, with a redirect in HTML.
func (s *server) handler() http.Handler {
	clients := s.api.Handler()
	operators := map[string]http.Handler{
		"/healthcheck": http.HandlerFunc(s.health),
		"/metrics": s.api.Restrict(policy.MetricsGet, promhttp.HandlerFor(s.metrics.registry,
			promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, found := operators[r.URL.Path]
		if !found || r.Method != http.MethodGet && r.Method != http.MethodHead {
			h = clients
		}
		h.ServeHTTP(w, r)
	})
}

// health answers 200 when a conductor can take work and the store answers, else 503 with what is
// missing.
func (s *server) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	waiting := s.group.Waiting()
	if err := s.store.Ping(ctx); err != nil {
		waiting = append(waiting, "store: "+err.Error())
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if len(waiting) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "waiting for", strings.Join(waiting, ", "))
		return
	}
	fmt.Fprintln(w, "OK")
}
