package tftp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/tftp"
)

// machine is a client whose every packet a test decides.
type machine struct {
	t      *testing.T
	conn   *net.UDPConn
	server *net.UDPAddr // the request port
	peer   *net.UDPAddr // where the last packet came from
}

func newMachine(t *testing.T, server string) *machine {
	t.Helper()
	to, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: to.IP})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &machine{t: t, conn: conn, server: to, peer: to}
}

// ask sends to the request port, say to the port of the transfer.
func (m *machine) ask(packet string) { m.send(packet, m.server) }
func (m *machine) say(packet string) { m.send(packet, m.peer) }
func (m *machine) ack(block int) {
	m.say(string([]byte{0, 4, byte(block >> 8), byte(block)}))
}

func (m *machine) send(packet string, to *net.UDPAddr) {
	m.t.Helper()
	if _, err := m.conn.WriteToUDP([]byte(packet), to); err != nil {
		m.t.Fatal(err)
	}
}

// hear returns the next packet.
func (m *machine) hear() string {
	m.t.Helper()
	buf := make([]byte, 2000)
	n, from, err := m.conn.ReadFromUDP(buf)
	if err != nil {
		m.t.Fatal(err)
	}
	m.peer = from
	return string(buf[:n])
}

// expect fails unless the next packet begins so.
func (m *machine) expect(start string) {
	m.t.Helper()
	if got := m.hear(); len(got) < len(start) || got[:len(start)] != start {
		m.t.Fatalf("got %q; want %q", got[:min(len(got), 20)], start)
	}
}

func (m *machine) expectBlock(n int) {
	m.t.Helper()
	m.expect(string([]byte{0, 3, byte(n >> 8), byte(n)}))
}

// patient makes the server wait 30 s before it repeats anything: what comes twice before has
// another reason.
const patient = "timeout\x0030\x00"

func TestRequestsRepeatedDuringATransferChangeNothing(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		r := serve(t, s, map[string][]byte{"f": content(8 * 99)})
		m := newMachine(t, r.addr)
		request := "\x00\x01f\x00octet\x00blksize\x008\x00" + patient
		m.ask(request)
		m.ask(request)
		m.expect("\x00\x06blksize")
		m.ack(0)
		for n := 1; n <= 100; n++ {
			m.expectBlock(n)
			m.ask(request)
			m.ack(n)
		}
		if e := r.next(t); e.Outcome != tftp.Done || e.Resent != 0 {
			t.Errorf("reported as %+v", e)
		}
	})
}

// RFC 1123 section 4.2.3.1: an acknowledgement that comes twice must not make the next block come
// twice, and so on to the end.
func TestDoubledAcknowledgementsDoNotDoubleBlocks(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		r := serve(t, s, map[string][]byte{"f": content(8 * 99)})
		m := newMachine(t, r.addr)
		m.ask("\x00\x01f\x00octet\x00blksize\x008\x00" + patient)
		m.expect("\x00\x06")
		m.ack(0)
		for n := 1; n <= 100; n++ {
			m.expectBlock(n)
			m.ack(n)
			m.ack(n)
		}
		if e := r.next(t); e.Outcome != tftp.Done || e.Resent != 0 {
			t.Errorf("reported as %+v", e)
		}
	})
}

// In a window a repeated acknowledgement tells of a gap (RFC 7440 section 4), so that window comes
// again; the acknowledgements of what came twice must not have all others come twice.
func TestAWindowSentAgainDoesNotDoubleTheOthers(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		r := serve(t, s, map[string][]byte{"f": content(8 * 39)})
		m := newMachine(t, r.addr)
		m.ask("\x00\x01f\x00octet\x00blksize\x008\x00windowsize\x004\x00" + patient)
		m.expect("\x00\x06")
		window := func(from int) {
			t.Helper()
			for n := from; n < from+4; n++ {
				m.expectBlock(n)
			}
		}
		m.ack(0)
		window(1)
		m.ack(4)
		window(5)
		m.ack(4) // block 5 was late
		window(5)
		m.ack(8) // for the first copy
		m.ack(8) // for the second
		for n := 9; n < 37; n += 4 {
			window(n)
			m.ack(n + 3)
		}
		window(37)
		m.ack(38) // a gap behind 38
		m.expectBlock(39)
		m.expectBlock(40)
		m.ack(40)
		if e := r.next(t); e.Outcome != tftp.Done || e.Resent != 6 {
			t.Errorf("reported as %+v", e)
		}
	})
}

