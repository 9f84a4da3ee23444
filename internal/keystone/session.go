package keystone

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"golang.org/x/sync/singleflight"

	"ingot/internal/ingot"
)

// Session is somebody who is signed in, or will be when it is needed. Its methods may be called
// concurrently.
type Session struct {
	credentials
	provider *gophercloud.ProviderClient
	identity *Service
	flight   singleflight.Group
	rest     rest

	mu   sync.Mutex // guards what follows
	held *grant     // nil before the first sign-in
}

// grant is what Keystone answers to a sign-in.
type grant struct {
	token   string
	project string // id; "" with system scope
	catalog *tokens.ServiceCatalog
	renew   time.Time // when to ask for another
	end     time.Time
}

// NewSession reads what Options name; it asks nobody yet.
func NewSession(o Options) (*Session, error) {
	c, err := o.credentials()
	if err != nil {
		return nil, err
	}
	s := &Session{credentials: c, provider: c.web(answerTime)}
	s.identity = s.Service("Keystone", "identity", c.auth.IdentityEndpoint)
	return s, nil
}

// AuthURL is Keystone's, with /v3; "" if nobody signs in.
func (s *Session) AuthURL() string { return s.auth.IdentityEndpoint }

// Project returns the id of the project that the session works in; "" if it signs in for none.
func (s *Session) Project(ctx context.Context) (string, error) {
	if s.auth.IdentityEndpoint == "" {
		return "", nil
	}
	g, err := s.grant(ctx, "")
	if err != nil {
		return "", err
	}
	return g.project, nil
}

// HTTP is the client for requests that need no token: it believes the same certificates.
func (s *Session) HTTP() *http.Client { return &s.provider.HTTPClient }

// grant returns a grant that is good now. refused is a token that a service has just refused; "" if
// none has been.
func (s *Session) grant(ctx context.Context, refused string) (*grant, error) {
	g := s.current(refused)
	if g != nil && time.Now().Before(g.renew) {
		return g, nil
	}
	result := s.flight.DoChan("", func() (any, error) {
		if g := s.current(refused); g != nil && time.Now().Before(g.renew) {
			return g, nil // another one was first
		}
		// Others may wait for it who stay when the first one goes.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
		defer cancel()
		return s.signIn(ctx)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		if r.Err == nil {
			return r.Val.(*grant), nil
		}
		if g != nil {
			return g, nil // it is good until its end
		}
		return nil, r.Err
	}
}

// current is the grant that is held unless it has ended or was refused.
func (s *Session) current(refused string) *grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil || s.held.token == refused || time.Now().After(s.held.end) {
		return nil
	}
	return s.held
}

func (s *Session) signIn(ctx context.Context) (*grant, error) {
	if err := s.rest.check(); err != nil {
		return nil, err
	}
	auth := s.auth // gophercloud fills in the scope of the one it is given
	client := &gophercloud.ServiceClient{ProviderClient: s.provider,
		Endpoint: s.auth.IdentityEndpoint + "/"}
	g, err := newGrant(tokens.Create(ctx, client, &auth))
	if err != nil {
		err = s.identity.explain("sign in as "+s.who()+" at "+s.auth.IdentityEndpoint, err)
		if ingot.KindOf(err) != ingot.Unavailable {
			err = ingot.Errorf(ingot.Internal, "%w; see whether auth_url, user, password, project and "+
				"domains of [keystone_authtoken] are right", err)
		}
		// Also if it is refused: Keystone may lock users out who try too often.
		return nil, s.rest.after(err)
	}
	s.rest.over()
	s.mu.Lock()
	s.held = g
	s.mu.Unlock()
	return g, nil
}

// who names the one who signs in.
func (s *Session) who() string {
	if user := cmp.Or(s.auth.Username, s.auth.UserID); user != "" {
		return "user " + user
	}
	return "application credential " + s.auth.ApplicationCredentialID
}

func newGrant(r tokens.CreateResult) (*grant, error) {
	var token struct {
		Issued  time.Time `json:"issued_at"`
		Expires time.Time `json:"expires_at"`
		Project struct {
			ID string `json:"id"`
		} `json:"project"`
	}
	if err := r.ExtractInto(&token); err != nil {
		return nil, err
	}
	id, err := r.ExtractTokenID()
	if err != nil {
		return nil, err
	}
	catalog, err := r.ExtractServiceCatalog()
	if err != nil {
		return nil, err
	}
	// By Keystone's clock alone: ours may be wrong.
	life := token.Expires.Sub(token.Issued)
	now := time.Now()
	return &grant{token: id, project: token.Project.ID, catalog: catalog,
		renew: now.Add(life * 4 / 5), end: now.Add(life)}, nil
}

// endpoint is the URL of a service by its type, "" if the catalog has none that suits.
func (s *Session) endpoint(g *grant, kind string) string {
	for _, wanted := range s.interfaces {
		for _, entry := range g.catalog.Entries {
			if entry.Type != kind {
				continue
			}
			i := slices.IndexFunc(entry.Endpoints, func(e tokens.Endpoint) bool {
				return e.Interface == wanted &&
					(s.region == "" || e.Region == s.region || e.RegionID == s.region)
			})
			if i >= 0 {
				return gophercloud.NormalizeURL(entry.Endpoints[i].URL)
			}
		}
	}
	return ""
}
