package deploy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ingot/internal/deploy"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

// memDisk is a disk in memory that begins with garbage and insists on the contract of Disk.
type memDisk struct {
	block int
	// failAt is the number of the operation that fails, counted from 1; 0 for none.
	failAt int

	mu      sync.Mutex
	content []byte   // guarded by mu
	busy    [][2]int // guarded by mu: ranges being written
	ops     int      // guarded by mu
	dirty   bool     // guarded by mu: written and not synced
	largest int      // guarded by mu: length of the largest WriteAt
}

var errDisk = errors.New("medium error")

// newMemDisk is full of noise, which repeats itself. The race detector need not look at what fills
// and compares disks: with it, that would take more time than the tests.
//
//go:norace
func newMemDisk(size, block int) *memDisk {
	d := &memDisk{block: block, content: make([]byte, size)}
	const period = mib + 4095
	rand.NewChaCha8([32]byte{1}).Read(d.content[:min(period, size)])
	repeat(d.content, period)
	return d
}

// repeat fills p with its first n bytes.
//
//go:norace
func repeat(p []byte, n int) {
	for ; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

func (d *memDisk) Size() int64    { return int64(len(d.content)) }
func (d *memDisk) BlockSize() int { return d.block }

// change performs one write of n bytes at off by calling do, or says what is wrong with it.
func (d *memDisk) change(off int64, n int, do func(p []byte)) error {
	from, to := int(off), int(off)+n
	d.mu.Lock()
	if from%d.block != 0 || n%d.block != 0 || n <= 0 || from < 0 || to > len(d.content) {
		d.mu.Unlock()
		return fmt.Errorf("write of %d bytes at %d breaks the contract", n, off)
	}
	for _, b := range d.busy {
		if from < b[1] && b[0] < to {
			d.mu.Unlock()
			return fmt.Errorf("write of %d bytes at %d overlaps another", n, off)
		}
	}
	d.ops++
	failed := d.ops == d.failAt
	d.dirty = true
	d.busy = append(d.busy, [2]int{from, to})
	d.mu.Unlock()
	if !failed {
		do(d.content[from:to])
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = slices.DeleteFunc(d.busy, func(b [2]int) bool { return b[0] == from })
	if failed {
		return errDisk
	}
	return nil
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	d.largest = max(d.largest, len(p))
	d.mu.Unlock()
	err := d.change(off, len(p), func(to []byte) { copy(to, p) })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *memDisk) WriteZeroes(_ context.Context, off, n int64) error {
	return d.change(off, int(n), blank)
}

//go:norace
func blank(p []byte) { clear(p) }

func (d *memDisk) Sync(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops++
	if d.ops == d.failAt {
		return errDisk
	}
	d.dirty = false
	return nil
}

// piece is a part of a test image.
type piece struct {
	length int
	// zero pieces are announced as zeros; holes hold zeros that nobody announced.
	zero, hole bool
}

// memSource is an image made of pieces.
type memSource struct {
	pieces []piece
	// unknown hides the size.
	unknown bool
	// end is what comes after the last byte.
	end error
	// most is the largest number of bytes that one call delivers.
	most int

	content []byte
	at, off int
}

func newSource(pieces ...piece) *memSource {
	s := &memSource{pieces: pieces, end: io.EOF, most: 1 << 30}
	rng := rand.NewChaCha8([32]byte{2})
	for _, p := range pieces {
		data := make([]byte, p.length)
		if !p.zero && !p.hole {
			rng.Read(data)
		}
		s.content = append(s.content, data...)
	}
	return s
}

// again is the same image from the start.
func (s *memSource) again() *memSource {
	c := *s
	c.at, c.off = 0, 0
	return &c
}

func (s *memSource) Size() int64 {
	if s.unknown {
		return -1
	}
	return int64(len(s.content))
}

func (s *memSource) Digest() string { return "sha256:00" }

func (s *memSource) Next(ctx context.Context, buf []byte) (int64, bool, error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	if s.at == len(s.pieces) {
		return 0, false, s.end
	}
	p := s.pieces[s.at]
	if p.zero {
		s.at++
		s.off += p.length
		return int64(p.length), true, nil
	}
	n := copy(buf[:min(len(buf), s.most)], s.content[s.off:s.off+p.length])
	s.off += n
	if s.pieces[s.at].length -= n; s.pieces[s.at].length == 0 {
		s.at++
	}
	return int64(n), false, nil
}

const (
	mib  = 1 << 20
	head = mib
)

// expected is what a disk must hold: head and backup GPT blank, then the image, padded.
//
//go:norace
func expected(d *memDisk, image []byte) []byte {
	want := make([]byte, len(d.content))
	copy(want, d.content)
	clear(want[:min(head, len(want))])
	clear(want[max(0, len(want)-33*d.block):])
	padded := (len(image) + d.block - 1) / d.block * d.block
	clear(want[:padded])
	copy(want, image)
	return want
}

func checkDisk(t rapid.TB, d *memDisk, want []byte) {
	t.Helper()
	if d.dirty {
		t.Errorf("the disk was not synced")
	}
	if bytes.Equal(d.content, want) {
		return
	}
	for i := range want {
		if d.content[i] != want[i] {
			t.Fatalf("byte %d of the disk is %#x, want %#x", i, d.content[i], want[i])
		}
	}
}

func TestTheDiskHoldsTheImageByteForByte(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		block := rapid.SampledFrom([]int{512, 4096}).Draw(t, "block")
		size := block * rapid.IntRange(1, 5*mib/block).Draw(t, "blocks")
		var pieces []piece
		for left := rapid.IntRange(0, size).Draw(t, "image"); left > 0; {
			p := piece{length: rapid.IntRange(1, left).Draw(t, "length")}
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				p.zero = true
			case 1:
				p.hole = true
			}
			pieces = append(pieces, p)
			left -= p.length
		}
		source := newSource(slices.Clone(pieces)...)
		source.unknown = rapid.Bool().Draw(t, "unknown size")
		source.most = rapid.SampledFrom([]int{1 << 30, 100_000}).Draw(t, "most")
		disk := newMemDisk(size, block)
		want := expected(disk, source.content)
		opt := deploy.Options{Workers: rapid.IntRange(0, 5).Draw(t, "workers")}
		for range 2 { // the second time over its own result
			s := source.again()
			s.pieces = slices.Clone(pieces)
			result, err := deploy.WriteImage(context.Background(), disk, s, opt)
			if err != nil {
				t.Fatal(err)
			}
			checkDisk(t, disk, want)
			checkResult(t, result, len(source.content), block)
		}
		if disk.largest > mib {
			t.Errorf("one write of %d bytes, want at most 1 MiB", disk.largest)
		}
	})
}

