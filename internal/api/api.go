package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/journal"
	"ingot/internal/policy"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

// defaultMaxLimit is the greatest number of items of one page unless Options say otherwise.
const defaultMaxLimit = 1000

// Options are what an API needs. Store and Conductor are mandatory.
type Options struct {
	Store     *store.Store
	Conductor rpc.Conductor
	// Journal serves /v1/nodes/{ident}/journal; without it that path does not exist.
	Journal *journal.Journal
	// Log receives panics, internal errors and, at debug, every request; default: nothing.
	Log *slog.Logger
	// PublicURL starts every link, without a slash at the end; default: the scheme and host of
	// the request. Set it behind a proxy.
	PublicURL string
	// MaxLimit is the greatest number of items of one page; default 1000.
	MaxLimit int
	// Auth tells who asks; default: nobody is asked who they are (noauth), and everybody may do
	// everything. Machine asks nobody in any case.
	Auth Authenticator
	// OwnNodes lets those who may (rule create:self_owned_node) create nodes, which are of their
	// project then, and delete them.
	OwnNodes bool
	// Observe is told about every answered request, for metrics; default: nobody. It must be
	// safe for concurrent use.
	Observe func(Observation)
	// Differences asks conductors, by host name, in what their boot trees differ; default: that is
	// not told.
	Differences func(ctx context.Context, hosts []string) []bootfile.Difference
}

// Observation is one answered request.
type Observation struct {
	Route    string // pattern of the route, "" where there is none
	Method   string
	Status   int
	Duration time.Duration
}

// API answers requests. Its handlers may be used concurrently.
type API struct {
	o Options
}

// New returns an API.
func New(o Options) *API {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxLimit <= 0 {
		o.MaxLimit = defaultMaxLimit
	}
	if o.Observe == nil {
		o.Observe = func(Observation) {}
	}
	o.PublicURL = strings.TrimRight(o.PublicURL, "/")
	return &API{o: o}
}

// Handler serves every route.
func (a *API) Handler() http.Handler {
	return a.serve(a.mux(routes, false))
}

// Machine serves only what machines call, without credentials and with public passthru methods
// only (S1.8); every other path is 404. It is for the socket that machines reach.
func (a *API) Machine() http.Handler {
	var public []route
	for _, rt := range routes {
		if rt.machine {
			public = append(public, rt)
		}
	}
	return a.serve(a.mux(public, true))
}

// call is one request, as handlers see it.
type call struct {
	*http.Request
	api   *API
	route *route
	// minor is the x of the requested microversion 1.x.
	minor int
	// who asks, and by which rules pathNode and pathPort let them have what the path names.
	who   policy.Subject
	rules []policy.Rule
	room  [1]policy.Rule // of rules, most often
	// base starts links: scheme and host.
	base string
	// machine tells that the request came in where no credentials are asked for.
	machine bool
	// suffixed tells that the path ended in .json, which was cut off.
	suffixed bool
	query    url.Values
	// alive are the conductors that work, once loadConductors was called.
	alive []*conductor
}

// reply is what a handler answers. The zero value is 200 without a body.
type reply struct {
	status   int
	location string // path below the base URL
	body     any    // encoded as JSON; nil is none
	raw      []byte // served as it is, as text/plain, when not nil
}

// mux makes the tree of paths. Methods are looked up here and not by ServeMux, which would
// answer HEAD wherever GET is known, and 405 in its own words.
func (a *API) mux(table []route, machine bool) *http.ServeMux {
	mux := http.NewServeMux()
	byPath := map[string][]*route{}
	for i := range table {
		if rt := &table[i]; rt.pattern != journalPattern || a.o.Journal != nil {
			byPath[rt.pattern] = append(byPath[rt.pattern], rt)
		}
	}
	for pattern, methods := range byPath {
		mux.Handle(pattern, &resource{api: a, methods: methods, machine: machine})
	}
	if _, taken := byPath[rootPattern]; !taken {
		mux.HandleFunc(rootPattern, notFound)
	}
	mux.Handle("/", a.identified(machine, http.HandlerFunc(notFound)))
	return mux
}

