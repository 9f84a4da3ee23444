package auth

import (
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/policy"
)

// Keystone knows people by their tokens, as Ironic's auth_strategy keystone. Its methods may be called
// concurrently.
type Keystone struct {
	// Tokens checks them.
	Tokens *keystone.Tokens
	// URI is told to whom has no good token, as the place to get one.
	URI string
	// Options are of what those with a token may do.
	Options policy.Options
	// Log is told when Keystone cannot be asked, which callers learn without the reason.
	Log *slog.Logger

	complained atomic.Int64 // when Log was told, in seconds
}

// Who returns whose token the request has. Unauthorized if it has none, or none that is valid;
// Unavailable, with keystone.RetryAfter, if Keystone cannot be asked and the token is not known yet.
func (k *Keystone) Who(r *http.Request) (policy.Subject, error) {
	token := r.Header.Get("X-Auth-Token")
	if token == "" {
		return policy.Subject{}, ingot.Errorf(ingot.Unauthorized, unauthenticated)
	}
	who, err := k.Tokens.Check(r.Context(), token)
	switch {
	case err == nil:
		return policy.New(who, k.Options), nil
	case ingot.KindOf(err) == ingot.Unauthorized:
		return policy.Subject{}, ingot.Errorf(ingot.Unauthorized, unauthenticated)
	case r.Context().Err() != nil:
		return policy.Subject{}, err
	}
	k.complain(err)
	return policy.Subject{}, &keystone.Silence{
		Wait: time.Duration(max(1, keystone.RetryAfter(err))) * time.Second,
		Err: ingot.Errorf(ingot.Unavailable, "Keystone cannot be asked whose the token is; try again "+
			"later."),
	}
}

// unauthenticated is what Keystone's own middleware says.
const unauthenticated = "The request you have made requires authentication."

// complainEvery bounds how often the same trouble is logged: every request may meet it.
const complainEvery = 30 // seconds

func (k *Keystone) complain(err error) {
	now, last := time.Now().Unix(), k.complained.Load()
	if now-last >= complainEvery && k.complained.CompareAndSwap(last, now) {
		k.Log.Error("tokens that are not known yet cannot be checked; who sends them is answered 503",
			"error", err)
	}
}

// Refusal is the middleware's, with the place where tokens are to be had.
func (k *Keystone) Refusal(status int, text string) (challenge string, body any) {
	type refusal struct {
		Code    int    `json:"code"`
		Title   string `json:"title"`
		Message string `json:"message"`
	}
	return `Keystone uri="` + k.URI + `"`, refusal{status, http.StatusText(status), text}
}
