package command_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"ingot/internal/agent/command"
)

// agent is a server under test and a client that believes its certificate.
type agent struct {
	*testing.T
	url    string
	client *http.Client
	// release ends test.slow, ended hears of the end of commands.
	release chan error
	ended   chan struct{}
	stop    func()
}

const token = "right-token"

func start(t *testing.T) *agent {
	t.Helper()
	a := &agent{T: t, release: make(chan error), ended: make(chan struct{}, 10)}
	runner := &command.Runner{Ended: func() { a.ended <- struct{}{} }}
	runner.Commands = map[string]command.Command{
		"test.echo": {Run: func(_ context.Context, p json.RawMessage, _ *command.Job) (any, error) {
			var in struct{ Text string }
			if err := json.Unmarshal(p, &in); err != nil || in.Text == "" {
				return nil, command.BadParams("no text")
			}
			return in.Text, nil
		}},
		"test.fails": {Run: func(context.Context, json.RawMessage, *command.Job) (any, error) {
			return nil, errors.New("it did not work")
		}},
		"test.secret": {Async: true, Secret: true, Run: func(context.Context, json.RawMessage,
			*command.Job) (any, error) {
			return "secret", nil
		}},
		"test.slow": {Async: true, Run: func(ctx context.Context, _ json.RawMessage,
			job *command.Job) (any, error) {
			job.Progress(5, 10)
			select {
			case err := <-a.release:
				return "slept", err
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certificate, text, err := command.NewCertificate(net.IPv4(127, 0, 0, 1), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(text)) {
		t.Fatalf("no certificate in %q", text)
	}
	a.url = "https://" + l.Addr().String()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	a.client = &http.Client{Transport: transport}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := &command.Server{Runner: runner, Token: token, Version: "1"}
	go func() { done <- s.Serve(ctx, l, certificate) }()
	a.stop = func() {
		cancel()
		transport.CloseIdleConnections()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the server ended with %v", err)
			}
			done <- nil
		case <-time.After(10 * time.Second):
			t.Error("the server does not end")
		}
	}
	t.Cleanup(a.stop)
	return a
}

// answer is what commands and errors are made of.
type answer struct {
	ID          string
	Name        string         `json:"command_name"`
	Status      command.Status `json:"command_status"`
	Fault       *command.Fault `json:"command_error"`
	Result      map[string]any `json:"command_result"`
	Progress    map[string]int64
	FaultCode   string
	FaultString string
	Commands    []answer
}

func (a *agent) ask(method, path, body string) (int, answer) {
	a.Helper()
	r, err := http.NewRequestWithContext(a.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	response, err := a.client.Do(r)
	if err != nil {
		a.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		a.Fatal(err)
	}
	var out answer
	if err := json.Unmarshal(data, &out); err != nil {
		a.Fatalf("%s %s: %v in %s", method, path, err, data)
	}
	return response.StatusCode, out
}

func (a *agent) run(name, params, query string) (int, answer) {
	a.Helper()
	return a.ask("POST", "/v1/commands/?agent_token="+token+query,
		fmt.Sprintf(`{"name": %q, "params": %s}`, name, params))
}

func TestACommandIsAnsweredWithItsResult(t *testing.T) {
	t.Parallel()
	a := start(t)
	code, got := a.run("test.echo", `{"text": "hello"}`, "&wait=true")
	if code != 200 || got.Name != "echo" || got.Status != command.Succeeded || got.Fault != nil ||
		got.Result["result"] != "hello" || got.ID == "" {
		t.Errorf("%d %+v", code, got)
	}
	if code, again := a.ask("GET", "/v1/commands/"+got.ID+"?agent_token="+token, ""); code != 200 ||
		again.Result["result"] != "hello" {
		t.Errorf("asked for by its id: %d %+v", code, again)
	}
	code, got = a.run("test.fails", "{}", "")
	if code != 200 || got.Status != command.Failed || got.Fault == nil ||
		got.Fault.Type != "CommandExecutionError" || got.Fault.Code != 500 ||
		got.Fault.Details != "it did not work" {
		t.Errorf("a failure: %d %+v", code, got)
	}
}

func TestTheTokenIsAskedFor(t *testing.T) {
	t.Parallel()
	a := start(t)
	if code, got := a.run("test.echo", `{"text": "secret"}`, ""); code != 200 {
		t.Fatalf("%d %+v", code, got)
	}
	for _, query := range []string{"", "?agent_token=", "?agent_token=old-token", "?agent_token=" + token + "x"} {
		code, got := a.ask("POST", "/v1/commands/"+query, `{"name": "test.echo", "params": {"text": "x"}}`)
		if code != 401 || got.FaultCode != "Client" || !strings.Contains(got.FaultString, "Token invalid") {
			t.Errorf("POST %q: %d %+v", query, code, got)
		}
	}
	for _, path := range []string{"/v1/commands/?agent_token=old", "/v1/commands/x?agent_token=old"} {
		if code, got := a.ask("GET", path, ""); code != 401 {
			t.Errorf("GET %s: %d %+v", path, code, got)
		}
	}
	code, got := a.ask("GET", "/v1/commands/", "")
	if code != 200 || len(got.Commands) != 1 || got.Commands[0].Result != nil ||
		got.Commands[0].Status != command.Succeeded {
		t.Errorf("without a token: %d %+v; want the state and no result", code, got)
	}
}

func TestResultsWithSecretsAreForWhoHasTheToken(t *testing.T) {
	t.Parallel()
	a := start(t)
	code, got := a.run("test.secret", "{}", "&wait=true")
	if code != 200 || got.Result["result"] != "secret: secret" {
		t.Fatalf("%d %+v", code, got)
	}
	if _, all := a.ask("GET", "/v1/commands/?agent_token="+token, ""); all.Commands[0].Result == nil {
		t.Errorf("with the token: %+v", all)
	}
	_, one := a.ask("GET", "/v1/commands/"+got.ID, "")
	_, all := a.ask("GET", "/v1/commands/", "")
	if one.Status != command.Succeeded || one.Result != nil || all.Commands[0].Result != nil {
		t.Errorf("without the token: %+v and %+v", one, all)
	}
}

func TestConnectionsOfStrangersAreNotKept(t *testing.T) {
	t.Parallel()
	a := start(t)
	for path, closes := range map[string]bool{
		"/v1/status": true, "/v1/commands/": true, "/v1/commands/?agent_token=old": true, "/none": true,
		"/v1/status?agent_token=" + token: false, "/v1/commands/?agent_token=" + token: false,
	} {
		response, err := a.client.Get(a.url + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Error(err)
		}
		response.Body.Close()
		if response.Close != closes || response.ProtoMajor != 1 {
			t.Errorf("%s: %s, closed: %t", path, response.Proto, response.Close)
		}
	}
}

// Whoever holds all the connections that an address may have keeps nobody else out.
func TestAnAddressHasNotAllConnections(t *testing.T) {
	t.Parallel()
	a := start(t)
	at := strings.TrimPrefix(a.url, "https://")
	stranger := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	var held []net.Conn
	for range 50 { // more than the server takes in all
		c, err := stranger.DialContext(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	begin := time.Now()
	if code, got := a.run("test.echo", `{"text": "x"}`, ""); code != 200 || time.Since(begin) > 8*time.Second {
		t.Errorf("meanwhile, after %v: %d %+v; silent connections end after 10 s", time.Since(begin), code, got)
	}
	open := 0
	for _, c := range held {
		if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open != 8 {
		t.Errorf("%d connections of one address are open, want 8", open)
	}
	for _, c := range held {
		c.Close()
	}
	for ended := false; !ended; { // places come back
		c, err := tls.DialWithDialer(&stranger, "tcp", at, &tls.Config{InsecureSkipVerify: true})
		if ended = err == nil; ended {
			c.Close()
		}
	}
}

func TestOneCommandRunsAtATime(t *testing.T) {
	t.Parallel()
	a := start(t)
	code, first := a.run("test.slow", "{}", "&wait=false")
	if code != 200 || first.Status != command.Running {
		t.Fatalf("%d %+v", code, first)
	}
	for _, name := range []string{"test.slow", "test.echo"} {
		code, got := a.run(name, `{"text": "x"}`, "")
		if code != 409 || got.FaultString != "Agent is busy: executing command slow" {
			t.Errorf("%s meanwhile: %d %+v", name, code, got)
		}
	}
	_, got := a.ask("GET", "/v1/commands", "")
	if len(got.Commands) != 1 || got.Commands[0].Progress["bytes"] != 5 ||
		got.Commands[0].Progress["total"] != 10 {
		t.Errorf("meanwhile the list is %+v", got)
	}
	a.release <- nil
	_, got = a.ask("GET", "/v1/commands/"+first.ID+"?wait=true&agent_token="+token, "")
	if got.Status != command.Succeeded || got.Result["result"] != "slow: slept" || got.Progress != nil {
		t.Errorf("in the end: %+v", got)
	}
	select {
	case <-a.ended:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told of the end")
	}
	if code, _ := a.run("test.echo", `{"text": "x"}`, ""); code != 200 {
		t.Errorf("afterwards: %d", code)
	}
}

// A conductor that dies while it waits for a command leaves the command alone, and the next one finds it.
func TestWhoGoesAwayEndsNoCommand(t *testing.T) {
	t.Parallel()
	a := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", a.url+"/v1/commands/?wait=true&agent_token="+token,
		strings.NewReader(`{"name": "test.slow", "params": {}}`))
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() {
		response, err := a.client.Do(r)
		if err == nil {
			response.Body.Close()
		}
		gone <- err
	}()
	for {
		if _, got := a.ask("GET", "/v1/commands/", ""); len(got.Commands) == 1 {
			break
		}
	}
	cancel()
	if err := <-gone; err == nil {
		t.Error("an answer came before the command was done")
	}
	a.release <- nil
	<-a.ended
	_, got := a.ask("GET", "/v1/commands/?agent_token="+token, "")
	if len(got.Commands) != 1 || got.Commands[0].Status != command.Succeeded {
		t.Errorf("the command is %+v", got)
	}
}

func TestMismatchOfVersionsHasItsOwnStatus(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.run("test.slow", "{}", "")
	a.release <- command.VersionMismatch("of another ramdisk")
	<-a.ended
	if _, got := a.ask("GET", "/v1/commands/", ""); got.Commands[0].Status != "CLEAN_VERSION_MISMATCH" {
		t.Errorf("%+v", got)
	}
}

func TestWhatIsNoCommandIsRefused(t *testing.T) {
	t.Parallel()
	a := start(t)
	post := "/v1/commands/?agent_token=" + token
	for _, c := range []struct {
		method, path, body string
		code               int
		text               string
	}{
		{"POST", post, `{"name": "test.none", "params": {}}`, 400, "Invalid command: Unknown command: none"},
		{"POST", post, `{"name": "none.echo", "params": {}}`, 404, "Extension with id none not found"},
		{"POST", post, `{"name": "echo", "params": {}}`, 400, "form <extension>.<name>"},
		{"POST", post, `{"name": "test.echo", "params": {}}`, 400, "Invalid command parameters: no text"},
		{"POST", post, `{"name": "test.echo"}`, 400, "Missing or invalid name or params"},
		{"POST", post, `{"name": "test.echo", "params": []}`, 400, "Missing or invalid name or params"},
		{"POST", post, `{"name": 5, "params": {}}`, 400, "Invalid request body"},
		{"POST", post, `{"name": "test.echo", "params": {}} 5`, 400, "Invalid request body"},
		{"POST", post, ``, 400, "Invalid request body"},
		{"GET", "/v1/commands/none", "", 404, "Command with id none not found"},
		{"GET", "/v2/", "", 404, "404 Not Found"},
		{"DELETE", "/v1/commands/", "", 404, "404 Not Found"},
	} {
		code, got := a.ask(c.method, c.path, c.body)
		if code != c.code || got.FaultCode != "Client" || !strings.Contains(got.FaultString, c.text) {
			t.Errorf("%s %s %s: %d %+v", c.method, c.path, c.body, code, got)
		}
	}
	if _, got := a.ask("GET", "/v1/commands/", ""); len(got.Commands) != 0 {
		t.Errorf("kept as commands: %+v", got.Commands)
	}
}

// zeros is a body without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestABodyHasABound(t *testing.T) {
	t.Parallel()
	body := io.MultiReader(strings.NewReader(`{"name": "test.echo", "params": {"text": "`), zeros{})
	_, _, err := command.Decode(http.MaxBytesReader(nil, io.NopCloser(body), 1<<20))
	var f *command.Fault
	if !errors.As(err, &f) || f.Code != 413 {
		t.Errorf("error is %v", err)
	}
}

func TestTheAPITellsWhatItIs(t *testing.T) {
	t.Parallel()
	a := start(t)
	for path, want := range map[string]string{
		"/": `"default_version":{"id":"v1"`, "/v1/": `"rel":"self"`, "/v1": `"rel":"self"`,
		"/v1/status": `"version":"1"`, "/status": `"started_at":`,
	} {
		response, err := a.client.Get(a.url + path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != 200 || !strings.Contains(string(data), want) {
			t.Errorf("%s: %s %s (%v)", path, response.Status, data, err)
		}
	}
}

func TestTheEndOfTheServerEndsItsCommands(t *testing.T) {
	t.Parallel()
	a := start(t)
	a.run("test.slow", "{}", "")
	a.stop()
	select {
	case <-a.ended:
	case <-time.After(10 * time.Second):
		t.Error("the command goes on")
	}
}

func TestCertificatesBeginEarlyAndEnd(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c, _, err := command.NewCertificate(net.ParseIP("fd00::5"), now)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if d := now.Sub(leaf.NotBefore); d < 59*time.Minute || d > 61*time.Minute {
		t.Errorf("it begins %v ago", d)
	}
	if d := leaf.NotAfter.Sub(now); d < 89*24*time.Hour || d > 91*24*time.Hour {
		t.Errorf("it ends in %v", d)
	}
	if err := leaf.VerifyHostname("fd00::5"); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name": "standby.sync", "params": {}}`))
	f.Add([]byte(`{"name": "deploy.execute_deploy_step", "params": {"step": {"step": "write_image", ` +
		`"interface": "deploy", "args": {"image_info": {"urls": ["http://x"]}}}, "node": {}, "ports": []}}`))
	f.Add([]byte(`{"name": null, "params": null}`))
	f.Add([]byte(strings.Repeat(`{"params":`, 50)))
	f.Fuzz(func(t *testing.T, body []byte) {
		name, params, err := command.Decode(bytes.NewReader(body))
		if err != nil {
			var f *command.Fault
			if !errors.As(err, &f) || f.Code/100 != 4 {
				t.Errorf("%q: %v", body, err)
			}
			return
		}
		if !json.Valid(params) || params[0] != '{' {
			t.Errorf("%q: command %q has parameters %q", body, name, params)
		}
	})
}
