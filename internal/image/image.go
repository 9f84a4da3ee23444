// Package image turns an image reference of a node into verified content.
//
// A reference (image_source, its digest, its format) comes from instance_info and is checked by
// [FromInstanceInfo] without touching anything. [Open] fetches it: raw images, also compressed
// with gzip, xz or zstd, are streamed and hashed on the way, with at most two downloads of what
// several machines want at a time (share.go); qcow2 images need random access, so they are spooled
// to a file named by their digest, once for everybody who asks at the same time, unless they are a
// file already, which is hashed beside its use. Memory does not grow with the
// image in any case. Nothing is ever handed out as complete before its digest was seen to be right:
// the verdict comes with the end, see [Image.Next].
//
// Writing content to a disk is left to package deploy, the layout of qcow2 to package qcow2.
// Start at [Open].
package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"ingot/internal/glance"
)

// Options are the site's rules for images. The zero value works where its directories exist.
type Options struct {
	// AllowedPaths are the directories that file:// images may be in. Default
	// /var/lib/ingot/images.
	AllowedPaths []string
	// SpoolDir holds images that cannot be streamed, by digest. It belongs to one process and
	// is made when needed. Default /var/lib/ingot/spool.
	SpoolDir string
	// IdleTimeout is how long a source may stay silent. Default one minute.
	IdleTimeout time.Duration
	// Retries is how often in a row a source that cannot be reached, answers with a server error
	// or breaks off is asked again, for what is missing. Default 3; negative means never.
	Retries int
	// RetryDelay is the pause before the first retry; it doubles each time, up to a minute.
	// Default one second.
	RetryDelay time.Duration
	// Client is used for http and https, and for glance:// where Glance is set. Default a client
	// without an overall time limit.
	Client *http.Client
	// Glance knows the images that are named by UUID or glance://UUID; nil: there is none. Client has
	// its transport.
	Glance Catalog
	// AllowMD5 accepts md5 digests, which protect against accidents and not against people.
	AllowMD5 bool
	// Note, if set, hears what a person might want to know of a fetch that goes on: a sentence.
	Note func(text string)
	// Progress, if set, hears of bytes fetched to the spool, or hashed there, of so many in
	// total (-1: unknown), about four times a second. It is not called for streamed images:
	// who reads those sees how far they are.
	Progress func(done, total int64)
}

// Catalog tells what is known of an image of Glance, and who may have it; *glance.Client is one.
type Catalog interface {
	Show(ctx context.Context, id string) (*glance.Image, error)
	ShowTo(ctx context.Context, id string, projects ...string) (*glance.Image, error)
}

// Defaults of Options.
const (
	defaultAllowedPath = "/var/lib/ingot/images"
	defaultSpoolDir    = "/var/lib/ingot/spool"
	defaultIdleTimeout = time.Minute
	defaultRetries     = 3
	defaultRetryDelay  = time.Second
)

