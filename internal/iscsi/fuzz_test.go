package iscsi

import (
	"bufio"
	"bytes"
	"net"
	"slices"
	"strings"
	"testing"
)

// The fuzz targets are inside the package: what they feed is not reachable from outside without a
// connection.

// FuzzReadLoop feeds the reader of a session that has a read, a write and a command without data
// in flight. Whatever comes must end with an error and stay inside the buffers.
func FuzzReadLoop(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, wire []byte) {
		for _, digest := range []Digest{DigestNone, crc32c} {
			fuzzReadLoop(t, wire, digest)
		}
	})
}

func fuzzReadLoop(t *testing.T, wire []byte, digest Digest) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	cfg, err := Config{Address: "a:1", Target: "iqn.x:y"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	p := rfcDefaults()
	p.headerDigest, p.dataDigest = digest, digest
	s := newLink(cfg, &login{conn: ours}, p)
	s.fail(ErrClosed) // the goroutines are not the point: the reader runs here
	<-s.stopped
	s.in = bufio.NewReader(bytes.NewReader(wire))
	memory := make([]byte, 3*4096)
	tasks := []*task{
		{in: memory[4096:8192:8192]}, {out: make([]byte, 64<<10)}, {}, {function: resetUnit},
	}
	for tag, task := range tasks {
		task.tag, task.done = uint32(tag), make(chan struct{})
		s.tasks[uint32(tag)] = task
	}
	if err := s.readLoop(); err == nil {
		t.Error("the reader ended without a reason")
	}
	if n := tasks[0].received; n > 4096 {
		t.Errorf("received %d bytes", n)
	}
	if slices.Max(memory[:4096]) != 0 || slices.Max(memory[8192:]) != 0 {
		t.Error("wrote outside of the caller's memory")
	}
	for _, item := range s.replies {
		if item.task != nil && item.offset+item.length > len(item.task.out) {
			t.Errorf("queued %d bytes at %d", item.length, item.offset)
		}
	}
	for _, task := range tasks {
		if task.complete {
			_ = task.outcome() // whatever it says
		}
	}
}

// FuzzLoginText parses a login text and settles every pair of it.
func FuzzLoginText(f *testing.F) {
	f.Add([]byte("MaxBurstLength=0x1000\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		pairs, err := parseText(text)
		if err != nil {
			return
		}
		again, err := parseText(formatText(pairs))
		if err != nil || !slices.Equal(pairs, again) {
			t.Errorf("%q became %q: %v", pairs, again, err)
		}
		cfg, err := Config{Address: "a:1", Target: "iqn.x:y"}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		offer, p := offered(cfg), rfcDefaults()
		chap := make(map[string]string)
		for _, in := range pairs {
			chap[in.key] = in.value
			if _, err := p.settle(offer, in); err != nil {
				return
			}
		}
		if p.maxBurst < minSegment || p.maxBurst > max(offer.maxBurst, 256<<10) ||
			p.firstBurst < minSegment || p.targetSegment < minSegment ||
			p.targetSegment > maxSegment || p.maxOutstanding < 1 {
			t.Errorf("%q settled %+v", pairs, p)
		}
		user := CHAP{Username: "u", Secret: "s"}
		if reply, err := user.respond(chap); err == nil && len(reply) != 2 {
			t.Errorf("challenge %q answered by %q", chap, reply)
		}
	})
}

// FuzzSense decodes the data segment of a response.
func FuzzSense(f *testing.F) {
	f.Add([]byte{0, 14, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		sense, err := parseSense("op", senseOf(data))
		if err != nil {
			return
		}
		if !strings.HasPrefix(sense.Error(), "op: ") || sense.Key > 0xf {
			t.Errorf("sense %+v says %q", sense, sense)
		}
	})
}

// FuzzDisk decodes what a disk says about itself.
func FuzzDisk(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d disk
		if err := d.parseInquiry(data); err == nil && len(d.vendor) > 8 {
			t.Errorf("vendor %q", d.vendor)
		}
		if err := d.parseCapacity(data); err == nil {
			if d.blocks <= 0 || d.blocks > (1<<63-1)/int64(d.blockSize) {
				t.Errorf("%d blocks of %d", d.blocks, d.blockSize)
			}
		}
		d.parseLimits(vpdPage(vpdBlockLimits, data))
		if d.maxTransfer < 0 || d.maxWriteSame < 0 || d.maxUnmap < 0 {
			t.Errorf("limits %d, %d, %d", d.maxTransfer, d.maxWriteSame, d.maxUnmap)
		}
		d.parseProvisioning(vpdPage(vpdProvisioning, data))
		if d.zeroing == zeroFree && d.maxUnmap == 0 {
			t.Error("would free no blocks at a time, for ever")
		}
		parseKeys(data)
		next := int64(1000)
		extents, err := parseStatus(data, next)
		for _, x := range extents {
			if x.block != next || x.count <= 0 {
				t.Errorf("extents %v", extents)
			}
			next += x.count
		}
		if err == nil && len(extents) == 0 {
			t.Error("no extent, for ever")
		}
	})
}
