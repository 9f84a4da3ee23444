package iscsi_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/iscsi"
)

func TestSeveralR2TsOfOneCommand(t *testing.T) {
	t.Parallel()
	const size, burst = 16 << 10, 4096
	got := make(chan []byte, 1)
	cfg := serve(t, func(f *fake) {
		f.text = "InitialR2T=Yes ImmediateData=No MaxBurstLength=4096 FirstBurstLength=4096 " +
			"MaxOutstandingR2T=2 MaxRecvDataSegmentLength=1000"
		f.login()
		p := f.command()
		if len(p.data) != 0 || p.u32(20) != size {
			f.t.Errorf("command has %d bytes of data, length %d", len(p.data), p.u32(20))
		}
		data := make([]byte, size)
		for at := uint32(0); at < size; at += 2 * burst {
			f.ask(p, at+1, at, burst)
			f.ask(p, at+2, at+burst, burst)
			f.ping(at + 3)
			f.collect(data, at+1, at, burst)
			f.collect(data, at+2, at+burst, burst)
			if pong := f.read(); pong.opcode() != nopOut || pong.u32(20) != at+3 {
				f.t.Errorf("no pong but %x", pong.h)
			}
		}
		f.respond(p, good, nil)
		got <- data
		f.drain()
	})
	s := dial(t, cfg)
	want := random(1, size)
	if _, err := s.WriteAt(want, 512); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(<-got, want) {
		t.Error("other data arrived")
	}
	if s.Vendor() != "FAKE" || s.Product() != "WIRE LEVEL" || s.Revision() != "1.0" {
		t.Errorf("vendor %q, product %q, revision %q", s.Vendor(), s.Product(), s.Revision())
	}
}

func TestUnsolicitedDataFollowsImmediateData(t *testing.T) {
	t.Parallel()
	const size = 8192
	got := make(chan []byte, 1)
	cfg := serve(t, func(f *fake) {
		f.text = "InitialR2T=No ImmediateData=Yes MaxBurstLength=65536 FirstBurstLength=5120 " +
			"MaxRecvDataSegmentLength=1024"
		f.login()
		p := f.command()
		if len(p.data) != 1024 || p.h[1]&final != 0 {
			f.t.Errorf("%d bytes of immediate data, flags %#x", len(p.data), p.h[1])
		}
		data := append(p.data, make([]byte, size-1024)...)
		f.collect(data, reservedTag, 1024, 4096)
		f.ask(p, 9, 5120, size-5120)
		f.collect(data, 9, 5120, size-5120)
		f.respond(p, good, nil)
		got <- data
		f.drain()
	})
	s := dial(t, cfg)
	want := random(1, size)
	if _, err := s.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(<-got, want) {
		t.Error("other data arrived")
	}
}

func TestPingIsAnswered(t *testing.T) {
	t.Parallel()
	pong := make(chan *pdu, 1)
	cfg := serve(t, func(f *fake) {
		f.login()
		p := f.command()
		f.ping(reservedTag) // wants no answer
		f.ping(0x77)
		pong <- f.read()
		f.respond(p, good, nil)
		f.drain()
	})
	if err := dial(t, cfg).Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := <-pong
	if p.h[0] != 0x40 || p.u32(16) != reservedTag || p.u32(20) != 0x77 || len(p.data) != 0 {
		t.Errorf("pong %x", p.h)
	}
}

