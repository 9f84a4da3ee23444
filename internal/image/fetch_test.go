package image_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

func TestWhatTheSourceAnswersDecidesWhoHasToAct(t *testing.T) {
	t.Parallel()
	cases := map[int]struct {
		kind     ingot.Kind
		says     string
		requests int64
	}{
		http.StatusNotFound:            {ingot.NotFound, "check image_source", 1},
		http.StatusGone:                {ingot.NotFound, "check image_source", 1},
		http.StatusUnauthorized:        {ingot.Invalid, "credentials", 1},
		http.StatusForbidden:           {ingot.Invalid, "expired", 1},
		http.StatusTeapot:              {ingot.Invalid, "check image_source", 1},
		http.StatusNoContent:           {ingot.Invalid, "check image_source", 1},
		http.StatusInternalServerError: {ingot.Unavailable, "deploy again", 4},
		http.StatusServiceUnavailable:  {ingot.Unavailable, "deploy again", 4},
		http.StatusTooManyRequests:     {ingot.Unavailable, "deploy again", 4},
	}
	for status, c := range cases {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			url := handle(t, func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				w.WriteHeader(status)
			})
			ref := image.Reference{Source: url, Digest: sha256Of(nil)}
			_, err := image.Open(t.Context(), ref, options(t))
			mustFail(t, err, c.kind, http.StatusText(status), c.says)
			if got := requests.Load(); got != c.requests {
				t.Errorf("%d requests, want %d", got, c.requests)
			}
		})
	}
}

func TestASourceThatRecoversIsAskedAgain(t *testing.T) {
	t.Parallel()
	want := disk(100_000)
	var requests atomic.Int64
	url := handle(t, func(w http.ResponseWriter, _ *http.Request) {
		switch requests.Add(1) {
		case 1:
			w.WriteHeader(http.StatusBadGateway)
		case 2:
			panic(http.ErrAbortHandler) // the connection breaks before the answer
		default:
			w.Write(want)
		}
	})
	got, err := read(t, image.Reference{Source: url, Digest: sha256Of(want)}, options(t))
	if err != nil || len(got) != len(want) {
		t.Errorf("%d bytes, error %v; want %d bytes after two retries", len(got), err, len(want))
	}
}

func TestASourceThatIsDownIsUnavailable(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, nil)
	down := strings.Replace(url, "127.0.0.1", "127.0.0.99", 1)
	_, err := image.Open(t.Context(), image.Reference{
		Source: down, Digest: sha256Of(nil)}, options(t))
	mustFail(t, err, ingot.Unavailable, "connection refused", "look at the server")
}

func TestATruncatedTransferSaysHowFarItCame(t *testing.T) {
	t.Parallel()
	raw := disk(900_000)
	for name, file := range map[string][]byte{
		"raw": raw, "raw.gz": packed(t, raw), "qcow2": qcow2Of(t, raw),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := handle(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "9000000")
				w.Write(file)
			})
			opt := options(t)
			_, err := read(t, image.Reference{Source: url, Digest: sha256Of(file)}, opt)
			mustFail(t, err, ingot.Unavailable, "of 9000000 bytes", "deploy again")
			if left := spoolNames(t, opt); len(left) > 0 {
				t.Errorf("spool holds %q, want nothing", left)
			}
		})
	}
}

func TestASilentSourceIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]int{"before the answer": -1, "after a while": 600_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			url := handle(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if sent >= 0 {
					w.Write(disk(sent))
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			})
			opt := options(t)
			opt.IdleTimeout = 200 * time.Millisecond
			_, err := read(t, image.Reference{Source: url, Digest: sha256Of(nil)}, opt)
			mustFail(t, err, ingot.Unavailable, "sent nothing for 200ms", "deploy again")
			if requests.Load() != 1 {
				t.Errorf("%d requests, want 1: silence is not retried", requests.Load())
			}
		})
	}
}

// transport answers every request with a body, without a network: for tests about time.
type transport func() io.ReadCloser

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, ContentLength: -1, Body: f(), Request: r,
	}, nil
}

