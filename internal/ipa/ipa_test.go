package ipa_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

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
		strings.Repeat(" ", 65<<20):          {200, ingot.Invalid, "more than"},
	} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(want.status)
			io.WriteString(w, answer)
		}))
		_, err := client(t, ipa.Options{URL: web.URL}).Commands(t.Context())
		web.Close()
		if ingot.KindOf(err) != want.kind || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%.40q: %v", answer, err)
		}
	}
}
