package image

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"

	"ingot/internal/ingot"
	"ingot/internal/qcow2"
)

// ChecksumError says that a source delivered something else than the reference promised.
type ChecksumError struct {
	// Source is where it came from, without secrets.
	Source string
	// Want and Got are the promised and the found digest.
	Want, Got Digest
	// Fetched is the number of bytes that Got is the digest of.
	Fetched int64
}

// Error says which of both sides to look at.
func (e *ChecksumError) Error() string {
	return fmt.Sprintf("checksum of %s (%d bytes) is %s, but instance_info promises %s; "+
		"if the image was published anew, set its new checksum, otherwise publish it again",
		e.Source, e.Fetched, e.Got, e.Want)
}

// stream is the content of a source as it arrives: hashed as fetched, unpacked if compressed.
type stream struct {
	transfer
	name   string
	digest Digest

	raw     *bufio.Reader // as fetched
	hash    *hashReader
	content io.Reader // unpacked; raw itself if there is nothing to unpack
	format  Format
	packing *packing // nil if nothing is unpacked
	wide    bool     // unpacking takes more than windowNarrow
}

const (
	// readSize is the unit of reads from a source in bytes.
	readSize = 256 << 10
	// unpackSize is the unit of reads from a decompressor.
	unpackSize = 64 << 10
)

// newStream looks at the first bytes of t and owns it, also in case of an error.
func (o opener) newStream(t transfer) (*stream, error) {
	s := &stream{
		transfer: t, name: o.name, digest: o.ref.Digest,
		hash: newHashReader(t.body, o.ref.Digest.Algorithm),
	}
	s.raw = bufio.NewReaderSize(s.hash, readSize)
	if err := s.detect(o.ref.Format); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *stream) detect(declared Format) error {
	head, err := peek(s.raw)
	if err != nil {
		return err
	}
	s.content = s.raw
	if s.packing = packingOf(head); s.packing != nil {
		s.wide = s.packing.wide(head)
		unpacked, err := s.packing.unpack(s.raw)
		if err != nil {
			return err
		}
		s.content = unpacked
		if head, err = peek(unpacked); err != nil {
			return s.packing.explain(err)
		}
	}
	if len(head) == 0 {
		return ingot.Errorf(ingot.Invalid, "the image is empty; check image_source")
	}
	if s.format, err = sniff(head); err != nil {
		return err
	}
	if err := agree(declared, s.format); err != nil || s.format != QCOW2 {
		return err
	}
	// All of it is looked at later; what the beginning tells need not be fetched first.
	if err := qcow2.CheckHeader(head); err != nil {
		return ingot.Errorf(ingot.Invalid, "%w", err)
	}
	return nil
}

func peek(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(sniffSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return head, nil
}

// next fills buf with what comes next. At the end it returns the verdict, io.EOF if good.
func (s *stream) next(ctx context.Context, buf []byte) (int64, bool, error) {
	defer s.during(ctx)()
	n, err := fill(s.content, buf)
	switch {
	case err == nil, err == io.EOF && n > 0:
		return int64(n), false, nil
	case err == io.EOF:
		return 0, false, cmp.Or(s.verify(), io.EOF)
	case s.packing != nil:
		err = s.packing.explain(err)
	}
	return 0, false, fmt.Errorf("read image %s: %w", s.name, err)
}

// fill reads until buf is full or r gives an error. It keeps a stream that was cut off, which is
// io.ErrUnexpectedEOF, apart from the end, which io.ReadFull does not.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	if n == len(buf) {
		return n, nil
	}
	return n, err
}

// verify fetches what may be left behind the content and compares the digest of everything.
func (s *stream) verify() error {
	if _, err := io.Copy(io.Discard, s.raw); err != nil {
		return fmt.Errorf("read image %s: %w", s.name, err)
	}
	err := s.hash.verify(s.name, s.digest)
	if r, ok := s.body.(*reader); ok && err != nil {
		r.disown()
	}
	return err
}

// Close ends the transfer.
func (s *stream) Close() error {
	s.hash.digester.Close()
	return s.transfer.Close()
}

// hashReader hashes what is read through it. Its digester has to be closed.
type hashReader struct {
	r        io.Reader
	digester *digester
	n        int64
}

func newHashReader(r io.Reader, algorithm string) *hashReader {
	return &hashReader{r: r, digester: newDigester(algorithm)}
}

func (h *hashReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.digester.Write(p[:n])
	h.n += int64(n)
	return n, err
}

// verify compares the digest of what was read. A mismatch is a *ChecksumError.
func (h *hashReader) verify(name string, want Digest) error {
	return verdictOn(name, want, h.digester.Sum(), h.n)
}

// verdictOn compares the digest of n bytes of the named source. A mismatch is a *ChecksumError.
func verdictOn(name string, want Digest, sum []byte, n int64) error {
	got := Digest{want.Algorithm, hex.EncodeToString(sum)}
	if got == want {
		return nil
	}
	return &ingot.Error{Kind: ingot.Invalid, Err: &ChecksumError{
		Source: name, Want: want, Got: got, Fetched: n,
	}}
}
