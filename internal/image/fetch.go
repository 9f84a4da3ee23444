package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"ingot/internal/ingot"
)

// errIdle is the cause of a transfer that was ended for being silent.
var errIdle = errors.New("idle")

// dial opens the source and looks at its first bytes. A source that is Unavailable is asked
// again, with growing pauses, except one that was silent: that has taken long enough.
func (o opener) dial(ctx context.Context) (*stream, error) {
	pause := o.opt.RetryDelay
	for attempt := 0; ; attempt++ {
		s, err := o.dialOnce(ctx)
		if err == nil {
			return s, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		final := ingot.KindOf(err) != ingot.Unavailable || errors.Is(err, errIdle)
		if final || attempt >= o.opt.Retries {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// dialOnce opens the source. The context counts until it returns; the transfer lives on.
func (o opener) dialOnce(ctx context.Context) (*stream, error) {
	lasting, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	defer stop()
	open := o.get
	if o.url.Scheme == "file" {
		open = o.openFile
	}
	t, err := open(lasting, cancel)
	if err != nil {
		cancel(err)
		return nil, err
	}
	return o.newStream(t)
}

// get asks for the image by HTTP.
func (o opener) get(ctx context.Context, cancel context.CancelCauseFunc) (transfer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url.String(), nil)
	if err != nil {
		return transfer{}, ingot.Errorf(ingot.Invalid, "ask for the image: %w", reason(err))
	}
	// The digest is about the file as published, so no one may pack it for the transfer.
	request.Header.Set("Accept-Encoding", "identity")
	body := &httpBody{ctx: ctx, idle: o.opt.IdleTimeout}
	body.watchdog = time.AfterFunc(o.opt.IdleTimeout, func() { cancel(errIdle) })
	response, err := o.opt.Client.Do(request)
	body.watchdog.Stop()
	if err != nil {
		return transfer{}, body.explain(err, "cannot reach the source")
	}
	if err := checkStatus(response); err != nil {
		response.Body.Close()
		return transfer{}, err
	}
	body.ReadCloser, body.size = response.Body, response.ContentLength
	return transfer{ctx: ctx, cancel: cancel, body: body, size: body.size}, nil
}

// checkStatus turns everything but 200 into an error that says whose turn it is.
func checkStatus(r *http.Response) error {
	const answered = "the source answered %q; "
	switch {
	case r.StatusCode == http.StatusOK:
		return nil
	case r.StatusCode == http.StatusNotFound, r.StatusCode == http.StatusGone:
		return ingot.Errorf(ingot.NotFound, answered+
			"check image_source in instance_info, or publish the image there", r.Status)
	case r.StatusCode == http.StatusUnauthorized, r.StatusCode == http.StatusForbidden:
		return ingot.Errorf(ingot.Invalid, answered+
			"check the credentials in image_source, or whether it has expired", r.Status)
	case r.StatusCode >= 500, r.StatusCode == http.StatusTooManyRequests,
		r.StatusCode == http.StatusRequestTimeout:
		return ingot.Errorf(ingot.Unavailable, answered+
			"look at the server of the image, then deploy again", r.Status)
	}
	return ingot.Errorf(ingot.Invalid, answered+
		"check image_source in instance_info", r.Status)
}

// httpBody is a response body that gives up when nothing comes for a while, and whose errors
// say what happened. Time that its reader takes between two reads does not count.
type httpBody struct {
	io.ReadCloser
	ctx      context.Context
	idle     time.Duration
	watchdog *time.Timer
	size     int64
	got      int64
}

func (b *httpBody) Read(p []byte) (int, error) {
	b.watchdog.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.watchdog.Stop()
	b.got += int64(n)
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, b.explain(err, b.progress())
}

func (b *httpBody) progress() string {
	if b.size < 0 {
		return fmt.Sprintf("the transfer broke off after %d bytes", b.got)
	}
	return fmt.Sprintf("the transfer broke off after %d of %d bytes", b.got, b.size)
}

// explain finds out who ended the transfer: whoever waits for it, silence, or the network.
func (b *httpBody) explain(err error, what string) error {
	cause := context.Cause(b.ctx)
	switch {
	case errors.Is(cause, errIdle):
		return ingot.Errorf(ingot.Unavailable, "the source sent nothing for %v (%w); "+
			"look at its server and the network in between, then deploy again", b.idle, errIdle)
	case cause != nil:
		return cause
	}
	return ingot.Errorf(ingot.Unavailable, "%s: %w; look at the server of the image and the "+
		"network in between, then deploy again", what, reason(err))
}

// reason strips the URL from an error of net/http or net/url: it may hold a signature.
func reason(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
