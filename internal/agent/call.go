package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// maxAnswer bounds what is read of an answer in bytes: a node with all that it knows of itself
// fits, a hostile server does not.
const maxAnswer = 4 << 20

// DeployInfo is the body of pass_deploy_info: where the disk can be written, or in Error why
// it cannot. Field names are Ironic's (2014.1); the CHAP pair and disk, which tells people what
// will be written to, are additions.
type DeployInfo struct {
	Address      string `json:"address"`
	Port         string `json:"port"`
	IQN          string `json:"iqn"`
	LUN          string `json:"lun"`
	Key          string `json:"key"`
	Error        string `json:"error"`
	CHAPUsername string `json:"chap_username,omitempty"`
	CHAPPassword string `json:"chap_password,omitempty"`
	Disk         string `json:"disk,omitempty"`
}

// DeployStatus is the body of pass_deploy_status.
type DeployStatus struct {
	Key    string `json:"key"`
	Status string `json:"status"` // "Completed", or "Failed" with an Error
	Error  string `json:"error"`
}

// A Caller calls the server about one node. Only the zero value of APIs makes no sense, and that of
// Node for Post. It is used by one goroutine at a time.
type Caller struct {
	// Node is the UUID, APIs the base URLs, tried in turn from the one that was the last to answer.
	Node string
	APIs []string
	// Silence is how long a server may take for an answer. Default 30 s, or 10 s if there are
	// others: one that was stopped takes calls and never answers them.
	Silence time.Duration
	// Patience is how long a call is repeated; default 10 minutes.
	Patience time.Duration
	// Pause is the first pause between rounds; default 1 s. It grows by a quarter each time,
	// to five times itself.
	Pause time.Duration
	// Insecure believes any certificate of an https URL: ipa-insecure.
	Insecure bool
	// Say gets one line when a server cannot be reached, not one per attempt. Default: silent.
	Say func(string)
	// Clock, if set, hears what time a server has, from its answers.
	Clock func(time.Time)

	next   int // of APIs, to be asked
	client *http.Client
}

// A Refusal is a server's answer that no repetition would change.
type Refusal struct {
	URL    string
	Status int
	Fault  string
}

// ErrUnclear marks the failure of a call of which an earlier attempt reached a server whose
// answer was lost. That attempt may have been accepted, and what came later be about its
// repetition.
var ErrUnclear = errors.New("an earlier call may have been taken")

func (r *Refusal) Error() string {
	return fmt.Sprintf("%s refused: %d %s", r.URL, r.Status, r.Fault)
}

// mark adds ErrUnclear where it is true.
func mark(err error, unclear bool) error {
	if !unclear {
		return err
	}
	return fmt.Errorf("%w; %w", err, ErrUnclear)
}

// Post calls a method such as pass_deploy_info until a server accepts it. Connection errors,
// 408, 409, 429 and 5xx are tried again; other answers end as a *Refusal.
func (c *Caller) Post(ctx context.Context, method string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode %s: %w", method, err)
	}
	patience, first := c.patience(), c.pause()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	q := call{method: http.MethodPost, version: "1.31", body: data,
		path: "/v1/nodes/" + c.Node + "/vendor_passthru/" + method}

	var past history
	for pause := first; ; pause = min(pause*5/4, first*5) {
		_, err := c.round(ctx, q, &past)
		if err == nil {
			return nil
		}
		if r := (*Refusal)(nil); errors.As(err, &r) && !again(r.Status) {
			return mark(r, past.unclear)
		}
		select {
		case <-ctx.Done():
			return mark(fmt.Errorf("no server took %s within %s; the last answer: %s. Check "+
				"ironic_api_url and the network", method, patience, past.text), past.unclear)
		case <-time.After(pause):
		}
	}
}

// history is what is known of the attempts of a call that failed.
type history struct {
	text    string // of the last error that was said
	unclear bool   // an answer was lost
}

// round asks each server once until one takes the call, or gives an answer that another server would
// give, too.
func (c *Caller) round(ctx context.Context, q call, past *history) (answer []byte, err error) {
	for range c.APIs {
		answer, err = c.attempt(ctx, q)
		if r := (*Refusal)(nil); err == nil || errors.As(err, &r) && !again(r.Status) {
			return answer, err
		}
		c.next = (c.next + 1) % len(c.APIs)
		past.unclear = past.unclear || errors.Is(err, errUnanswered)
		// An attempt that was cut short tells nothing.
		if text := err.Error(); text != past.text && ctx.Err() == nil {
			past.text = text
			c.say(text + "; trying again")
		}
	}
	return nil, err
}

