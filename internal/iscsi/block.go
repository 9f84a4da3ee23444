package iscsi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Size is the capacity of the disk in bytes.
func (s *Session) Size() int64 { return s.disk.blocks * int64(s.disk.blockSize) }

// BlockSize is the size of a logical block in bytes, a power of two from 512 to 65536.
func (s *Session) BlockSize() int { return s.disk.blockSize }

// Vendor is the vendor identification of the disk (SPC-4 6.6.2), such as "IET".
func (s *Session) Vendor() string { return s.disk.vendor }

// Product is the product identification of the disk, such as "VIRTUAL-DISK".
func (s *Session) Product() string { return s.disk.product }

// Revision is the product revision of the disk.
func (s *Session) Revision() string { return s.disk.revision }

var (
	_ io.ReaderAt = (*Session)(nil)
	_ io.WriterAt = (*Session)(nil)
)

// ReadAt reads len(p) bytes at off, both of any alignment; whole blocks are read straight into p.
// It follows io.ReaderAt: io.EOF if the disk ends before len(p) bytes.
func (s *Session) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	if off >= s.Size() {
		return 0, io.EOF
	}
	var end error
	if rest := s.Size() - off; int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	n, err := s.spans(p, off, s.readSpan)
	if err != nil {
		return n, err
	}
	return n, end
}

// WriteAt writes p at off. Whole blocks are sent straight from p. Blocks that p covers in part are
// read, changed and written back; such writes exclude one another, so concurrent callers may
// share a block as long as their bytes do not overlap. Data is on stable storage after Sync.
func (s *Session) WriteAt(p []byte, off int64) (int, error) {
	if err := s.inside("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	return s.spans(p, off, s.writeSpan)
}

// inside refuses a range that is not on the disk.
func (s *Session) inside(verb string, off, n int64) error {
	if off < 0 || n < 0 || off > s.Size() || n > s.Size()-off {
		return fmt.Errorf("%s %d bytes at %d: the disk has only %d bytes; use a larger disk",
			verb, n, off, s.Size())
	}
	return nil
}

// span is a part of a read or write that is one command, or a part of one block.
type span struct {
	p   []byte
	off int64 // bytes from the start of the disk
}

// spans cuts p into spans, runs each through do, and returns how many bytes from the start were
// transferred. More than one span run concurrently: do itself bounds the commands in flight.
func (s *Session) spans(p []byte, off int64, do func(span) error) (int, error) {
	first := s.cut(p, off)
	if len(first.p) == len(p) {
		if len(p) == 0 {
			return 0, nil
		}
		if err := do(first); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return s.parallel(p, off, do)
}

// parallel is spans for more than one. At most QueueDepth goroutines take spans off a channel.
func (s *Session) parallel(p []byte, off int64, do func(span) error) (int, error) {
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		failure error
		failed  = len(p) // offset in p of the first failure
		work    = make(chan span)
	)
	worker := func() {
		for part := range work {
			if err := do(part); err != nil {
				mu.Lock()
				if at := int(part.off - off); at < failed {
					failed, failure = at, err
				}
				mu.Unlock()
			}
		}
	}
	for range min(s.cfg.QueueDepth, 2+len(p)/s.transfer()) {
		workers.Go(worker)
	}
	for done := 0; done < len(p); {
		mu.Lock()
		stop := failure != nil
		mu.Unlock()
		if stop {
			break
		}
		part := s.cut(p[done:], off+int64(done))
		work <- part
		done += len(part.p)
	}
	close(work)
	workers.Wait()
	return failed, failure
}

// cut takes the next span off p: what is left of a block that does not start at off, as many
// whole blocks as fit one command, or the rest that does not fill a block.
func (s *Session) cut(p []byte, off int64) span {
	size := s.disk.blockSize
	n := min(len(p), s.transfer())
	if into := int(off % int64(size)); into != 0 {
		n = min(n, size-into)
	} else if n > size {
		n -= n % size
	}
	return span{p[:n], off}
}

// transfer is how many bytes one command may carry, a multiple of the block size.
func (s *Session) transfer() int {
	n := s.cfg.MaxTransfer
	if blocks := s.disk.maxTransfer; blocks > 0 {
		n = int(min(int64(n), blocks*int64(s.disk.blockSize)))
	}
	return n - n%s.disk.blockSize
}

// aligned tells whether a span is whole blocks.
func (s *Session) aligned(part span) bool {
	size := s.disk.blockSize
	return len(part.p)%size == 0 && part.off%int64(size) == 0
}

// readSpan reads one span, through a block of its own if it is less than a block.
func (s *Session) readSpan(part span) error {
	if s.aligned(part) {
		return s.readBlocks(part)
	}
	block, into, err := s.readAround(part)
	if err == nil {
		copy(part.p, block.p[into:])
	}
	return err
}

// readAround reads the block that an unaligned span lies in; into is where in it the span starts.
func (s *Session) readAround(part span) (block span, into int, err error) {
	size := s.disk.blockSize
	into = int(part.off % int64(size))
	block = span{make([]byte, size), part.off - int64(into)}
	return block, into, s.readBlocks(block)
}

func (s *Session) readBlocks(part span) error {
	block, count := part.off/int64(s.disk.blockSize), len(part.p)/s.disk.blockSize
	op := fmt.Sprintf("read %d blocks at block %d", count, block)
	n, err := s.do(context.Background(),
		task{op: op, cdb: blockCDB(cdbRead16, block, count), in: part.p})
	if err == nil && n != len(part.p) {
		return fmt.Errorf("%s: %w: %d bytes in place of %d", op, errProtocol, n, len(part.p))
	}
	return err
}

// writeSpan writes one span, by read, change and write if it is less than a block.
func (s *Session) writeSpan(part span) error {
	if s.aligned(part) {
		return s.writeBlocks(part)
	}
	s.unaligned.Lock()
	defer s.unaligned.Unlock()
	block, into, err := s.readAround(part)
	if err != nil {
		return err
	}
	copy(block.p[into:], part.p)
	return s.writeBlocks(block)
}

func (s *Session) writeBlocks(part span) error {
	block, count := part.off/int64(s.disk.blockSize), len(part.p)/s.disk.blockSize
	op := fmt.Sprintf("write %d blocks at block %d", count, block)
	_, err := s.do(context.Background(),
		task{op: op, cdb: blockCDB(cdbWrite16, block, count), out: part.p})
	return err
}

// syncFactor times Config.CommandTimeout is what a flush may take: it writes out everything that
// the commands before it left in the target's memory.
const syncFactor = 5

// Sync makes everything written so far durable (SYNCHRONIZE CACHE, SBC-3 5.22). A disk that does
// not know the command has no cache to flush. It may take five times Config.CommandTimeout. If ctx
// ends first, so does the session.
func (s *Session) Sync(ctx context.Context) error {
	s.mu.Lock()
	written := s.written
	s.mu.Unlock()
	err := s.flush(ctx)
	if err == nil {
		s.mu.Lock()
		s.flushed = max(s.flushed, written)
		s.mu.Unlock()
	}
	return err
}

func (s *Session) flush(ctx context.Context) error {
	for _, op := range []byte{cdbSyncCache16, cdbSyncCache10} {
		_, err := s.do(ctx, task{op: "flush the cache", cdb: [16]byte{op},
			timeout: syncFactor * s.cfg.CommandTimeout})
		var sense *SenseError
		unknown := errors.As(err, &sense) && sense.Key == SenseIllegalRequest && sense.ASC == 0x20
		if !unknown {
			return err
		}
	}
	return nil
}