func checkResult(t rapid.TB, r deploy.Result, image, block int) {
	t.Helper()
	sum := r.Written + r.Zeroed
	if r.Read != int64(image) || sum < r.Read || sum >= r.Read+int64(block) {
		t.Errorf("read %d, written %d, zeroed %d; want %d in total", r.Read, r.Written, r.Zeroed,
			image)
	}
	if r.Digest != "sha256:00" {
		t.Errorf("digest %q, want that of the source", r.Digest)
	}
}

// sparse is an image with all kinds of runs, larger than the head by some windows.
func sparse() *memSource {
	return newSource(piece{length: 300_000}, piece{length: 2 * mib, zero: true},
		piece{length: 700_000}, piece{length: 900_000, hole: true}, piece{length: 3*mib + 17},
		piece{length: 20 * mib, zero: true}, piece{length: 5})
}

func TestZerosAreNotWrittenAsData(t *testing.T) {
	t.Parallel()
	source := sparse()
	disk := newMemDisk(40*mib, 512)
	result, err := deploy.WriteImage(t.Context(), disk, source, deploy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Each of the seven runs may cost up to a granule at both ends.
	data := int64(300_000 + 700_000 + 3*mib + 17 + 5)
	if result.Written < data || result.Written > data+7*2*64<<10 {
		t.Errorf("%d bytes written as data, want little more than %d", result.Written, data)
	}
}

func TestAFailureAtAnyOperationLeavesNothingBootableAndCanBeRepeated(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	pieces := sparse().pieces
	pieces[5].length = 3 * mib
	image := newSource(slices.Clone(pieces)...)
	source := func() *memSource {
		s := image.again()
		s.pieces = slices.Clone(pieces)
		return s
	}
	const size = 14 * mib
	disk := newMemDisk(size, 512)
	want := expected(disk, image.content)
	if _, err := deploy.WriteImage(t.Context(), disk, source(), deploy.Options{}); err != nil {
		t.Fatal(err)
	}
	total := disk.ops
	if total < 12 {
		t.Fatalf("%d operations, want some more", total)
	}
	for at := 1; at <= total; at++ {
		disk := newMemDisk(size, 512)
		disk.failAt = at
		_, err := deploy.WriteImage(t.Context(), disk, source(), deploy.Options{Workers: 3})
		if !errors.Is(err, errDisk) || ingot.KindOf(err) != ingot.Unavailable {
			t.Fatalf("failure at operation %d: error %v, want that of the disk", at, err)
		}
		// The last two operations write and sync the head; the first one blanks it.
		if at > 1 && at < total && !bytes.Equal(disk.content[:head], make([]byte, head)) {
			t.Errorf("failure at operation %d of %d: the disk looks bootable", at, total)
		}
		disk.failAt = 0
		if _, err := deploy.WriteImage(t.Context(), disk, source(), deploy.Options{}); err != nil {
			t.Fatalf("after a failure at operation %d: %v", at, err)
		}
		checkDisk(t, disk, want)
	}
}

func TestContentThatTurnsOutWrongLeavesNothingBootable(t *testing.T) {
	t.Parallel()
	wrong := errors.New("checksum mismatch")
	for _, size := range []int{0, 3 * mib} { // also at once
		source := newSource(piece{length: size}, piece{length: 1})
		if size == 0 {
			source.pieces = nil
		}
		source.end = wrong
		disk := newMemDisk(8*mib, 512)
		_, err := deploy.WriteImage(t.Context(), disk, source, deploy.Options{})
		if !errors.Is(err, wrong) {
			t.Fatalf("error %v, want that of the source", err)
		}
		const backup = 33 * 512
		if !bytes.Equal(disk.content[:head], make([]byte, head)) ||
			!bytes.Equal(disk.content[8*mib-backup:], make([]byte, backup)) {
			t.Error("the disk looks bootable")
		}
	}
}

func TestAnImageLargerThanTheDiskIsRefused(t *testing.T) {
	t.Parallel()
	for _, unknown := range []bool{false, true} {
		for _, zero := range []bool{false, true} {
			source := newSource(piece{length: 3 * mib}, piece{length: 2 * mib, zero: zero})
			source.unknown = unknown
			disk := newMemDisk(4*mib, 512)
			before := bytes.Clone(disk.content)
			_, err := deploy.WriteImage(t.Context(), disk, source, deploy.Options{})
			var large *deploy.TooLargeError
			if !errors.As(err, &large) || ingot.KindOf(err) != ingot.Invalid {
				t.Fatalf("unknown %v, zero %v: error %v, want TooLargeError", unknown, zero, err)
			}
			if large.Known == unknown || large.Disk != 4*mib || large.Image <= large.Disk {
				t.Errorf("unknown %v: %+v", unknown, large)
			}
			for _, part := range []string{"4194304", "larger disk"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if !unknown && !bytes.Equal(disk.content, before) {
				t.Error("the disk was touched although the size was known")
			}
			if unknown && !bytes.Equal(disk.content[:head], make([]byte, head)) {
				t.Error("the disk looks bootable")
			}
		}
	}
}

func TestAnImageOfTheSizeOfTheDiskFits(t *testing.T) {
	t.Parallel()
	source := newSource(piece{length: 4 * mib})
	disk := newMemDisk(4*mib, 4096)
	if _, err := deploy.WriteImage(t.Context(), disk, source, deploy.Options{}); err != nil {
		t.Fatal(err)
	}
	checkDisk(t, disk, source.content)
}

func TestADiskWithOddBlocksIsRefused(t *testing.T) {
	t.Parallel()
	for _, block := range []int{0, 256, 520, 128 << 10} {
		_, err := deploy.WriteImage(t.Context(), newMemDisk(mib, block),
			newSource(piece{length: 512}), deploy.Options{})
		if ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("blocks of %d: error %v, want Invalid", block, err)
		}
	}
	_, err := deploy.WriteImage(t.Context(), newMemDisk(mib+512, 4096),
		newSource(piece{length: 512}), deploy.Options{})
	if ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("disk of half a block: error %v, want Invalid", err)
	}
}

