package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"ingot/internal/ingot"
)

var (
	// errIdle is the cause of a transfer that was ended for being silent.
	errIdle = errors.New("idle")
	// errChanged is matched by errors about a source that has another file now.
	errChanged = errors.New("the file has changed at its source")
)

const (
	// progressStep is how many bytes a transfer has to bring before it has all its retries again:
	// a source that dies again and again is good enough if it gets somewhere.
	progressStep = 1 << 20
	// longestDelay bounds the pauses between retries, which double.
	longestDelay = time.Minute
)

// dial opens the source and looks at its first bytes.
func (o opener) dial(ctx context.Context) (*stream, error) {
	t, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer t.during(ctx)()
	return o.newStream(t)
}

// connect opens the source. The context counts until it returns; the transfer lives on.
func (o opener) connect(ctx context.Context) (transfer, error) {
	t := transfer{}
	t.ctx, t.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer t.during(ctx)()
	open := o.get
	switch {
	case o.url.Scheme == "file":
		open = o.openFile
	case o.shares:
		open = o.share
	}
	if err := open(&t); err != nil {
		t.cancel(err)
		return transfer{}, err
	}
	return t, nil
}

// transfer is an open source, before anything is known about its content.
type transfer struct {
	// ctx ends the transfer; each wait for bytes links it to the context of who waits.
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	// local is the source if that is a file.
	local *os.File
	// size is the announced number of bytes, -1 if unknown.
	size int64
}

// during links the transfer to ctx until the returned function is called.
func (t transfer) during(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { t.cancel(context.Cause(ctx)) })
}

// Close ends the transfer.
func (t transfer) Close() error {
	t.cancel(context.Canceled)
	return t.body.Close()
}

// get asks for the image by HTTP.
func (o opener) get(t *transfer) error {
	b := o.newBody(t.ctx, t.cancel)
	err := b.persist(b.request())
	t.body, t.size = b, b.size
	return err
}

// newBody returns what request has to be called of first. Silence of the source ends ctx by cancel.
func (o opener) newBody(ctx context.Context, cancel context.CancelCauseFunc) *httpBody {
	b := &httpBody{opener: o, ctx: ctx, size: -1, body: http.NoBody}
	b.watchdog = time.AfterFunc(o.opt.IdleTimeout, func() { cancel(errIdle) })
	b.watchdog.Stop()
	return b
}

// checkStatus turns everything but success into an error that says whose turn it is. key is
// where the address comes from.
func checkStatus(r *http.Response, key string) error {
	const answered = "the source answered %q; "
	switch {
	case r.StatusCode == http.StatusOK, r.StatusCode == http.StatusPartialContent:
		return nil
	case r.StatusCode == http.StatusNotFound, r.StatusCode == http.StatusGone:
		return ingot.Errorf(ingot.NotFound, answered+
			"check %s in instance_info, or publish the file there", r.Status, key)
	case r.StatusCode == http.StatusUnauthorized, r.StatusCode == http.StatusForbidden:
		return ingot.Errorf(ingot.Invalid, answered+
			"check the credentials in %s, or whether it has expired", r.Status, key)
	case r.StatusCode >= 500, r.StatusCode == http.StatusTooManyRequests,
		r.StatusCode == http.StatusRequestTimeout:
		return ingot.Errorf(ingot.Unavailable, answered+
			"look at the server of the image, then deploy again", r.Status)
	}
	return ingot.Errorf(ingot.Invalid, answered+
		"check %s in instance_info", r.Status, key)
}

// httpBody is what a server sends. It asks for the rest when the transfer breaks off, gives up
// when nothing comes for a while, and its errors say what happened. Time that its reader takes
// between two reads does not count.
type httpBody struct {
	opener
	ctx      context.Context
	watchdog *time.Timer
	body     io.ReadCloser
	// size is that of the whole file, got how much of it was read.
	size, got int64
	// tag and modified tell versions of the file apart, as the first answer said.
	tag, modified string
	// failures counts since got was mark.
	failures int
	mark     int64
}

func (b *httpBody) Read(p []byte) (int, error) {
	for {
		n, err := b.readBody(p)
		b.got += int64(n)
		if err == nil || err == io.EOF {
			return n, err
		}
		if n > 0 {
			return n, nil // the body will say it again
		}
		if err := b.persist(b.explain(err, "the transfer broke off")); err != nil {
			return 0, b.brokeOff(err)
		}
	}
}

// Close ends the answer that is being read.
func (b *httpBody) Close() error { return b.body.Close() }

// readBody reads from the current answer, but not for longer than it may be silent.
func (b *httpBody) readBody(p []byte) (int, error) {
	b.watchdog.Reset(b.opt.IdleTimeout)
	defer b.watchdog.Stop()
	return b.body.Read(p)
}

// brokeOff adds how far the transfer came.
func (b *httpBody) brokeOff(err error) error {
	kind := ingot.KindOf(err)
	switch {
	case context.Cause(b.ctx) != nil && !errors.Is(err, errIdle):
		return err
	case b.size < 0:
		return ingot.Errorf(kind, "after %d bytes: %w", b.got, err)
	}
	return ingot.Errorf(kind, "after %d of %d bytes: %w", b.got, b.size, err)
}

