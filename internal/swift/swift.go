// Package swift makes temporary URLs for objects of OpenStack's object store (Swift, or Ceph's RADOS
// gateway with its API), and puts and removes objects that end by themselves. What the objects are
// is not its business, except for the names that Glance gives to those of images.
//
// A temporary URL lets whoever has it do one thing with one object until a moment. It is signed with
// a key of the object's account, so that it can be made without asking the cluster. It is a secret:
// Shorten it before it is logged.
//
// Read Account first.
package swift

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"golang.org/x/sync/singleflight"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
)

// Options say which account it is.
type Options struct {
	// URL is Swift's if it is not the catalog's. It may end before the version (https://swift.example,
	// https://rgw.example/swift), after it or after the account. After the version, it is a RADOS
	// gateway's that has no accounts in its URLs, unless Account is set.
	URL string
	// Account that has the objects; "" is the one in the URL, or else Prefix ("" is AUTH), an underscore
	// and the id of the project of the session.
	Account, Prefix string
	// Version goes into a URL that has none; "" is v1.
	Version string
	// Key signs temporary URLs; "" is one of the two that are set on the account.
	Key ingot.Secret
}

// Account is an account of Swift. Its methods may be called concurrently.
type Account struct {
	session *keystone.Session
	service *keystone.Service
	options Options
	flight  singleflight.Group

	mu    sync.Mutex // guards terms
	terms *terms     // nil before the first are known
}

// New returns an account; it asks nobody yet.
func New(s *keystone.Session, o Options) *Account {
	return &Account{session: s, service: s.Service("Swift", "object-store", o.URL), options: o}
}

// terms are what temporary URLs of the account need.
type terms struct {
	place
	key    ingot.Secret
	digest string
	// ahead is how much the cluster's clock is ahead of ours: it is by that one that URLs end.
	ahead time.Duration
	until time.Time // when to ask again
}

const (
	// termsTime is how long terms are good: a key that is set anew signs after as long.
	termsTime = 5 * time.Minute
	// guessTime is how long they are if something about them is not known.
	guessTime = 30 * time.Second
	// hurry is how long new terms are waited for where there are old ones.
	hurry = 2 * time.Second
	// patience bounds questions about an account or an object.
	patience = time.Minute
)

// place is where an account is.
type place struct {
	root string // the URL up to the version, without a slash at its end
	path string // from the version on: /v1/AUTH_project
}

func (p place) url(path ...string) string {
	return p.root + escape(strings.Join(append([]string{p.path}, path...), "/"))
}

// escape is for the path of a URL.
func escape(path string) string { return (&url.URL{Path: path}).EscapedPath() }

var version = regexp.MustCompile(`^v[1-9](\.[0-9]+)?$`)

// split finds the account in a URL of Swift. project is asked for that of the session where its account
// is meant.
func (o Options) split(at string, project func() (string, error)) (place, error) {
	account := o.Account
	u, err := url.Parse(at)
	if err != nil || u.Host == "" {
		return place{}, ingot.Errorf(ingot.Invalid, "the URL of Swift is %q; write for example "+
			"\"https://swift.example\"", at)
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	n := slices.IndexFunc(parts, version.MatchString)
	switch {
	case n < 0:
		if account == "" {
			id, err := project()
			if err != nil {
				return place{}, err
			}
			if id == "" {
				return place{}, ingot.Errorf(ingot.Invalid, "the account of Swift at %s is not known: set "+
					"swift_account, or sign in at Keystone for a project", at)
			}
			account = strings.TrimSuffix(cmp.Or(o.Prefix, "AUTH"), "_") + "_" + id
		}
		if parts[0] == "" {
			parts = nil
		}
		n = len(parts)
		parts = append(parts, cmp.Or(o.Version, "v1"))
	case account == "" && n+1 < len(parts):
		account = parts[n+1]
	}
	root := url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.Join(parts[:n], "/")}
	p := place{root: strings.TrimRight(root.String(), "/"), path: "/" + parts[n]}
	if account != "" {
		p.path += "/" + account
	}
	return p, nil
}

// place asks the catalog, unless all is configured.
func (a *Account) place(ctx context.Context) (place, error) {
	at, err := a.service.URL(ctx)
	if err != nil {
		return place{}, err
	}
	return a.options.split(at, func() (string, error) { return a.session.Project(ctx) })
}