// slowSource is an endless image that takes its time.
type slowSource struct {
	size  int64
	pause time.Duration
	off   int64
}

func (s *slowSource) Size() int64    { return s.size }
func (s *slowSource) Digest() string { return "sha256:00" }

func (s *slowSource) Next(ctx context.Context, buf []byte) (int64, bool, error) {
	if s.off == s.size {
		return 0, false, io.EOF
	}
	select {
	case <-time.After(s.pause):
	case <-ctx.Done():
		return 0, false, context.Cause(ctx)
	}
	n := int(min(int64(len(buf)), s.size-s.off))
	buf[0] = 0xff
	repeat(buf[:n], 1)
	s.off += int64(n)
	return int64(n), false, nil
}

func TestProgressComesFourTimesASecondAndAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// 40 MiB at one MiB each 100 ms: four seconds.
		source := &slowSource{size: 40 * mib, pause: 100 * time.Millisecond}
		var seen []deploy.Progress
		opt := deploy.Options{Progress: func(p deploy.Progress) { seen = append(seen, p) }}
		result, err := deploy.WriteImage(t.Context(), newMemDisk(40*mib, 512), source, opt)
		if err != nil {
			t.Fatal(err)
		}
		if len(seen) < 15 || len(seen) > 17 {
			t.Errorf("%d reports in four seconds, want 16", len(seen))
		}
		half := seen[7] // after two seconds
		if half.Done < 18*mib || half.Done > 20*mib || half.Total != 40*mib {
			t.Errorf("half way: %+v", half)
		}
		if half.Rate < 9*mib || half.Rate > 10*mib ||
			half.ETA < 1900*time.Millisecond || half.ETA > 2500*time.Millisecond {
			t.Errorf("half way: rate %d, ETA %v; want 10 MiB/s, 2 s", half.Rate, half.ETA)
		}
		last := seen[len(seen)-1]
		if last.Done != 40*mib || last.ETA != 0 || result.Duration != 4*time.Second {
			t.Errorf("at the end: %+v after %v", last, result.Duration)
		}
	})
}

func TestCancellationIsTheError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reason := errors.New("node was deleted")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(reason) })
		source := &slowSource{size: 40 * mib, pause: 100 * time.Millisecond}
		disk := newMemDisk(40*mib, 512)
		result, err := deploy.WriteImage(ctx, disk, source, deploy.Options{})
		if !errors.Is(err, reason) || result.Duration != time.Second {
			t.Errorf("error %v after %v, want the cause after one second", err, result.Duration)
		}
	})
}
