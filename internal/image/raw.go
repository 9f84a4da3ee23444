package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// maxHole bounds what is handed out of a hole at once, in bytes: hashing it is one step, which a
// cancelled copy waits for.
const maxHole = 64 << 20

// zeroBlock is what holes are hashed as; nothing ever writes to it.
var zeroBlock [64 << 10]byte

// rawFile is the content of a raw image that is a file here. Its holes are not read, and hashed
// only while whoever took them is busy with them already.
type rawFile struct {
	transfer
	name     string
	digest   Digest
	digester *digester

	off int64
	// left is how much there is from off on of one kind: hole or data.
	left int64
	hole bool
	// owed is how many zeros before off are not hashed yet.
	owed int64
}

// newRawFile reads the file of s, which has looked at its head, from its beginning.
func newRawFile(s *stream) *rawFile {
	s.hash.digester.Close()
	return &rawFile{
		transfer: s.transfer, name: s.name, digest: s.digest,
		digester: newDigester(s.digest.Algorithm),
	}
}

func (r *rawFile) next(_ context.Context, buf []byte) (n int64, zero bool, err error) {
	r.hashZeros()
	if r.off == r.size {
		if err := verdictOn(r.name, r.digest, r.digester.Sum(), r.size); err != nil {
			return 0, false, err
		}
		return 0, false, io.EOF
	}
	if r.left == 0 {
		if r.left, r.hole, err = r.extent(); err != nil {
			return 0, false, fmt.Errorf("read image %s: %w", r.name, err)
		}
	}
	if r.hole {
		n = min(r.left, maxHole)
		r.owed = n
	} else {
		n = min(r.left, int64(len(buf)))
		if err := r.read(buf[:n]); err != nil {
			return 0, false, fmt.Errorf("read image %s: %w", r.name, err)
		}
		r.digester.Write(buf[:n])
	}
	r.off += n
	r.left -= n
	return n, r.hole, nil
}

// Close ends the reading.
func (r *rawFile) Close() error {
	r.digester.Close()
	return r.transfer.Close()
}

func (r *rawFile) hashZeros() {
	for r.owed > 0 {
		n := min(r.owed, int64(len(zeroBlock)))
		r.digester.Write(zeroBlock[:n])
		r.owed -= n
	}
}

func (r *rawFile) read(p []byte) error {
	n, err := r.local.ReadAt(p, r.off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF:
		return r.truncated(r.off + int64(n))
	}
	return unreadable(err)
}

func (r *rawFile) truncated(end int64) error {
	return changed("it had %d bytes and ends at %d", r.size, end)
}

// extent returns how long the run of data, or the hole, at off is. File systems that know no holes
// call everything data, and where even the question is refused, so is this.
func (r *rawFile) extent() (n int64, hole bool, err error) {
	rest := r.size - r.off
	data, err := r.local.Seek(r.off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // nothing but a hole follows, or nothing at all
		return r.lastHole()
	}
	if err != nil {
		return rest, false, nil
	}
	if data > r.off {
		return min(data-r.off, rest), true, nil
	}
	end, err := r.local.Seek(r.off, unix.SEEK_HOLE)
	if err != nil || end <= r.off {
		return rest, false, nil
	}
	return min(end-r.off, rest), false, nil
}

func (r *rawFile) lastHole() (int64, bool, error) {
	info, err := r.local.Stat()
	if err != nil {
		return 0, false, unreadable(err)
	}
	if info.Size() < r.size {
		return 0, false, r.truncated(info.Size())
	}
	return r.size - r.off, true, nil
}
