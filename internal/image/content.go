package image

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"ingot/internal/ingot"
	"ingot/internal/qcow2"
)

// Facts is what is known of an image before all of it is fetched.
type Facts struct {
	// URL is where it can be had by others, "" if only this host has it.
	URL    string
	Digest Digest // of what is fetched from there
	Format Format
	// Packing is what the image is compressed with, "" if it is not.
	Packing string
	// Wide says that unpacking it takes more than 32 MiB of memory (xz -8, zstd --long), so not in a ramdisk.
	Wide bool
}

// Look fetches the beginning of an image, and what there is to know of it. Errors are those of [Open].
func Look(ctx context.Context, ref Reference, opt Options) (Facts, error) {
	o, err := newOpener(ctx, ref, opt)
	if err != nil {
		return Facts{}, err
	}
	s, err := o.dial(ctx)
	if err != nil {
		return Facts{}, fmt.Errorf("open image %s: %w", o.name, err)
	}
	defer s.Close()
	f := Facts{Digest: o.ref.Digest, Format: s.format}
	if o.url.Scheme == "http" || o.url.Scheme == "https" {
		f.URL = o.url.String()
	}
	if s.packing != nil {
		f.Packing, f.Wide = s.packing.name, s.wide
	}
	return f, nil
}

// Content is what an image describes, all of it verified, to be read in any order. It may be used
// concurrently.
type Content struct {
	io.ReaderAt
	// File is the content itself if that is a file; nil if it is laid out in another way.
	File *os.File
	size int64
	// digest of the content; the zero value is not known yet.
	digest Digest
	known  string // under which the digest is remembered
	disk   *qcow2.Image
	// open counts who needs the file: the caller until Close, and who makes the digest.
	open  atomic.Int64
	close func() error
	end   func() error // of the file
}

// maxContent is what the virtual size of an image may be in bytes: the size of large disks. All of it is
// hashed and sent, and a file of a few bytes may claim much more.
const maxContent = 16 << 40

// OpenContent makes the content of an image readable at any place. Unlike Open it fetches and verifies all
// of an image first, unless it is in the spool from before; a file:// image is used where it is. Errors are
// those of [Open].
func OpenContent(ctx context.Context, ref Reference, opt Options) (*Content, error) {
	o, err := newOpener(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	c, err := o.openContent(ctx)
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", o.name, err)
	}
	return c, nil
}

func (o opener) openContent(ctx context.Context) (*Content, error) {
	if o.url.Scheme == "file" {
		c, err := o.contentInPlace(ctx)
		if c != nil || err != nil {
			return c, err
		}
	}
	o.anyFormat = true
	f, err := o.spooled(ctx)
	if err != nil {
		return nil, err
	}
	digest := o.ref.Digest
	if _, inner, ok := strings.Cut(filepath.Base(f.Name()), unpackedMark); ok {
		digest = Digest{"sha256", inner}
	}
	c, err := o.newContent(f, digest)
	if err != nil {
		f.Close()
	}
	return c, err
}

// contentInPlace returns nil without error if the file has to be unpacked.
func (o opener) contentInPlace(ctx context.Context) (*Content, error) {
	s, err := o.dial(ctx)
	if err != nil {
		return nil, err
	}
	if s.packing != nil {
		return nil, s.Close()
	}
	s.hash.digester.Close() // it is hashed below, if it was not before
	var c *Content
	if err = o.verifyInPlace(ctx, s.local); err == nil {
		c, err = o.newContent(s.local, o.ref.Digest)
	}
	if err != nil {
		return nil, errors.Join(err, s.transfer.Close())
	}
	return c, nil
}

// verifyInPlace hashes f, a file that is not in the spool, if it is not known.
func (o opener) verifyInPlace(ctx context.Context, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fileError(err, o.key())
	}
	if trusted.has(f.Name(), o.ref.Digest, info) {
		return nil
	}
	r := route{source: o.ref.Digest.String() + " " + f.Name()}
	err = verifiers.read(ctx, r, o.opt.Progress, func(ctx context.Context, note func(done, total int64)) error {
		// Its own file: who opened f may leave before others who wait for the same.
		own, err := openAllowed(o.url.Path, o.key(), o.opt.AllowedPaths)
		if err != nil {
			return err
		}
		defer own.Close()
		return verifyFile(ctx, own, o.ref.Digest, note)
	})
	if err != nil {
		return err
	}
	return verifyFile(ctx, f, o.ref.Digest, o.opt.Progress) // known, unless there is another file meanwhile
}

// readings are those who read all of an image to find out its digest, once for all who want to know the
// same. They are package state for the same reason as downloads.
var readings = flights{going: make(map[route]*flight)}

// turns bound how many of them go on at a time: others need the processors and the disk, too.
type turns chan struct{}

// What a content has in bytes may be a thousand times what its file has: verifiers do not wait for digesters.
var (
	verifiers = make(turns, 2)
	digesters = make(turns, 2)
)