// canonical returns the path as the table of routes has it: with /v1 in front, without a slash
// or .json at the end.
func canonical(p string) (canonical string, suffixed bool) {
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	p = path.Clean(p)
	if trimmed, ok := strings.CutSuffix(p, ".json"); ok && !strings.HasSuffix(trimmed, "/") {
		p, suffixed = trimmed, true
	}
	switch {
	case p == "/", p == "/v1", strings.HasPrefix(p, "/v1/"):
		return p, suffixed
	}
	return "/v1" + p, suffixed
}

// resource is a path with its methods.
type resource struct {
	api     *API
	methods []*route
	machine bool
}

// ServeHTTP finds the route of the method, negotiates the version and runs the handler.
func (s *resource) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt := s.find(r.Method)
	if rt != nil {
		exchangeOf(r).route = rt.pattern
	}
	who, stranger, err := s.who(r, rt)
	if err != nil {
		writeError(w, r, s.api.o.Log, err)
		return
	}
	minor, err := negotiate(w.Header(), r.Header)
	if err != nil && !s.unversioned() {
		writeError(w, r, s.api.o.Log, err)
		return
	}
	switch {
	case rt == nil && r.Method == http.MethodOptions:
		w.Header().Set("Allow", s.allow())
		w.WriteHeader(http.StatusOK)
		return
	case rt == nil:
		w.Header().Set("Allow", s.allow())
		abort(w, http.StatusMethodNotAllowed)
		return
	case minor < rt.minor:
		abort(w, http.StatusNotFound)
		return
	}
	c := &call{Request: r, api: s.api, route: rt, minor: minor, who: who,
		base: s.api.base(r), machine: s.machine || stranger, suffixed: exchangeOf(r).suffixed}
	c.rules = append(c.room[:0], rt.policy)
	answer, err := c.run()
	if err != nil {
		writeError(w, r, s.api.o.Log, err)
		return
	}
	answer.write(w, c)
}

// run checks what can be told without looking at an object, and calls the handler.
func (c *call) run() (reply, error) {
	if err := c.parseQuery(); err != nil {
		return reply{}, err
	}
	if rt := c.route; !rt.object && !rt.public && !c.who.May(rt.policy) {
		return reply{}, forbidden(rt.policy)
	}
	return c.route.handle(c)
}

// unversioned tells that the resource is the version document, where a wrong version is not an
// error: clients come here to learn the right one.
func (s *resource) unversioned() bool { return s.methods[0].pattern == rootPattern }

// find returns the route of a method, nil if there is none.
func (s *resource) find(method string) *route {
	for _, rt := range s.methods {
		if rt.method == method {
			return rt
		}
	}
	return nil
}

func (s *resource) allow() string {
	names := make([]string, len(s.methods))
	for i, rt := range s.methods {
		names[i] = rt.method
	}
	return strings.Join(names, ", ")
}

// base returns the start of links.
func (a *API) base(r *http.Request) string {
	if a.o.PublicURL != "" {
		return a.o.PublicURL
	}
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// write sends the answer.
func (p reply) write(w http.ResponseWriter, c *call) {
	h := w.Header()
	if p.location != "" {
		h.Set("Location", c.base+p.location)
	}
	status := p.status
	if status == 0 {
		status = http.StatusOK
	}
	body := p.raw
	switch {
	case p.raw != nil:
		h["Content-Type"] = plainText
	case p.body != nil:
		var err error
		if body, err = encode(p.body); err != nil {
			writeError(w, c.Request, c.api.o.Log, err)
			return
		}
		h.Set("Content-Type", "application/json")
	}
	if status != http.StatusNoContent {
		setLength(h, len(body))
	}
	w.WriteHeader(status)
	if c.Method == http.MethodHead {
		return
	}
	if _, err := w.Write(body); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		c.api.o.Log.DebugContext(c.Context(), "client went away", "request",
			exchangeOf(c.Request).id, "error", err)
	}
}
