package iscsi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/iscsi"
	"ingot/internal/iscsi/iscsitest"
)

// config is how to reach a target of iscsitest.
func config(target *iscsitest.Target) iscsi.Config {
	cfg := iscsi.Config{Address: target.Addr, Target: target.IQN, LUN: target.LUN}
	if target.Username != "" {
		cfg.CHAP = &iscsi.CHAP{Username: target.Username, Secret: target.Secret}
	}
	return cfg
}

// dial opens a session that the test closes at its end.
func dial(t testing.TB, cfg iscsi.Config) *iscsi.Session {
	t.Helper()
	s, err := iscsi.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// random is reproducible data that does not repeat.
func random(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// sameFile compares part of the backing file with what was written.
func sameFile(t *testing.T, path string, off int64, want []byte) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, len(want))
	if _, err := file.ReadAt(got, off); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		at := 0
		for got[at] == want[at] {
			at++
		}
		t.Fatalf("backing file differs from byte %d on", off+int64(at))
	}
}

func TestDialLearnsTheDisk(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{Size: 3 << 20})
	s := dial(t, config(target))
	if s.Size() != 3<<20 || s.BlockSize() != 512 {
		t.Errorf("size %d, block %d", s.Size(), s.BlockSize())
	}
	if s.Vendor() != "IET" || s.Product() != "VIRTUAL-DISK" {
		t.Errorf("vendor %q, product %q", s.Vendor(), s.Product())
	}
}

func TestCloseLeavesNoSessionOnTheTarget(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{})
	s := dial(t, config(target))
	if list := target.Sessions(t); !strings.Contains(list, "Session") {
		t.Fatalf("no session while it is open: %q", list)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list := target.Sessions(t); strings.Contains(list, "Session") {
		t.Errorf("session left: %q", list)
	}
	if _, err := s.WriteAt(make([]byte, 512), 0); !errors.Is(err, iscsi.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestConcurrentWritesArriveWhereTheyBelong(t *testing.T) {
	t.Parallel()
	cases := map[string]iscsitest.Options{
		"defaults":              {},
		"blocks of 4096":        {BlockSize: 4096},
		"unsolicited data":      {Parameters: map[string]string{"InitialR2T": "No"}},
		"no immediate data":     {Parameters: map[string]string{"ImmediateData": "No"}},
		"several R2Ts at once":  {Parameters: map[string]string{"MaxOutstandingR2T": "8"}},
		"bursts of one segment": {Parameters: map[string]string{"MaxBurstLength": "8192"}},
	}
	for name, opt := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opt.Size = 24 << 20 // each writer has three pieces
			target := iscsitest.Start(t, opt)
			s := dial(t, config(target))
			want := random(1, int(s.Size()))
			writeParallel(t, s, want)
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			sameFile(t, target.Backing, 0, want)
			got := make([]byte, len(want))
			if n, err := s.ReadAt(got, 0); n != len(got) || err != nil {
				t.Fatalf("read %d bytes: %v", n, err)
			}
			if !bytes.Equal(got, want) {
				t.Error("read back something else")
			}
		})
	}
}

// writeParallel writes the whole disk from eight goroutines, in pieces of a size that no limit of
// the protocol divides.
func writeParallel(t *testing.T, s *iscsi.Session, want []byte) {
	t.Helper()
	const piece = 1<<20 + 3*4096
	offsets := make(chan int)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for off := range offsets {
				part := want[off:min(off+piece, len(want))]
				if n, err := s.WriteAt(part, int64(off)); n != len(part) || err != nil {
					t.Errorf("write %d bytes at %d: %d, %v", len(part), off, n, err)
				}
			}
		})
	}
	for off := 0; off < len(want); off += piece {
		offsets <- off
	}
	close(offsets)
	writers.Wait()
}