func TestASlowReaderIsNotASilentSource(t *testing.T) {
	t.Parallel()
	want := disk(8 << 20)
	synctest.Test(t, func(t *testing.T) {
		opt := image.Options{Client: &http.Client{Transport: transport(func() io.ReadCloser {
			return io.NopCloser(bytes.NewReader(want))
		})}}
		ref := image.Reference{Source: "http://images.example/disk", Digest: sha256Of(want)}
		i, err := image.Open(t.Context(), ref, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		// A disk that takes longer for a write than a source may be silent.
		time.Sleep(time.Hour)
		if _, err := drain(t.Context(), i); err != nil {
			t.Error(err)
		}
	})
}

func TestCancellationEndsAWait(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	url := handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("head") {
			w.Write(disk(600_000))
			w.(http.Flusher).Flush()
		}
		asked <- struct{}{}
		<-r.Context().Done()
	})
	reason := errors.New("node was deleted")
	for _, source := range []string{url, url + "?head"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-asked
			cancel(reason)
		}()
		i, err := image.Open(ctx, image.Reference{Source: source, Digest: sha256Of(nil)},
			options(t))
		if err == nil {
			_, err = drain(ctx, i)
			i.Close()
		}
		if !errors.Is(err, reason) {
			t.Errorf("error %v, want the cause of the cancellation", err)
		}
	}
}

func TestErrorsHoldNoSecretsOfTheURL(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1:1", "no-such-host.invalid"} {
		ref := image.Reference{
			Source: "http://admin:hunter2@" + host + "/disk?temp_url_sig=cafe",
			Digest: sha256Of(nil),
		}
		_, err := image.Open(t.Context(), ref, options(t))
		mustFail(t, err, ingot.Unavailable, "http://"+host+"/disk")
		for _, secret := range []string{"hunter2", "cafe"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("error %q tells %q", err, secret)
			}
		}
	}
}

func TestFilesOutsideTheAllowedPathsAreRefused(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	allowed, outside := filepath.Join(top, "images"), filepath.Join(top, "elsewhere")
	for _, dir := range []string{allowed, outside, allowed + "-not", filepath.Join(allowed, "sub")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(outside, "secret")
	write(t, secret, []byte("top secret"))
	write(t, filepath.Join(allowed+"-not", "disk"), []byte("a disk"))
	write(t, filepath.Join(allowed, "good"), []byte("a disk"))
	symlink(t, secret, filepath.Join(allowed, "absolute"))
	symlink(t, "../elsewhere/secret", filepath.Join(allowed, "relative"))
	symlink(t, outside, filepath.Join(allowed, "dir"))
	symlink(t, filepath.Join(allowed, "good"), filepath.Join(allowed, "link"))
	symlink(t, allowed, filepath.Join(top, "images-link"))
	if err := syscall.Mkfifo(filepath.Join(allowed, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	opt := options(t)
	opt.AllowedPaths = []string{allowed, filepath.Join(top, "images-link"), "/does/not/exist"}
	open := func(path string) error {
		_, err := read(t, image.Reference{
			Source: "file://" + path, Digest: sha256Of([]byte("a disk"))}, opt)
		return err
	}
	const refusal = "outside the directories"
	for _, path := range []string{
		secret, filepath.Join(outside, "missing"), allowed + "/../elsewhere/secret",
		allowed + "/%2e%2e/elsewhere/secret", allowed + "-not/disk", allowed,
		allowed + "/absolute", allowed + "/relative", allowed + "/dir/secret",
	} {
		mustFail(t, open(path), ingot.Invalid, refusal, "file_url_allowed_paths")
	}
	mustFail(t, open(allowed+"/missing"), ingot.NotFound, "check image_source")
	mustFail(t, open(allowed+"/pipe"), ingot.Invalid, "not a regular file")
	mustFail(t, open(allowed+"/sub"), ingot.Invalid, "not a regular file")
	for _, path := range []string{
		allowed + "/good", allowed + "/link", top + "/images-link/good", allowed + "/sub/../good",
	} {
		if err := open(path); err != nil {
			t.Errorf("open %s: %v, want content", path, err)
		}
	}
}

func symlink(t testing.TB, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}
