package command

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

const (
	// MaxBody bounds the body of a command in bytes: a config drive of 64 MiB in base64 fits.
	MaxBody = 96 << 20
	// maxConns bounds the connections, maxPeerConns those from one address. One conductor asks, others
	// try to.
	maxConns     = 32
	maxPeerConns = 8
	// strangerTime is how long who has no token may take to read the answer.
	strangerTime = 10 * time.Second
	// linger is how long a server that ends has for answers that are being sent.
	linger = 3 * time.Second
)

// Server is the API. Only the zero values of Runner and Token make no sense.
type Server struct {
	Runner *Runner
	// Token is what a conductor has to know. Without one nobody is let in.
	Token string
	// Version of the agent, for people.
	Version string
	// Heard is called for each request with the right token. Default: nothing.
	Heard func()
	// Log gets a line for what is wrong with the server itself. Default: nowhere.
	Log io.Writer

	started time.Time
}

// Serve answers requests until the context ends, and commands run in that. The listener is closed.
func (s *Server) Serve(ctx context.Context, l net.Listener, certificate tls.Certificate) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // ReadHeaderTimeout ends connections on which nothing is asked only then
	h := http.Server{
		Handler:   s.Handler(ctx),
		Protocols: &protocols,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12,
		},
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       2 * time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          log.New(quiet{s.Log}, "", 0),
	}
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), linger)
		defer cancel()
		if h.Shutdown(last) != nil {
			h.Close()
		}
	})()
	err := h.ServeTLS(netutil.LimitListener(newFairListener(l, maxPeerConns), maxConns), "", "")
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return err
}

// quiet passes on what the server complains of, but for strangers who do not speak TLS.
type quiet struct{ to io.Writer }

func (q quiet) Write(line []byte) (int, error) {
	if q.to == nil || bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		return len(line), nil
	}
	return q.to.Write(line)
}

// Handler returns the API itself. Commands run in ctx.
func (s *Server) Handler(ctx context.Context) http.Handler {
	s.started = time.Now()
	run := s.run(ctx)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.root)
	mux.HandleFunc("GET /v1", s.v1)
	mux.HandleFunc("GET /v1/{$}", s.v1)
	for _, v := range []string{"", "/v1"} { // as ironic-python-agent, which has one version
		mux.HandleFunc("GET "+v+"/status", s.status)
		for _, end := range []string{"/commands", "/commands/{$}"} {
			mux.HandleFunc("GET "+v+end, s.list)
			mux.HandleFunc("POST "+v+end, run)
		}
		mux.HandleFunc("GET "+v+"/commands/{id}", s.show)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "404 Not Found: the agent has no "+r.Method+" of this path")
	})
	return s.brief(mux)
}

// brief ends the connection of a request without the right token after the answer: those of strangers
// are not kept, or they would keep conductors out.
func (s *Server) brief(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.right(r.URL.Query().Get("agent_token")) {
			w.Header().Set("Connection", "close")
			// A writer without deadlines is none of a network.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(strangerTime))
		}
		next.ServeHTTP(w, r)
	})
}

// right tells whether the token is.
func (s *Server) right(token string) bool {
	return s.Token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.Token)) == 1
}

type link struct {
	Href string `json:"href"`
	Rel  string `json:"rel"`
}

type version struct {
	ID    string `json:"id"`
	Links []link `json:"links"`
}

func versionAt(r *http.Request) version {
	return version{"v1", []link{{"https://" + r.Host + "/v1", "self"}}}
}

func (s *Server) root(w http.ResponseWriter, r *http.Request) {
	answer(w, struct {
		Name        string    `json:"name"`
		Description string    `json:"description"`
		Versions    []version `json:"versions"`
		Default     version   `json:"default_version"`
	}{"Agent API of ingot", "The commands of ironic-python-agent", []version{versionAt(r)},
		versionAt(r)})
}

