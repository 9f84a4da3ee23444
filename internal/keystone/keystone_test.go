package keystone_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
)

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOptionsThatCannotWorkSayWhatToDo(t *testing.T) {
	t.Parallel()
	clouds := file(t, "clouds.yaml", "clouds:\n  half:\n    auth: {auth_url: 'http://k', username: u}\n")
	cloud := func(name, path string) func(*keystone.Options) {
		return func(o *keystone.Options) { o.Cloud, o.CloudsFile = name, path }
	}
	user := keystone.Options{AuthURL: "http://k", Username: "u", UserDomain: "Default", Password: "p",
		Project: "service", ProjectDomain: "Default"}
	for want, change := range map[string]func(*keystone.Options){
		"set username and password":             func(o *keystone.Options) { o.Username = "" },
		"set project_name, or system_scope":     func(o *keystone.Options) { o.Project = "" },
		`auth_url "k:5000" is no URL`:           func(o *keystone.Options) { o.AuthURL = "k:5000" },
		"end it with /v3":                       func(o *keystone.Options) { o.AuthURL = "http://k/v2.0/" },
		"sign in at Keystone http://k/v3: You":  func(o *keystone.Options) { o.UserDomain = "" },
		"no such file":                          func(o *keystone.Options) { o.CAFile = "/no/file" },
		"has no certificate in PEM form":        func(o *keystone.Options) { o.CAFile = clouds },
		`cloud "none" not found in clouds.yaml`: cloud("none", clouds),
		`cloud "x" of clouds.yaml /no/file`:     cloud("x", "/no/file"),
		"provide a password":                    cloud("half", clouds),
	} {
		o := user
		change(&o)
		if _, err := keystone.NewSession(o); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, change := range []func(*keystone.Options){
		func(*keystone.Options) {},
		func(o *keystone.Options) { o.Project, o.SystemScope = "", true },
		func(o *keystone.Options) { o.Insecure = true },
		func(o *keystone.Options) { *o = keystone.Options{} },
		func(o *keystone.Options) {
			*o = keystone.Options{AuthURL: "https://k/identity/", ApplicationCredentialID: "i",
				ApplicationCredentialSecret: "s"}
		},
	} {
		o := user
		change(&o)
		if _, err := keystone.NewSession(o); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestWithoutKeystoneAServiceNeedsItsURL(t *testing.T) {
	t.Parallel()
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if at, err := s.Service("Glance", "image", "http://g:9292").URL(t.Context()); err != nil ||
		at != "http://g:9292/" {
		t.Errorf("%q, %v", at, err)
	}
	_, err = s.Service("Glance", "image", "").URL(t.Context())
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "set its endpoint_override") {
		t.Errorf("no URL: %v", err)
	}
	if project, err := s.Project(t.Context()); project != "" || err != nil {
		t.Errorf("project %q, %v", project, err)
	}
}