// learn returns terms, from memory unless they have to be asked for anew. Who has old ones does not
// wait for long: machines that boot do not depend on how busy Swift is.
func (a *Account) learn(ctx context.Context, anew bool) (*terms, error) {
	a.mu.Lock()
	t := a.terms
	a.mu.Unlock()
	if t != nil && !anew && time.Now().Before(t.until) {
		return t, nil
	}
	result := a.flight.DoChan("", func() (any, error) {
		// Others may wait for it who stay when the first one goes.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		next, err := a.ask(ctx, t)
		if ingot.KindOf(err) == ingot.Unavailable && t != nil {
			old := *t // a key seldom changes
			old.until, next, err = time.Now().Add(guessTime), &old, nil
		}
		if err != nil {
			return nil, err
		}
		a.mu.Lock()
		a.terms = next
		a.mu.Unlock()
		return next, nil
	})
	var late <-chan time.Time // never, unless there are old ones
	if t != nil && !anew {
		late = time.After(hurry)
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-late:
		return t, nil
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*terms), nil
	}
}

// ask asks the cluster. What it does not say now is as in old; nil is none.
func (a *Account) ask(ctx context.Context, old *terms) (*terms, error) {
	p, err := a.place(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &terms{place: p, key: a.options.Key, until: now.Add(termsTime)}
	var clock time.Time
	if t.digest, clock, err = a.digest(ctx, p); err != nil {
		return nil, err
	}
	switch ahead := clock.Sub(now); {
	case t.digest == "" && old != nil:
		t.digest, t.ahead, t.until = old.digest, old.ahead, now.Add(guessTime)
	case t.digest == "":
		t.digest, t.until = defaultDigest, now.Add(guessTime)
	case !clock.IsZero() && ahead.Abs() > 2*time.Second: // less is the way there
		t.ahead = ahead
	}
	if t.key == "" {
		t.key, err = a.key(ctx, p)
	}
	return t, err
}

// key is the one that temporary URLs of the account are signed with.
func (a *Account) key(ctx context.Context, p place) (ingot.Secret, error) {
	var header http.Header
	err := a.service.Do(ctx, "read the key of temporary URLs of account "+p.path,
		func(c *gophercloud.ServiceClient) error {
			// Not HEAD, and a list that is JSON also if it is empty: to others Swift 2.30 answers with what
			// breaks the next request on the connection.
			r, err := c.Get(ctx, p.url()+"?limit=1&format=json", nil, nil)
			if r != nil {
				header = r.Header
			}
			return err
		})
	if err != nil {
		if k := ingot.KindOf(err); k == ingot.Forbidden || k == ingot.NotFound {
			err = ingot.Errorf(k, "%w; set swift_temp_url_key, or swift_account if it is another one", err)
		}
		return "", err
	}
	for _, name := range []string{"X-Account-Meta-Temp-Url-Key", "X-Account-Meta-Temp-Url-Key-2"} {
		if key := header.Get(name); key != "" {
			return ingot.Secret(key), nil
		}
	}
	return "", ingot.Errorf(ingot.Invalid, "account %s of Swift has no key of temporary URLs, or does not "+
		"show it to us; set one: openstack object store account set --property Temp-URL-Key=KEY, or "+
		"swift_temp_url_key", p.path)
}

// digest asks the cluster what it can verify, and what time it is there. Not all have /info for all:
// "" is what a cluster comes to that does not say.
func (a *Account) digest(ctx context.Context, p place) (string, time.Time, error) {
	var answer struct {
		TempURL *struct {
			Digests []string `json:"allowed_digests"`
		} `json:"tempurl"`
	}
	var clock time.Time
	open := a.session.Service("Swift", "object-store", p.root).WithoutToken()
	err := open.Do(ctx, "ask what Swift can do", func(c *gophercloud.ServiceClient) error {
		r, err := c.Get(ctx, c.ServiceURL("info"), &answer, nil)
		if err == nil {
			clock, _ = http.ParseTime(r.Header.Get("Date"))
		}
		return err
	})
	if err != nil {
		return "", time.Time{}, nil
	}
	if answer.TempURL == nil {
		return "", clock, ingot.Errorf(ingot.Invalid, "Swift at %s has no temporary URLs; add tempurl to "+
			"the pipeline of its proxy servers", p.root)
	}
	digest, err := strongest(answer.TempURL.Digests)
	return digest, clock, err
}

// check refuses names that cannot be those of a container and an object, or that clients change on
// the way (dots).
func check(container, object string) error {
	if container == "" || strings.ContainsAny(container, "/") || container == "." || container == ".." {
		return ingot.Errorf(ingot.Invalid, "%q cannot be the name of a container", container)
	}
	for part := range strings.SplitSeq(object, "/") {
		if part == "." || part == ".." {
			return ingot.Errorf(ingot.Invalid, "%q cannot be the name of an object that is fetched by its "+
				"URL", object)
		}
	}
	if object == "" {
		return ingot.Errorf(ingot.Invalid, "an object without a name")
	}
	return nil
}
