package iscsi_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/iscsi"
	"ingot/internal/iscsi/iscsitest"
)

// proxied is how to reach a target through a proxy.
func proxied(t *testing.T, target *iscsitest.Target) (iscsi.Config, *iscsitest.Proxy) {
	t.Helper()
	proxy := iscsitest.StartProxy(t, target.Addr)
	cfg := config(target)
	cfg.Address = proxy.Addr
	cfg.ReconnectTimeout = 2 * time.Minute // the machine may be busy
	return cfg, proxy
}

func TestRandomWritesAndCutsLeaveWhatWasWritten(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opt  iscsitest.Options
		seed uint64
	}{
		"thick":          {iscsitest.Options{Size: 8 << 20}, 1},
		"thin":           {iscsitest.Options{Size: 8 << 20, Thin: true}, 2},
		"blocks of 4096": {iscsitest.Options{Size: 8 << 20, BlockSize: 4096}, 3},
		"unsolicited": {iscsitest.Options{Size: 8 << 20,
			Parameters: map[string]string{"InitialR2T": "No"}}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := iscsitest.Start(t, tc.opt)
			cfg, proxy := proxied(t, target)
			s := dial(t, cfg)
			want := make([]byte, s.Size())
			const writers = 4
			share := len(want) / writers
			var cutter, group errgroup.Group
			var wrote atomic.Int64
			for w := range writers {
				group.Go(func() error {
					return scribble(t, s, want[w*share:(w+1)*share], scribbling{
						off: int64(w * share), seed: tc.seed<<8 + uint64(w), wrote: &wrote})
				})
			}
			stop := make(chan struct{})
			cutter.Go(func() error {
				// Each cut after another few writes: always in the middle of something.
				for next := int64(7); ; {
					select {
					case <-stop:
						return nil
					default:
					}
					if n := wrote.Load(); n >= next {
						proxy.Cut()
						next = n + 7 + n%11
					}
					time.Sleep(time.Millisecond)
				}
			})
			err := group.Wait()
			close(stop)
			_ = cutter.Wait()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := proxy.Accepted(); n < 4 {
				t.Errorf("only %d connections; the cuts came too late to test anything", n)
			}
			sameFile(t, target.Backing, 0, want)
			got := make([]byte, len(want))
			if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read back something else: %v", err)
			}
		})
	}
}

// scribbling is one writer's part of a disk.
type scribbling struct {
	off   int64
	seed  uint64
	wrote *atomic.Int64
}

// scribble writes and zeroes at random, newer over older, and does the same to a plain copy.
func scribble(t *testing.T, s *iscsi.Session, want []byte, part scribbling) error {
	rnd := rand.New(rand.NewPCG(part.seed, 0))
	for i := range 60 {
		n := 1 + rnd.IntN(300<<10)
		if i%3 == 0 {
			n = 1 + rnd.IntN(5000)
		}
		off := rnd.IntN(len(want) - n)
		var err error
		if i%5 == 4 {
			clear(want[off : off+n])
			err = s.WriteZeroes(t.Context(), part.off+int64(off), int64(n))
		} else {
			copy(want[off:], random(byte(rnd.Uint32()), n))
			_, err = s.WriteAt(want[off:off+n], part.off+int64(off))
		}
		if err != nil {
			return err
		}
		part.wrote.Add(1)
	}
	return nil
}

func TestWritesGoOnWhenTheTargetComesBack(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{})
	cfg, proxy := proxied(t, target)
	reasons := make(chan error, 10)
	cfg.OnReconnect = func(reason error, _ time.Duration) { reasons <- reason }
	s := dial(t, cfg)
	want := random(5, 32<<20)
	var once sync.Once
	half := make(chan struct{})
	var bytesSent atomic.Int64
	proxy.Filter(func(toTarget bool, b []byte) {
		if toTarget && bytesSent.Add(int64(len(b))) > 16<<20 {
			once.Do(func() { close(half) })
		}
	})
	var group errgroup.Group
	group.Go(func() error {
		_, err := s.WriteAt(want, 4096)
		return err
	})
	<-half
	proxy.Down()
	proxy.Up("")
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if reason := <-reasons; !errors.Is(reason, iscsi.ErrLost) || len(reasons) > 0 {
		t.Errorf("told %v and %d more", reason, len(reasons))
	}
	sameFile(t, target.Backing, 4096, want)
	if list := target.Sessions(t); strings.Count(list, "Session:") != 1 {
		t.Errorf("the session before was not replaced:\n%s", list)
	}
}

func TestTargetThatStaysAwayEndsTheSession(t *testing.T) {
	t.Parallel()
	cfg, proxy := proxied(t, iscsitest.Start(t, iscsitest.Options{}))
	cfg.ReconnectTimeout = 300 * time.Millisecond
	s := dial(t, cfg)
	proxy.Down()
	_, err := s.WriteAt(make([]byte, 8192), 0)
	if !errors.Is(err, iscsi.ErrLost) || !strings.Contains(err.Error(), "tried for") ||
		!strings.Contains(err.Error(), "check the machine and the network") {
		t.Errorf("got %v", err)
	}
	proxy.Up("")
	if _, err := s.WriteAt(make([]byte, 8192), 0); !errors.Is(err, iscsi.ErrLost) {
		t.Errorf("a write after the session was given up: %v", err)
	}
}