// EDK2 aborts its first transfer once it knows the size, and may ask again from the same port.
func TestProbeAndDownloadFromOnePort(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		r := serve(t, s, map[string][]byte{"f": content(700)})
		m := newMachine(t, r.addr)
		m.ask("\x00\x01f\x00octet\x00tsize\x000\x00")
		m.expect("\x00\x06tsize\x00700\x00")
		m.say("\x00\x05\x00\x08User aborted\x00")
		m.ask("\x00\x01f\x00octet\x00tsize\x000\x00blksize\x001468\x00")
		// It may be the probe's that was on its way.
		for m.hear() != "\x00\x06tsize\x00700\x00blksize\x001468\x00" {
		}
		m.ack(0)
		m.expectBlock(1)
		m.ack(1)
		outcomes := map[tftp.Outcome]bool{r.next(t).Outcome: true, r.next(t).Outcome: true}
		if !outcomes[tftp.Probed] || !outcomes[tftp.Done] {
			t.Errorf("reported as %v", outcomes)
		}
	})
}

func TestANewRequestFromTheSamePortReplacesTheTransfer(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		r := serve(t, s, map[string][]byte{"a": content(5000), "b": content(5)})
		m := newMachine(t, r.addr)
		m.ask("\x00\x01a\x00octet\x00")
		m.expectBlock(1)
		m.ask("\x00\x01b\x00octet\x00")
		for len(m.hear()) != 4+5 {
		}
		m.ack(1)
		for range 2 {
			e := r.next(t)
			want := map[string]tftp.Outcome{"a": tftp.Aborted, "b": tftp.Done}[e.Request.Path]
			if e.Outcome != want {
				t.Errorf("reported as %+v", e)
			}
		}
	})
}

// The host of a client whose program has ended tells so by ICMP.
func TestAClientThatClosedItsPortIsLostAtOnce(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, listen := range []string{host, ""} {
			t.Run(host+" on "+listen, func(t *testing.T) {
				inBothModes(t, func(t *testing.T, s *tftp.Server) {
					s.Timeout, s.Retries = 100*time.Millisecond, 10_000
					r := serveOn(t, s, map[string][]byte{"f": content(5000)},
						net.JoinHostPort(listen, "0"))
					_, port, _ := net.SplitHostPort(r.addr)
					m := newMachine(t, net.JoinHostPort(host, port))
					m.ask("\x00\x01f\x00octet\x00")
					m.expectBlock(1)
					m.conn.Close()
					e := r.next(t)
					if e.Outcome != tftp.Lost || !errors.Is(e.Err, syscall.ECONNREFUSED) {
						t.Errorf("reported as %+v", e)
					}
				})
			})
		}
	}
}

func TestASlowClientIsServed(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		s.Timeout = 50 * time.Millisecond
		want := content(512*10 + 1)
		r := serve(t, s, map[string][]byte{"f": want})
		m := newMachine(t, r.addr)
		m.ask("\x00\x01f\x00octet\x00")
		var got []byte
		for n := 1; n <= 11; {
			p := m.hear()
			if p[3] != byte(n) {
				continue // once more what was written away by now
			}
			time.Sleep(120 * time.Millisecond) // it writes to a slow disk
			got = append(got, p[4:]...)
			m.ack(n)
			n++
		}
		if !bytes.Equal(got, want) {
			t.Error("content differs")
		}
		if e := r.next(t); e.Outcome != tftp.Done || e.Resent == 0 {
			t.Errorf("reported as %+v", e)
		}
	})
}

