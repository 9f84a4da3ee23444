package swift

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"ingot/internal/ingot"
)

// Object is what Swift knows of an object.
type Object struct {
	Size int64
	ETag string
	// Ends is when it is removed; zero is never.
	Ends time.Time
}

// Put stores an object, and its container if there is none. It ends after life; 0 is never. Body is
// read from its beginning, and may be read twice.
func (a *Account) Put(ctx context.Context, container, object string, body io.ReadSeeker,
	life time.Duration) error {
	if err := check(container, object); err != nil {
		return err
	}
	if life != 0 && life < time.Second {
		return ingot.Errorf(ingot.Invalid, "an object of Swift lives for a second at least, not %s", life)
	}
	p, err := a.place(ctx)
	if err != nil {
		return err
	}
	header := map[string]string{"Content-Type": "application/octet-stream"}
	if life > 0 {
		header["X-Delete-After"] = fmt.Sprint(int64(life / time.Second))
	}
	return a.service.Do(ctx, "put object "+container+"/"+object,
		func(c *gophercloud.ServiceClient) error {
			ok := []int{http.StatusCreated, http.StatusAccepted}
			_, err := c.Request(ctx, http.MethodPut, p.url(container), &gophercloud.RequestOpts{OkCodes: ok})
			if err != nil {
				return err
			}
			if _, err := body.Seek(0, io.SeekStart); err != nil {
				return ingot.Errorf(ingot.Internal, "read it: %w", err)
			}
			// A type of its own: the client would close a file.
			_, err = c.Request(ctx, http.MethodPut, p.url(container, object), &gophercloud.RequestOpts{
				RawBody: struct{ io.ReadSeeker }{body}, MoreHeaders: header, OkCodes: ok})
			return err
		})
}

// Delete removes an object. It is no error if there is none, nor if it has ended: then its name is
// taken out of the list of its container.
func (a *Account) Delete(ctx context.Context, container, object string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := a.about(ctx, "delete", http.MethodDelete, container, object)
	if ingot.KindOf(err) == ingot.NotFound {
		return nil
	}
	return err
}

// Head tells about an object; NotFound if there is none or it has ended.
func (a *Account) Head(ctx context.Context, container, object string) (Object, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := a.about(ctx, "look at", http.MethodHead, container, object)
	if err != nil {
		return Object{}, err
	}
	out := Object{Size: answer.ContentLength, ETag: strings.Trim(answer.Header.Get("Etag"), `"`)}
	var at int64
	if _, err := fmt.Sscan(answer.Header.Get("X-Delete-At"), &at); err == nil {
		out.Ends = time.Unix(at, 0)
	}
	return out, nil
}

func (a *Account) about(ctx context.Context, what, method, container, object string) (
	answer *http.Response, err error) {
	if err := check(container, object); err != nil {
		return nil, err
	}
	p, err := a.place(ctx)
	if err != nil {
		return nil, err
	}
	header := map[string]string{}
	if method == http.MethodHead {
		header["Connection"] = "close" // Swift 2.30 sends a body with 404, which breaks the next request
	}
	err = a.service.Do(ctx, what+" object "+container+"/"+object,
		func(c *gophercloud.ServiceClient) (err error) {
			answer, err = c.Request(ctx, method, p.url(container, object), &gophercloud.RequestOpts{
				MoreHeaders: header, OkCodes: []int{http.StatusOK, http.StatusNoContent}})
			return err
		})
	return answer, err
}
