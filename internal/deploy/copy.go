package deploy

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"

	"ingot/internal/directio"
	"ingot/internal/ingot"
)

// maxZeros bounds one span of zeros in bytes, so that progress moves and a cancelled copy ends
// soon on disks that zero slowly.
const maxZeros = 64 << 20

// span is n bytes of the disk at off.
type span struct{ off, n int64 }

// chunk is a buffer that holds the content of the disk at off, a multiple of chunkSize.
type chunk struct {
	off int64
	// buf is of chunkSize, and fit for direct writes.
	buf []byte
	// fill is how much of buf is content.
	fill int
	// data lists the parts of the disk that are not zero; the rest of the content is.
	data []span
}

func newChunk() *chunk { return &chunk{buf: directio.Buffer(chunkSize)} }

// job is one unit of work: the data of a chunk, or a span of zeros if there is no chunk.
type job struct {
	chunk *chunk
	zero  span
}

// counters are bytes of the image; progress is read from them while workers add.
type counters struct {
	read, written, zeroed atomic.Int64
}

// copier moves one image. A reader cuts the image into windows of chunkSize, finds the zeros
// and hands out jobs; workers do them. All buffers go around through free.
type copier struct {
	disk    Disk
	src     Source
	size    int64 // of the disk
	workers int
	count   counters
	drive   []byte // config drive to add, or none
	seed    string

	jobs chan job
	// free holds idle buffers; nil stands for one that has not been needed yet.
	free chan *chunk

	// Only the reader touches these until it is done.
	pos   int64  // offset of the next window
	owed  int64  // zeros from pos on that the source announced and no window holds yet
	zeros span   // run of zeros that may still grow, not yet a job
	head  *chunk // first window, withheld; nil if the image begins with a long run of zeros
}

func newCopier(disk Disk, src Source, workers int) *copier {
	c := &copier{
		disk: disk, src: src, size: disk.Size(), workers: workers,
		jobs: make(chan job), free: make(chan *chunk, workers+2),
	}
	// One buffer for each worker, one being filled, and the head.
	for range cap(c.free) {
		c.free <- nil
	}
	return c
}

// read cuts the source into jobs until its end.
func (c *copier) read(ctx context.Context) error {
	for {
		eof, err := c.window(ctx)
		if err != nil {
			return err
		}
		if eof {
			return c.flushZeros(ctx)
		}
	}
}

// window hands out what is up to the next multiple of chunkSize, or much more if that is zeros.
func (c *copier) window(ctx context.Context) (eof bool, err error) {
	if whole := c.owed - c.owed%chunkSize; whole > 0 {
		c.owed -= whole
		c.pos += whole
		return false, c.addZeros(ctx, span{c.pos - whole, whole})
	}
	w, err := c.buffer(ctx)
	if err != nil {
		return false, err
	}
	w.off, w.fill, w.data = c.pos, 0, w.data[:0]
	if eof, err = c.fill(ctx, w); err != nil {
		return false, err
	}
	c.pos += int64(w.fill)
	c.pad(w)
	return eof, c.emit(ctx, w)
}

// fill reads into w until it is full, the image ends, or the window is better left to zeros.
func (c *copier) fill(ctx context.Context, w *chunk) (eof bool, err error) {
	for w.fill < chunkSize {
		if c.owed > 0 {
			n := int(min(c.owed, int64(chunkSize-w.fill)))
			clear(w.buf[w.fill : w.fill+n])
			w.fill += n
			c.owed -= int64(n)
			continue
		}
		n, zero, err := c.src.Next(ctx, w.buf[w.fill:])
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if read := c.count.read.Add(n); read > c.size {
			_, partition := c.disk.(section)
			return false, tooLarge(&TooLargeError{Image: read, Disk: c.size, Partition: partition})
		}
		if !zero {
			w.fill += int(n)
			continue
		}
		c.owed = n
		if w.fill == 0 && n >= chunkSize {
			return false, nil
		}
	}
	return false, nil
}

// pad makes the last window end at a block.
func (c *copier) pad(w *chunk) {
	block := c.disk.BlockSize()
	end := (w.fill + block - 1) &^ (block - 1)
	clear(w.buf[w.fill:end])
	w.fill = end
}

