package ipa_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/ipa"
	"ingot/internal/ipa/ipatest"
)

func client(t *testing.T, o ipa.Options) *ipa.Client {
	t.Helper()
	c, err := ipa.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnAgentIsToldCommandsAndTellsHowTheyEnd(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	a := ipatest.Start(t, func(_ context.Context, name string, params json.RawMessage,
		progress func(int64, int64)) (any, error) {
		switch name {
		case "deploy.execute_deploy_step":
			progress(5, 10)
			<-goOn
			return map[string]any{"deploy_result": "written"}, nil
		case "standby.sync":
			return nil, nil
		}
		return nil, errors.New("no such\n command  " + string(params))
	})
	a.SetToken("secret&token")
	c := client(t, ipa.Options{URL: a.URL, CA: a.CA, Token: "secret&token"})
	ctx := t.Context()
	if list, err := c.Commands(ctx); err != nil || len(list) != 0 {
		t.Fatalf("%v, %v", list, err)
	}
	started, err := c.Start(ctx, "deploy.execute_deploy_step", ingot.Object{"step": "x"})
	if err != nil || started.Status != ipa.Running || started.Name != "execute_deploy_step" || started.ID == "" {
		t.Fatalf("%+v, %v", started, err)
	}
	if _, err := c.Run(ctx, "standby.sync", ingot.Object{}); ingot.KindOf(err) != ingot.Conflict {
		t.Errorf("while another one runs: %v", err)
	}
	for {
		list, err := c.Commands(ctx)
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		if p := list[0].Progress; p != nil {
			if *p != (ipa.Progress{Bytes: 5, Total: 10}) || list[0].Failure() != nil {
				t.Errorf("%+v", list[0])
			}
			break
		}
	}
	close(goOn)
	for {
		list, err := c.Commands(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if list[0].Status == ipa.Succeeded {
			if !strings.Contains(string(list[0].Result), "written") {
				t.Errorf("%+v", list[0])
			}
			break
		}
	}
	if r, err := c.Run(ctx, "standby.sync", ingot.Object{}); err != nil || r.Status != ipa.Succeeded {
		t.Errorf("%+v, %v", r, err)
	}
	_, err = c.Run(ctx, "standby.dance", ingot.Object{"a": 1})
	if ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), `dance failed: no such command {"a":1}`) {
		t.Errorf("%v", err)
	}
	_, err = client(t, ipa.Options{URL: a.URL, CA: a.CA, Token: "old"}).Run(ctx, "standby.sync", nil)
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "401") ||
		strings.Contains(err.Error(), "agent_token=") {
		t.Errorf("a wrong token: %v", err)
	}
	a.Stop()
	_, err = c.Commands(ctx)
	if ingot.KindOf(err) != ingot.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Errorf("when it is gone: %v", err)
	}
}

func TestOnlyTheAgentOfTheHeartbeatIsBelieved(t *testing.T) {
	t.Parallel()
	nothing := func(context.Context, string, json.RawMessage, func(int64, int64)) (any, error) {
		return nil, nil
	}
	a, other := ipatest.Start(t, nothing), ipatest.Start(t, nothing)
	for name, ca := range map[string]string{"that of another": other.CA, "none": ""} {
		_, err := client(t, ipa.Options{URL: a.URL, CA: ca}).Commands(t.Context())
		if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("certificate %s: %v", name, err)
		}
	}
	for _, ca := range []string{"x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := ipa.New(ipa.Options{URL: a.URL, CA: ca}); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%q: %v", ca, err)
		}
	}
	c := client(t, ipa.Options{URL: a.URL, CA: a.CA, Allow: func(ip netip.Addr) bool { return !ip.IsLoopback() }})
	if _, err := c.Commands(t.Context()); ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), "is no address of a machine") {
		t.Errorf("an address that is not allowed: %v", err)
	}
	// A certificate that vouches for another one does so by the rules.
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"commands": []}`)
	}))
	t.Cleanup(web.Close)
	if _, err := client(t, ipa.Options{URL: web.URL, CA: other.CA}).Commands(t.Context()); err == nil {
		t.Error("believed")
	}
}

func TestWhatIsNoAgentIsNamed(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]struct {
		status int
		kind   ingot.Kind
		text   string
	}{
		"no JSON":                            {200, ingot.Invalid, "list of commands"},
		`{"commands": 5}`:                    {200, ingot.Invalid, "list of commands"},
		`{"faultstring": "agent is busy"}`:   {400, ingot.Conflict, "agent is busy"},
		`{"faultstring": "out  of\nmemory"}`: {500, ingot.Unavailable, "out of memory"},
		"":                                   {302, ingot.Invalid, "302"},
		strings.Repeat(" ", 9<<20):           {200, ingot.Invalid, "more than 8 MiB"},
		`{"commands": [{}` + strings.Repeat(",{}", 1000) + `]}`: {200, ingot.Invalid, "more than 1000"},
		`{"faultstring": "GET http://u:secret@h/x?y=secret"}`:   {404, ingot.Invalid, "GET http://h/..."},
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(want.status)
			io.WriteString(w, answer)
		}))
		_, err := client(t, ipa.Options{URL: web.URL}).Commands(t.Context())
		web.Close()
		if ingot.KindOf(err) != want.kind || !strings.Contains(err.Error(), want.text) ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%.40q: %v", answer, err)
		}
	}
}

// Nobody but the client says what is asked for at the host of an agent.
func TestAnAgentIsAskedForCommandsAlone(t *testing.T) {
	t.Parallel()
	paths := make(chan string, 10)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths <- r.Method + " " + r.RequestURI
		io.WriteString(w, `{"commands": []}`)
	}))
	t.Cleanup(web.Close)
	for _, end := range []string{"#", "?", "/any/path", "/any/path#", "/any/path?", "/?", "//", "/%2e", "/?x=1#y"} {
		if _, err := ipa.New(ipa.Options{URL: web.URL + end}); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%s: %v", end, err)
		}
	}
	for _, url := range []string{"", "http://", "ftp://192.0.2.7", "192.0.2.7:9999", "http:x", "http://u@192.0.2.7"} {
		if _, err := ipa.New(ipa.Options{URL: url}); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%q: %v", url, err)
		}
	}
	for _, end := range []string{"", "/"} {
		if _, err := client(t, ipa.Options{URL: web.URL + end, Token: "a&b"}).Commands(t.Context()); err != nil {
			t.Error(err)
		}
		if got := <-paths; got != "GET /v1/commands/?agent_token=a%26b" {
			t.Error(got)
		}
	}
}

// A certificate that was vouched for is for the host that is asked, by name or by address.
func TestACertificateIsForTheHost(t *testing.T) {
	t.Parallel()
	ca, key := authority(t)
	for name, c := range map[string]struct {
		ips   []net.IP
		names []string
		ok    bool
	}{
		"the address": {ips: []net.IP{{127, 0, 0, 1}}, ok: true},
		"another":     {ips: []net.IP{{192, 0, 2, 7}}},
		"a name":      {names: []string{"localhost"}},
		"nothing":     {},
	} {
		web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"commands": []}`)
		}))
		web.Config.ErrorLog = log.New(io.Discard, "", 0)
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), IPAddresses: c.ips, DNSNames: c.names,
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		web.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		web.StartTLS()
		t.Cleanup(web.Close)
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
		_, err = client(t, ipa.Options{URL: web.URL, CA: text}).Commands(t.Context())
		if c.ok != (err == nil) || err != nil && ingot.KindOf(err) != ingot.Unavailable {
			t.Errorf("a certificate for %s: %v", name, err)
		}
	}
}