func TestCloseEndsTheWaitForATargetThatIsAway(t *testing.T) {
	t.Parallel()
	cfg, proxy := proxied(t, iscsitest.Start(t, iscsitest.Options{}))
	s := dial(t, cfg)
	proxy.Down()
	failed := make(chan error)
	go func() {
		_, err := s.WriteAt(make([]byte, 8192), 0)
		failed <- err
	}()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, iscsi.ErrClosed) && !errors.Is(err, iscsi.ErrLost) {
		t.Errorf("got %v", err)
	}
}

func TestAnotherDiskAtTheSameAddressIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		other iscsitest.Options
		want  string
	}{
		"other serial": {iscsitest.Options{Serial: "other"}, "serial number"},
		"other size":   {iscsitest.Options{Size: 32 << 20}, "number of blocks"},
		"other blocks": {iscsitest.Options{BlockSize: 4096}, "block size"},
		"CHAP":         {iscsitest.Options{Username: "u", Secret: "twelve-chars-1"}, "asks for CHAP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := iscsitest.Start(t, tc.other)
			cfg, proxy := proxied(t, iscsitest.Start(t, iscsitest.Options{}))
			s := dial(t, cfg)
			proxy.Down()
			proxy.Up(other.Addr)
			_, err := s.WriteAt(random(1, 8192), 0)
			if !errors.Is(err, iscsi.ErrLost) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
			sameFile(t, other.Backing, 0, make([]byte, 8192))
		})
	}
}

func TestRestartedTargetIsNotTrustedWithWhatWasNotFlushed(t *testing.T) {
	t.Parallel()
	for name, flush := range map[string]bool{"not flushed": false, "flushed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := iscsitest.Start(t, iscsitest.Options{})
			cfg, proxy := proxied(t, first)
			s := dial(t, cfg)
			want := random(1, 8192)
			if _, err := s.WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			if flush {
				if err := s.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			proxy.Down()
			first.Kill()
			again := iscsitest.Start(t, iscsitest.Options{Backing: first.Backing})
			proxy.Up(again.Addr)
			_, err := s.WriteAt(want, 8192)
			switch {
			case flush && err != nil:
				t.Errorf("nothing was lost, but: %v", err)
			case flush:
				sameFile(t, first.Backing, 0, append(bytes.Clone(want), want...))
			case !errors.Is(err, iscsi.ErrLost) ||
				!strings.Contains(err.Error(), "write everything again"):
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDigestsAreSettledAndUsed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		header, data iscsi.Digest
	}{
		"header":   {iscsi.DigestRequired, iscsi.DigestNone},
		"data":     {iscsi.DigestNone, iscsi.DigestRequired},
		"both":     {iscsi.DigestRequired, iscsi.DigestRequired},
		"prefered": {iscsi.DigestPreferred, iscsi.DigestPreferred},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := iscsitest.Start(t, iscsitest.Options{Size: 16 << 20,
				Parameters: map[string]string{"InitialR2T": "No", "HeaderDigest": "CRC32C,None",
					"DataDigest": "CRC32C,None"}})
			cfg, proxy := proxied(t, target)
			cfg.HeaderDigest, cfg.DataDigest = tc.header, tc.data
			s := dial(t, cfg)
			want := random(1, int(s.Size()))
			writeParallel(t, s, want)
			got := make([]byte, len(want))
			if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read back something else: %v", err)
			}
			if _, err := s.WriteAt(want[:777], 3333); err != nil {
				t.Error(err)
			}
			copy(want[3333:], want[:777])
			sameFile(t, target.Backing, 0, want)
			if proxy.Accepted() != 1 {
				t.Errorf("the connection was lost %d times", proxy.Accepted()-1)
			}
		})
	}
}

func TestTargetThatRefusesARequiredDigestIsNamed(t *testing.T) {
	t.Parallel()
	cfg := config(iscsitest.Start(t, iscsitest.Options{}))
	cfg.DataDigest = iscsi.DigestRequired
	_, err := iscsi.Dial(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "does not agree to DataDigest") {
		t.Errorf("got %v", err)
	}
}

func TestDamagedDataIsNoticedAndSentAgain(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{Size: 16 << 20,
		Parameters: map[string]string{"HeaderDigest": "CRC32C,None", "DataDigest": "CRC32C,None"}})
	cfg, proxy := proxied(t, target)
	cfg.HeaderDigest, cfg.DataDigest = iscsi.DigestRequired, iscsi.DigestRequired
	s := dial(t, cfg)
	want := random(1, 16<<20)
	for _, damagedWay := range []bool{true, false} {
		before := proxy.Accepted()
		var passed atomic.Int64
		proxy.Filter(func(toTarget bool, b []byte) {
			if toTarget != damagedWay {
				return
			}
			if end := passed.Add(int64(len(b))); end > 3<<20 && end-int64(len(b)) <= 3<<20 {
				b[len(b)/2] ^= 0x10
			}
		})
		if damagedWay {
			writeParallel(t, s, want)
			sameFile(t, target.Backing, 0, want)
		} else {
			got := make([]byte, len(want))
			if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read something else: %v", err)
			}
		}
		if proxy.Accepted() == before {
			t.Errorf("damage to the target: %v: not noticed", damagedWay)
		}
	}
}