// read does what takes long, to read all of an image. Who may know the outcome asks before. The work
// goes on while anybody waits for it, so it needs what is its own.
func (t turns) read(ctx context.Context, r route, progress func(done, total int64), run work) error {
	return readings.do(ctx, r, func(done, total int64) {
		if total >= 0 { // it has begun
			progress(done, total)
		}
	}, func(ctx context.Context, note func(done, total int64)) error {
		select {
		case t <- struct{}{}:
			defer func() { <-t }()
			return run(ctx, note)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// newContent owns f, a verified file with that digest, unless it fails.
func (o opener) newContent(f *os.File, digest Digest) (*Content, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fileError(err, "image_source")
	}
	var head [len(qcow2.Magic)]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && err != io.EOF {
		return nil, unreadable(err)
	}
	found := Raw
	if string(head[:]) == qcow2.Magic {
		found = QCOW2
	}
	if err := agree(o.ref.Format, found); err != nil {
		return nil, err
	}
	c := &Content{end: func() error {
		inUse.add(f.Name(), -1)
		return f.Close()
	}}
	c.close = sync.OnceValue(c.leave)
	c.open.Store(1)
	if found == Raw {
		c.ReaderAt, c.File, c.size, c.digest = f, f, info.Size(), digest
	} else {
		disk, err := qcow2.Open(f, info.Size())
		if err != nil {
			return nil, ingot.Errorf(ingot.Invalid, "%w", err)
		}
		if disk.Size() > maxContent {
			return nil, ingot.Errorf(ingot.Invalid, "the virtual size of the image is %d bytes, and no disk "+
				"is written with more than %d; make it smaller: qemu-img resize --shrink", disk.Size(),
				int64(maxContent))
		}
		c.ReaderAt, c.disk, c.size, c.known = disk, disk, disk.Size(), digest.String()
	}
	inUse.add(f.Name(), 1)
	return c, nil
}

// Size is the size of the content in bytes.
func (c *Content) Size() int64 { return c.size }

// Close ends all use of the content.
func (c *Content) Close() error { return c.close() }

// hold keeps the file open until leave, whatever Close does, unless it is closed already.
func (c *Content) hold() bool {
	for {
		n := c.open.Load()
		if n == 0 || c.open.CompareAndSwap(n, n+1) {
			return n > 0
		}
	}
}

// leave closes the file if nobody else needs it.
func (c *Content) leave() error {
	if c.open.Add(-1) > 0 {
		return nil
	}
	return c.end()
}

// contentDigests remembers the digests of contents that are laid out in another way, by those of their
// files. It is package state for the same reason as downloads, and bounded by the images of the site.
var contentDigests sync.Map // of string to Digest

// Digest is the digest of the content. Of what is laid out in another way than it is to be on a disk, it
// is made by reading all of it once, and remembered. That may take hours: it ends with ctx, or later for
// others who want the same.
func (c *Content) Digest(ctx context.Context, progress func(done, total int64)) (Digest, error) {
	if c.disk == nil {
		return c.digest, nil
	}
	for {
		if d, ok := contentDigests.Load(c.known); ok {
			return d.(Digest), nil
		}
		err := digesters.read(ctx, route{source: "content of " + c.known}, progress, c.makeDigest)
		if err != nil && !errors.Is(err, errClosed) {
			return Digest{}, err
		}
	}
}

// errClosed says that a content was closed before it was read for others, who have their own.
var errClosed = errors.New("the content is closed")

// makeDigest hashes the content and remembers its digest. Others may wait for it when the caller of Digest
// has left and closed the content.
func (c *Content) makeDigest(ctx context.Context, note func(done, total int64)) error {
	if !c.hold() {
		return errClosed
	}
	defer c.leave()
	h := newDigester("sha256")
	defer h.Close()
	for off := int64(0); off < c.size; {
		n, err := c.hash(ctx, h, off)
		if err != nil {
			return err
		}
		off += n
		note(off, c.size)
	}
	contentDigests.Store(c.known, Digest{"sha256", hex.EncodeToString(h.Sum())})
	return nil
}

// hash hashes what is of one kind at off, data or zeros, and returns how much that is.
func (c *Content) hash(ctx context.Context, h *digester, off int64) (int64, error) {
	extent, err := c.disk.ExtentAt(off)
	if err != nil {
		return 0, ingot.Errorf(ingot.Invalid, "read image: %w", err)
	}
	buf := zeroBlock[:]
	if !extent.Zero {
		buf = make([]byte, min(extent.Length, readSize))
	}
	for done := int64(0); done < extent.Length; {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		part := buf[:min(extent.Length-done, int64(len(buf)))]
		if !extent.Zero {
			if _, err := c.disk.ReadAt(part, off+done); err != nil {
				return 0, ingot.Errorf(ingot.Invalid, "read image: %w", err)
			}
		}
		h.Write(part)
		done += int64(len(part))
	}
	return extent.Length, nil
}
