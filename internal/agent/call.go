package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The agent speaks HTTP/1.0 by hand: net/http with its TLS would add 3.5 MB to a program of
// 2.5 MB, a quarter of the ramdisk that every machine fetches. HTTP/1.0 (RFC 1945) because its
// answers are never chunked and end with the connection.

// maxAnswer bounds what is read of an answer: an error text fits, a hostile server does not.
const maxAnswer = 64 << 10

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

// A Caller posts to the vendor passthru of one node. Only the zero values of Node and APIs
// make no sense.
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
	// Say gets one line when a server cannot be reached, not one per attempt. Default: silent.
	Say func(string)

	next int // of APIs, to be asked
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
	patience, first := c.Patience, c.Pause
	if patience == 0 {
		patience = 10 * time.Minute
	}
	if first == 0 {
		first = time.Second
	}
	deadline := time.Now().Add(patience)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()

	var lastText string
	unclear := false
	for pause := first; ; pause = min(pause*5/4, first*5) {
		for range c.APIs {
			url := c.APIs[c.next] + "/v1/nodes/" + c.Node + "/vendor_passthru/" + method
			err := post(ctx, url, data, c.silence())
			if err == nil {
				return nil
			}
			if r := (*Refusal)(nil); errors.As(err, &r) && !again(r.Status) {
				return mark(r, unclear)
			}
			c.next = (c.next + 1) % len(c.APIs)
			unclear = unclear || errors.Is(err, errUnanswered)
			if text := err.Error(); text != lastText && ctx.Err() == nil &&
				time.Now().Before(deadline) { // an attempt that was cut short tells nothing
				lastText = text
				c.say(text + "; trying again")
			}
		}
		select {
		case <-ctx.Done():
			return mark(fmt.Errorf("no server took %s within %s; the last answer: %s. Check "+
				"ironic_api_url and the network", method, patience, lastText), unclear)
		case <-time.After(pause):
		}
	}
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

// post makes one attempt.
func post(ctx context.Context, address string, body []byte, silence time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("parse URL: %w", err)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", u.Host, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	var request bytes.Buffer
	fmt.Fprintf(&request, "POST %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: ingot-agent\r\n"+
		"Content-Type: application/json\r\nAccept: application/json\r\n"+
		"X-OpenStack-Ironic-API-Version: 1.31\r\nContent-Length: %d\r\n\r\n",
		u.EscapedPath(), u.Host, len(body))
	request.Write(body)
	if _, err := conn.Write(request.Bytes()); err != nil {
		return fmt.Errorf("send to %s: %w (%w)", u.Host, err, errUnanswered)
	}
	status, answer, err := readAnswer(conn)
	if err != nil {
		return fmt.Errorf("read answer of %s: %w (%w)", u.Host, err, errUnanswered)
	}
	if status/100 == 2 {
		return nil
	}
	return &Refusal{URL: address, Status: status, Fault: fault(answer)}
}

// readAnswer reads status and body. A body that breaks off counts as far as it came: it is
// only shown to people.
func readAnswer(r io.Reader) (status int, body []byte, err error) {
	in := textproto.NewReader(bufio.NewReader(io.LimitReader(r, maxAnswer)))
	line, err := in.ReadLine()
	if err != nil {
		return 0, nil, err
	}
	proto, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	status, err = strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(proto, "HTTP/1.") || status < 100 || status > 999 {
		return 0, nil, fmt.Errorf("%.40q is no HTTP status line", line)
	}
	if _, err := in.ReadMIMEHeader(); err != nil {
		return status, nil, nil
	}
	body, _ = io.ReadAll(in.R)
	return status, body, nil
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