func (c *Caller) patience() time.Duration {
	if c.Patience == 0 {
		return 10 * time.Minute
	}
	return c.Patience
}

func (c *Caller) pause() time.Duration {
	if c.Pause == 0 {
		return time.Second
	}
	return c.Pause
}

func (c *Caller) silence() time.Duration {
	switch {
	case c.Silence > 0:
		return c.Silence
	case len(c.APIs) > 1:
		return 10 * time.Second
	default:
		return 30 * time.Second
	}
}

func (c *Caller) say(text string) {
	if c.Say != nil {
		c.Say(text)
	}
}

// again tells whether an answer with this status may be another one later: the node was
// locked, or the server or a proxy before it was not well.
func again(status int) bool {
	return status == 408 || status == 409 || status == 429 || status >= 500
}

// errUnanswered marks an attempt whose request went out and whose answer did not come.
var errUnanswered = errors.New("no answer")

// call is a request to whichever server.
type call struct {
	method, path string
	query        url.Values
	version      string // of Ironic's API
	body         []byte
}

// attempt asks the next server.
func (c *Caller) attempt(ctx context.Context, q call) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.silence())
	defer cancel()
	address := c.APIs[c.next] + q.path
	reached := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { reached = true },
	})
	request, err := http.NewRequestWithContext(ctx, q.method, address, bytes.NewReader(q.body))
	if err != nil {
		return nil, fmt.Errorf("parse URL: %w", err)
	}
	request.URL.RawQuery = q.query.Encode()
	request.Header.Set("User-Agent", "ingot-agent")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-OpenStack-Ironic-API-Version", q.version)
	response, err := c.http().Do(request)
	if err != nil {
		return nil, explain(err, request.URL.Host, reached)
	}
	defer response.Body.Close()
	if now, err := http.ParseTime(response.Header.Get("Date")); err == nil && c.Clock != nil {
		c.Clock(now)
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode/100 != 2 {
		// A body that breaks off counts as far as it came: it is only shown to people.
		return nil, &Refusal{URL: address, Status: response.StatusCode, Fault: fault(answer)}
	}
	if err != nil && q.method == http.MethodGet {
		return nil, explain(err, request.URL.Host, true)
	}
	return answer, nil
}

// explain says where an attempt broke off.
func explain(err error, host string, reached bool) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) { // the URL is known, and has been too long for a console
		err = wrapped.Err
	}
	var untrusted *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired: // or not valid yet
		return fmt.Errorf("connect to %s: %w. If the certificate is good, the clock of this machine is "+
			"wrong, which says %s: set it in the setup of its firmware or by its BMC, or append "+
			"ipa-insecure=1 to the command line of the ramdisk", host, err,
			time.Now().UTC().Format(time.RFC3339))
	case errors.As(err, &untrusted):
		return fmt.Errorf("connect to %s: %w. Append an archive with etc/ssl/certs/"+
			"ca-certificates.crt to the ramdisk, or ipa-insecure=1 to its command line", host, err)
	case reached:
		return fmt.Errorf("read answer of %s: %w (%w)", host, err, errUnanswered)
	}
	return fmt.Errorf("connect to %s: %w", host, err)
}

// http is the client of all calls. Each has a connection of its own: calls are seldom, and servers
// come and go.
func (c *Caller) http() *http.Client {
	if c.client == nil {
		c.client = &http.Client{
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				TLSHandshakeTimeout: 10 * time.Second,
				TLSClientConfig:     &tls.Config{InsecureSkipVerify: c.Insecure},
				DisableKeepAlives:   true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return c.client
}

// fault picks the text for people out of an Ironic error body: {"error_message": E}, where E
// is {"faultstring": ..} as an object or, as Ironic's pecan does it, as a string holding JSON.
func fault(body []byte) string {
	type message struct {
		Fault string `json:"faultstring"`
	}
	var outer struct {
		Message json.RawMessage `json:"error_message"`
	}
	if json.Unmarshal(body, &outer) == nil && outer.Message != nil {
		inner := []byte(outer.Message)
		var text string
		if json.Unmarshal(inner, &text) == nil {
			inner = []byte(text)
		}
		var m message
		if json.Unmarshal(inner, &m) == nil && m.Fault != "" {
			return printable(m.Fault)
		}
		if text != "" {
			return printable(text)
		}
	}
	return printable(string(body))
}

// printable makes one line of at most 300 bytes out of foreign text for the console.
func printable(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), 300)], "")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) { // also those of 8 bits, with which a terminal is steered too
			return ' '
		}
		return r
	}, text))
}
