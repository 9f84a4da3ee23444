package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
			opt.IdleTimeout = 2 * time.Second // a busy host has begun by then
			_, err := read(t, image.Reference{Source: url, Digest: sha256Of(nil)}, opt)
			mustFail(t, err, ingot.Unavailable, "sent nothing for 2s", "deploy again")
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

// flaky serves file with the given version, and breaks off after limit bytes of each answer.
// Without ranges it always sends from the beginning.
type flaky struct {
	file    []byte
	version string
	ranges  bool
	limit   func(request int64) int
	// asked is the number of requests, sent that of bytes.
	asked, sent atomic.Int64
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !f.ranges {
		r.Header.Del("Range")
	}
	w.Header().Set("ETag", f.version)
	cut := &cutter{ResponseWriter: w, left: f.limit(f.asked.Add(1)), sent: &f.sent}
	http.ServeContent(cut, r, "", time.Time{}, bytes.NewReader(f.file))
}

// cutter breaks the connection when nothing is left.
type cutter struct {
	http.ResponseWriter
	left int
	sent *atomic.Int64
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		c.sent.Add(int64(len(p)))
		return c.ResponseWriter.Write(p)
	}
	c.ResponseWriter.Write(p[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func TestATransferThatBreaksOffGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	want := disk(6<<20 + 100)
	for name, file := range map[string][]byte{
		"raw": want, "raw.gz": packed(t, want), "raw.xz": packedBy(t, want, "xz", "-1"),
		"qcow2": qcow2Of(t, want),
	} {
		for _, ranges := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, ranges %t", name, ranges), func(t *testing.T) {
				t.Parallel()
				part := len(file) / 10
				f := &flaky{file: file, version: `"1"`, ranges: ranges,
					limit: func(request int64) int { return part * (8 + int(request)) }}
				if ranges {
					f.limit = func(int64) int { return 2 * part }
				}
				opt := options(t)
				opt.Retries = 9
				var notes atomic.Int64
				opt.Note = func(string) { notes.Add(1) }
				ref := image.Reference{Source: handle(t, f.ServeHTTP), Digest: sha256Of(file)}
				got, err := read(t, ref, opt)
				if err != nil || !bytes.Equal(got, want) && name != "qcow2" {
					t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
				}
				if notes.Load() == 0 {
					t.Error("nothing was noted")
				}
				if sent := f.sent.Load(); ranges && name == "raw" && sent > int64(len(file)) {
					t.Errorf("%d bytes were sent for %d", sent, len(file))
				}
			})
		}
	}
}

func TestAFileThatChangesUnderATransferIsNotMixed(t *testing.T) {
	t.Parallel()
	file := disk(3 << 20)
	longer := append(bytes.Clone(file), "more"...)
	for name, second := range map[string]*flaky{
		"another tag":                {file: file, version: `"2"`, ranges: true},
		"another tag, no ranges":     {file: file, version: `"2"`},
		"another size":               {file: longer, version: `"1"`, ranges: true},
		"shorter than what is known": {file: file[:100], version: `"1"`, ranges: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := &flaky{file: file, version: `"1"`, limit: func(int64) int { return 2 << 20 }}
			second.limit = func(int64) int { return 1 << 30 }
			var requests atomic.Int64
			url := handle(t, func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) == 1 {
					first.ServeHTTP(w, r)
				} else {
					second.ServeHTTP(w, r)
				}
			})
			_, err := read(t, image.Reference{Source: url, Digest: sha256Of(file)}, options(t))
			mustFail(t, err, ingot.Unavailable, "has changed at its source", "deploy again")
			if requests.Load() != 2 {
				t.Errorf("%d requests, want 2: a changed file does not change back", requests.Load())
			}
		})
	}
}

func TestASourceThatStaysAwayIsGivenUp(t *testing.T) {
	t.Parallel()
	file := disk(3 << 20)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		kind   ingot.Kind
		says   string
		asked  int64
	}{
		"gone":   {func(w http.ResponseWriter) { w.WriteHeader(404) }, ingot.NotFound, "404", 2},
		"locked": {func(w http.ResponseWriter) { w.WriteHeader(403) }, ingot.Invalid, "expired", 2},
		"ill":    {func(w http.ResponseWriter) { w.WriteHeader(503) }, ingot.Unavailable, "503", 4},
		"dead": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, ingot.Unavailable,
			"deploy again", 4},
		"another part": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 0-9/3145728")
			w.WriteHeader(206)
		}, ingot.Invalid, "sent from byte 0", 2},
		"no part": {func(w http.ResponseWriter) { w.WriteHeader(206) }, ingot.Invalid,
			"without saying which", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := &flaky{file: file, version: `"1"`, limit: func(int64) int { return 2 << 20 }}
			var requests atomic.Int64
			url := handle(t, func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) == 1 {
					first.ServeHTTP(w, r)
				} else {
					c.answer(w)
				}
			})
			_, err := read(t, image.Reference{Source: url, Digest: sha256Of(file)}, options(t))
			mustFail(t, err, c.kind, c.says, "of 3145728 bytes")
			if requests.Load() != c.asked {
				t.Errorf("%d requests, want %d", requests.Load(), c.asked)
			}
		})
	}
}

func TestASlowSourceIsWaitedFor(t *testing.T) {
	t.Parallel()
	want := disk(50_000)
	synctest.Test(t, func(t *testing.T) {
		opt := image.Options{Client: &http.Client{Transport: transport(func() io.ReadCloser {
			return io.NopCloser(&slow{want})
		})}}
		ref := image.Reference{Source: "http://images.example/disk", Digest: sha256Of(want)}
		start := time.Now()
		i, err := image.Open(t.Context(), ref, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer i.Close()
		if got, err := drain(t.Context(), i); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
		}
		// At a byte in 50 s this took a month.
		if took := time.Since(start); took < 50_000*50*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// slow gives one byte in 50 seconds.
type slow struct{ rest []byte }

func (s *slow) Read(p []byte) (int, error) {
	time.Sleep(50 * time.Second)
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func TestRedirectsAreFollowedAlsoForTheRest(t *testing.T) {
	t.Parallel()
	want := disk(3 << 20)
	f := &flaky{file: want, version: `"1"`, ranges: true, limit: func(int64) int { return 1 << 20 }}
	mirror := handle(t, f.ServeHTTP)
	url := handle(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, mirror, http.StatusFound)
	})
	got, err := read(t, image.Reference{Source: url, Digest: sha256Of(want)}, options(t))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
	loop := handle(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
	})
	_, err = read(t, image.Reference{Source: loop, Digest: sha256Of(want)}, options(t))
	mustFail(t, err, ingot.Unavailable, "redirects")
}
