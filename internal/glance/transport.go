package glance

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ingot/internal/ingot"
)

// Scheme begins the URLs of images: glance://UUID.
const Scheme = "glance"

// URL is the URL of an image, for clients whose transport has a Client for Scheme.
func URL(id string) *url.URL { return &url.URL{Scheme: Scheme, Host: id} }

// digests are the algorithms of Glance that have a name among those of HTTP (RFC 9530, 7.2).
var digests = map[string]string{"sha256": "sha-256", "sha512": "sha-512"}

// RoundTrip answers GET and HEAD of the URL of an image as a web server would, so that whoever fetches
// by HTTP can fetch from Glance: http.Transport.RegisterProtocol(Scheme, client). The answer has
// Content-Length, an ETag that is the digest, and the digest as Repr-Digest (RFC 9530); of a range that
// Glance's store cannot begin at it is the whole image, as is allowed (RFC 9110, 14.2). Each request
// asks for the status first, because Glance sends an image that has no data as an empty one. Errors are
// those of Show.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	i, err := c.Show(ctx, strings.ToLower(r.URL.Host))
	if err != nil {
		return nil, err
	}
	tag := `"` + cmp.Or(i.Hash, i.MD5, i.Updated.UTC().Format(time.RFC3339Nano)) + `"`
	answer := &http.Response{Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Etag": {tag}}, Body: http.NoBody, ContentLength: i.Size,
		StatusCode: http.StatusOK}
	if name := digests[i.HashAlgorithm]; name != "" {
		if sum, err := hex.DecodeString(i.Hash); err == nil {
			answer.Header.Set("Repr-Digest", name+"=:"+base64.StdEncoding.EncodeToString(sum)+":")
		}
	}
	offset, err := begins(r.Header.Get("Range"))
	switch {
	case err != nil:
		return nil, err
	case r.Header.Get("If-None-Match") == tag:
		answer.StatusCode, answer.ContentLength = http.StatusNotModified, 0
	case r.Method == http.MethodHead:
	default:
		if version := r.Header.Get("If-Range"); version != "" && version != tag {
			offset = 0
		}
		if err := c.answer(ctx, answer, i, offset); err != nil {
			return nil, err
		}
	}
	answer.Status = fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	return answer, nil
}

// answer adds the data from offset on.
func (c *Client) answer(ctx context.Context, to *http.Response, i *Image, offset int64) error {
	if offset > 0 && offset >= i.Size {
		to.StatusCode, to.ContentLength = http.StatusRequestedRangeNotSatisfiable, 0
		return nil
	}
	from, err := c.get(ctx, i, offset)
	if err != nil {
		return hint(err, i.ID)
	}
	switch from.StatusCode {
	case http.StatusNoContent:
		from.Body.Close()
		return ingot.Errorf(ingot.Conflict, "image %s has no data", i)
	case http.StatusPartialContent:
		to.StatusCode, to.ContentLength = from.StatusCode, i.Size-offset
		to.Header.Set("Content-Range", from.Header.Get("Content-Range"))
	}
	to.Body = &data{body: from.Body, image: i, left: to.ContentLength}
	return nil
}

// begins is the first byte of a range that goes to the end, as all are that ingot asks for.
func begins(span string) (int64, error) {
	if span == "" {
		return 0, nil
	}
	first, found := strings.CutPrefix(span, "bytes=")
	first, open := strings.CutSuffix(first, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil || !found || !open || n < 0 {
		return 0, ingot.Errorf(ingot.Internal, "Glance is not asked for %q of an image", span)
	}
	return n, nil
}

// Nowhere answers all requests for images where no Glance is configured.
type Nowhere struct{}

// RoundTrip refuses.
func (Nowhere) RoundTrip(*http.Request) (*http.Response, error) { return nil, ErrNowhere }

// ErrNowhere says that there is no Glance.
var ErrNowhere = ingot.Errorf(ingot.Invalid, "images of Glance cannot be fetched, because no cloud is "+
	"configured; set [keystone_authtoken] (auth_url, username...) or [glance] endpoint_override, or name "+
	"an http://, https:// or file:// URL")