func authority(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

// An agent repeats the config drive that it was given, which may be larger than what is kept of an answer.
func TestALargeConfigDriveIsRepeated(t *testing.T) {
	t.Parallel()
	answer := func(w io.Writer, begin string, size int, end string) {
		io.WriteString(w, begin+`{"id": "1", "command_name": "deploy.execute_deploy_step", "command_params": {"step":
			{"args": {"configdrive": "`+strings.Repeat("A", size)+`"}}}, "command_status": "SUCCEEDED",
			"command_result": {"deploy_result": "ok"}}`+end)
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			answer(w, `{"commands": [`, 70<<20, `]}`)
			return
		}
		answer(w, "", 10<<20, "")
	}))
	t.Cleanup(web.Close)
	c := client(t, ipa.Options{URL: web.URL})
	list, err := c.Commands(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	one, err := c.Start(t.Context(), "deploy.execute_deploy_step", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []ipa.Command{list[0], one} {
		if got.Name != "execute_deploy_step" || got.Status != ipa.Succeeded ||
			string(got.Result) != `{"deploy_result": "ok"}` {
			t.Errorf("%+v", got)
		}
	}
}

func TestWhatAnAgentSaysHasNoSecretsOfURLs(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"no route\n to  host": "no route to host",
		"Download of image id x failed: URL: http://user:secret@192.0.2.1:8080/disk.raw; time: 0.1 seconds": "" +
			"Download of image id x failed: URL: http://192.0.2.1:8080/...; time: 0.1 seconds",
		"get 'https://images.example.org/d.raw?signature=secret': 403": "get 'https://images.example.org/...': 403",
		"http://192.0.2.1:8080/agent_images/1be26c0b/secret/disk.raw":  "http://192.0.2.1:8080/...",
		"HTTPConnectionPool(host='192.0.2.1', port=8080): Max retries exceeded with url: /agent_images/1be26c0b/secret/d " +
			"(Caused by X)": "HTTPConnectionPool(host='192.0.2.1', port=8080): Max retries exceeded with url: the path " +
			"(Caused by X)",
		"with url: /v1/secret/x (Caused":                      "with url: the path (Caused",
		"GET /disk.raw?sig=secret gave":                       "GET the path gave",
		"of user:secret@host/x, twice":                        "of the path twice",
		`{"at":"https:\/\/u:secret@h\/secret"}`:               `{"at":"https://h/..."}`,
		"http://user:se'cret@h/p":                             "http://h/...",
		"http://user:sec ret":                                 "a URL ret",
		"next=https%3A%2F%2Fh%2Fsecret":                       "next=a URL",
		"see https://192.0.2.7:9999/ (https://[fd00::7]:1/x)": "see https://192.0.2.7:9999/ (https://[fd00::7]:1/...)",
		"/dev/sda: 5 of 7 at 10:15, image ID: a.raw":          "/dev/sda: 5 of 7 at 10:15, image ID: a.raw",
	} {
		if got := ipa.Words(said, 500); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
	// Wherever it is cut off.
	text := strings.Repeat("word ", 10) + "http://user:secret@h/secret/" + strings.Repeat("x", 100) + " after"
	for most := range 200 {
		if got := ipa.Words(text, most); strings.Contains(got, "sec") || strings.Contains(got, "user") || len(got) > most {
			t.Errorf("%d: %q", most, got)
		}
	}
}