// persist is given the error of a request or of its answer. It asks again for what is missing,
// with growing pauses, until that succeeds, fails for good or has failed too often. Silence is
// not tried again: it has taken long enough.
func (b *httpBody) persist(err error) error {
	if b.got-b.mark >= progressStep {
		b.failures, b.mark = 0, b.got
	}
	for ; ingot.KindOf(err) == ingot.Unavailable && b.failures < b.opt.Retries; b.failures++ {
		if errors.Is(err, errIdle) || errors.Is(err, errChanged) {
			break
		}
		if b.got > 0 {
			b.opt.Note(fmt.Sprintf("image %s: %v", b.name, b.brokeOff(err)) + "; asking for the rest")
		} else {
			b.opt.Note(fmt.Sprintf("image %s is asked for again: %v", b.name, err))
		}
		pause := min(b.opt.RetryDelay<<min(b.failures, 20), longestDelay)
		select {
		case <-b.ctx.Done():
			return b.explain(err, "")
		case <-time.After(pause):
		}
		err = b.request()
	}
	return err
}

// request asks for the file from the first byte that is missing.
func (b *httpBody) request() error {
	request, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.url.String(), nil)
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "ask for the image: %w", reason(err))
	}
	// The digest is about the file as published, so no one may pack it for the transfer.
	request.Header.Set("Accept-Encoding", "identity")
	if b.got > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.got))
		if version := cmp.Or(b.tag, b.modified); version != "" {
			request.Header.Set("If-Range", version)
		}
	}
	b.watchdog.Reset(b.opt.IdleTimeout)
	response, err := b.opt.Client.Do(request)
	b.watchdog.Stop()
	if err != nil {
		return b.explain(err, "cannot reach the source")
	}
	b.body.Close()
	b.body = response.Body
	if err := b.accept(response); err != nil {
		b.body.Close()
		return err
	}
	return nil
}

// accept makes sure that response goes on where the one before broke off, in the same file. A
// server that cannot send a part sends all of it (RFC 9110, 14.2), and what is known is skipped.
func (b *httpBody) accept(response *http.Response) error {
	if b.got > 0 && response.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return changed("it ends before byte %d now", b.got)
	}
	if err := checkStatus(response, b.key()); err != nil {
		return err
	}
	tag, modified := response.Header.Get("ETag"), response.Header.Get("Last-Modified")
	if strings.HasPrefix(tag, "W/") {
		tag = "" // it does not vouch for every byte (RFC 9110, 8.8.1)
	}
	start, size := int64(0), response.ContentLength
	if response.StatusCode == http.StatusPartialContent {
		var err error
		if start, size, err = contentRange(response.Header.Get("Content-Range")); err != nil {
			return err
		}
		if start != b.got {
			return ingot.Errorf(ingot.Invalid, "the source was asked for byte %d and sent from "+
				"byte %d on; look at its server", b.got, start)
		}
	}
	if b.got == 0 {
		b.tag, b.modified, b.size = tag, modified, size
		return nil
	}
	switch {
	case b.tag != "" && tag != "" && b.tag != tag, b.modified != "" && modified != "" &&
		b.modified != modified:
		return changed("it was %s and is %s", cmp.Or(b.tag, b.modified), cmp.Or(tag, modified))
	case b.size >= 0 && size >= 0 && b.size != size:
		return changed("it had %d bytes and has %d", b.size, size)
	}
	return b.skip(b.got - start)
}

// skip passes over n bytes of the answer.
func (b *httpBody) skip(n int64) error {
	buf := make([]byte, unpackSize)
	for n > 0 {
		m, err := b.readBody(buf[:min(n, int64(len(buf)))])
		if n -= int64(m); err == io.EOF && n > 0 {
			return changed("it ends %d bytes before", n)
		}
		if err != nil && err != io.EOF {
			return b.explain(err, "the transfer broke off")
		}
	}
	return nil
}

// contentRange takes the header of that name apart (RFC 9110, 14.4). An unknown size is -1.
func contentRange(value string) (start, size int64, err error) {
	var end int64
	if n, _ := fmt.Sscanf(value, "bytes %d-%d/%d", &start, &end, &size); n == 3 {
		return start, size, nil
	}
	if n, _ := fmt.Sscanf(value, "bytes %d-%d/*", &start, &end); n == 2 {
		return start, -1, nil
	}
	return 0, 0, ingot.Errorf(ingot.Invalid, "the source sent a part without saying which "+
		"(Content-Range %q); look at its server", value)
}

func changed(format string, args ...any) error {
	return ingot.Errorf(ingot.Unavailable, "%w while it was read (%s); deploy again when it has "+
		"been published completely", errChanged, fmt.Sprintf(format, args...))
}

// explain finds out who ended the transfer: whoever waits for it, silence, or the network.
func (b *httpBody) explain(err error, what string) error {
	cause := context.Cause(b.ctx)
	switch {
	case errors.Is(cause, errIdle):
		return ingot.Errorf(ingot.Unavailable, "the source sent nothing for %v (%w); look at its "+
			"server and the network in between, then deploy again", b.opt.IdleTimeout, errIdle)
	case cause != nil:
		return cause
	}
	if own := (*ingot.Error)(nil); errors.As(err, &own) { // of Glance's transport
		return ingot.Errorf(own.Kind, "%w", reason(err))
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		what += " safely (ca_file in section [image] of the configuration names certificates to " +
			"believe)"
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
