// Package ipatest is an agent as it runs in a deploy ramdisk, for tests: the API of ironic-python-agent by
// HTTPS with a certificate of its own, whose times and names are those of a machine without a clock. What
// its commands do, the test says.
package ipatest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Do carries out a command and returns what it returns. It tells how far it is by progress.
type Do func(ctx context.Context, name string, params json.RawMessage,
	progress func(bytes, total int64)) (any, error)

// Agent is one agent that runs.
type Agent struct {
	URL, CA string

	do     Do
	server *httptest.Server
	ctx    context.Context
	stop   context.CancelFunc
	runs   sync.WaitGroup

	mu       sync.Mutex
	token    string     // guarded by mu
	commands []*command // guarded by mu
	// Lose, if set, tells of a request whether its answer is to be lost, after it was acted upon.
	lose func(*http.Request) bool
	// ended is called when a command ends.
	ended func()
}

// command is a command as it is on the wire.
type command struct {
	ID       string           `json:"id"`
	Name     string           `json:"command_name"`
	Params   json.RawMessage  `json:"command_params"`
	Status   string           `json:"command_status"`
	Error    any              `json:"command_error"`
	Result   any              `json:"command_result"`
	Progress map[string]int64 `json:"progress,omitempty"`

	done chan struct{}
}

// Start runs an agent until the test ends, or Stop.
func Start(t testing.TB, do Do) *Agent {
	t.Helper()
	cert, ca := certificate(t)
	a := &Agent{do: do, CA: ca}
	a.ctx, a.stop = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/commands/{$}", a.list)
	mux.HandleFunc("POST /v1/commands/{$}", a.run)
	a.server = httptest.NewUnstartedServer(mux)
	a.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	a.server.StartTLS()
	a.URL = a.server.URL
	t.Cleanup(a.Stop)
	return a
}

// Stop ends the agent, as the end of its power does.
func (a *Agent) Stop() {
	a.stop()
	a.server.CloseClientConnections()
	a.server.Close()
	a.runs.Wait()
}

// Leave ends the agent as it ends itself: answers that are on their way get there.
func (a *Agent) Leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = a.server.Config.Shutdown(ctx) // who is slow is cut off by Stop
}

// SetToken makes the agent refuse commands without the token.
func (a *Agent) SetToken(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = token
}

// Lose sets which requests are acted upon and not answered; nil: none.
func (a *Agent) Lose(lose func(*http.Request) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lose = lose
}

// Ended sets what is called when a command ends, as the agent sends a heartbeat then.
func (a *Agent) Ended(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = fn
}

// Names lists the commands that it was given, in order.
func (a *Agent) Names() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for _, c := range a.commands {
		names = append(names, c.Name)
	}
	return names
}

func (a *Agent) lost(r *http.Request) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lose != nil && a.lose(r)
}

func (a *Agent) list(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	body, err := json.Marshal(map[string]any{"commands": append([]*command{}, a.commands...)})
	a.mu.Unlock()
	a.answer(w, r, body, err)
}

func (a *Agent) answer(w http.ResponseWriter, r *http.Request, body []byte, err error) {
	if a.lost(r) {
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "Error", "code": status,
		"message": http.StatusText(status), "details": text, "faultstring": text})
}

func (a *Agent) run(w http.ResponseWriter, r *http.Request) {
	var given struct {
		Name   string
		Params json.RawMessage
	}
	data, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(data, &given)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	c, status, text := a.begin(given.Name, given.Params, r.URL.Query().Get("agent_token"))
	if status != 0 {
		refuse(w, status, text)
		return
	}
	if r.URL.Query().Get("wait") == "true" {
		<-c.done
	}
	a.mu.Lock()
	body, err := json.Marshal(c)
	a.mu.Unlock()
	a.answer(w, r, body, err)
}

// begin starts a command, unless it may not begin.
func (a *Agent) begin(name string, params json.RawMessage, token string) (c *command, status int, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token != "" && token != a.token {
		return nil, http.StatusUnauthorized, "Invalid agent_token"
	}
	if slices.ContainsFunc(a.commands, func(c *command) bool { return c.Status == "RUNNING" }) {
		return nil, http.StatusConflict, "Agent is busy executing another command"
	}
	_, short, _ := strings.Cut(name, ".")
	c = &command{ID: strconv.Itoa(len(a.commands) + 1), Name: short, Params: params, Status: "RUNNING",
		done: make(chan struct{})}
	a.commands = append(a.commands, c)
	a.runs.Go(func() {
		result, err := a.do(a.ctx, name, params, func(bytes, total int64) {
			a.mu.Lock()
			defer a.mu.Unlock()
			c.Progress = map[string]int64{"bytes": bytes, "total": total}
		})
		a.mu.Lock()
		c.Status, c.Result, c.Progress = "SUCCEEDED", result, nil
		if err != nil {
			c.Status, c.Result = "FAILED", nil
			c.Error = map[string]any{"type": "DeploymentError", "code": 500, "message": "Error",
				"details": err.Error()}
		}
		ended := a.ended
		a.mu.Unlock()
		close(c.done)
		if ended != nil {
			ended()
		}
	})
	return c, 0, ""
}

// certificate makes the certificate of an agent: for no name, of a time long ago.
func certificate(t testing.TB) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(90*24*3600, 0)}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(fmt.Errorf("make a certificate: %w", err))
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
