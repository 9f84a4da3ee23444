package ingot_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"text/template"

	"ingot/internal/ingot"
)

const hidden = "hunter2hunter2"

// carriers returns values that hold the secret in each way the program holds secrets.
func carriers() map[string]any {
	s := ingot.Secret(hidden)
	attempt := ingot.Attempt{ID: "0a", Key: s, Target: &ingot.ISCSITarget{Password: s}}
	return map[string]any{
		"itself":  s,
		"pointer": &s,
		"slice":   []ingot.Secret{s},
		"map":     map[string]ingot.Secret{"password": s},
		"struct":  attempt,
		"target":  attempt.Target,
		"any":     []any{s, &attempt},
		"object":  ingot.Object{"nested": ingot.Object{"password": s}},
		"node":    &ingot.Node{UUID: "u", Attempt: &attempt},
	}
}

func TestASecretDoesNotPrintItself(t *testing.T) {
	t.Parallel()
	for name, v := range carriers() {
		for _, verb := range []string{"%v", "%+v", "%#v", "%10.3v", "%s", "%q", "%d", "%x", "%t"} {
			if got := fmt.Sprintf(verb, v); leaks(got) {
				t.Errorf("%s of %s prints %s", verb, name, got)
			}
		}
		if got := fmt.Sprint(v) + fmt.Sprintln(v); leaks(got) {
			t.Errorf("Sprint of %s prints %s", name, got)
		}
		if got := fmt.Errorf("log in: %v", v).Error(); leaks(got) {
			t.Errorf("error with %s reads %s", name, got)
		}
		switch v.(type) {
		case ingot.Secret, *ingot.Secret, []ingot.Secret, map[string]ingot.Secret:
		default:
			continue // no texts: vet refuses the verbs below for them
		}
		for _, verb := range []string{"%s", "%q", "%x", "%X"} {
			if got := fmt.Sprintf(verb, v); leaks(got) {
				t.Errorf("%s of %s prints %s", verb, name, got)
			}
		}
	}
}

func TestASecretDoesNotEncodeItself(t *testing.T) {
	t.Parallel()
	for name, v := range carriers() {
		got, err := json.Marshal(v)
		if err != nil {
			t.Errorf("json of %s: %v", name, err)
		}
		if leaks(string(got)) {
			t.Errorf("json of %s is %s", name, got)
		}
		var page bytes.Buffer
		if err := template.Must(template.New("").Parse("{{.}}")).Execute(&page, v); err != nil {
			t.Errorf("template of %s: %v", name, err)
		}
		if leaks(page.String()) {
			t.Errorf("template of %s is %s", name, page.String())
		}
	}
	if got, err := xml.Marshal(ingot.Secret(hidden)); err != nil || leaks(string(got)) {
		t.Errorf("xml is %s, %v", got, err)
	}
}

func TestASecretIsNotLogged(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	for _, log := range []*slog.Logger{
		slog.New(slog.NewTextHandler(&out, nil)),
		slog.New(slog.NewJSONHandler(&out, nil)),
	} {
		for name, v := range carriers() {
			log.Info("hello", "carrier", name, "value", v)
			log.With("value", v).WithGroup("g").Info("hello", slog.Any("inner", v))
		}
		log.Error("log in", "err", errors.New("password "+ingot.Secret(hidden).String()))
	}
	if leaks(out.String()) {
		t.Errorf("the log says\n%s", out.String())
	}
	if !strings.Contains(out.String(), ingot.Masked) {
		t.Error("the log does not even show that there is a secret")
	}
}

// leaks tells whether text has the secret, or its first letters, as it is or in hex.
func leaks(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, hidden[:3]) ||
		strings.Contains(text, fmt.Sprintf("%x", hidden[:3]))
}

func TestASecretIsRevealedOnRequest(t *testing.T) {
	t.Parallel()
	var s ingot.Secret
	if s.String() != "" || s.Reveal() != "" {
		t.Errorf("no secret prints %q and is %q", s.String(), s.Reveal())
	}
	if err := json.Unmarshal([]byte(`"`+hidden+`"`), &s); err != nil {
		t.Fatal(err)
	}
	if s.Reveal() != hidden {
		t.Errorf("revealed %q", s.Reveal())
	}
	if s.String() != "******" {
		t.Errorf("masked as %q, want the six asterisks of Ironic", s.String())
	}
}
