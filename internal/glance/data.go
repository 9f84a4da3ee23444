package glance

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/gophercloud/gophercloud/v2"

	"ingot/internal/ingot"
)

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
