package agent_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"ingot/internal/agent"
	"ingot/internal/agent/command"
)

func containsLine(text, prefix string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// server answers with one handler after the other, then with the last.
func server(t *testing.T, handlers ...http.HandlerFunc) (url string, count *atomic.Int32) {
	t.Helper()
	count = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(count.Add(1))
		handlers[min(n, len(handlers))-1](w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, count
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, body)
	}
}

// dead is the URL of a port nobody listens on.
func dead(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func caller(apis ...string) *agent.Caller {
	return &agent.Caller{Node: "a-node", APIs: apis, Pause: time.Millisecond,
		Patience: time.Minute}
}

func TestCallHasIronicsFormOnTheWire(t *testing.T) {
	t.Parallel()
	url, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
		var body map[string]string
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		if r.Method != "POST" || r.URL.Path != "/v1/nodes/a-node/vendor_passthru/pass_deploy_info" ||
			r.Header.Get("Content-Type") != "application/json" ||
			r.Header.Get("X-OpenStack-Ironic-API-Version") != "1.31" ||
			body["lun"] != "1" || body["key"] != "k" {
			t.Errorf("request is %s %s %v %v", r.Method, r.URL, r.Header, body)
		}
		if _, ok := body["error"]; !ok {
			t.Error("error is missing; Ironic expects it, even if empty")
		}
		if _, ok := body["chap_username"]; ok {
			t.Error("chap_username is there without CHAP")
		}
		w.WriteHeader(http.StatusAccepted)
	})
	err := caller(url).Post(t.Context(), "pass_deploy_info", agent.DeployInfo{LUN: "1", Key: "k"})
	if err != nil {
		t.Error(err)
	}
}

func TestCallIsRepeatedUntilSomeServerTakesIt(t *testing.T) {
	t.Parallel()
	url, count := server(t, status(409, "locked"), status(503, ""), hangUp, status(202, ""))
	c := caller(dead(t), url)
	var said []string
	c.Say = func(text string) { said = append(said, text) }
	if err := c.Post(t.Context(), "pass_deploy_info", nil); err != nil {
		t.Error(err)
	}
	if count.Load() != 4 {
		t.Errorf("%d requests, want 4", count.Load())
	}
	if len(said) == 0 || !strings.Contains(said[0], "connection refused") {
		t.Errorf("said %q, want the refused connection first", said)
	}
}

// A server that was stopped takes connections and answers nothing: it costs its silence once, and
// calls that follow begin where the last one was answered.
func TestS0_1_CallsGoToTheServerThatAnswers(t *testing.T) {
	t.Parallel()
	stopped, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.Close()
	live, count := server(t, status(202, ""))
	c := caller("http://"+stopped.Addr().String(), dead(t), live)
	c.Silence = time.Second
	var said []string
	c.Say = func(text string) { said = append(said, text) }
	for i := range 3 {
		if err := c.Post(t.Context(), "pass_deploy_info", nil); err != nil {
			t.Error(err)
		}
		if int(count.Load()) != i+1 || len(said) != 2 {
			t.Fatalf("%d calls taken of %d; said %q", count.Load(), i+1, said)
		}
	}
}

func TestRefusalStopsAtOnceWithTheServersWords(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"error_message": "{\"faultstring\": \"deploy key was used\"}"}`,
		`{"error_message": {"faultstring": "deploy key was used", "faultcode": "Client"}}`,
		`{"error_message": "deploy key was used"}`,
		"deploy key was used",
	} {
		for _, code := range []int{400, 403, 404} {
			url, count := server(t, status(code, body))
			err := caller(url).Post(t.Context(), "pass_deploy_info", nil)
			var r *agent.Refusal
			if !errors.As(err, &r) || r.Status != code || errors.Is(err, agent.ErrUnclear) ||
				r.Fault != "deploy key was used" || count.Load() != 1 {
				t.Errorf("%s: error is %v after %d requests", body, err, count.Load())
			}
		}
	}
}

func TestRefusalAfterALostAnswerIsUnclear(t *testing.T) {
	t.Parallel()
	url, _ := server(t, hangUp, status(400, "key was used"))
	var r *agent.Refusal
	if err := caller(url).Post(t.Context(), "pass_deploy_info", nil); !errors.As(err, &r) ||
		!errors.Is(err, agent.ErrUnclear) {
		t.Errorf("error is %v, want an unclear refusal", err)
	}
}

// The server may have taken the call, lost its answer with its life, and be writing the disk
// ever since: 409 is what a repetition gets then.
func TestPatienceThatEndsAfterALostAnswerIsUnclear(t *testing.T) {
	t.Parallel()
	url, _ := server(t, hangUp, status(409, "node is locked"))
	c := caller(url)
	c.Patience = 100 * time.Millisecond
	err := c.Post(t.Context(), "pass_deploy_info", nil)
	if !errors.Is(err, agent.ErrUnclear) {
		t.Errorf("error is %v, want an unclear end", err)
	}
}

func TestCallerGivesUpAndSaysWhy(t *testing.T) {
	t.Parallel()
	c := caller(dead(t))
	c.Patience = 50 * time.Millisecond
	err := c.Post(t.Context(), "pass_deploy_info", nil)
	if err == nil || !strings.Contains(err.Error(), "connection refused") ||
		!strings.Contains(err.Error(), "ironic_api_url") {
		t.Errorf("error is %v, want the cause and what to check", err)
	}
}

func TestUnknownCertificateIsRefusedUnlessTheOperatorSaysSo(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(status(202, ""))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	c := caller(s.URL)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said string
	c.Say = func(text string) { said = text; cancel() }
	err := c.Post(ctx, "pass_deploy_info", nil)
	if err == nil || !strings.Contains(said, "ipa-insecure=1") || errors.Is(err, agent.ErrUnclear) {
		t.Errorf("error is %v; said %q, want what to do", err, said)
	}
	c = caller(s.URL)
	c.Insecure = true
	if err := c.Post(t.Context(), "pass_deploy_info", nil); err != nil {
		t.Error(err)
	}
}

// A machine without a battery has a clock that is years off.
func TestACertificateOfAnotherTimeNamesTheClock(t *testing.T) {
	t.Parallel()
	early, _, err := command.NewCertificate(net.IPv4(127, 0, 0, 1), time.Now().AddDate(-5, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	late, _, err := command.NewCertificate(net.IPv4(127, 0, 0, 1), time.Now().AddDate(5, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, certificate := range []tls.Certificate{early, late} {
		s := httptest.NewUnstartedServer(status(202, ""))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
		s.StartTLS()
		defer s.Close()
		c := caller(s.URL)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var said string
		c.Say = func(text string) { said = text; cancel() }
		if err := c.Post(ctx, "pass_deploy_info", nil); err == nil {
			t.Error("the certificate is believed")
		}
		if !strings.Contains(said, "clock of this machine") || !strings.Contains(said, "ipa-insecure=1") ||
			strings.Contains(said, "ca-certificates") {
			t.Errorf("said %q", said)
		}
	}
}

func FuzzFault(f *testing.F) {
	f.Add([]byte("{\"error_message\": \"{\\\"faultstring\\\": 1}\"}"))
	f.Add([]byte("\u009b2J" + strings.Repeat("\u00e9", 200)))
	f.Fuzz(func(t *testing.T, body []byte) {
		if text := agent.Fault(body); len(text) > 300 || !utf8.ValidString(text) ||
			strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("console text %q of %q", text, body)
		}
	})
}
