package swift

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"ingot/internal/ingot"
)

// digests are the names of those that can sign, the strongest one first.
var digests = []string{"sha512", "sha256", "sha1"}

var hashes = map[string]func() hash.Hash{"sha512": sha512.New, "sha256": sha256.New, "sha1": sha1.New}

// defaultDigest is for clusters that do not say what they verify.
const defaultDigest = "sha256"

// strongest picks from what a cluster verifies. One that has temporary URLs and does not say of which
// digests is from the time when there was but one.
func strongest(allowed []string) (string, error) {
	if len(allowed) == 0 {
		return "sha1", nil
	}
	for _, d := range digests {
		if slices.Contains(allowed, d) {
			return d, nil
		}
	}
	return "", ingot.Errorf(ingot.Invalid, "Swift verifies temporary URLs by %s only, and we can sign by "+
		"sha512, sha256 and sha1", strings.Join(allowed, ", "))
}

// sign returns the signature, in hex digits, for a path from the version on, not escaped. That is
// what Swift signs, and also a RADOS gateway whose URLs have something before the version.
func sign(digest string, key ingot.Secret, method, path string, ends int64) string {
	mac := hmac.New(hashes[digest], []byte(key.Reveal()))
	fmt.Fprintf(mac, "%s\n%d\n%s", method, ends, path)
	return hex.EncodeToString(mac.Sum(nil))
}

// Request is what a temporary URL is for.
type Request struct {
	Container, Object string
	// Method is GET ("", which allows HEAD, too), PUT, DELETE...
	Method string
	// Life is how long it can be used from now on.
	Life time.Duration
	// Filename comes last in the URL, for firmware that looks there for what it is; "" is none.
	Filename string
}

// TempURL makes a temporary URL. The cluster is asked only if the account's key is not known or was
// read some minutes ago.
func (a *Account) TempURL(ctx context.Context, r Request) (string, error) {
	t, err := a.learn(ctx, false)
	if err != nil {
		return "", err
	}
	return t.url(r)
}

// Checked is TempURL for one that Swift has just accepted. It is signed by another key if the first
// one has been changed, and tells if there is no such object. It costs a request.
func (a *Account) Checked(ctx context.Context, r Request) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for anew := false; ; anew = true {
		t, err := a.learn(ctx, anew)
		if err != nil {
			return "", err
		}
		made, err := t.url(r)
		if err != nil {
			return "", err
		}
		if err = a.try(ctx, made, r); err == nil || anew || !errors.Is(err, errRefused) {
			return made, err
		}
	}
}

// errRefused is Swift's answer to a temporary URL that it does not accept.
var errRefused = errors.New("this temporary URL is refused by Swift")

// try asks Swift whether it accepts a temporary URL.
func (a *Account) try(ctx context.Context, made string, r Request) error {
	ask, err := http.NewRequestWithContext(ctx, http.MethodHead, made, nil)
	if err != nil {
		return ingot.Errorf(ingot.Internal, "ask for %s: %w", Shorten(made), err)
	}
	ask.Close = true // Swift 2.30 sends a body after a refusal, which breaks the next request
	answer, err := a.session.HTTP().Do(ask)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // without the URL
		}
		return ingot.Errorf(ingot.Unavailable, "ask for %s: %w", Shorten(made), err)
	}
	answer.Body.Close()
	switch status := answer.StatusCode; {
	case status == http.StatusUnauthorized:
		return ingot.Errorf(ingot.Internal, "%w: %s; see whether swift_temp_url_key is a key of the account",
			errRefused, Shorten(made))
	case status == http.StatusNotFound:
		return ingot.Errorf(ingot.NotFound, "there is no object %s in container %s of Swift (%s)", r.Object,
			r.Container, Shorten(made))
	case status >= 500:
		return ingot.Errorf(ingot.Unavailable, "Swift answers %s to %s", answer.Status, Shorten(made))
	case status >= 300:
		return ingot.Errorf(ingot.Internal, "Swift answers %s to %s", answer.Status, Shorten(made))
	}
	return nil
}

func (t *terms) url(r Request) (string, error) {
	if err := check(r.Container, r.Object); err != nil {
		return "", err
	}
	if r.Life < time.Second {
		return "", ingot.Errorf(ingot.Invalid, "a temporary URL lives for a second at least, not %s", r.Life)
	}
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	ends := time.Now().Add(t.ahead + r.Life).Unix()
	path := strings.Join([]string{t.path, r.Container, r.Object}, "/")
	made := fmt.Sprintf("%s%s?temp_url_sig=%s&temp_url_expires=%d", t.root, escape(path),
		sign(t.digest, t.key, method, path, ends), ends)
	if r.Filename != "" {
		made += "&filename=" + url.QueryEscape(r.Filename)
	}
	return made, nil
}

var signature = regexp.MustCompile(`(?i)(temp_url_sig=)[^&#\s"']*`)

// Shorten hides the signatures of all temporary URLs in a text, for logs: without them they are good
// for nothing.
func Shorten(text string) string { return signature.ReplaceAllString(text, "${1}"+ingot.Masked) }
