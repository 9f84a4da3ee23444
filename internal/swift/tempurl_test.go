package swift

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
)

func is(project string) func() (string, error) {
	return func() (string, error) { return project, nil }
}

func TestAccountsAreFoundInURLs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at, account, prefix, project string
		root, path                   string
	}{
		{"http://s:8080/v1/AUTH_p/", "", "", "p", "http://s:8080", "/v1/AUTH_p"},
		{"http://s:8080/v1/AUTH_p/", "AUTH_glance", "", "p", "http://s:8080", "/v1/AUTH_glance"},
		{"http://s:8080", "", "", "p", "http://s:8080", "/v1/AUTH_p"},
		{"http://s:8080/", "", "SERVICE", "p", "http://s:8080", "/v1/SERVICE_p"},
		{"http://s:8080/", "", "SERVICE_", "p", "http://s:8080", "/v1/SERVICE_p"},
		{"https://s/object/", "x", "", "", "https://s/object", "/v1/x"},
		// A RADOS gateway, with and without accounts in its URLs.
		{"http://rgw/swift/v1/AUTH_p", "", "", "p", "http://rgw/swift", "/v1/AUTH_p"},
		{"http://rgw/swift/v1/", "", "", "p", "http://rgw/swift", "/v1"},
		{"http://rgw/swift/v1", "AUTH_g", "", "p", "http://rgw/swift", "/v1/AUTH_g"},
		{"http://rgw/swift", "", "", "p", "http://rgw/swift", "/v1/AUTH_p"},
	} {
		got, err := Options{Account: c.account, Prefix: c.prefix}.split(c.at, is(c.project))
		if err != nil || got.root != c.root || got.path != c.path {
			t.Errorf("%s of %q: %+v, %v", c.at, c.account, got, err)
		}
	}
	if got, err := (Options{Version: "v2"}).split("http://s", is("p")); err != nil || got.path != "/v2/AUTH_p" {
		t.Errorf("another version: %+v, %v", got, err)
	}
	for at, want := range map[string]string{"http://s": "set swift_account", "swift": "write for example"} {
		if _, err := (Options{}).split(at, is("")); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", at, err)
		}
	}
}

func TestTheStrongestDigestSigns(t *testing.T) {
	t.Parallel()
	for allowed, want := range map[string]string{
		"": "sha1", "sha1": "sha1", "sha1 sha256 sha512": "sha512", "sha256 sha1": "sha256", "md5": "",
	} {
		got, err := strongest(strings.Fields(allowed))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", allowed, got, err)
		}
	}
}

// The values were made with openssl: printf 'GET\n1400000000\n/v1/AUTH_p/c/o' | openssl dgst -sha256
// -hmac key.
func TestSignaturesAreThoseOfOpenSSL(t *testing.T) {
	t.Parallel()
	for digest, want := range map[string]string{
		"sha1":   "b463625d6d51ead32546771126913eca1abb396d",
		"sha256": "d573b5b98823a5e2a4f9a7282cfb685955d7ced3ae7f1638ff2b45fccbc047a7",
		"sha512": "1d910fb14bbc7c3a916198f3f3b062c2734ad1a87178359bb81c837fd638646e3695730c70b5aec0e13ae8ea9682e5be36d023215917c249cd9b63bfc0228024",
	} {
		if got := sign(digest, "key", "GET", "/v1/AUTH_p/c/o", 1400000000); got != want {
			t.Errorf("%s: %s", digest, got)
		}
	}
}

func terms1() *terms {
	return &terms{place: place{"http://rgw/swift", "/v1/AUTH_p"}, key: "k", digest: "sha256"}
}

func TestTheURLIsEscapedAndWhatIsSignedIsNot(t *testing.T) {
	t.Parallel()
	made, err := terms1().url(Request{Container: "b x", Object: "a/ü 1%.iso", Life: time.Hour,
		Filename: "boot 1.iso"})
	if err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut(made, "?")
	if path != "http://rgw/swift/v1/AUTH_p/b%20x/a/%C3%BC%201%25.iso" {
		t.Error(path)
	}
	if !strings.HasSuffix(query, "&filename=boot+1.iso") {
		t.Errorf("%s does not end with the file's name", query)
	}
}