func TestUnalignedWritesKeepTheirNeighbours(t *testing.T) {
	t.Parallel()
	for _, blockSize := range []int{512, 4096} {
		target := iscsitest.Start(t, iscsitest.Options{Size: 8 << 20, BlockSize: blockSize})
		s := dial(t, config(target))
		want := random(2, int(s.Size()))
		if _, err := s.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		var writers sync.WaitGroup
		for i, r := range []struct{ off, n int }{
			{1, 1}, {700, 100}, {800, 37}, {4095, 2}, {10_001, 1 << 20}, {2<<20 + 1, 511},
			{int(s.Size()) - 3, 3}, {3 << 20, 777},
		} {
			data := random(byte(10+i), r.n)
			copy(want[r.off:], data)
			writers.Go(func() {
				if n, err := s.WriteAt(data, int64(r.off)); n != r.n || err != nil {
					t.Errorf("write %d at %d: %d, %v", r.n, r.off, n, err)
				}
			})
		}
		writers.Wait()
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameFile(t, target.Backing, 0, want)
		got := make([]byte, 70_001)
		if _, err := s.ReadAt(got, 999); err != nil || !bytes.Equal(got, want[999:999+len(got)]) {
			t.Errorf("unaligned read differs: %v", err)
		}
	}
}

func TestReadStopsAtTheEndOfTheDisk(t *testing.T) {
	t.Parallel()
	s := dial(t, config(iscsitest.Start(t, iscsitest.Options{Size: 1 << 20})))
	if n, err := s.ReadAt(make([]byte, 1000), 1<<20-100); n != 100 || err != io.EOF {
		t.Errorf("across the end: %d, %v", n, err)
	}
	if n, err := s.ReadAt(make([]byte, 1000), 1<<20); n != 0 || err != io.EOF {
		t.Errorf("beyond the end: %d, %v", n, err)
	}
}

func TestWritePastTheEndIsRefused(t *testing.T) {
	t.Parallel()
	s := dial(t, config(iscsitest.Start(t, iscsitest.Options{Size: 1 << 20})))
	for _, off := range []int64{1<<20 - 1, 1 << 20, 1 << 62, -1} {
		n, err := s.WriteAt(make([]byte, 2), off)
		if n != 0 || err == nil || !strings.Contains(err.Error(), "only 1048576 bytes") {
			t.Errorf("write at %d: %d, %v", off, n, err)
		}
	}
	if err := s.WriteZeroes(t.Context(), 1<<20-1, 2); err == nil {
		t.Error("zeroed past the end")
	}
}

func TestWriteZeroesLeavesZerosAndNothingElse(t *testing.T) {
	t.Parallel()
	cases := map[string]iscsitest.Options{
		"thick":          {},
		"thin":           {Thin: true},
		"blocks of 4096": {BlockSize: 4096, Thin: true},
	}
	for name, opt := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := iscsitest.Start(t, opt)
			s := dial(t, config(target))
			want := random(3, int(s.Size()))
			if _, err := s.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			for _, r := range []struct{ off, n int }{
				{0, 4096}, {8192, 0}, {1<<20 + 1, 20<<20 + 5}, {30 << 20, 1}, {31<<20 - 1, 3},
				{40<<20 + 100, 50}, {int(s.Size()) - 1<<20, 1 << 20},
			} {
				clear(want[r.off : r.off+r.n])
				if err := s.WriteZeroes(t.Context(), int64(r.off), int64(r.n)); err != nil {
					t.Fatalf("zero %d at %d: %v", r.n, r.off, err)
				}
			}
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			sameFile(t, target.Backing, 0, want)
		})
	}
}

func TestWriteZeroesFreesTheBlocksOfAThinDisk(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{Size: 16 << 20, Thin: true})
	s := dial(t, config(target))
	if _, err := s.WriteAt(random(1, 16<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := allocated(t, target.Backing)
	if err := s.WriteZeroes(t.Context(), 0, s.Size()); err != nil {
		t.Fatal(err)
	}
	if after := allocated(t, target.Backing); before < 16<<20 || after > 1<<20 {
		t.Errorf("backing file took %d bytes, takes %d now", before, after)
	}
}

// allocated is how many bytes of disk a file takes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Blocks * 512
}

