package keystone

import (
	"context"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"golang.org/x/sync/singleflight"

	"ingot/internal/ingot"
)

// Identity is who sends a token and for what it was made. Roles are names.
type Identity struct {
	UserID, User, UserDomainID          string
	ProjectID, Project, ProjectDomainID string // "" unless the token is for a project
	DomainID                            string // "" unless it is for a domain
	System                              bool   // it is for the whole system
	Roles                               []string
	// Expires is by Keystone's clock.
	Expires time.Time
}

// Tokens checks tokens of users, and remembers what came of it. Its methods may be called
// concurrently.
type Tokens struct {
	session *Session
	fresh   time.Duration
	flight  singleflight.Group

	mu   sync.Mutex // guards what follows
	good map[digest]known
	bad  map[digest]time.Time // until when
}

// digest stands for a token, so that none is kept.
type digest [sha256.Size]byte

// known is an identity, when to ask about it again, and when it ends.
type known struct {
	who        *Identity
	fresh, end time.Time
}

const (
	// remembered bounds how many tokens are kept, good and bad ones apart, so that guesses cannot
	// displace what is good.
	remembered = 4096
	// badTime is how long a token that is not valid is not asked about.
	badTime = 10 * time.Second
	// longest is that of a token; Keystone's are shorter, also with certificates.
	longest = 8 << 10
)

// NewTokens checks tokens by a session whose user may do so (role service or admin). A token is
// asked about again after fresh; for as long it may go on to be used after Keystone has revoked it.
func NewTokens(s *Session, fresh time.Duration) *Tokens {
	return &Tokens{session: s, fresh: fresh, good: map[digest]known{}, bad: map[digest]time.Time{}}
}

// Check returns whose a token is. The error is of kind Unauthorized if it is not valid (or no more),
// and Unavailable if Keystone does not answer; RetryAfter tells how long to wait. A token that was
// good is good to its end while Keystone does not answer. The Identity is shared: do not change it.
func (t *Tokens) Check(ctx context.Context, token string) (*Identity, error) {
	if !plausible(token) {
		return nil, invalid()
	}
	d := digest(sha256.Sum256([]byte(token)))
	k, answered, err := t.recall(d)
	if answered {
		return k.who, err
	}
	result := t.flight.DoChan(string(d[:]), func() (any, error) {
		// Others may wait for it who stay when the first one goes.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
		defer cancel()
		return t.ask(ctx, d, token)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		if r.Err == nil {
			return r.Val.(*Identity), nil
		}
		if k.who != nil && ingot.KindOf(r.Err) != ingot.Unauthorized {
			return k.who, nil // Keystone could not be asked
		}
		return nil, r.Err
	}
}

func invalid() error { return ingot.Errorf(ingot.Unauthorized, "the token is not valid") }

// plausible tells whether it may be a token at all: it goes into a header.
func plausible(token string) bool {
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return false
		}
	}
	return token != "" && len(token) <= longest
}

// recall returns what is known of a token, and whether that is an answer.
func (t *Tokens) recall(d digest) (k known, answered bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if k, ok := t.good[d]; ok {
		if now.After(k.end) {
			delete(t.good, d)
			return known{}, true, invalid()
		}
		return k, now.Before(k.fresh), nil
	}
	if until, ok := t.bad[d]; ok && now.Before(until) {
		return known{}, true, invalid()
	}
	return known{}, false, nil
}

// ask has Keystone tell whose the token is.
func (t *Tokens) ask(ctx context.Context, d digest, token string) (*Identity, error) {
	rest := &t.session.rest
	if err := rest.check(); err != nil {
		return nil, err
	}
	var answer answer
	var clock time.Time // Keystone's
	err := t.session.identity.Do(ctx, "check a token", func(c *gophercloud.ServiceClient) error {
		// Without the catalog, which is the bulk of it.
		r, err := c.Get(ctx, c.ServiceURL("auth", "tokens")+"?nocatalog", &answer,
			&gophercloud.RequestOpts{MoreHeaders: map[string]string{"X-Subject-Token": token},
				OkCodes: []int{http.StatusOK, http.StatusNonAuthoritativeInfo}})
		if r != nil {
			clock, _ = http.ParseTime(r.Header.Get("Date"))
		}
		return err
	})
	switch kind := ingot.KindOf(err); kind {
	case "":
		rest.over()
		return t.note(d, answer.identity(), clock)
	case ingot.NotFound, ingot.Invalid:
		rest.over()
		t.noteBad(d)
		return nil, invalid()
	case ingot.Forbidden:
		return nil, ingot.Errorf(ingot.Internal, "%w; the user of [keystone_authtoken] needs the role "+
			"service or admin", err)
	default:
		return nil, rest.after(err)
	}
}

// answer is what Keystone tells of a token.
type answer struct {
	Token struct {
		Expires time.Time `json:"expires_at"`
		User    struct {
			named
			Domain named `json:"domain"`
		} `json:"user"`
		Project struct {
			named
			Domain named `json:"domain"`
		} `json:"project"`
		Domain named `json:"domain"`
		System struct {
			All bool `json:"all"`
		} `json:"system"`
		Roles []named `json:"roles"`
	} `json:"token"`
}

type named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (a answer) identity() *Identity {
	t := a.Token
	who := &Identity{
		UserID: t.User.ID, User: t.User.Name, UserDomainID: t.User.Domain.ID,
		ProjectID: t.Project.ID, Project: t.Project.Name, ProjectDomainID: t.Project.Domain.ID,
		DomainID: t.Domain.ID, System: t.System.All, Expires: t.Expires,
	}
	for _, role := range t.Roles {
		who.Roles = append(who.Roles, role.Name)
	}
	return who
}

// note remembers who it is. How long the token has is counted by Keystone's clock: ours may be wrong.
func (t *Tokens) note(d digest, who *Identity, clock time.Time) (*Identity, error) {
	now := time.Now()
	if clock.IsZero() {
		clock = now
	}
	end := now.Add(who.Expires.Sub(clock))
	if !end.After(now) || who.UserID == "" {
		return nil, invalid()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	makeRoom(t.good)
	t.good[d] = known{who, now.Add(t.fresh), end}
	return who, nil
}

func (t *Tokens) noteBad(d digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.good, d)
	makeRoom(t.bad)
	t.bad[d] = time.Now().Add(badTime)
}

// makeRoom forgets some token, any: the order of a map is random.
func makeRoom[V any](m map[digest]V) {
	for d := range m {
		if len(m) < remembered {
			return
		}
		delete(m, d)
	}
}
