package target_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"ingot/internal/iscsi"
	"ingot/internal/sim/target"
)

// memory is a disk in a slice.
type memory struct {
	mu sync.Mutex
	b  []byte
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(p, m.b[off:]), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(m.b[off:], p), nil
}

func (m *memory) Zero(off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+n])
	return nil
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

// serve starts a target and returns the address of its portal.
func serve(t *testing.T, tgt *target.Target) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tgt.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

const name = "iqn.2008-10.org.openstack:test"

func TestTheInitiatorOfIngotWritesAndReads(t *testing.T) {
	t.Parallel()
	disk := &memory{b: bytes.Repeat([]byte{0xaa}, 16<<20)}
	address := serve(t, &target.Target{Name: name, LUN: 1, Disk: disk, User: "u",
		Secret: "0123456789abcdef", Serial: "s1"})
	s, err := iscsi.Dial(t.Context(), iscsi.Config{Address: address, Target: name, LUN: 1,
		CHAP: &iscsi.CHAP{Username: "u", Secret: "0123456789abcdef"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if s.Size() != 16<<20 || s.BlockSize() != 512 {
		t.Fatalf("size %d, blocks of %d", s.Size(), s.BlockSize())
	}
	want := bytes.Repeat([]byte{0xaa}, 16<<20)
	r, content := rand.New(rand.NewPCG(1, 2)), rand.NewChaCha8([32]byte{})
	for range 60 {
		off := r.Int64N(16<<20 - 3<<20)
		p := make([]byte, 1+r.IntN(3<<20))
		_, _ = content.Read(p) // never fails
		if r.IntN(4) == 0 {
			clear(p)
			err = s.WriteZeroes(t.Context(), off, int64(len(p)))
		} else {
			_, err = s.WriteAt(p, off)
		}
		if err != nil {
			t.Fatal(err)
		}
		copy(want[off:], p)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := s.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || !bytes.Equal(disk.b, want) {
		t.Fatal("the disk differs from what was written")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	address := serve(t, &target.Target{Name: name, LUN: 1, Disk: &memory{b: make([]byte, 1<<20)},
		User: "u", Secret: "0123456789abcdef"})
	for what, c := range map[string]iscsi.Config{
		"no credentials": {Target: name, LUN: 1},
		"wrong secret": {Target: name, LUN: 1,
			CHAP: &iscsi.CHAP{Username: "u", Secret: "0123456789abcdeX"}},
		"wrong name": {Target: name + "x", LUN: 1,
			CHAP: &iscsi.CHAP{Username: "u", Secret: "0123456789abcdef"}},
	} {
		c.Address = address
		s, err := iscsi.Dial(t.Context(), c)
		if err == nil {
			s.Close(t.Context())
		}
		var refused *iscsi.LoginError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The tools of libiscsi are an initiator of other people.
func TestForeignInitiatorCopiesADisk(t *testing.T) {
	t.Parallel()
	disk := &memory{b: make([]byte, 8<<20)}
	address := serve(t, &target.Target{Name: name, LUN: 1, Disk: disk, Serial: "s2"})
	image := t.TempDir() + "/image"
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	url := fmt.Sprintf("iscsi://%s/%s/1", address, name)
	run("dd", "if=/dev/urandom", "of="+image, "bs=1M", "count=8", "status=none")
	run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, url)
	run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, url)
	if out := run("iscsi-inq", url); !strings.Contains(out, "SIMULATED DISK") {
		t.Errorf("iscsi-inq prints\n%s", out)
	}
}

func FuzzSession(f *testing.F) {
	login := make([]byte, 48)
	login[0], login[1] = 0x43, 0x87
	f.Add(login)
	command := append(bytes.Clone(login), make([]byte, 48)...)
	command[48], command[49], command[49+16+15] = 0x01, 0xa0, 1
	command[48+9], command[48+23], command[48+32] = 1, 0xff, 0x8a
	f.Add(command)
	f.Fuzz(func(t *testing.T, data []byte) {
		tgt := &target.Target{Name: name, LUN: 1, Disk: &memory{b: make([]byte, 1<<16)}}
		address := serve(t, tgt)
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// The target may hang up on the way; nothing but a crash is a failure.
		_, _ = conn.Write(data)
		_ = conn.(*net.TCPConn).CloseWrite()
		buf := make([]byte, 1<<16)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	})
}
