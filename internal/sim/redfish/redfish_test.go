package redfish_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

const (
	user     = "admin"
	password = "secret"
)

// serve starts a service in front of a board.
func serve(t *testing.T, o redfish.Options) (*redfish.Service, *redfish.Board) {
	t.Helper()
	o.Name, o.UUID = "node-0", "11111111-2222-3333-4444-555555555555"
	o.User, o.Password = user, password
	b := &redfish.Board{}
	s := redfish.New(b, o)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s, b
}

// An answer of the service.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

// ask sends a request with basic authentication; headers are pairs.
func ask(t *testing.T, s *redfish.Service, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL()+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, password)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "X-Auth-Token" {
			req.Header.Del("Authorization")
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := testkit.Web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &a.body); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, text)
		}
	}
	return a
}

// want checks the status of an answer.
func (a answer) want(t *testing.T, what string, status int) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("%s: status %d, want %d: %v", what, a.status, status, a.body)
	}
	return a
}

// boot is the override of a system that was read.
func (a answer) boot() [3]any {
	b := a.body["Boot"].(map[string]any)
	return [3]any{b["BootSourceOverrideTarget"], b["BootSourceOverrideEnabled"],
		b["BootSourceOverrideMode"]}
}

const resetPath = redfish.SystemPath + "/Actions/ComputerSystem.Reset"

// reset wants a status for a reset.
func reset(t *testing.T, s *redfish.Service, how redfish.ResetType, status int) answer {
	t.Helper()
	return ask(t, s, "POST", resetPath, `{"ResetType": "`+string(how)+`"}`).want(t, string(how), status)
}

func TestResetsSwitchTheMachine(t *testing.T) {
	t.Parallel()
	s, b := serve(t, redfish.Options{})
	b.Obey()
	for _, step := range []struct {
		how    redfish.ResetType
		status int
		want   redfish.PowerState
	}{
		{redfish.ForceOff, 204, redfish.Off},
		{redfish.ForceRestart, 409, redfish.Off},
		{redfish.GracefulShutdown, 409, redfish.Off},
		{redfish.PowerOn, 204, redfish.On},
		{redfish.PowerOn, 204, redfish.On},
		{redfish.PowerCycle, 204, redfish.On},
		{redfish.GracefulRestart, 204, redfish.On},
		{redfish.GracefulShutdown, 204, redfish.Off},
		{redfish.PushPowerButton, 204, redfish.On},
		{redfish.PushPowerButton, 204, redfish.Off},
		{redfish.ForceOn, 204, redfish.On},
		{"Explode", 400, redfish.On},
		{"", 400, redfish.On},
		{redfish.ForceOff, 204, redfish.Off},
	} {
		reset(t, s, step.how, step.status)
		if got := ask(t, s, "GET", redfish.SystemPath, "").body["PowerState"]; got != string(step.want) {
			t.Errorf("after %s the machine is %v, want %s", step.how, got, step.want)
		}
	}
	if got := len(s.Resets()); got != 10 {
		t.Errorf("%d resets were done, want 10: %v", got, s.Resets())
	}
}

func TestBootOverrideIsUsedUpOrLasts(t *testing.T) {
	t.Parallel()
	s, b := serve(t, redfish.Options{Mode: redfish.Legacy})
	patch := func(boot string, status int) answer {
		t.Helper()
		return ask(t, s, "PATCH", redfish.SystemPath, `{"Boot": `+boot+`}`).want(t, boot, status)
	}
	wantBoot := func(target, enabled, mode string) {
		t.Helper()
		got := ask(t, s, "GET", redfish.SystemPath, "").boot()
		if want := [3]any{target, enabled, mode}; got != want {
			t.Errorf("the override is %v, want %v", got, want)
		}
	}
	wantBoot("None", "Disabled", "Legacy")
	patch(`{"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}`, 200)
	wantBoot("Pxe", "Once", "Legacy")
	reset(t, s, redfish.PowerOn, 204)
	wantBoot("None", "Disabled", "Legacy")
	patch(`{"BootSourceOverrideTarget": "Hdd", "BootSourceOverrideEnabled": "Continuous",
		"BootSourceOverrideMode": "UEFI"}`, 200)
	reset(t, s, redfish.ForceRestart, 204)
	reset(t, s, redfish.PowerCycle, 204)
	wantBoot("Hdd", "Continuous", "UEFI")
	patch(`{"BootSourceOverrideEnabled": "Disabled"}`, 200)
	wantBoot("None", "Disabled", "UEFI")
	patch(`{"BootSourceOverrideTarget": "Tape"}`, 400)
	patch(`{"BootSourceOverrideTarget": 5}`, 400)
	patch(`null`, 400)
	if got, want := b.Boots(), []redfish.Target{redfish.PXE, redfish.HDD, redfish.HDD}; len(got) != 3 ||
		got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("the machine booted from %v, want %v", got, want)
	}
}

func TestChangeOfWhatWasNotSeenIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, redfish.Options{})
	const change = `{"Boot": {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}}`
	tag := ask(t, s, "GET", redfish.SystemPath, "").header.Get("ETag")
	ask(t, s, "PATCH", redfish.SystemPath, change, "If-Match", tag).want(t, "fresh ETag", 200)
	ask(t, s, "PATCH", redfish.SystemPath, change, "If-Match", tag).want(t, "stale ETag", 412)
	ask(t, s, "PATCH", redfish.SystemPath, change, "If-Match", "*").want(t, "any ETag", 200)
	s.SetQuirks(redfish.Quirks{NeedIfMatch: true})
	ask(t, s, "PATCH", redfish.SystemPath, change).want(t, "no ETag", 428)
}

func TestWhoIsNotSignedInReadsOnlyTheRoot(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, redfish.Options{Sessions: 2})
	for path, status := range map[string]int{
		"/redfish": 200, "/redfish/v1": 200, redfish.Root: 200, redfish.SystemPath: 401,
		redfish.Root + "SessionService": 401, "/elsewhere": 401,
	} {
		a := ask(t, s, "GET", path, "", "X-Auth-Token", "no").want(t, path, status)
		if _, told := a.body["error"]; told != (status == 401) {
			t.Errorf("GET %s: %v", path, a.body)
		}
	}
	ask(t, s, "GET", redfish.SystemPath, "", "Authorization", "Basic eDp5").want(t, "wrong password", 401)
	ask(t, s, "GET", "/elsewhere", "").want(t, "no such path", 404)
}

const sessionsPath = redfish.Root + "SessionService/Sessions"

// signIn begins a session and returns its token and path.
func signIn(t *testing.T, s *redfish.Service, status int) (token, path string) {
	t.Helper()
	a := ask(t, s, "POST", sessionsPath, `{"UserName": "admin", "Password": "secret"}`, "X-Auth-Token", "")
	a.want(t, "sign in", status)
	return a.header.Get("X-Auth-Token"), a.header.Get("Location")
}

func TestSessionsBeginAndEnd(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, redfish.Options{Sessions: 2})
	token, path := signIn(t, s, 201)
	signIn(t, s, 201)
	signIn(t, s, 503)
	ask(t, s, "GET", redfish.SystemPath, "", "X-Auth-Token", token).want(t, "session", 200)
	ask(t, s, "GET", path, "", "X-Auth-Token", token).want(t, "own session", 200)
	ask(t, s, "DELETE", path, "", "X-Auth-Token", token).want(t, "sign out", 204)
	ask(t, s, "GET", redfish.SystemPath, "", "X-Auth-Token", token).want(t, "ended session", 401)
	token, _ = signIn(t, s, 201)
	if got := ask(t, s, "GET", sessionsPath, "").body["Members@odata.count"]; got != 2.0 {
		t.Errorf("%v sessions, want 2", got)
	}
	s.EndSessions()
	ask(t, s, "GET", redfish.SystemPath, "", "X-Auth-Token", token).want(t, "forgotten session", 401)
	s.SetQuirks(redfish.Quirks{NoMoreSessions: true})
	signIn(t, s, 503)
	s.SetQuirks(redfish.Quirks{})
	s.SetPassword("rotated")
	signIn(t, s, 401)
}

func TestSessionsThatNobodyUsesEnd(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, redfish.Options{Sessions: 1, SessionTimeout: 1})
	token, _ := signIn(t, s, 201)
	ask(t, s, "GET", redfish.SystemPath, "", "X-Auth-Token", token).want(t, "old session", 401)
	signIn(t, s, 201)
}

func TestServiceThatStopsOrIsSilentComesBack(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, redfish.Options{})
	url := s.URL()
	token, _ := signIn(t, s, 201)
	for range 2 { // twice is as once
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := testkit.Web.Get(url + redfish.Root); err == nil {
		t.Error("a service that was stopped answers")
	}
	for range 2 {
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if s.URL() != url {
		t.Errorf("the service is at %s, and was at %s", s.URL(), url)
	}
	ask(t, s, "GET", redfish.SystemPath, "", "X-Auth-Token", token).want(t, "session from before", 401)

	s.Silence()
	impatient := http.Client{Transport: testkit.Web.Transport, Timeout: 200 * time.Millisecond}
	if _, err := impatient.Post(url+sessionsPath, "application/json", strings.NewReader("{}")); err == nil {
		t.Error("a silent service answers")
	}
	s.Speak()
	ask(t, s, "GET", redfish.SystemPath, "").want(t, "after the silence", 200)
}

func TestCertificateIsKeptUntilItIsRenewed(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, redfish.Options{TLS: true})
	get := func(certificate []byte) error {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(certificate)
		client := http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool},
		}}
		resp, err := client.Get(s.URL() + redfish.Root)
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	old := s.Certificate()
	if err := errors.Join(s.Stop(), s.Start(), get(old)); err != nil {
		t.Errorf("after a new start: %v", err)
	}
	if err := s.RenewCertificate(); err != nil {
		t.Fatal(err)
	}
	if err := get(old); err == nil {
		t.Error("the new certificate is the old one")
	}
	if err := get(s.Certificate()); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
}
