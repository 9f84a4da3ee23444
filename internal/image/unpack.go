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

// windowNarrow is what a decompressor may take in the memory of a machine's ramdisk, in bytes.
const windowNarrow = windowMax / 2

// packing is a way of compression that is undone while the image is read. All of them allow a
// file to be several that follow one another.
type packing struct {
	name, magic string
	open        func(r io.Reader, window uint32) (io.Reader, error)
}

var packings = []packing{
	{"gzip", "\x1f\x8b", func(r io.Reader, _ uint32) (io.Reader, error) { return gzip.NewReader(r) }},
	{"xz", "\xfd7zXZ\x00", func(r io.Reader, window uint32) (io.Reader, error) {
		return xz.NewReader(r, window)
	}},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"zstd", "\x50\x2a\x4d\x18", openZstd}, // pzstd begins with the size of a frame
}

func openZstd(r io.Reader, window uint32) (io.Reader, error) {
	// Concurrency of one means no goroutines, so that nothing is left to close.
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(uint64(window)), zstd.WithDecoderMaxMemory(uint64(window)))
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
	content, err := p.open(r, windowMax)
	if err != nil {
		return nil, p.explain(err)
	}
	return bufio.NewReaderSize(content, unpackSize), nil
}

// wide tells whether content that begins with head takes more memory than windowNarrow.
func (p *packing) wide(head []byte) bool {
	r, err := p.open(bytes.NewReader(head), windowNarrow)
	if err == nil {
		_, err = r.Read(make([]byte, 1))
	}
	return isTooWide(err)
}

func isTooWide(err error) bool {
	return errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded) ||
		errors.Is(err, zstd.ErrWindowSizeTooSmall)
}

// explain tells damaged content from a transfer that broke, whose error has a kind already.
func (p *packing) explain(err error) error {
	var known *ingot.Error
	if errors.As(err, &known) {
		return err
	}
	if isTooWide(err) {
		return ingot.Errorf(ingot.Invalid, "unpack image: %w; more than %d MiB of memory are not "+
			"spent on it, compress it with %s again at a lower level and without a long window",
			err, windowMax>>20, p.name)
	}
	return ingot.Errorf(ingot.Invalid, "unpack image: %w; the file is damaged or was cut off, "+
		"compress it with %s again", err, p.name)
}
