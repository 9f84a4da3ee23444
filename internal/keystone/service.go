package keystone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"ingot/internal/ingot"
)

// Service is a service of the cloud: where it is, and with which token it is asked.
type Service struct {
	name, kind string
	url        string // in place of the catalog's
	session    *Session
	provider   *gophercloud.ProviderClient
	open       bool // asked without a token
}

// Service returns a service by its name among people and its type in the catalog (image,
// object-store, network). at is its URL if it is not the catalog's; "" asks the catalog.
func (s *Session) Service(name, kind, at string) *Service {
	if at != "" {
		at = gophercloud.NormalizeURL(at)
	}
	return &Service{name: name, kind: kind, url: at, session: s, provider: s.provider}
}

// WithoutToken returns the service as one that is asked without a token.
func (v Service) WithoutToken() *Service {
	v.open = true
	return &v
}

// WithAnswerTime returns the service as one that may take so long to begin its answers, in place of 30
// seconds.
func (v Service) WithAnswerTime(d time.Duration) *Service {
	v.provider = v.session.web(d)
	return &v
}

// URL returns where the service is. It ends with a slash.
func (v *Service) URL(ctx context.Context) (string, error) {
	if v.url != "" {
		return v.url, nil
	}
	client, _, err := v.client(ctx, "")
	if err != nil {
		return "", err
	}
	return client.Endpoint, nil
}

// Do calls f with a client of the service, and once more with a new token if the service refuses the
// one it has: f may run twice. what is being done, for errors: "show image X". An error that is not
// yet one of ingot gets a kind by the service's answer; Unavailable is worth another try.
func (v *Service) Do(ctx context.Context, what string,
	f func(*gophercloud.ServiceClient) error) error {
	client, token, err := v.client(ctx, "")
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	err = f(client)
	if token != "" && gophercloud.ResponseCodeIs(err, http.StatusUnauthorized) {
		if client, _, err = v.client(ctx, token); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		err = f(client)
	}
	return v.explain(what, err)
}

// client makes a client with a token other than the refused one.
func (v *Service) client(ctx context.Context, refused string) (*gophercloud.ServiceClient, string,
	error) {
	client := &gophercloud.ServiceClient{ProviderClient: v.provider, Type: v.kind,
		Endpoint: v.url}
	if v.open || v.session.auth.IdentityEndpoint == "" {
		if v.url == "" {
			return nil, "", ingot.Errorf(ingot.Invalid, "where %s is is not configured: without Keystone "+
				"there is no catalog; set its endpoint_override", v.name)
		}
		return client, "", nil
	}
	g, err := v.session.grant(ctx, refused)
	if err != nil {
		return nil, "", err
	}
	if client.Endpoint == "" {
		client.Endpoint = v.session.endpoint(g, v.kind)
	}
	if client.Endpoint == "" {
		return nil, "", ingot.Errorf(ingot.Invalid, "Keystone's catalog has no service of type %s with "+
			"interface %s in region %q; set valid_interfaces and region_name of [keystone_authtoken], or "+
			"the endpoint_override of %s", v.kind, strings.Join(v.session.interfaces, " or "),
			v.session.region, v.name)
	}
	client.MoreHeaders = map[string]string{"X-Auth-Token": g.token}
	return client, g.token, nil
}

// kinds of what services answer; what is not here is Unavailable from 500 on, else Internal.
var kinds = map[int]ingot.Kind{
	http.StatusBadRequest:            ingot.Invalid,
	http.StatusUnauthorized:          ingot.Internal, // it is us whom it refuses
	http.StatusForbidden:             ingot.Forbidden,
	http.StatusNotFound:              ingot.NotFound,
	http.StatusGone:                  ingot.NotFound,
	http.StatusConflict:              ingot.Conflict,
	http.StatusRequestTimeout:        ingot.Unavailable,
	http.StatusRequestEntityTooLarge: ingot.Unavailable, // a quota, in Swift and Glance
	http.StatusTooManyRequests:       ingot.Unavailable,
}

// explain gives an error of the service, or of the way there, a kind and words.
func (v *Service) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	if _, ours := errors.AsType[*ingot.Error](err); ours || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if answer, ok := errors.AsType[gophercloud.ErrUnexpectedResponseCode](err); ok {
		kind, known := kinds[answer.Actual]
		switch {
		case known:
		case answer.Actual >= 500:
			kind = ingot.Unavailable
		default:
			kind = ingot.Internal
		}
		return ingot.Errorf(kind, "%s: %s answers %d %s%s", what, v.name, answer.Actual,
			http.StatusText(answer.Actual), excerpt(answer.Body))
	}
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return ingot.Errorf(ingot.Unavailable, "%s: %s at %s does not answer: %w", what, v.name,
			host(failed.URL), failed.Err)
	}
	return ingot.Errorf(ingot.Internal, "%s: %s answers what cannot be read: %w", what, v.name, err)
}

// host is the part of a URL that says which server it is.
func host(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "its URL"
	}
	return u.Scheme + "://" + u.Host
}

// excerpt is what an answer says for people: a message in JSON, or the beginning of a plain text.
func excerpt(body []byte) string {
	text := strings.TrimSpace(string(body))
	var wrapped map[string]struct{ Message string } // {"error": {"message": "..."}}
	if json.Unmarshal(body, &wrapped) == nil {
		for _, inner := range wrapped {
			text = inner.Message
		}
	}
	if text == "" || strings.HasPrefix(text, "<") {
		return ""
	}
	return ": " + strings.ToValidUTF8(strings.Join(strings.Fields(text[:min(len(text), 200)]), " "), "")
}
