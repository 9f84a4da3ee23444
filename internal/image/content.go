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
		f.Packing = s.packing.name
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
	close  func() error
}

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
	leave, err := readers.enter(ctx)
	if err == nil {
		err = verifyFile(ctx, s.local, o.ref.Digest, o.opt.Progress)
		leave()
	}
	var c *Content
	if err == nil {
		c, err = o.newContent(s.local, o.ref.Digest)
	}
	if err != nil {
		return nil, errors.Join(err, s.transfer.Close())
	}
	return c, nil
}

// turns lets one at a time read all of an image: others may want the same to be found out.
type turns chan struct{}

// readers are those who read all of an image to find out its digest. It is package state for the same
// reason as downloads.
var readers = make(turns, 1)

func (t turns) enter(ctx context.Context) (leave func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return func() {}, context.Cause(ctx)
	}
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
	inUse.add(f.Name(), 1)
	c := &Content{close: sync.OnceValue(func() error {
		inUse.add(f.Name(), -1)
		return f.Close()
	})}
	if found == Raw {
		c.ReaderAt, c.File, c.size, c.digest = f, f, info.Size(), digest
		return c, nil
	}
	disk, err := qcow2.Open(f, info.Size())
	if err != nil {
		inUse.add(f.Name(), -1)
		return nil, ingot.Errorf(ingot.Invalid, "%w", err)
	}
	c.ReaderAt, c.disk, c.size, c.known = disk, disk, disk.Size(), digest.String()
	return c, nil
}

// Size is the size of the content in bytes.
func (c *Content) Size() int64 { return c.size }

// Close ends all use of the content.
func (c *Content) Close() error { return c.close() }

// contentDigests remembers the digests of contents that are laid out in another way, by those of their
// files. It is package state for the same reason as downloads, and bounded by the images of the site.
var contentDigests sync.Map // of string to Digest

// Digest is the digest of the content. Of what is laid out in another way than it is to be on a disk, it
// is made by reading all of it once, and remembered.
func (c *Content) Digest(ctx context.Context, progress func(done, total int64)) (Digest, error) {
	if c.disk == nil {
		return c.digest, nil
	}
	leave, err := readers.enter(ctx)
	if err != nil {
		return Digest{}, err
	}
	defer leave()
	if d, ok := contentDigests.Load(c.known); ok {
		return d.(Digest), nil
	}
	h := newDigester("sha256")
	defer h.Close()
	for off := int64(0); off < c.size; {
		n, err := c.hash(ctx, h, off)
		if err != nil {
			return Digest{}, err
		}
		off += n
		progress(off, c.size)
	}
	d := Digest{"sha256", hex.EncodeToString(h.Sum())}
	contentDigests.Store(c.known, d)
	return d, nil
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
