// Package ipa tells the agent in a deploy ramdisk what to do: the API that ironic-python-agent serves on
// the machine, and whatever else speaks it. It knows commands and how they end; which commands there are,
// and in which order, is the matter of deploy interfaces. The other direction, heartbeats, is the API's.
//
// Read Client first.
package ipa

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ingot/internal/ingot"
)

const (
	// askTimeout bounds a question, runTimeout a command that is waited for (Ironic's command_timeout).
	askTimeout = 15 * time.Second
	runTimeout = time.Minute
	// maxAnswer is how much an agent may answer, in bytes. It repeats what its commands were given: a
	// config drive of 64 MiB, twice and in base64. maxKept is how much of that may be left without the
	// rest of long texts.
	maxAnswer = 256 << 20
	maxKept   = 8 << 20
	// maxText bounds what is kept of an agent's words.
	maxText = 2000
)

// Options is whom to talk to.
type Options struct {
	URL string // of the agent's API, see Address
	// CA is the certificate that the agent has, or that vouches for it, in PEM; "" believes those whom
	// this host believes.
	CA    string
	Token string
	// Allow tells whether an agent may have an address; nil: any.
	Allow func(netip.Addr) bool
}

// Client talks to one agent. It may be used concurrently, and holds nothing open between two calls.
type Client struct {
	at    url.URL // scheme and host
	token string
	http  http.Client
}

// Address reads the URL of an agent's API: a scheme, a host, maybe a port, and nothing else, so that nobody
// but the client says what is asked for there. Invalid if it is something else; the error says in what way
// and does not repeat it.
func Address(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, ingot.Errorf(ingot.Invalid, "cannot be read")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, ingot.Errorf(ingot.Invalid, "is neither https nor http")
	// An empty query or fragment shows in the text alone.
	case u.Hostname() == "", u.User != nil, u.Path != "" && u.Path != "/", strings.ContainsAny(text, "?#"):
		return nil, ingot.Errorf(ingot.Invalid, "has to have a host, may have a port, and has nothing else")
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// New returns a client. Invalid if URL or CA are not what they should be.
func New(o Options) (*Client, error) {
	at, err := Address(o.URL)
	if err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "the URL of the agent %w", err)
	}
	trust, err := trusting(o.CA, at.Hostname())
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: askTimeout}
	if o.Allow != nil {
		// What a name stands for is known only now.
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err != nil || !o.Allow(a.Addr()) {
				return fmt.Errorf("%s is no address of a machine", address)
			}
			return nil
		}
	}
	return &Client{at: *at, token: o.Token, http: http.Client{
		Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: trust,
			DisableKeepAlives: true, DisableCompression: true, TLSHandshakeTimeout: askTimeout,
			MaxResponseHeaderBytes: 64 << 10},
		// An agent that sends us elsewhere is none.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// trusting is the configuration that believes a certificate. An agent makes its own, whose names and times
// are those of a machine without a clock: the very certificate is believed whatever it says. One that
// vouches for others has to do so by the rules, and for the host.
func trusting(text, host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if text == "" {
		return c, nil
	}
	roots := x509.NewCertPool()
	var pinned []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, ingot.Errorf(ingot.Invalid, "certificate of the agent: %w", err)
		}
		roots.AddCert(cert)
		pinned = append(pinned, cert)
	}
	if len(pinned) == 0 {
		return nil, ingot.Errorf(ingot.Invalid, "certificate of the agent: no PEM")
	}
	c.InsecureSkipVerify = true // VerifyConnection does it
	// The name in the state of a connection is empty if the host is an address.
	c.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0] // there is one: servers have to show it
		for _, p := range pinned {
			if p.Equal(leaf) {
				return nil
			}
		}
		between := x509.NewCertPool()
		for _, cert := range s.PeerCertificates[1:] {
			between.AddCert(cert)
		}
		_, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between})
		if err != nil {
			return fmt.Errorf("it has another certificate than the one of its heartbeat: %w", err)
		}
		return nil
	}
	return c, nil
}

// Commands lists the commands that the agent was given since it started, the oldest first. Unavailable if
// it does not answer.
func (c *Client) Commands(ctx context.Context) ([]Command, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	data, err := c.do(ctx, http.MethodGet, url.Values{}, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the agent for its commands: %w", err)
	}
	return decodeCommands(data)
}

// Start gives the agent a command and does not wait for its end. Conflict if another one runs; Unavailable
// if it did not answer, and may have begun all the same: Commands tells.
func (c *Client) Start(ctx context.Context, name string, params any) (Command, error) {
	return c.command(ctx, name, params, false)
}

// Run gives the agent a command and waits for its end, a minute at most. A command that fails is an error
// of kind Invalid, others are as those of Start.
func (c *Client) Run(ctx context.Context, name string, params any) (Command, error) {
	command, err := c.command(ctx, name, params, true)
	if err == nil {
		err = command.Failure()
	}
	return command, err
}

func (c *Client) command(ctx context.Context, name string, params any, wait bool) (Command, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	body, err := json.Marshal(struct {
		Name   string `json:"name"`
		Params any    `json:"params"`
	}{name, params})
	if err != nil {
		return Command{}, fmt.Errorf("encode %s: %w", name, err)
	}
	data, err := c.do(ctx, http.MethodPost, url.Values{"wait": {strconv.FormatBool(wait)}}, body)
	if err != nil {
		return Command{}, fmt.Errorf("tell the agent %s: %w", name, err)
	}
	return decodeCommand(data)
}

// do sends a request and returns the body of a good answer, without the rest of texts that are long.
func (c *Client) do(ctx context.Context, method string, query url.Values, body []byte) ([]byte, error) {
	query.Set("agent_token", c.token)
	to := c.at
	to.Path, to.RawQuery = "/v1/commands/", query.Encode()
	r, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "%w", withoutURL(err))
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, ingot.Errorf(ingot.Unavailable, "%s: %w; check that this host reaches the machine there",
			&c.at, withoutURL(err))
	}
	defer answer.Body.Close()
	all := &io.LimitedReader{R: answer.Body, N: maxAnswer + 1}
	data, err := io.ReadAll(io.LimitReader(&shortener{from: all, most: maxString}, maxKept+1))
	switch {
	case err != nil:
		return nil, ingot.Errorf(ingot.Unavailable, "%s: its answer broke off: %w", &c.at, err)
	case all.N <= 0:
		return nil, ingot.Errorf(ingot.Invalid, "%s: its answer has more than %d MiB", &c.at, maxAnswer>>20)
	case len(data) > maxKept:
		return nil, ingot.Errorf(ingot.Invalid, "%s: its answer has more than %d MiB besides long texts", &c.at,
			maxKept>>20)
	case answer.StatusCode >= 200 && answer.StatusCode < 300:
		return data, nil
	}
	text := decodeFault(data)
	kind := ingot.Invalid
	switch {
	case answer.StatusCode == http.StatusConflict, strings.Contains(strings.ToLower(text), "agent is busy"):
		kind = ingot.Conflict
	case answer.StatusCode >= http.StatusInternalServerError:
		kind = ingot.Unavailable
	}
	return nil, ingot.Errorf(kind, "%s answered %s: %s", &c.at, clip(answer.Status), text)
}

// withoutURL strips the URL from an error of net/http: it has the token.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
