package image

import (
	"hash"
	"sync"
)

const (
	// digestSize is how many bytes are handed to the goroutine of a digester at once, and
	// digestAhead how many times that may wait there.
	digestSize  = 256 << 10
	digestAhead = 8
)

// digester makes a digest on a processor of its own: SHA-512 is slower than networks and disks are.
// What is written is copied, and hashed while its writer goes on. One goroutine writes; Sum or Close
// ends it.
type digester struct {
	hash hash.Hash
	part []byte // not handed over yet
	// full and free are buffers on their way to the goroutine and back, nil until there is one.
	full, free chan []byte
	done       chan struct{}
	end        sync.Once
}

func newDigester(algorithm string) *digester {
	return &digester{hash: algorithms[algorithm].hash(), part: make([]byte, 0, digestSize)}
}

// Write never fails.
func (d *digester) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if len(d.part) == digestSize {
			d.hand()
		}
		n := copy(d.part[len(d.part):digestSize], rest)
		d.part, rest = d.part[:len(d.part)+n], rest[n:]
	}
	return len(p), nil
}

// hand gives the part to the goroutine, which a small file never has.
func (d *digester) hand() {
	if d.full == nil {
		d.full, d.free = make(chan []byte, digestAhead), make(chan []byte, digestAhead)
		d.done = make(chan struct{})
		for range digestAhead {
			d.free <- nil
		}
		go func() {
			defer close(d.done)
			for p := range d.full {
				d.hash.Write(p)
				d.free <- p[:0]
			}
		}()
	}
	d.full <- d.part
	if d.part = <-d.free; d.part == nil {
		d.part = make([]byte, 0, digestSize)
	}
}

// Sum waits until all is hashed and returns the digest. Nothing may be written after it.
func (d *digester) Sum() []byte {
	d.Close()
	d.hash.Write(d.part)
	d.part = nil
	return d.hash.Sum(nil)
}

// Close waits for the goroutine to end. What is not hashed yet, never will be.
func (d *digester) Close() {
	d.end.Do(func() {
		if d.full != nil {
			close(d.full)
			<-d.done
		}
	})
}
