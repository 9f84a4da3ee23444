package image_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

func spoolPath(opt image.Options, d image.Digest) string {
	return filepath.Join(opt.SpoolDir, d.Algorithm+"-"+d.Hex)
}

func TestConcurrentOpenersShareOneDownload(t *testing.T) {
	t.Parallel()
	want := disk(2 << 20)
	file := qcow2Of(t, want)
	var requests atomic.Int64
	release := make(chan struct{})
	url := handle(t, func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		w.Write(file[:1000])
		w.(http.Flusher).Flush()
		<-release
		w.Write(file[1000:])
	})
	opt := options(t)
	ref := image.Reference{Source: url, Digest: sha256Of(file), Format: image.QCOW2}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			got, err := read(t, ref, opt)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
			}
		})
	}
	close(release)
	wait.Wait()
	if requests.Load() != 1 {
		t.Errorf("%d requests for 8 openers, want 1", requests.Load())
	}
	if left := spoolNames(t, opt); !slices.Equal(left, []string{"sha256-" + ref.Digest.Hex}) {
		t.Errorf("spool holds %q, want the image alone", left)
	}
}

func TestTheSpoolOutlivesTheSource(t *testing.T) {
	t.Parallel()
	want := disk(1 << 20)
	plain := qcow2Of(t, want)
	for name, file := range map[string][]byte{"qcow2": plain, "qcow2.gz": packed(t, plain)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, requests := serve(t, file)
			opt := options(t)
			ref := image.Reference{Source: url, Digest: sha256Of(file), Format: image.QCOW2}
			for range 3 {
				if got, err := read(t, ref, opt); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
				}
			}
			if requests.Load() != 1 {
				t.Errorf("%d requests for 3 openers, want 1", requests.Load())
			}
		})
	}
}

func TestASpooledFileIsTrustedOnlyAfterHashing(t *testing.T) {
	t.Parallel()
	want := disk(1 << 20)
	file := qcow2Of(t, want)
	url, requests := serve(t, file)
	opt := options(t)
	ref := image.Reference{Source: url, Digest: sha256Of(file), Format: image.QCOW2}
	if err := os.Mkdir(opt.SpoolDir, 0o700); err != nil {
		t.Fatal(err)
	}
	// As another process might have left them: damaged, and half written.
	damaged := bytes.Clone(file)
	damaged[len(damaged)-1] ^= 1
	write(t, spoolPath(opt, ref.Digest), damaged)
	write(t, spoolPath(opt, ref.Digest)+".1.tmp", file[:1000])
	write(t, spoolPath(opt, sha256Of(nil))+".2.tmp", file[:1000])
	for range 2 {
		if got, err := read(t, ref, opt); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
		}
	}
	if requests.Load() != 1 {
		t.Errorf("%d requests, want 1", requests.Load())
	}
	if left := spoolNames(t, opt); !slices.Equal(left, []string{"sha256-" + ref.Digest.Hex}) {
		t.Errorf("spool holds %q, want the image alone", left)
	}
}

func TestTheSameContentFromTwoPlacesDoesNotShareFailures(t *testing.T) {
	t.Parallel()
	want := disk(1 << 20)
	file := qcow2Of(t, want)
	asked, release := make(chan struct{}), make(chan struct{})
	bad := handle(t, func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-release
		http.NotFound(w, nil)
	})
	good, _ := serve(t, file)
	opt := options(t)
	ref := image.Reference{Source: bad, Digest: sha256Of(file), Format: image.QCOW2}
	var wait sync.WaitGroup
	var failure error
	wait.Go(func() { _, failure = read(t, ref, opt) })
	<-asked
	other := ref
	other.Source = good
	if got, err := read(t, other, opt); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
	close(release)
	wait.Wait()
	mustFail(t, failure, ingot.NotFound, "404")
}

func TestAnAbandonedDownloadEndsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	file := qcow2Of(t, disk(1<<20))
	var requests atomic.Int64
	asked, ended := make(chan struct{}), make(chan struct{})
	url := handle(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 1 {
			w.Write(file)
			return
		}
		w.Write(file[:1000])
		w.(http.Flusher).Flush()
		close(asked)
		<-r.Context().Done()
		close(ended)
	})
	opt := options(t)
	ref := image.Reference{Source: url, Digest: sha256Of(file), Format: image.QCOW2}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := image.Open(ctx, ref, opt); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want cancellation", err)
	}
	<-ended
	if left := spoolNames(t, opt); len(left) > 0 {
		t.Errorf("spool holds %q, want nothing", left)
	}
	if _, err := read(t, ref, opt); err != nil {
		t.Errorf("second attempt: %v", err)
	}
}

func TestADownloadGoesOnForThoseWhoStay(t *testing.T) {
	t.Parallel()
	want := disk(1 << 20)
	file := qcow2Of(t, want)
	asked, release := make(chan struct{}), make(chan struct{})
	url := handle(t, func(w http.ResponseWriter, _ *http.Request) {
		close(asked) // a second request would panic here
		<-release
		w.Write(file)
	})
	opt := options(t)
	ref := image.Reference{Source: url, Digest: sha256Of(file), Format: image.QCOW2}
	leaver, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := image.Open(leaver, ref, opt); !errors.Is(err, context.Canceled) {
			t.Errorf("who left: error %v, want cancellation", err)
		}
	})
	<-asked
	// Progress of the second opener shows that it has joined.
	joined := make(chan struct{})
	var once sync.Once
	stays := opt
	stays.Progress = func(int64, int64) { once.Do(func() { close(joined) }) }
	wait.Go(func() {
		if got, err := read(t, ref, stays); err != nil || !bytes.Equal(got, want) {
			t.Errorf("who stayed: %d bytes, error %v; want %d bytes", len(got), err, len(want))
		}
	})
	<-joined
	cancel()
	close(release)
	wait.Wait()
}

func TestProgressReachesTheEnd(t *testing.T) {
	t.Parallel()
	file := qcow2Of(t, disk(1<<20))
	url, _ := serve(t, file)
	opt := options(t)
	var done, total int64
	opt.Progress = func(d, all int64) { done, total = d, all }
	ref := image.Reference{Source: url, Digest: sha256Of(file), Format: image.QCOW2}
	if _, err := read(t, ref, opt); err != nil {
		t.Fatal(err)
	}
	if size := int64(len(file)); done != size || total != size {
		t.Errorf("last progress %d of %d, want %d of %[3]d", done, total, size)
	}
}

func TestAnImageThatIsReadIsNotRemovedToMakeRoom(t *testing.T) {
	t.Parallel()
	file := qcow2Of(t, disk(1<<20))
	url, _ := serve(t, file)
	opt := options(t)
	ref := image.Reference{Source: url, Digest: sha256Of(file), Format: image.QCOW2}
	i, err := image.Open(t.Context(), ref, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if got, err := image.Removable(opt.SpoolDir); err != nil || len(got) > 0 {
		t.Errorf("removable while it is read: %q, %v; want nothing", got, err)
	}
	for range 2 {
		i.Close() // the second one counts for nothing
	}
	want := []string{spoolPath(opt, ref.Digest)}
	if got, err := image.Removable(opt.SpoolDir); err != nil || !slices.Equal(got, want) {
		t.Errorf("removable when it is closed: %q, %v; want %q", got, err, want)
	}
}
