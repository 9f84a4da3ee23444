package image

import (
	"context"
	"io"
	"os"
	"sync"
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
		known.info.Size() == info.Size() && known.info.ModTime().Equal(info.ModTime())
}

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
