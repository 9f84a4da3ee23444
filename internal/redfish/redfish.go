// Package redfish is a client of the Redfish service of one BMC (DMTF DSP0266): it signs in, finds the
// system, switches it and tells it what to boot. It stands what BMCs are known to do other than the
// specification says; what a person should check, and how long a BMC is tried, is decided elsewhere
// (driver/redfish).
//
// Read Client first, then system.go; wire.go has how one request is made.
package redfish

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Auth is how a client signs in.
type Auth string

// Ways to sign in.
const (
	// Auto is a session, and Basic where the service has none or no more of them.
	Auto    Auth = "auto"
	Basic   Auth = "basic"
	Session Auth = "session"
)

// Options say which BMC it is and how it is used. Only Address is required.
type Options struct {
	// Address is a URL or HOST[:PORT], which means https.
	Address string
	// Username "" does not sign in.
	Username, Password string
	Auth               Auth // "" is Auto
	// CA is a file, or a directory of files, of certificates in PEM form that are believed in place of
	// the system's: those of CAs, or BMCs' own, for which name and date do not count.
	CA string
	// AnyCertificate believes every certificate.
	AnyCertificate bool
	// MinTLS is a version of crypto/tls; 0 is 1.2. Below that weak ciphers are allowed, too.
	MinTLS uint16
	// Timeout bounds each request, with its repetitions while the BMC says that it is busy; 0 is 10 s.
	Timeout time.Duration
}

// defaultTimeout is Options.Timeout if it is 0.
const defaultTimeout = 10 * time.Second

// Client talks to one BMC, in one session. Its methods may not be called concurrently. Errors are
// *StatusError if the BMC refused, those of package net if it could not be asked.
type Client struct {
	o    Options
	base *url.URL
	http *http.Client

	root    *root  // nil before the first request
	token   string // of the session, "" if there is none
	session string // its path
	basic   bool   // sessions are not used
}

// root is what we want of the service root.
type root struct {
	Systems    link `json:"Systems"`
	Registries link `json:"Registries"`
	Links      struct {
		Sessions link `json:"Sessions"`
	} `json:"Links"`
}

// link is a reference to another resource.
type link struct {
	ID string `json:"@odata.id"`
}

// The paths of the service root, and of the sessions where it does not tell theirs.
const (
	rootPath     = "/redfish/v1/"
	sessionsPath = "/redfish/v1/SessionService/Sessions"
)

// New returns a client. It reads the certificates and asks nobody.
func New(o Options) (*Client, error) {
	base, err := ParseAddress(o.Address)
	if err != nil {
		return nil, err
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	config := &tls.Config{MinVersion: max(o.MinTLS, tls.VersionTLS10), InsecureSkipVerify: o.AnyCertificate}
	switch {
	case o.MinTLS == 0:
		config.MinVersion = tls.VersionTLS12
	case o.MinTLS < tls.VersionTLS12:
		// BMCs of that age have none of the ciphers that Go offers unasked.
		for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
			config.CipherSuites = append(config.CipherSuites, s.ID)
		}
	}
	if o.CA != "" && !o.AnyCertificate {
		certs, err := certificates(o.CA)
		if err != nil {
			return nil, err
		}
		config.InsecureSkipVerify, config.VerifyConnection = true, verify(certs, base.Hostname())
	}
	// No proxy: those of the environment are for the way out, and BMCs are inside. No HTTP/2, which few
	// BMCs speak and fewer speak well.
	return &Client{o: o, base: base, basic: o.Auth == Basic, http: &http.Client{
		Transport: &http.Transport{TLSClientConfig: config},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // see send
		},
	}}, nil
}

// ParseAddress reads Options.Address: the scheme and the host of what it returns are set, nothing else.
func ParseAddress(address string) (*url.URL, error) {
	full := address
	if !strings.Contains(full, "://") {
		full = "https://" + full
	}
	u, err := url.Parse(full)
	switch {
	case err != nil, u.Hostname() == "", u.User != nil:
		return nil, fmt.Errorf("%q is no address; write https://HOST or https://HOST:PORT", address)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("%q has the scheme %s; https and http are known", address, u.Scheme)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// open reads the service root and signs in, once.
func (c *Client) open(ctx context.Context) error {
	if c.root == nil {
		a, err := c.send(ctx, request{method: http.MethodGet, path: rootPath})
		if err != nil {
			return fmt.Errorf("read the service root: %w", err)
		}
		r, err := decode[root](a.body)
		if err != nil || r.Systems.ID == "" {
			return ErrNoService
		}
		c.root = &r
	}
	if c.basic || c.token != "" || c.o.Username == "" {
		return nil
	}
	return c.signIn(ctx)
}

// ErrNoService says that a web server answers at the address, but with something else.
var ErrNoService = errors.New("there is no Redfish service")

// ErrNoSessions says that a service has no sessions, or no more of them, where Options.Auth wants one.
var ErrNoSessions = errors.New("the service gives no session")

// signIn begins a session. In Auto whatever is answered but that the user is unknown leads to Basic:
// BMCs without sessions, or whose sessions are all taken, say it in many ways.
func (c *Client) signIn(ctx context.Context) error {
	path := c.root.Links.Sessions.ID
	if path == "" {
		path = sessionsPath
	}
	a, err := c.send(ctx, request{method: http.MethodPost, path: path,
		body: map[string]string{"UserName": c.o.Username, "Password": c.o.Password}})
	var refused *StatusError
	switch {
	case errors.As(err, &refused) && refused.Status != http.StatusUnauthorized && !refused.Busy():
		if c.o.Auth == Session {
			return fmt.Errorf("%w: %w", ErrNoSessions, err)
		}
		c.basic = true
		return nil
	case err != nil:
		return fmt.Errorf("begin a session: %w", err)
	}
	if c.token = a.header.Get("X-Auth-Token"); c.token == "" {
		if c.o.Auth == Session {
			return ErrNoSessions
		}
		c.basic = true
		return nil
	}
	c.session = location(a.header.Get("Location"))
	if c.session == "" {
		l, _ := decode[link](a.body)
		c.session = location(l.ID)
	}
	return nil
}

// Close ends the session, of which BMCs have few, and the connections. The client may be used again.
func (c *Client) Close(ctx context.Context) error {
	defer c.http.CloseIdleConnections()
	path, token := c.session, c.token
	c.session, c.token = "", ""
	if path == "" {
		return nil
	}
	_, err := c.send(ctx, request{method: http.MethodDelete, path: path, token: token})
	var refused *StatusError
	if errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Gone()) {
		return nil // it has ended by itself
	}
	if err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	return nil
}