func TestUnmapIsUsedWhereWriteSameCannotFree(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{Size: 16 << 20, Thin: true})
	proxy := iscsitest.StartProxy(t, target.Addr)
	var unmaps, sames atomic.Int64
	proxy.Filter(func(toTarget bool, b []byte) {
		switch {
		case len(b) < 54:
		case toTarget && b[0] == scsiCommand && b[32] == 0x42:
			unmaps.Add(1)
		case toTarget && b[0] == scsiCommand && b[32] == writeSame16:
			sames.Add(1)
		case !toTarget && b[0] == dataIn && b[49] == 0xb2: // logical block provisioning
			b[53] &^= 0x40 // no freeing by WRITE SAME
		}
	})
	cfg := config(target)
	cfg.Address = proxy.Addr
	s := dial(t, cfg)
	want := random(3, int(s.Size()))
	if _, err := s.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	before := allocated(t, target.Backing)
	clear(want[1<<20+77 : 13<<20+5])
	if err := s.WriteZeroes(t.Context(), 1<<20+77, 12<<20-72); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameFile(t, target.Backing, 0, want)
	if unmaps.Load() == 0 || sames.Load() != 0 {
		t.Errorf("%d UNMAPs and %d WRITE SAMEs", unmaps.Load(), sames.Load())
	}
	if after := allocated(t, target.Backing); after > before-8<<20 {
		t.Errorf("%d bytes allocated before, %d after", before, after)
	}
}

func TestFullDiskIsAnErrorOfTheDiskAndNotOfTheSession(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mount a tmpfs: %v; run the tests as root", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	target := iscsitest.Start(t, iscsitest.Options{Backing: filepath.Join(dir, "disk")})
	cfg, proxy := proxied(t, target)
	s := dial(t, cfg)
	_, err := s.WriteAt(random(1, 8<<20), 0)
	var sense *iscsi.SenseError
	if !errors.As(err, &sense) || errors.Is(err, iscsi.ErrLost) {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "broken, or full") {
		t.Errorf("unclear: %v", err)
	}
	if _, err := s.ReadAt(make([]byte, 512), 0); err != nil || proxy.Accepted() != 1 {
		t.Errorf("the session did not survive: %v", err)
	}
}

func TestReadOnlyDiskSaysThatItIsWriteProtected(t *testing.T) {
	t.Parallel()
	s := dial(t, config(iscsitest.Start(t, iscsitest.Options{ReadOnly: true})))
	_, err := s.WriteAt(make([]byte, 1<<20), 0)
	var sense *iscsi.SenseError
	if !errors.As(err, &sense) || sense.Key != iscsi.SenseDataProtect {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "write protected") {
		t.Errorf("unclear: %v", err)
	}
	if _, err := s.ReadAt(make([]byte, 512), 0); err != nil {
		t.Errorf("the session did not survive: %v", err)
	}
}

func TestKilledTargetFailsEveryCallPromptly(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{})
	cfg := config(target)
	cfg.ReconnectTimeout = -1
	s := dial(t, cfg)
	data := random(4, 4<<20)
	started := make(chan struct{}, 8)
	failed := make(chan error, 8)
	for i := range 8 {
		go func() {
			for first := true; ; first = false {
				if _, err := s.WriteAt(data, int64(i)*4<<20); err != nil {
					failed <- err
					return
				}
				if first {
					started <- struct{}{}
				}
			}
		}()
	}
	for range 8 {
		<-started
	}
	target.Kill()
	deadline := time.After(5 * time.Second)
	for range 8 {
		select {
		case err := <-failed:
			if !errors.Is(err, iscsi.ErrLost) {
				t.Errorf("got %v", err)
			}
		case <-deadline:
			t.Fatal("a write hangs after the target died")
		}
	}
	if err := s.Sync(t.Context()); !errors.Is(err, iscsi.ErrLost) {
		t.Errorf("a call on the lost session: %v", err)
	}
}

func TestCancelledContextStopsZeroing(t *testing.T) {
	t.Parallel()
	s := dial(t, config(iscsitest.Start(t, iscsitest.Options{})))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WriteZeroes(ctx, 0, 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
