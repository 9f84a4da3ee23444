package glance

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"ingot/internal/ingot"
)

// Open returns the data of an image from the byte at offset on. Where Glance cannot begin there (its
// store Swift cannot) all before it is fetched and thrown away. The reader ends with
// io.ErrUnexpectedEOF if there is less than the image has. The caller closes it, and bounds how long
// it may be silent.
func (c *Client) Open(ctx context.Context, i *Image, offset int64) (io.ReadCloser, error) {
	if offset < 0 || offset > i.Size {
		return nil, ingot.Errorf(ingot.Invalid, "image %s has no byte %d; it has %d", i, offset, i.Size)
	}
	if offset == i.Size {
		return http.NoBody, nil
	}
	answer, err := c.get(ctx, i, offset)
	if err != nil {
		return nil, hint(err, i.ID)
	}
	data := &data{body: answer.Body, image: i, left: i.Size - offset}
	switch {
	case answer.StatusCode == http.StatusNoContent:
		data.Close()
		return nil, ingot.Errorf(ingot.Conflict, "image %s has no data", i)
	case answer.StatusCode == http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-", offset)
		if got := answer.Header.Get("Content-Range"); !strings.HasPrefix(got, want) {
			data.Close()
			return nil, ingot.Errorf(ingot.Internal, "Glance sends %q of image %s, not %s", got, i, want)
		}
	case offset > 0:
		if _, err := io.CopyN(io.Discard, data.body, offset); err != nil {
			data.Close()
			return nil, ingot.Errorf(ingot.Unavailable, "skip to byte %d of image %s: %w", offset, i, err)
		}
	}
	return data, nil
}

// get asks for data from offset on, and for all of it where that is refused.
func (c *Client) get(ctx context.Context, i *Image, offset int64) (answer *http.Response, err error) {
	err = c.service.Do(ctx, "read image "+i.ID, func(client *gophercloud.ServiceClient) (err error) {
		options := &gophercloud.RequestOpts{KeepResponseBody: true, MoreHeaders: map[string]string{},
			OkCodes: []int{http.StatusOK, http.StatusNoContent, http.StatusPartialContent}}
		if offset > 0 {
			options.MoreHeaders["Range"] = fmt.Sprintf("bytes=%d-", offset)
		}
		where := version2(client).ServiceURL("images", i.ID, "file")
		answer, err = client.Get(ctx, where, nil, options)
		if offset > 0 && (gophercloud.ResponseCodeIs(err, http.StatusBadRequest) ||
			gophercloud.ResponseCodeIs(err, http.StatusRequestedRangeNotSatisfiable)) {
			delete(options.MoreHeaders, "Range")
			answer, err = client.Get(ctx, where, nil, options)
		}
		return err
	})
	return answer, err
}

// data is what is left of an image. A connection that breaks off does not look like its end.
type data struct {
	body  io.ReadCloser
	image *Image
	left  int64
}

func (d *data) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	d.left -= int64(n)
	switch {
	case d.left < 0:
		return n, ingot.Errorf(ingot.Conflict, "image %s has more data than Glance says (%d bytes)",
			d.image, d.image.Size)
	case err == io.EOF && d.left > 0:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func (d *data) Close() error { return d.body.Close() }
