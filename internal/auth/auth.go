// Package auth tells who is asking: by a token of Keystone, or by HTTP Basic authentication against a
// file of htpasswd with bcrypt hashes, as Ironic's auth_strategy keystone and http_basic. It decides
// nothing about what somebody may do, and leaves the wire to its callers.
//
// A bcrypt hash is slow on purpose, so credentials that were right are remembered for a while, and
// only a few are verified at once: whoever guesses passwords takes a bounded part of the machine.
//
// Read Keystone.Who and Basic.Check first.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"ingot/internal/ingot"
	"ingot/internal/policy"
)

const (
	// remember is how long verified credentials need no verification; a change of the file ends
	// it at once. remembered bounds how many are kept, good and bad ones apart, so that guesses
	// cannot displace what is good.
	remember   = 5 * time.Minute
	remembered = 1024
	// patience bounds the wait for a turn to be verified.
	patience = 10 * time.Second
	// lookEvery is how often the file is looked at for changes.
	lookEvery = time.Second
)

// Basic verifies credentials. Its methods may be called concurrently.
type Basic struct {
	path string
	log  *slog.Logger
	key  [32]byte
	// turns bounds verifications at once.
	turns chan struct{}

	mu     sync.Mutex // guards what follows
	users  map[string][]byte
	nobody []byte // a hash as slow as those of users, for names that are none
	seen   stamp  // of the file that users are from, or that was refused
	looked time.Time
	good   map[digest]time.Time // until when
	bad    map[digest]time.Time
}

// digest stands for credentials; without the key nobody can guess from it.
type digest [sha256.Size]byte

// stamp tells one content of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

// New reads the file. Errors name the line.
func New(path string, log *slog.Logger) (*Basic, error) {
	b := &Basic{path: path, log: log, good: map[digest]time.Time{}, bad: map[digest]time.Time{},
		turns: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	rand.Read(b.key[:]) // never fails (crypto/rand)
	var err error
	if b.users, b.seen, err = read(path); err != nil {
		return nil, err
	}
	b.looked = time.Now()
	b.nobody, err = dummy(b.users)
	return b, err
}

// dummy is the hash of a password that nobody knows.
func dummy(users map[string][]byte) ([]byte, error) {
	cost := bcrypt.MinCost
	for _, hash := range users {
		c, err := bcrypt.Cost(hash)
		if err != nil {
			return nil, err
		}
		cost = max(cost, c)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(rand.Text()), cost)
	if err != nil {
		return nil, fmt.Errorf("make a dummy hash: %w", err)
	}
	return hash, nil
}

func read(path string) (map[string][]byte, stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, stamp{}, ingot.Errorf(ingot.Invalid, "http_basic_auth_user_file: %w; make it "+
			"with: htpasswd -cB FILE USER", err)
	}
	now := stamp{info.ModTime(), info.Size()}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, now, ingot.Errorf(ingot.Invalid, "http_basic_auth_user_file: %w", err)
	}
	users, err := Parse(string(text))
	if err != nil {
		return nil, now, ingot.Errorf(ingot.Invalid, "http_basic_auth_user_file %s: %w", path, err)
	}
	return users, now, nil
}

// Check returns the user whose credentials the request has. Unauthorized if it has none or wrong
// ones, Invalid if they cannot be read, Unavailable if too many wait to be verified.
func (b *Basic) Check(r *http.Request) (user string, err error) {
	user, password, err := Credentials(r.Header.Get("Authorization"))
	if err != nil {
		return "", err
	}
	b.reload()
	d := b.digest(user, password)
	if ok, known := b.recall(d); known {
		return user, verdict(ok)
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	select {
	case b.turns <- struct{}{}:
		defer func() { <-b.turns }()
	case <-ctx.Done():
		return "", ingot.Errorf(ingot.Unavailable, "too many passwords are being verified; try "+
			"again later")
	}
	if ok, known := b.recall(d); known { // somebody with the same ones was first
		return user, verdict(ok)
	}
	b.mu.Lock()
	hash, from := b.users[user], b.seen
	known := hash != nil
	if !known {
		hash = b.nobody // the time must not tell who exists
	}
	b.mu.Unlock()
	ok := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && known
	b.note(d, ok, from)
	return user, verdict(ok)
}

// Who is Check for those who ask what the user may do: everything.
func (b *Basic) Who(r *http.Request) (policy.Subject, error) {
	if _, err := b.Check(r); err != nil {
		return policy.Subject{}, err
	}
	return policy.Operator, nil
}

// Refusal is what Ironic's middleware answers.
func (b *Basic) Refusal(status int, text string) (challenge string, body any) {
	type refusal struct {
		Message string `json:"message"`
		Code    int    `json:"code"`
	}
	return `Basic realm="Baremetal API"`, refusal{text, status}
}

func verdict(ok bool) error {
	if ok {
		return nil
	}
	return ingot.Errorf(ingot.Unauthorized, "Incorrect username or password")
}

func (b *Basic) digest(user, password string) (d digest) {
	mac := hmac.New(sha256.New, b.key[:])
	mac.Write([]byte(user + "\x00" + password)) // a user name has no zero byte, see Credentials
	mac.Sum(d[:0])
	return d
}

func (b *Basic) recall(d digest) (ok, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if until, found := b.good[d]; found && now.Before(until) {
		return true, true
	}
	until, found := b.bad[d]
	return false, found && now.Before(until)
}

// note remembers a verdict, unless the file has changed meanwhile.
func (b *Basic) note(d digest, ok bool, from stamp) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if from != b.seen {
		return
	}
	into := b.bad
	if ok {
		into = b.good
	}
	for old := range into { // any of them: the order of a map is random
		if len(into) < remembered {
			break
		}
		delete(into, old)
	}
	into[d] = time.Now().Add(remember)
}

// reload reads the file again when it has changed. One that cannot be used leaves the users as
// they were: a slip of the editor must not lock everybody out.
func (b *Basic) reload() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Since(b.looked) < lookEvery {
		return
	}
	b.looked = time.Now()
	info, err := os.Stat(b.path)
	if err == nil && (stamp{info.ModTime(), info.Size()}) == b.seen {
		return
	}
	users, now, err := read(b.path)
	if now == b.seen && err != nil {
		return // told already
	}
	b.seen = now
	if err != nil {
		b.log.Error("the changed user file cannot be used; the users stay as they were",
			"error", err)
		return
	}
	b.users = users
	clear(b.good)
	clear(b.bad)
	b.log.Info("the user file was read again", "users", len(users))
}

// Credentials reads an Authorization header (RFC 7617). Unauthorized if there is none for Basic,
// Invalid if it cannot be read.
func Credentials(header string) (user, password string, err error) {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", ingot.Errorf(ingot.Unauthorized, "Authorization required")
	}
	pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(token))
	user, password, ok := strings.Cut(string(pair), ":")
	if err != nil || !ok || strings.ContainsRune(user, 0) {
		return "", "", ingot.Errorf(ingot.Invalid, "Could not decode authorization token")
	}
	return user, password, nil
}