// emit sorts the content of w into data and zeros and hands both out.
func (c *copier) emit(ctx context.Context, w *chunk) error {
	for at := 0; at < w.fill; at += granule {
		part := w.buf[at:min(at+granule, w.fill)]
		s := span{w.off + int64(at), int64(len(part))}
		switch {
		case !allZero(part):
			w.add(s)
		case w.off < headSize:
			// The head has been blanked already.
			c.count.zeroed.Add(s.n)
		default:
			if err := c.addZeros(ctx, s); err != nil {
				return err
			}
		}
	}
	if w.off < headSize && w.fill > 0 {
		c.head = w
		return nil
	}
	if len(w.data) == 0 {
		c.free <- w
		return nil
	}
	return c.send(ctx, job{chunk: w})
}

// add appends s to the data of w, in one piece with what ends where s begins.
func (w *chunk) add(s span) {
	if last := len(w.data) - 1; last >= 0 && w.data[last].off+w.data[last].n == s.off {
		w.data[last].n += s.n
		return
	}
	w.data = append(w.data, s)
}

// zeroBlock is what allZero compares with; nothing writes to it.
var zeroBlock [granule]byte

// allZero compares a few bytes first: data is seldom zero there, and most chunks are data.
func allZero(p []byte) bool {
	const probe = 64
	return bytes.Equal(p[:min(probe, len(p))], zeroBlock[:min(probe, len(p))]) &&
		bytes.Equal(p, zeroBlock[:len(p)])
}

// addZeros lets the run of zeros grow by s, and makes a job of it when it cannot or is long.
func (c *copier) addZeros(ctx context.Context, s span) error {
	if c.zeros.off+c.zeros.n != s.off {
		if err := c.flushZeros(ctx); err != nil {
			return err
		}
		c.zeros.off = s.off
	}
	c.zeros.n += s.n
	for c.zeros.n >= maxZeros {
		piece := span{c.zeros.off, maxZeros}
		c.zeros = span{piece.off + piece.n, c.zeros.n - piece.n}
		if err := c.send(ctx, job{zero: piece}); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) flushZeros(ctx context.Context) error {
	s := c.zeros
	c.zeros = span{}
	if s.n == 0 {
		return nil
	}
	return c.send(ctx, job{zero: s})
}

func (c *copier) send(ctx context.Context, j job) error {
	select {
	case c.jobs <- j:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *copier) buffer(ctx context.Context) (*chunk, error) {
	select {
	case w := <-c.free:
		if w == nil {
			w = newChunk()
		}
		return w, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// work does jobs until there are no more, or one fails.
func (c *copier) work(ctx context.Context) error {
	for j := range c.jobs {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if j.chunk == nil {
			if err := c.zero(ctx, j.zero); err != nil {
				return err
			}
			c.count.zeroed.Add(j.zero.n)
			continue
		}
		if err := c.writeChunk(ctx, j.chunk); err != nil {
			return err
		}
		c.free <- j.chunk
	}
	return nil
}

// writeChunk writes the data of w. WriterAt knows no context, so it is asked in between.
func (c *copier) writeChunk(ctx context.Context, w *chunk) error {
	for _, s := range w.data {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		at := s.off - w.off
		if _, err := c.disk.WriteAt(w.buf[at:at+s.n], s.off); err != nil {
			return ingot.Errorf(ingot.Unavailable, "write %d bytes at %d: %w", s.n, s.off, err)
		}
		c.count.written.Add(s.n)
	}
	return nil
}

func (c *copier) zero(ctx context.Context, s span) error {
	if err := c.disk.WriteZeroes(ctx, s.off, s.n); err != nil {
		return ingot.Errorf(ingot.Unavailable, "zero %d bytes at %d: %w", s.n, s.off, err)
	}
	return nil
}

func (c *copier) sync(ctx context.Context) error {
	if err := c.disk.Sync(ctx); err != nil {
		return ingot.Errorf(ingot.Unavailable, "sync: %w", err)
	}
	return nil
}
