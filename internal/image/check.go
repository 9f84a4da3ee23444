package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"ingot/internal/ingot"
)

// checkTimeout bounds the answer to one HEAD request.
const checkTimeout = 10 * time.Second

// Check finds out cheaply whether the source of ref has an image: a file is opened, a server is
// asked by HEAD. It fetches nothing but a file of checksums, if ref names one, and
// verifies nothing but ref. Servers answer HEAD with
// whatever they like where they do not support it or a signed URL is good for GET only, so of
// answers only those count that say that there is nothing. Errors are those of [Open].
func Check(ctx context.Context, ref Reference, opt Options) error {
	o, err := newOpener(ctx, ref, opt)
	if err != nil {
		return err
	}
	if err := check(ctx, o.url, o.opt); err != nil {
		return fmt.Errorf("look for image %s: %w", o.name, err)
	}
	return nil
}

func check(ctx context.Context, u *url.URL, opt Options) error {
	if u.Scheme == "file" {
		f, err := openAllowed(u.Path, "image_source", opt.AllowedPaths)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err == nil && info.Size() == 0 {
			return ingot.Errorf(ingot.Invalid, "the file is empty; check image_source")
		}
		return err
	}
	for pause, attempt := opt.RetryDelay, 0; ; pause, attempt = pause*2, attempt+1 {
		err := head(ctx, u, opt.Client)
		if ingot.KindOf(err) != ingot.Unavailable || attempt >= opt.Retries ||
			errors.Is(err, errIdle) {
			return err
		}
		opt.Note(fmt.Sprintf("the image is asked for again in %v, %d times at most: %v", pause,
			opt.Retries-attempt, err))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// head asks whether the server has the image.
func head(ctx context.Context, u *url.URL, client *http.Client) error {
	limited, cancel := context.WithTimeoutCause(ctx, checkTimeout, errIdle)
	defer cancel()
	request, err := http.NewRequestWithContext(limited, http.MethodHead, u.String(), nil)
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "ask for the image: %w", reason(err))
	}
	response, err := client.Do(request)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case limited.Err() != nil:
		return ingot.Errorf(ingot.Unavailable, "the source did not answer within %v (%w); look "+
			"at its server and the network in between, then deploy again", checkTimeout, errIdle)
	case err != nil:
		return ingot.Errorf(ingot.Unavailable, "cannot reach the source: %w; look at the server "+
			"of the image and the network in between, then deploy again", reason(err))
	}
	response.Body.Close()
	if err := checkStatus(response, "image_source"); ingot.KindOf(err) == ingot.NotFound {
		return err
	}
	return nil
}
