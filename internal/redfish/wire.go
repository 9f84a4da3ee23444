package redfish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// maxBody is the largest answer that is read; systems of large servers have some 100 KiB.
	maxBody = 4 << 20
	// maxRedirects is how often an answer may point elsewhere.
	maxRedirects = 5
	// busyPause is how long a BMC that is busy is left alone if it does not say; it may say at most
	// maxBusyPause.
	busyPause    = time.Second
	maxBusyPause = 5 * time.Second
)

// request is one request; token, basic and etag may be missing.
type request struct {
	method, path string
	body         any // becomes JSON
	token        string
	basic        bool
	etag         string
}

// answer is an answer that is no error.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do makes a request as the user, in a new session if the one there was has ended.
func (c *Client) do(ctx context.Context, r request) (answer, error) {
	if err := c.open(ctx); err != nil {
		return answer{}, err
	}
	r.token, r.basic = c.token, c.basic
	a, err := c.send(ctx, r)
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized || c.token == "" {
		return a, err
	}
	c.token, c.session = "", ""
	if err := c.open(ctx); err != nil {
		return answer{}, err
	}
	r.token, r.basic = c.token, c.basic
	return c.send(ctx, r)
}

// get reads a resource.
func (c *Client) get(ctx context.Context, path string) (answer, error) {
	return c.do(ctx, request{method: http.MethodGet, path: path})
}

// send makes a request, again while the BMC is busy and there is time: many answer 503 for a while after
// they were started, or while the machine is.
func (c *Client) send(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	for {
		a, err := c.follow(ctx, r)
		var refused *StatusError
		if !errors.As(err, &refused) || !refused.Busy() || !wait(ctx, refused.retryAfter) {
			return a, err
		}
	}
}

// follow makes a request, and goes where the answer points. That is always the same BMC, whatever host it
// names: some do not know the name by which they are reached, and nobody else may have the password.
func (c *Client) follow(ctx context.Context, r request) (answer, error) {
	for range maxRedirects {
		a, err := c.once(ctx, r)
		if err != nil || a.status < 300 || a.status == http.StatusNotModified {
			return a, err
		}
		to := a.header.Get("Location")
		next := location(to)
		if next == "" || next == r.path {
			return answer{}, fmt.Errorf("%s %s is redirected to %q", r.method, r.path, to)
		}
		if r.path = next; a.status == http.StatusSeeOther {
			r.method, r.body = http.MethodGet, nil
		}
	}
	return answer{}, fmt.Errorf("%s %s is redirected again and again", r.method, r.path)
}

// once makes a request; answers of 400 and above are *StatusError.
func (c *Client) once(ctx context.Context, r request) (answer, error) {
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return answer{}, err
		}
		body = bytes.NewReader(text)
	}
	at, err := c.base.Parse(r.path)
	if err != nil || at.Host != c.base.Host {
		return answer{}, fmt.Errorf("%q is no path of this service", r.path)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, at.String(), body)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("OData-Version", "4.0")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.etag != "" {
		req.Header.Set("If-Match", r.etag)
	}
	switch {
	case r.token != "":
		req.Header.Set("X-Auth-Token", r.token)
	case r.basic:
		req.SetBasicAuth(c.o.Username, c.o.Password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("%s %s: read the answer: %w", r.method, r.path, err)
	case len(text) > maxBody:
		return answer{}, fmt.Errorf("%s %s: the answer is longer than %d bytes", r.method, r.path, maxBody)
	case resp.StatusCode >= http.StatusBadRequest:
		return answer{}, newStatusError(r, resp, text)
	}
	return answer{resp.StatusCode, resp.Header, text}, nil
}

// location is the path, with the query, of a link that may be a whole URL; "" if it is none that could be
// asked for.
func location(link string) string {
	u, err := url.Parse(strings.TrimSpace(link))
	if err != nil || !strings.HasPrefix(u.EscapedPath(), "/") || strings.Contains(u.RawQuery, " ") {
		return ""
	}
	return (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).RequestURI()
}

// decode reads a resource, whatever its Content-Type says. Fields of a type that they should not have are
// as if they were missing.
func decode[T any](body []byte) (T, error) {
	var v T
	err := json.Unmarshal(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), &v)
	var mistyped *json.UnmarshalTypeError
	if err != nil && !errors.As(err, &mistyped) {
		return v, fmt.Errorf("the answer is no JSON: %w", err)
	}
	return v, nil
}

// optional reads a resource that may be missing, or nowhere (path ""): nil then.
func optional[T any](ctx context.Context, c *Client, path string) (answer, *T, error) {
	if path == "" {
		return answer{}, nil, nil
	}
	a, err := c.get(ctx, path)
	if missing(err) {
		return answer{}, nil, nil
	}
	if err == nil {
		var v T
		if v, err = decode[T](a.body); err == nil {
			return a, &v, nil
		}
	}
	return answer{}, nil, fmt.Errorf("read %s: %w", path, err)
}

// retryAfter is how long a BMC wants to be left alone.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(strings.TrimSpace(h.Get("Retry-After")))
	if err != nil || seconds < 0 {
		return busyPause
	}
	return min(time.Duration(min(seconds, 3600))*time.Second, maxBusyPause)
}

// wait waits, false if the time of ctx would be over before.
func wait(ctx context.Context, pause time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}