func TestCommandsWaitForTheWindow(t *testing.T) {
	t.Parallel()
	cfg := serve(t, func(f *fake) {
		f.window = 2
		f.login()
		first := f.command()
		second := f.read()
		f.window = 0 // both are in flight and nothing more is admitted
		f.ping(1)
		if p := f.read(); p.opcode() != nopOut {
			f.t.Errorf("PDU %#x beyond the window", p.opcode())
		}
		f.respond(first, good, nil)
		f.respond(second, good, nil)
		f.ping(2)
		if p := f.read(); p.opcode() != nopOut {
			f.t.Errorf("PDU %#x with the window shut", p.opcode())
		}
		f.window = 2
		f.ping(reservedTag)
		f.drain()
	})
	s := dial(t, cfg)
	results := make(chan error)
	for i := range 6 {
		go func() {
			_, err := s.WriteAt(make([]byte, 512), int64(i)*512)
			results <- err
		}()
	}
	for range 6 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestBusyAndUnitAttentionAreTriedAgain(t *testing.T) {
	t.Parallel()
	cfg := serve(t, func(f *fake) {
		f.ready = 2
		f.login()
		f.respond(f.command(), busy, nil)
		f.sense(f.command(), 0x6, 0x29, 0)
		f.drain()
	})
	if _, err := dial(t, cfg).WriteAt(make([]byte, 512), 0); err != nil {
		t.Error(err)
	}
}

func TestPowerOnOfTheDiskEndsASessionWithUnflushedData(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		flush  bool
		ascq   byte
		forgot bool
	}{
		"power on":                 {ascq: 0x01, forgot: true},
		"power on after a flush":   {flush: true, ascq: 0x01},
		"reset by other initiator": {ascq: 0x03},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := serve(t, func(f *fake) {
				f.login()
				f.respond(f.command(), good, nil)
				if tc.flush {
					f.respond(f.command(), good, nil)
				}
				f.sense(f.command(), 0x6, 0x29, tc.ascq)
				f.drain()
			})
			s := dial(t, cfg)
			if _, err := s.WriteAt(make([]byte, 512), 0); err != nil {
				t.Fatal(err)
			}
			if tc.flush {
				if err := s.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_, err := s.WriteAt(make([]byte, 512), 512)
			if tc.forgot != errors.Is(err, iscsi.ErrLost) ||
				tc.forgot && !strings.Contains(err.Error(), "write everything again") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCheckConditionIsToldInWords(t *testing.T) {
	t.Parallel()
	sense := []struct {
		data []byte
		want string
	}{
		{[]byte{0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0}, "out of range"},
		{[]byte{0x72, 7, 0x27, 7, 0, 0, 0, 0}, "out of space"},
		{[]byte{0x72, 3, 0x0c, 0x99}, "medium error: write error"},
		{[]byte{0x70, 0, 4}, "hardware error: see the target's log (sense 4h/00h/00h)"},
		{[]byte{0x11}, "sense data of format 11h"},
		{nil, "without sense data"},
	}
	cfg := serve(t, func(f *fake) {
		f.login()
		for _, tc := range sense {
			p := f.command()
			if tc.data == nil {
				f.respond(p, check, nil)
			} else {
				f.respond(p, check, append([]byte{0, byte(len(tc.data))}, tc.data...))
			}
		}
		f.respond(f.command(), 0x18, nil)
		f.drain()
	})
	s := dial(t, cfg)
	for _, tc := range sense {
		_, err := s.WriteAt(make([]byte, 512), 512)
		if err == nil || !strings.Contains(err.Error(), tc.want) ||
			!strings.Contains(err.Error(), "write 1 blocks at block 1") {
			t.Errorf("sense %x: %v", tc.data, err)
		}
	}
	_, err := s.WriteAt(make([]byte, 512), 512)
	var status *iscsi.StatusError
	if !errors.As(err, &status) || !strings.Contains(err.Error(), "reserved the disk") {
		t.Errorf("reservation conflict: %v", err)
	}
}

func TestCheckConditionInTheMiddleOfAWrite(t *testing.T) {
	t.Parallel()
	cfg := serve(t, func(f *fake) {
		f.text = "ImmediateData=No"
		f.login()
		p := f.command()
		f.ask(p, 1, 0, 64<<10)
		f.sense(p, 0x3, 0x0c, 0) // before the data is taken, which may or may not come now
		f.drain()
	})
	s := dial(t, cfg)
	_, err := s.WriteAt(make([]byte, 256<<10), 0)
	var sense *iscsi.SenseError
	if !errors.As(err, &sense) || sense.Key != iscsi.SenseMediumError {
		t.Errorf("got %v", err)
	}
}

func TestWriteSameIsGivenUpOnce(t *testing.T) {
	t.Parallel()
	seen := make(chan byte, 100)
	cfg := serve(t, func(f *fake) {
		f.text = "MaxRecvDataSegmentLength=262144"
		f.login()
		for {
			p := f.command()
			if p.opcode() != scsiCommand {
				panic(errEnd)
			}
			seen <- p.cdb()[0]
			if p.cdb()[0] == writeSame16 {
				f.sense(p, 0x5, 0x20, 0)
			} else {
				f.respond(p, good, nil)
			}
		}
	})
	cfg.MaxTransfer = 64 << 10
	s := dial(t, cfg)
	for range 2 {
		if err := s.WriteZeroes(t.Context(), 4096, 64<<10); err != nil {
			t.Fatal(err)
		}
	}
	want := []byte{writeSame16, write16, write16}
	got := []byte{<-seen, <-seen, <-seen}
	if !slices.Equal(got, want) || len(seen) != 0 {
		t.Errorf("commands %x and %d more, want %x", got, len(seen), want)
	}
}

func TestWhatUnmapDidNotFreeIsZeroed(t *testing.T) {
	t.Parallel()
	const blocks = 1000 // what one UNMAP takes
	type command struct {
		op    byte
		block uint64
		count uint32
	}
	seen := make(chan command, 100)
	cfg := serve(t, func(f *fake) {
		f.thin(blocks)
		f.login()
		for {
			p := f.command()
			if p.opcode() != scsiCommand {
				return
			}
			cdb := p.cdb()
			switch cdb[0] {
			case unmap:
				block := binary.BigEndian.Uint64(p.data[8:])
				count := binary.BigEndian.Uint32(p.data[16:])
				seen <- command{unmap, block, count}
				f.respond(p, good, nil)
			case readCapacity: // with the service action of GET LBA STATUS
				// Told in two answers; the disk has not freed blocks 90 to 110.
				data := make([]byte, 8+2*16)
				extent := func(i int, from, to uint64, status byte) {
					b := data[8+i*16:]
					binary.BigEndian.PutUint64(b, from)
					binary.BigEndian.PutUint32(b[8:], uint32(to-from))
					b[12] = status
				}
				if block := binary.BigEndian.Uint64(cdb[2:]); block < 110 {
					extent(0, block-5, 90, 1)
					extent(1, 90, 110, 0)
				} else {
					extent(0, block, block+1e6, 2)
				}
				f.dataIn(p, data, true)
			case write16:
				seen <- command{write16, binary.BigEndian.Uint64(cdb[2:]),
					binary.BigEndian.Uint32(cdb[10:])}
				f.respond(p, good, nil)
			default:
				f.t.Errorf("command %x", cdb)
				return
			}
		}
	})
	s := dial(t, cfg)
	if err := s.WriteZeroes(t.Context(), 50*512, 1500*512); err != nil {
		t.Fatal(err)
	}
	got := []command{<-seen, <-seen, <-seen}
	want := []command{{unmap, 50, blocks}, {write16, 90, 20}, {unmap, 50 + blocks, 500}}
	if !slices.Equal(got, want) || len(seen) > 0 {
		t.Errorf("commands %v and %d more, want %v", got, len(seen), want)
	}
}

func TestZeroingCoversEveryBlockOnceWhileComparing(t *testing.T) {
	t.Parallel()
	const block, size = 100, 40 << 20
	covered := make(chan [2]uint64, 1000)
	cfg := serve(t, func(f *fake) {
		defer close(covered)
		f.login()
		for {
			p := f.command()
			if p.opcode() != scsiCommand {
				return
			}
			covered <- [2]uint64{binary.BigEndian.Uint64(p.cdb()[2:]),
				uint64(binary.BigEndian.Uint32(p.cdb()[10:]))}
			f.respond(p, good, nil)
		}
	})
	s := dial(t, cfg)
	if err := s.WriteZeroes(t.Context(), block*512, size); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // this target does not answer the logout
	_ = s.Close(ctx)
	var ranges [][2]uint64
	for r := range covered {
		ranges = append(ranges, r)
	}
	slices.SortFunc(ranges, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	next := uint64(block)
	for _, r := range ranges {
		if r[0] != next {
			t.Fatalf("command at block %d, expected %d", r[0], next)
		}
		next += r[1]
	}
	if next != block+size/512 {
		t.Errorf("zeroed up to block %d", next)
	}
}

func TestBrokenTargetsEndTheSessionWithAReason(t *testing.T) {
	t.Parallel()
	write := func(s *iscsi.Session) error {
		_, err := s.WriteAt(make([]byte, 8192), 0)
		return err
	}
	read := func(s *iscsi.Session) error {
		_, err := s.ReadAt(make([]byte, 8192), 0)
		return err
	}
	raw := func(fill func(h []byte)) func(*fake, *pdu) {
		return func(f *fake, _ *pdu) {
			h := make([]byte, 48)
			fill(h)
			_, _ = f.conn.Write(h)
			f.read() // until the initiator closes
		}
	}
	cases := map[string]struct {
		call      func(*iscsi.Session) error
		misbehave func(*fake, *pdu)
		want      string
	}{
		"unknown opcode": {write, raw(func(h []byte) { h[0] = 0x3e }),
			"unexpected PDU 0x3e"},
		"huge segment": {write, raw(func(h []byte) { copy(h, "\x25\x80\x00\x00\x00\xff\xff\xff") }),
			"16777215 bytes"},
		"reject": {write, raw(func(h []byte) { h[0], h[2] = rejectPDU, 9 }),
			"invalid PDU field"},
		"asks for logout": {write, raw(func(h []byte) { h[0], h[36] = asyncMessage, 1 }),
			"asked for logout"},
		"announces drop": {write, raw(func(h []byte) { h[0], h[36] = asyncMessage, 3 }),
			"drops the connection"},
		"asks to renegotiate": {write, raw(func(h []byte) { h[0], h[36] = asyncMessage, 4 }),
			"not supported"},
		"logout unasked": {write, raw(func(h []byte) { h[0] = logoutResponse }),
			"nobody asked for"},
		"unknown tag": {write, raw(func(h []byte) { h[0], h[16] = scsiResponse, 0x55 }),
			"not in flight"},
		"cannot execute": {write, func(f *fake, p *pdu) {
			reply := &pdu{}
			reply.h[0], reply.h[1], reply.h[2] = scsiResponse, final, 1
			copy(reply.h[16:20], p.h[16:20])
			f.send(reply)
		}, "could not execute"},
		"closes": {write, func(*fake, *pdu) {},
			"closed the connection"},
		"closes inside a PDU": {write, func(f *fake, _ *pdu) { _, _ = f.conn.Write([]byte{0x21}) },
			"unexpected EOF"},
		"R2T beyond the data": {write, func(f *fake, p *pdu) { f.ask(p, 1, 4096, 8192) },
			"R2T for 8192"},
		"R2T of nothing": {write, func(f *fake, p *pdu) { f.ask(p, 1, 0, 0) },
			"R2T for 0"},
		"R2T of a read": {read, func(f *fake, p *pdu) { f.ask(p, 1, 0, 512) },
			"R2T for 512"},
		"Data-In beyond the buffer": {read,
			func(f *fake, p *pdu) { f.dataIn(p, make([]byte, 8196), true) },
			"Data-In of 8196 bytes"},
		"Data-In of a write": {write,
			func(f *fake, p *pdu) { f.dataIn(p, make([]byte, 4), true) },
			"Data-In of 4 bytes"},
		"Data-In twice": {read, func(f *fake, p *pdu) {
			f.dataIn(p, make([]byte, 4), false)
			f.dataIn(p, make([]byte, 4), false)
		}, "Data-In of 4 bytes at 0, after 4"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := serve(t, func(f *fake) {
				f.login()
				tc.misbehave(f, f.command())
			})
			err := tc.call(dial(t, cfg))
			if !errors.Is(err, iscsi.ErrLost) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestHalfSuccessIsAnError(t *testing.T) {
	t.Parallel()
	cfg := serve(t, func(f *fake) {
		f.login()
		f.dataIn(f.command(), make([]byte, 512), true)
		p := f.command()
		reply := &pdu{}
		reply.h[0], reply.h[1] = scsiResponse, final|2
		copy(reply.h[16:20], p.h[16:20])
		reply.set(44, 512)
		f.send(reply)
		f.statSN++
		f.drain()
	})
	s := dial(t, cfg)
	if _, err := s.ReadAt(make([]byte, 1024), 0); err == nil {
		t.Error("short read passes")
	}
	if _, err := s.WriteAt(make([]byte, 1024), 0); err == nil {
		t.Error("short write passes")
	}
}

func TestWrongResidualsAreErrors(t *testing.T) {
	t.Parallel()
	const under, over = 2, 4
	residual := func(f *fake, p *pdu, flags byte, count uint32) {
		reply := &pdu{}
		reply.h[0], reply.h[1] = scsiResponse, final|flags
		copy(reply.h[16:20], p.h[16:20])
		reply.set(44, count)
		f.send(reply)
		f.statSN++
	}
	write := func(s *iscsi.Session) error { _, err := s.WriteAt(make([]byte, 1024), 0); return err }
	read := func(s *iscsi.Session) error { _, err := s.ReadAt(make([]byte, 1024), 0); return err }
	for name, tc := range map[string]struct {
		call   func(*iscsi.Session) error
		answer func(*fake, *pdu)
		want   string
	}{
		"write too short": {write, func(f *fake, p *pdu) { residual(f, p, under, 512) },
			"512 of 1024 bytes were not taken"},
		"write too long": {write, func(f *fake, p *pdu) { residual(f, p, over, 512) },
			"wanted to transfer 512 bytes more"},
		"both": {write, func(f *fake, p *pdu) { residual(f, p, under|over, 512) },
			"both too few and too many"},
		"read too long": {read, func(f *fake, p *pdu) {
			f.dataIn(p, make([]byte, 1024), false)
			residual(f, p, over, 4096)
		}, "wanted to transfer 4096 bytes more"},
		"read that miscounts": {read, func(f *fake, p *pdu) {
			f.dataIn(p, make([]byte, 512), false)
			residual(f, p, under, 100)
		}, "100 bytes are missing, but 512 of 1024 came"},
		"complete read said to be short": {read, func(f *fake, p *pdu) {
			f.dataIn(p, make([]byte, 1024), false)
			residual(f, p, under, 512)
		}, "512 bytes are missing, but 1024 of 1024 came"},
		"short read": {read, func(f *fake, p *pdu) {
			f.dataIn(p, make([]byte, 512), false)
			residual(f, p, under, 512)
		}, "512 bytes in place of 1024"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := dial(t, serve(t, func(f *fake) {
				f.login()
				tc.answer(f, f.command())
				f.drain()
			}))
			if err := tc.call(s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
			if _, err := s.WriteAt(make([]byte, 512), 0); err != nil {
				t.Errorf("the session did not survive: %v", err)
			}
		})
	}
}

func TestSlowDiskBehindALiveTargetIsWaitedFor(t *testing.T) {
	t.Parallel()
	const interval = 20 * time.Millisecond
	cfg := serve(t, func(f *fake) {
		f.login()
		p := f.command()
		for range 10 { // many times longer than a silent target would be given
			f.pong(f.read())
		}
		f.respond(p, good, nil)
		f.drain()
	})
	cfg.PingInterval, cfg.PingTimeout = interval, 20*time.Second
	if _, err := dial(t, cfg).WriteAt(make([]byte, 512), 0); err != nil {
		t.Error(err)
	}
}

func TestTargetThatAnswersNoPingIsGivenUp(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	cfg := serve(t, func(f *fake) {
		defer close(gone)
		f.login()
		f.command()
		f.read() // the ping
		f.read() // until the initiator closes
	})
	cfg.PingInterval, cfg.PingTimeout = 20*time.Millisecond, 50*time.Millisecond
	cfg.CommandTimeout = time.Hour
	_, err := dial(t, cfg).WriteAt(make([]byte, 512), 0)
	if !errors.Is(err, iscsi.ErrLost) || !strings.Contains(err.Error(), "does not answer a ping") {
		t.Errorf("got %v", err)
	}
	<-gone
}

func TestMachineWithoutPowerIsNoticedInTheMiddleOfAWrite(t *testing.T) {
	t.Parallel()
	result := make(chan error)
	go func() {
		// This thread is in a network of its own, and ends with the goroutine.
		runtime.LockOSThread()
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("%w; run the tests as root", err)
			}
			lo := func(state string) error {
				return exec.Command("ip", "link", "set", "lo", state).Run()
			}
			if err := lo("up"); err != nil {
				return err
			}
			writing := make(chan struct{})
			cfg := serve(t, func(f *fake) {
				f.text = "ImmediateData=No"
				f.login()
				f.ask(f.command(), 1, 0, 64<<10)
				close(writing)
				f.read() // takes no more than a header
				<-t.Context().Done()
			})
			cfg.CommandTimeout = time.Hour
			cfg.PingInterval, cfg.PingTimeout = 100*time.Millisecond, time.Second
			s, err := iscsi.Dial(t.Context(), cfg)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close(context.Background()) }()
			failed := make(chan error)
			go func() {
				_, err := s.WriteAt(make([]byte, 1<<20), 0)
				failed <- err
			}()
			<-writing
			if err := lo("down"); err != nil {
				return err
			}
			return <-failed
		}()
	}()
	err := <-result
	if !errors.Is(err, iscsi.ErrLost) || !strings.Contains(err.Error(), "without power") {
		t.Errorf("got %v", err)
	}
}

func TestRepetitionWaitsForTheEndOfWhatWasUnderWay(t *testing.T) {
	t.Parallel()
	for name, response := range map[string]byte{"reset": 0, "not supported": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := true
			wrote := make(chan []byte, 10)
			var isid []byte
			cfg := serve(t, func(f *fake) {
				f.text = "InitialR2T=No MaxRecvDataSegmentLength=8192"
				isid = append(isid, f.login()...)
				if first {
					first = false
					wrote <- f.command().data
					return // the answer is lost
				}
				p := f.command()
				if p.opcode() != 0x02 || p.h[0]&0x40 == 0 || p.h[1] != final|5 {
					f.t.Errorf("no reset of the unit but %x", p.h)
				}
				f.ping(3) // whoever does not wait says something else next
				if pong := f.read(); pong.opcode() != nopOut {
					f.t.Errorf("%x before the reset was answered", pong.h)
				}
				reply := &pdu{}
				reply.h[0], reply.h[1], reply.h[2] = 0x22, final, response
				copy(reply.h[16:20], p.h[16:20])
				f.send(reply)
				f.statSN++
				p = f.command()
				wrote <- p.data
				f.respond(p, good, nil)
				f.drain()
			})
			cfg.ReconnectTimeout = time.Minute
			want := random(1, 4096)
			if _, err := dial(t, cfg).WriteAt(want, 0); err != nil {
				t.Fatal(err)
			}
			for range 2 { // once before the loss and once after it
				if !slices.Equal(<-wrote, want) {
					t.Error("other data arrived")
				}
			}
			if !slices.Equal(isid[:6], isid[6:]) {
				t.Errorf("the session was not replaced but another one opened: %x", isid)
			}
		})
	}
}

func TestUnansweredCommandEndsWithTheTimeout(t *testing.T) {
	t.Parallel()
	cfg := serve(t, func(f *fake) {
		f.login()
		f.command()
		f.read()
	})
	cfg.CommandTimeout = 100 * time.Millisecond
	_, err := dial(t, cfg).ReadAt(make([]byte, 512), 0)
	var timeout net.Error
	if !errors.Is(err, iscsi.ErrLost) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
}

func TestCancelInFlightEndsTheCall(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := serve(t, func(f *fake) {
		f.login()
		f.command()
		cancel()
		f.read()
	})
	err := dial(t, cfg).Sync(ctx)
	if !errors.Is(err, iscsi.ErrLost) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCloseDoesNotWaitForeverForTheLogout(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	cfg := serve(t, func(f *fake) {
		defer close(gone)
		f.login()
		f.command() // the logout
		f.read()    // until the connection is closed
	})
	s, err := iscsi.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	<-gone
}

func TestRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	there := serve(t, func(f *fake) {
		f.login()
		f.drain()
	})
	moved := serve(t, func(f *fake) {
		p := f.read()
		reply := &pdu{data: []byte("TargetAddress=" + there.Address + ",1\x00")}
		reply.h[0], reply.h[36], reply.h[37] = loginResponse, 1, 1
		copy(reply.h[8:20], p.h[8:20])
		f.send(reply)
	})
	if s := dial(t, moved); s.Product() != "WIRE LEVEL" {
		t.Errorf("product %q", s.Product())
	}
}

func TestCHAPAnswersWithTheAlgorithmThatTheTargetPicks(t *testing.T) {
	t.Parallel()
	// Digests of the byte 1, the secret and the challenge, by "printf ... | md5sum, sha256sum".
	for algorithm, want := range map[string]string{
		"5": "46e47770030e2b4e26a0db72a7efec00",
		"7": "2dfa0526f4764864b7c3c5bc6596bcead3d8dbd984f4fc1d9f330299f0beced4",
	} {
		for _, challenge := range []string{"0x6368616c6c656e6765", "0bY2hhbGxlbmdl"} {
			answer := make(chan string, 1)
			cfg := serve(t, func(f *fake) {
				p := f.read()
				f.cmdSN = p.u32(24)
				f.loginReply(p, "AuthMethod=CHAP", 0)
				p = f.read()
				if string(p.data) != "CHAP_A=5,7\x00" {
					f.t.Errorf("offered %q", p.data)
				}
				f.loginReply(p, "CHAP_A="+algorithm+" CHAP_I=1 CHAP_C="+challenge, 0)
				p = f.read()
				answer <- string(p.data)
				f.loginReply(p, "", final|1)
				f.loginReply(f.read(), "", final|1<<2|3)
				f.drain()
			})
			cfg.CHAP = &iscsi.CHAP{Username: "ingot", Secret: "secret"}
			dial(t, cfg)
			if got := <-answer; got != "CHAP_N=ingot\x00CHAP_R=0x"+want+"\x00" {
				t.Errorf("algorithm %s: %q", algorithm, got)
			}
		}
	}
}

func TestTargetThatDoesNotProveItselfIsRefused(t *testing.T) {
	t.Parallel()
	challenged := func(answer func(challenge []string) string) func(*fake) {
		return func(f *fake) {
			p := f.read()
			f.cmdSN = p.u32(24)
			f.loginReply(p, "AuthMethod=CHAP", 0)
			f.loginReply(f.read(), "CHAP_A=5 CHAP_I=1 CHAP_C=0x6368616c6c656e6765", 0)
			p = f.read()
			f.loginReply(p, answer(strings.Split(string(p.data), "\x00")), final|1)
			f.read()
		}
	}
	for name, script := range map[string]func(*fake){
		"no CHAP": func(f *fake) {
			f.loginReply(f.read(), "AuthMethod=None", final|1)
			f.read()
		},
		"no answer": challenged(func([]string) string { return "" }),
		// What it has seen from us is the only digest that an impostor can come by.
		"our own answer": challenged(func(ours []string) string {
			return "CHAP_N=machine " + ours[1]
		}),
		"other name": challenged(func(ours []string) string { return "CHAP_N=x " + ours[1] }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := serve(t, script)
			cfg.CHAP = &iscsi.CHAP{Username: "ingot", Secret: "secret",
				TargetUsername: "machine", TargetSecret: "another"}
			_, err := iscsi.Dial(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), "did not prove who it is") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLoginTextOverSeveralPDUs(t *testing.T) {
	t.Parallel()
	cfg := serve(t, func(f *fake) {
		p := f.read()
		f.cmdSN = p.u32(24)
		f.loginReply(p, "AuthMethod=None", final|1)
		f.loginReply(f.read(), "MaxBurstLength=4096 Custom.key=x", 0x40|1<<2)
		f.loginReply(f.read(), "ImmediateData=No", 1<<2)
		p = f.read()
		if string(p.data) != "Custom.key=NotUnderstood\x00" {
			f.t.Errorf("answered %q", p.data)
		}
		f.loginReply(p, "", final|1<<2|3)
		p = f.command()
		f.ask(p, 1, 0, 8192)
		f.read()
	})
	_, err := dial(t, cfg).WriteAt(make([]byte, 8192), 0)
	if err == nil || !strings.Contains(err.Error(), "burst limit 4096") {
		t.Errorf("the second half of the text did not count: %v", err)
	}
}

func TestLoginThatBreaksTheProtocolIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		script func(*fake)
		want   string
	}{
		"digest": {func(f *fake) { f.text = "HeaderDigest=CRC64"; f.login() }, "HeaderDigest"},
		"number": {func(f *fake) { f.text = "MaxBurstLength=12"; f.login() }, "MaxBurstLength"},
		"no key": {func(f *fake) { f.text = "rubbish"; f.login() }, "not key=value"},
		"endless": {func(f *fake) {
			for {
				f.loginReply(f.read(), "", 0)
			}
		}, "does not end"},
		"other PDU": {func(f *fake) { f.respond(f.read(), good, nil) }, "in place of a login response"},
		"HTTP": {func(f *fake) {
			f.read()
			_, _ = f.conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n" +
				"Content-Type: text/plain\r\nConnection: close\r\n\r\n"))
		}, "above the 8192"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := iscsi.Dial(t.Context(), serve(t, tc.script))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