func (s *Server) v1(w http.ResponseWriter, r *http.Request) {
	at := "https://" + r.Host + "/v1/"
	answer(w, struct {
		version
		Commands []link `json:"commands"`
		Status   []link `json:"status"`
	}{versionAt(r), []link{{at + "commands", "self"}}, []link{{at + "status", "self"}}})
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	answer(w, struct {
		Started float64 `json:"started_at"` // seconds since 1970
		Version string  `json:"version"`
	}{float64(s.started.UnixMilli()) / 1000, s.Version})
}

// reader tells whether the request may see everything. One without a token may see how commands
// fare: the client of Ironic up to 2023 has none when it polls. It has answered to a wrong token.
func (s *Server) reader(w http.ResponseWriter, r *http.Request) (all, ok bool) {
	token := r.URL.Query().Get("agent_token")
	if token == "" {
		return false, true
	}
	all = s.admit(w, token)
	return all, all
}

// admit tells whether the token is right. It has answered if it is not.
func (s *Server) admit(w http.ResponseWriter, token string) bool {
	if !s.right(token) {
		fail(w, http.StatusUnauthorized, "401 Unauthorized: Token invalid.")
		return false
	}
	if s.Heard != nil {
		s.Heard()
	}
	return true
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	all, ok := s.reader(w, r)
	if !ok {
		return
	}
	views := []view{}
	for _, j := range s.Runner.list() {
		views = append(views, j.seen(all))
	}
	answer(w, map[string][]view{"commands": views})
}

func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	all, ok := s.reader(w, r)
	if !ok {
		return
	}
	for _, j := range s.Runner.list() {
		if j.id == r.PathValue("id") {
			if all && waits(r) {
				j.wait(r.Context())
			}
			answer(w, j.seen(all))
			return
		}
	}
	refuse(w, notFound("Command", r.PathValue("id")))
}

func (j *Job) seen(all bool) view {
	if all {
		return j.view()
	}
	return j.public()
}

func waits(r *http.Request) bool { return strings.EqualFold(r.URL.Query().Get("wait"), "true") }

// run takes commands, which run in ctx and not in the context of who asks. Who that is comes first:
// nothing of a stranger's body is read.
func (s *Server) run(ctx context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.admit(w, r.URL.Query().Get("agent_token")) {
			return
		}
		name, params, err := Decode(http.MaxBytesReader(w, r.Body, MaxBody))
		if err != nil {
			refuse(w, err)
			return
		}
		j, err := s.Runner.Start(ctx, name, params)
		if err != nil {
			refuse(w, err)
			return
		}
		if waits(r) {
			j.wait(r.Context())
		}
		answer(w, j.view())
	}
}

// Decode reads the body of a command: an object with its name and its parameters, an object too.
// The error is a *Fault.
func Decode(body io.Reader) (name string, params json.RawMessage, err error) {
	var c struct {
		Name   *string         `json:"name"`
		Params json.RawMessage `json:"params"`
	}
	in := json.NewDecoder(body)
	if err := in.Decode(&c); err != nil {
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			return "", nil, &Fault{"InvalidContentError", 413, "Invalid request body",
				"a command has at most 96 MiB; give the config drive as a URL"}
		}
		return "", nil, badContent("not the object that was expected: %v", err)
	}
	if _, err := in.Token(); err != io.EOF {
		return "", nil, badContent("something follows the object")
	}
	if c.Name == nil || len(c.Params) == 0 || c.Params[0] != '{' {
		return "", nil, badContent("Missing or invalid name or params")
	}
	return *c.Name, c.Params, nil
}

func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var f *Fault
	if errors.As(err, &f) {
		code = f.Code
	}
	fail(w, code, err.Error())
}

// fail answers with an error of the protocol.
func fail(w http.ResponseWriter, code int, text string) {
	side := "Client"
	if code >= 500 {
		side = "Server"
	}
	write(w, code, map[string]string{"faultcode": side, "faultstring": text})
}

func answer(w http.ResponseWriter, v any) { write(w, http.StatusOK, v) }

func write(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil { // a result that is no JSON is a bug, and the conductor shall know of it
		code, data = 500, []byte(`{"faultcode": "Server", "faultstring": "encode the answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(data) // who has gone asks again
}
