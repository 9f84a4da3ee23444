package auth_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"ingot/internal/auth"
	"ingot/internal/ingot"
)

func hash(t *testing.T, password, kind string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return kind + string(h[4:])
}

func request(t *testing.T, user, password string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://x/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	return r
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCredentialsAreVerified(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "htpasswd")
	write(t, path, "# operators\n\nann:"+hash(t, "pässword:1", "$2y$")+"\nbob:"+
		hash(t, "b", "$2b$")+"\ncyd:"+hash(t, "c", "$2a$")+"\n")
	b, err := auth.New(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // verified, then remembered
		for _, c := range []struct {
			user, password string
			want           ingot.Kind
		}{
			{"ann", "pässword:1", ""}, {"bob", "b", ""}, {"cyd", "c", ""},
			{"ann", "b", ingot.Unauthorized}, {"dan", "b", ingot.Unauthorized},
			{"ann", "", ingot.Unauthorized}, {"", "", ingot.Unauthorized},
		} {
			user, err := b.Check(request(t, c.user, c.password))
			if c.want == "" && (err != nil || user != c.user) ||
				c.want != "" && ingot.KindOf(err) != c.want {
				t.Errorf("%s:%s: %q, %v", c.user, c.password, user, err)
			}
		}
	}
	for _, header := range []string{"Basic", "Basic !", "basic " +
		base64.StdEncoding.EncodeToString([]byte("nocolon"))} {
		r := request(t, "", "")
		r.Header.Set("Authorization", header)
		if _, err := b.Check(r); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%q: %v", header, err)
		}
	}
	r := request(t, "", "")
	r.Header.Set("Authorization", "Bearer x")
	if _, err := b.Check(r); ingot.KindOf(err) != ingot.Unauthorized {
		t.Errorf("another scheme: %v", err)
	}
}

func TestAFileThatCannotBeUsedIsRefusedWithItsLine(t *testing.T) {
	t.Parallel()
	good := "ann:" + hash(t, "a", "$2y$") + "\n"
	for text, want := range map[string]string{
		"":           "no user",
		good + "bob": "line 2 is not user:hash",
		good + good:  `line 2 names user "ann" again`,
		good + "bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=": "line 2: the hash is not bcrypt",
		"bob:$apr1$x$y":                         "line 1: the hash is not bcrypt",
		"bob:$2y$05$short":                      "line 1: the bcrypt hash is damaged",
		"bob:$2y$31" + hash(t, "a", "$2y$")[6:]: "cost 31",
	} {
		_, err := auth.Parse(text)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "5en6G") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	_, err := auth.New("/no/such/file", slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("no file: %v", err)
	}
}

func TestAChangedFileCountsAtOnceAndADamagedOneDoesNot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "htpasswd")
	write(t, path, "ann:"+hash(t, "old", "$2y$")+"\n")
	var mu sync.Mutex
	var log bytes.Buffer
	b, err := auth.New(path, slog.New(slog.NewTextHandler(&locked{mu: &mu, b: &log}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ok := func(password string) bool {
		_, err := b.Check(request(t, "ann", password))
		return err == nil
	}
	until := func(what string, cond func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !cond(); {
			if time.Now().After(deadline) {
				t.Fatalf("never %s\n%s", what, &log)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if !ok("old") || ok("new") {
		t.Error("before the change")
	}
	write(t, path, "# changed\nann:"+hash(t, "new", "$2y$")+"\n")
	until("the new password", func() bool { return ok("new") })
	if ok("old") {
		t.Error("the old password is still good")
	}
	write(t, path, "damaged")
	until("an error", func() bool {
		ok("new") // looks at the file
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(log.String(), "cannot be used")
	})
	if !ok("new") {
		t.Error("a damaged file locks everybody out")
	}
}

type locked struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "htpasswd")
	write(t, path, "ann:"+hash(t, "a", "$2y$")+"\n")
	b, err := auth.New(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if _, err := b.Check(request(t, "ann", "a")); err != nil {
				t.Error(err)
			}
			_, err := b.Check(request(t, "ann", fmt.Sprint("guess", i)))
			if k := ingot.KindOf(err); k != ingot.Unauthorized && k != ingot.Unavailable {
				t.Errorf("guess: %v", err)
			}
		})
	}
	wg.Wait()
}

func FuzzParse(f *testing.F) {
	f.Add("ann:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n", "Basic YTpi")
	f.Add("#\n\n:x", "Basic")
	f.Fuzz(func(t *testing.T, file, header string) {
		users, err := auth.Parse(file)
		if err == nil && len(users) == 0 {
			t.Error("no users and no error")
		}
		if user, _, err := auth.Credentials(header); err == nil && strings.Contains(user, ":") {
			t.Errorf("user %q", user)
		}
	})
}
