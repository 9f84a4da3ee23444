package image

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"

	"ingot/internal/ingot"
)

// windowMax bounds the memory of a decompressor in bytes, whatever the file asks for. It is what
// xz -9 and zstd --ultra -21 need.
const windowMax = 64 << 20

// packing is a way of compression that is undone while the image is read. All of them allow a
// file to be several that follow one another.
type packing struct {
	name, magic string
	open        func(io.Reader) (io.Reader, error)
}

var packings = []packing{
	{"gzip", "\x1f\x8b", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"xz", "\xfd7zXZ\x00", func(r io.Reader) (io.Reader, error) {
		return xz.NewReader(r, windowMax)
	}},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"zstd", "\x50\x2a\x4d\x18", openZstd}, // pzstd begins with the size of a frame
}

func openZstd(r io.Reader) (io.Reader, error) {
	// Concurrency of one means no goroutines, so that nothing is left to close.
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(windowMax), zstd.WithDecoderMaxMemory(windowMax))
}

// packingOf tells how content that begins with head is compressed, nil if it is not.
func packingOf(head []byte) *packing {
	for i, p := range packings {
		if bytes.HasPrefix(head, []byte(p.magic)) {
			return &packings[i]
		}
	}
	return nil
}

// unpack returns the content of r.
func (p *packing) unpack(r io.Reader) (*bufio.Reader, error) {
	content, err := p.open(r)
	if err != nil {
		return nil, p.explain(err)
	}
	return bufio.NewReaderSize(content, unpackSize), nil
}

// explain tells damaged content from a transfer that broke, whose error has a kind already.
func (p *packing) explain(err error) error {
	var known *ingot.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded) ||
		errors.Is(err, zstd.ErrWindowSizeTooSmall) {
		return ingot.Errorf(ingot.Invalid, "unpack image: %w; more than %d MiB of memory are not "+
			"spent on it, compress it with %s again at a lower level and without a long window",
			err, windowMax>>20, p.name)
	}
	return ingot.Errorf(ingot.Invalid, "unpack image: %w; the file is damaged or was cut off, "+
		"compress it with %s again", err, p.name)
}
