package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"sync/atomic"
)

// chunk is the unit in which a disk remembers; aligned zeros cost nothing.
const chunk = 64 << 10

// disk is a sparse disk in memory.
type disk struct {
	size, keep int64
	written    atomic.Int64 // bytes of all writes

	mu     sync.Mutex
	chunks map[int64]*[chunk]byte
}

func newDisk(size, keep int64) *disk {
	return &disk{size: size, keep: min(keep, size), chunks: make(map[int64]*[chunk]byte)}
}

func (d *disk) Size() int64 { return d.size }

// each calls f for every chunk that n bytes at off touch, with the part of them that lies in it.
func each(off, n int64, f func(c int64, from, to, at int64)) {
	for at := int64(0); at < n; {
		c, from := (off+at)/chunk, (off+at)%chunk
		length := min(n-at, chunk-from)
		f(c, from, from+length, at)
		at += length
	}
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	each(off, int64(len(p)), func(c, from, to, at int64) {
		if have := d.chunks[c]; have != nil {
			copy(p[at:], have[from:to])
		} else {
			clear(p[at : at+to-from])
		}
	})
	return len(p), nil
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.written.Add(int64(len(p)))
	d.mu.Lock()
	defer d.mu.Unlock()
	each(off, int64(len(p)), func(c, from, to, at int64) {
		if c*chunk >= d.keep {
			return
		}
		have := d.chunks[c]
		if have == nil {
			have = new([chunk]byte)
			d.chunks[c] = have
		}
		copy(have[from:to], p[at:])
	})
	return len(p), nil
}

// Zero forgets whole chunks.
func (d *disk) Zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	each(off, n, func(c, from, to, _ int64) {
		switch have := d.chunks[c]; {
		case have == nil:
		case to-from == chunk:
			delete(d.chunks, c)
		default:
			clear(have[from:to])
		}
	})
	return nil
}

// bootable tells whether the first sector ends as a boot sector does.
func (d *disk) bootable() bool {
	var sector [512]byte
	_, _ = d.ReadAt(sector[:], 0)
	return sector[510] == 0x55 && sector[511] == 0xaa
}

// digest is the SHA-256 of the whole disk; "" if not all of it was kept, or the context ended.
func (d *disk) digest(ctx context.Context) string {
	if d.keep < d.size {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	hash := sha256.New()
	var zeros [chunk]byte
	for off := int64(0); off < d.size; off += chunk {
		if ctx.Err() != nil {
			return ""
		}
		have := d.chunks[off/chunk]
		if have == nil {
			have = &zeros
		}
		hash.Write(have[:min(chunk, d.size-off)])
	}
	return hex.EncodeToString(hash.Sum(nil))
}