func (o Options) withDefaults() Options {
	if len(o.AllowedPaths) == 0 {
		o.AllowedPaths = []string{defaultAllowedPath}
	}
	if o.SpoolDir == "" {
		o.SpoolDir = defaultSpoolDir
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = defaultIdleTimeout
	}
	if o.Retries == 0 {
		o.Retries = defaultRetries
	}
	if o.RetryDelay <= 0 {
		o.RetryDelay = defaultRetryDelay
	}
	if o.Client == nil {
		o.Client = http.DefaultClient
	}
	if o.Note == nil {
		o.Note = func(string) {}
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	return o
}

// Image is the content of an image, read once from front to back. It is used by one goroutine.
type Image struct {
	digest  Digest
	format  Format
	size    int64
	content content
}

// content is where the bytes of an Image come from.
type content interface {
	// next is Image.Next, with a buffer that is not empty and a context that has not ended.
	next(ctx context.Context, buf []byte) (n int64, zero bool, err error)
	Close() error
}

var (
	_ content = (*stream)(nil)
	_ content = (*rawFile)(nil)
	_ content = (*diskFile)(nil)
)

// Open makes the image of ref readable. For a qcow2 image that is not a file here already, this
// includes fetching and verifying all of it; for others it means that the source has begun to
// send. The context bounds Open only, not the Image.
//
// Errors have the kind Invalid when ref or the content is at fault, NotFound when the source
// has no such image, and Unavailable when a later attempt may succeed. A wrong digest is a
// *[ChecksumError].
func Open(ctx context.Context, ref Reference, opt Options) (*Image, error) {
	o, err := newOpener(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	if o.ref.Digest.Algorithm == "md5" {
		o.opt.Note("the image is verified by its md5, as the configuration allows; that finds " +
			"damage, but not a forged image")
	}
	image, err := o.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", o.name, err)
	}
	return image, nil
}

// opener is one call of Open.
type opener struct {
	ref  Reference
	url  *url.URL
	name string
	opt  Options
	// checksums says that it is not an image that is opened, but a file of checksums.
	checksums bool
	// anyFormat lets images into the spool that could be streamed, too.
	anyFormat bool
	// shares lets others who read the image at the time have the same download.
	shares bool
}

// newOpener checks ref and finds its digest.
func newOpener(ctx context.Context, ref Reference, opt Options) (opener, error) {
	opt = opt.withDefaults()
	u, err := ref.check(opt)
	if err != nil {
		return opener{}, err
	}
	return opener{ref: ref, url: u, name: printable(u), opt: opt}.resolve(ctx)
}

// key is the word of instance_info that the URL comes from.
func (o opener) key() string {
	if o.checksums {
		return "image_checksum"
	}
	return "image_source"
}

func (o opener) open(ctx context.Context) (*Image, error) {
	if o.ref.Format != QCOW2 {
		image, err := o.openStream(ctx)
		if image != nil || err != nil {
			return image, err
		}
	}
	return o.openQCOW2(ctx)
}

// openStream returns nil without error if the image turns out to be qcow2.
func (o opener) openStream(ctx context.Context) (*Image, error) {
	o.shares = true
	s, err := o.dial(ctx)
	if err != nil {
		return nil, err
	}
	if s.format == QCOW2 {
		s.Close()
		return nil, nil
	}
	if s.packing == nil && s.local != nil {
		return &Image{digest: o.ref.Digest, format: Raw, size: s.size, content: newRawFile(s)}, nil
	}
	size := s.size
	if s.packing != nil {
		size = -1
	}
	return &Image{digest: o.ref.Digest, format: Raw, size: size, content: s}, nil
}

// openQCOW2 opens the source itself where that is possible, otherwise its copy in the spool.
func (o opener) openQCOW2(ctx context.Context) (*Image, error) {
	disk, err := o.openInPlace(ctx)
	if disk == nil && err == nil {
		disk, err = o.openSpooled(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &Image{
		digest: o.ref.Digest, format: QCOW2, size: disk.image.Size(), content: disk,
	}, nil
}

// Format is what the content was found to be.
func (i *Image) Format() Format { return i.format }

// Size is the size in bytes of the disk that the image describes, or -1 if only its end will
// tell (raw, compressed, or from a server that does not announce lengths).
func (i *Image) Size() int64 { return i.size }

// Digest is the digest that the image is verified against, for example "sha256:0f1e...".
func (i *Image) Digest() string { return i.digest.String() }

// Next advances through the image. It returns by how many bytes; either buf was filled with as
// many, or they are all zero, buf is untouched and n may exceed len(buf). There are no gaps.
// After the last byte the result is io.EOF if all that was fetched had the right digest, and a
// *[ChecksumError] otherwise: content of an image must not be put to use before io.EOF.
func (i *Image) Next(ctx context.Context, buf []byte) (n int64, zero bool, err error) {
	if err := context.Cause(ctx); err != nil {
		return 0, false, err
	}
	if len(buf) == 0 {
		return 0, false, errors.New("read image: empty buffer")
	}
	return i.content.next(ctx, buf)
}

// Verify returns nil when the content is known to have the right digest, otherwise why not. It is
// for those who want to know before they read. Raw images, which are verified as they are read, it
// says nothing about.
func (i *Image) Verify(ctx context.Context) error {
	if d, ok := i.content.(*diskFile); ok {
		return d.verdict.wait(ctx)
	}
	return nil
}

// Close releases the source. It does not tell whether the content was right.
func (i *Image) Close() error { return i.content.Close() }