func TestAThousandRequestsAtOnceAreServed(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		want := content(20_000)
		var open, peak atomic.Int64
		s.MaxTransfers, s.MaxPerClient = 300, 200
		s.Handler = func(context.Context, tftp.Request) (tftp.Content, error) {
			if n := open.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			return tftp.Content{Reader: bytes.NewReader(want), Size: int64(len(want)),
				Close: func() error { open.Add(-1); return nil }}, nil
		}
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, conn) }()
		var clients errgroup.Group
		for range 1000 {
			clients.Go(func() error {
				var got bytes.Buffer
				_, err := tftp.Get(t.Context(), conn.LocalAddr().String(), "f", &got,
					tftp.Options{BlockSize: 1468, Timeout: 300 * time.Millisecond, Retries: 200})
				if err == nil && !bytes.Equal(got.Bytes(), want) {
					err = fmt.Errorf("%d bytes arrived, others than asked for", got.Len())
				}
				return err
			})
		}
		if err := clients.Wait(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if peak.Load() > 200 || open.Load() != 0 {
			t.Errorf("%d transfers at once, %d contents still open", peak.Load(), open.Load())
		}
	})
}

func TestGarbageDoesNoHarm(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		r := serve(t, s, map[string][]byte{"f": content(600)})
		m, stranger := newMachine(t, r.addr), newMachine(t, r.addr)
		garbage := []string{
			"", "\x00", "\x00\x01", "\x00\x01f", "\x00\x01f\x00", "\x00\x01\x00octet\x00", "\x00\x63ab",
			"\x00\x03\x00\x01data", "\x00\x04", "\x00\x04\x00", "\x00\x05", "\x00\x05\x00",
			"\x00\x06blksize", "\x00\x01" + string(make([]byte, 3000)),
			string(bytes.Repeat([]byte{0xff}, 60_000)),
		}
		for _, p := range garbage {
			m.ask(p)
		}
		m.ask("\x00\x01f\x00octet\x00" + patient + "blksize\x0099999999999999999999\x00tsize")
		m.expect("\x00\x06timeout\x0030\x00")
		stranger.peer = m.peer
		for _, p := range append(garbage, "\x00\x04\x00\x00", "\x00\x05\x00\x00go\x00") {
			stranger.say(p)
			if p != "" && len(p) < 2 || len(p) > 3 && p[1] != 5 && p[1] != 1 {
				m.say(p)
			}
		}
		for _, block := range []int{65535, 2, 1} {
			m.ack(block)
		}
		m.ack(0)
		m.expectBlock(1)
		for _, block := range []int{0, 2, 3, 65535, 1} {
			m.ack(block)
		}
		m.expectBlock(2)
		m.ack(2)
		if e := r.next(t); e.Outcome != tftp.Done || e.Resent != 0 {
			t.Errorf("reported as %+v", e)
		}
	})
}

// A file that became shorter must not arrive as if it were whole.
func TestAShrunkenFileEndsTheTransfer(t *testing.T) {
	t.Parallel()
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		s.Handler = func(context.Context, tftp.Request) (tftp.Content, error) {
			return tftp.Content{Reader: bytes.NewReader(content(1000)), Size: 5000}, nil
		}
		r := serve(t, s, nil)
		_, err := tftp.Get(t.Context(), r.addr, "f", io.Discard, tftp.Options{})
		var remote *tftp.RemoteError
		if !errors.As(err, &remote) {
			t.Errorf("error %v; want one of the server", err)
		}
		if e := r.next(t); e.Outcome != tftp.Aborted || !errors.Is(e.Err, io.ErrUnexpectedEOF) {
			t.Errorf("reported as %+v", e)
		}
	})
}