func TestAWrongClockIsAllowedFor(t *testing.T) {
	t.Parallel()
	slow := terms1()
	slow.ahead = 10 * time.Minute
	made, err := slow.url(Request{Container: "c", Object: "o", Life: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(made, "temp_url_expires=")
	ends, err := time.ParseDuration(text + "s")
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(time.Unix(int64(ends/time.Second), 0)); left < 10*time.Minute ||
		left > 12*time.Minute {
		t.Errorf("it ends in %s by a clock that is 10 minutes slow, and lives for one", left)
	}
}

func TestNamesThatCannotBeFetchedAreRefused(t *testing.T) {
	t.Parallel()
	for _, r := range []Request{{Object: "o"}, {Container: "a/b", Object: "o"}, {Container: "c"},
		{Container: "c", Object: "a/../b"}, {Container: "..", Object: "o"}, {Container: "c", Object: "."}} {
		r.Life = time.Minute
		if _, err := terms1().url(r); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := terms1().url(Request{Container: "c", Object: "o"}); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("no life: %v", err)
	}
}

func TestContainersOfSeeds(t *testing.T) {
	t.Parallel()
	const id = "DEADbeef-0123-4567-89ab-0123456789ab"
	for seed, want := range map[int]string{0: "glance", 1: "glance_d", 8: "glance_deadbeef",
		9: "glance_deadbeef-0", 10: "glance_deadbeef-01", 32: "glance_deadbeef-0123-4567-89ab-0123456789ab"} {
		if got := (&Images{Container: "glance", Seed: seed}).container(id); got != want {
			t.Errorf("%d: %s, want %s", seed, got, want)
		}
	}
}

func TestFewURLsAreKept(t *testing.T) {
	t.Parallel()
	known := terms1()
	known.until = time.Now().Add(time.Hour)
	i := &Images{Account: &Account{terms: known}, Container: "glance", Life: time.Minute, Reuse: true}
	for n := range 3 * reusables {
		if _, err := i.URL(t.Context(), fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	if len(i.made) != reusables {
		t.Errorf("%d are kept, %d is the bound", len(i.made), reusables)
	}
}

func TestSignaturesAreHidden(t *testing.T) {
	t.Parallel()
	made, err := terms1().url(Request{Container: "c", Object: "o", Life: time.Minute, Filename: "x.iso"})
	if err != nil {
		t.Fatal(err)
	}
	text := `kernel "` + made + "\"\n" + strings.ToUpper(made) + " end"
	got := Shorten(text)
	signature := sign("sha256", "k", "GET", "/v1/AUTH_p/c/o", time.Now().Add(time.Minute).Unix())
	for _, want := range []string{"/v1/AUTH_p/c/o?temp_url_sig=******&temp_url_expires=", "x.iso\"\n", " end"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s has no %q", got, want)
		}
	}
	if strings.Contains(strings.ToLower(got), signature[:8]) {
		t.Errorf("%s has the signature", got)
	}
}

func FuzzShorten(f *testing.F) {
	f.Add("http://s/v1/a/c/o?temp_url_sig=", "0123abcd", "&temp_url_expires=1")
	f.Add("x temp_url_sig=a temp_url_sig=", "b", "\n")
	f.Fuzz(func(t *testing.T, before, signature, after string) {
		for _, r := range signature {
			if !strings.ContainsRune("0123456789abcdef", r) {
				return
			}
		}
		if strings.Contains(before+after, signature) || len(signature) < 2 {
			return
		}
		text := before + "temp_url_sig=" + signature + "&" + after
		if got := Shorten(text); strings.Contains(got, signature) {
			t.Errorf("%q becomes %q", text, got)
		}
	})
}

func FuzzSplit(f *testing.F) {
	f.Add("http://s:8080/v1/AUTH_p", "", "p")
	f.Add("http://rgw/swift", "AUTH_x", "")
	f.Fuzz(func(t *testing.T, at, account, project string) {
		p, err := Options{Account: account}.split(at, is(project))
		if err == nil && (!strings.HasPrefix(p.path, "/") || !strings.Contains(p.root, "://") ||
			strings.HasSuffix(p.root, "/")) {
			t.Errorf("%q of %q: %+v", at, account, p)
		}
	})
}

func BenchmarkTempURL(b *testing.B) {
	known := terms1()
	known.digest, known.until = "sha512", time.Now().Add(time.Hour)
	a := &Account{terms: known}
	r := Request{Container: "glance", Object: "deadbeef-0123-4567-89ab-0123456789ab", Life: time.Hour}
	for b.Loop() {
		if _, err := a.TempURL(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
