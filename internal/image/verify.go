package image

import (
	"context"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// trusted remembers files that were hashed, so that a hundred machines with one image do not
// hash it a hundred times. It is package state for the same reason as downloads.
var trusted = trustedFiles{byPath: make(map[string]trust)}

// trustedFiles holds one entry a path, so it is bounded by the images of the site.
type trustedFiles struct {
	mu     sync.Mutex
	byPath map[string]trust // guarded by mu
}

// trust is what a file looked like just before it was hashed.
type trust struct {
	digest Digest
	info   os.FileInfo
}

func (t *trustedFiles) remember(path string, digest Digest, info os.FileInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byPath[path] = trust{digest, info}
}

func (t *trustedFiles) has(path string, digest Digest, info os.FileInfo) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.byPath[path]
	return ok && known.digest == digest && os.SameFile(known.info, info) &&
		known.info.Size() == info.Size() && changeTime(known.info) == changeTime(info)
}

// changeTime is when the file was changed last. Unlike the time of modification nobody can set it,
// as cp -p and rsync do.
func changeTime(info os.FileInfo) syscall.Timespec { return info.Sys().(*syscall.Stat_t).Ctim }

// verifyFile hashes f, unless it did so before and f has not changed since. It leaves the
// file offset anywhere.
func verifyFile(ctx context.Context, f *os.File, want Digest,
	progress func(done, total int64)) error {
	info, err := f.Stat()
	if err != nil {
		return fileError(err, "image_source")
	}
	if trusted.has(f.Name(), want, info) {
		return nil
	}
	h := newHashReader(io.NewSectionReader(f, 0, info.Size()), want.Algorithm)
	defer h.digester.Close()
	buf := make([]byte, readSize)
	last := time.Now()
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		_, err := h.Read(buf)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fileError(err, "image_source")
		}
		if time.Since(last) >= progressInterval {
			last = time.Now()
			progress(h.n, info.Size())
		}
	}
	if err := h.verify(f.Name(), want); err != nil {
		return err
	}
	trusted.remember(f.Name(), want, info)
	return nil
}

// verdict is about a file that is verified while it is used.
type verdict struct {
	file *os.File
	want Digest

	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

// judge begins to verify f, until cancel is called.
func judge(f *os.File, want Digest) *verdict {
	ctx, cancel := context.WithCancel(context.Background())
	v := &verdict{file: f, want: want, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		v.err = verifyFile(ctx, f, want, func(int64, int64) {})
	}()
	return v
}

// wait returns nil if the file is the promised one and has not changed since that was found out.
// Of a file that was verified before it was opened, there is no verdict to wait for.
func (v *verdict) wait(ctx context.Context) error {
	if v == nil {
		return nil
	}
	select {
	case <-v.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if v.err != nil {
		return v.err
	}
	return verifyFile(ctx, v.file, v.want, func(int64, int64) {})
}

// drop ends the work.
func (v *verdict) drop() {
	if v != nil {
		v.cancel()
		<-v.done
	}
}
