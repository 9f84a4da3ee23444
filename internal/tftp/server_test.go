package tftp_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/testkit"
	"ingot/internal/tftp"
)

// content is n reproducible bytes.
func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// rig is a running server and the events it told.
type rig struct {
	addr   string
	events chan tftp.Event
}

// inBothModes runs a test with a port for transfers and without.
func inBothModes(t *testing.T, test func(t *testing.T, s *tftp.Server)) {
	t.Helper()
	for name, single := range map[string]bool{"own port": false, "single port": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &tftp.Server{SinglePort: single})
		})
	}
}

// serve runs a server over files on 127.0.0.1 until the test ends.
func serve(t *testing.T, s *tftp.Server, files map[string][]byte) *rig {
	t.Helper()
	return serveOn(t, s, files, "127.0.0.1:0")
}

// serveOn is serve on an address.
func serveOn(t *testing.T, s *tftp.Server, files map[string][]byte, listen string) *rig {
	t.Helper()
	listener, err := net.ListenPacket("udp", listen)
	if err != nil {
		t.Fatal(err)
	}
	conn := listener.(*net.UDPConn)
	r := &rig{addr: conn.LocalAddr().String(), events: make(chan tftp.Event, 1000)}
	s.Notify = func(e tftp.Event) { r.events <- e }
	if s.Handler == nil {
		s.Handler = func(_ context.Context, q tftp.Request) (tftp.Content, error) {
			b, ok := files[q.Path]
			if !ok {
				return tftp.Content{}, fmt.Errorf("%s: %w", q.Path, tftp.ErrNotFound)
			}
			return tftp.Content{Reader: bytes.NewReader(b), Size: int64(len(b))}, nil
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return r
}

// next returns the next event other than Started.
func (r *rig) next(t *testing.T) tftp.Event {
	t.Helper()
	for {
		select {
		case e := <-r.events:
			if e.Outcome != tftp.Started {
				return e
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no event within 20 s")
		}
	}
}

func TestFilesArriveWholeAtEveryOptionAndSize(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{}
	for _, n := range []int{0, 1, 511, 512, 513, 1024, 1468 * 3, 100_000} {
		files[fmt.Sprint(n)] = content(n)
	}
	inBothModes(t, func(t *testing.T, s *tftp.Server) { everyOption(t, s, files) })
}

func everyOption(t *testing.T, s *tftp.Server, files map[string][]byte) {
	r := serve(t, s, files)
	for _, o := range []tftp.Options{
		{}, {BlockSize: 8}, {BlockSize: 512}, {BlockSize: 1432}, {BlockSize: 65464},
		{Window: 4}, {BlockSize: 1432, Window: 16}, {BlockSize: 1432, Window: 65535},
	} {
		for name, want := range files {
			var got bytes.Buffer
			if _, err := tftp.Get(t.Context(), r.addr, name, &got, o); err != nil {
				t.Fatalf("%+v: %v", o, err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Fatalf("%+v: %s bytes arrived as %d others", o, name, got.Len())
			}
			if e := r.next(t); e.Outcome != tftp.Done || e.Bytes != int64(len(want)) {
				t.Fatalf("%+v: %s bytes reported as %+v", o, name, e)
			}
		}
	}
}

// One socket serves both families, and answers come from the address that was asked: Get takes
// no others.
func TestClientsOfBothFamiliesAreServed(t *testing.T) {
	t.Parallel()
	want := content(100_000)
	inBothModes(t, func(t *testing.T, s *tftp.Server) {
		r := serveOn(t, s, map[string][]byte{"f": want}, ":0")
		_, port, _ := net.SplitHostPort(r.addr)
		for _, host := range []string{"127.0.0.1", "127.0.0.9", "::1"} {
			for _, window := range []int{0, 16} {
				var got bytes.Buffer
				o := tftp.Options{BlockSize: 1468, Window: window}
				_, err := tftp.Get(t.Context(), net.JoinHostPort(host, port), "f", &got, o)
				if err != nil {
					t.Fatalf("%s: %v", host, err)
				}
				if !bytes.Equal(got.Bytes(), want) {
					t.Fatalf("%s: content differs", host)
				}
				e := r.next(t)
				if e.Outcome != tftp.Done || e.Request.Local != netip.MustParseAddr(host) {
					t.Errorf("%s: reported as %+v", host, e)
				}
			}
		}
	})
}

// A client behind address translation hears only the port that it asked.
func TestSinglePortAnswersFromThePortThatWasAsked(t *testing.T) {
	t.Parallel()
	r := serve(t, &tftp.Server{SinglePort: true}, map[string][]byte{"f": content(600)})
	conn := dial(t, r.addr) // connected: answers of other ports do not arrive
	send(t, conn, "\x00\x01f\x00octet\x00")
	for i, length := range []int{516, 92} {
		block := byte(i + 1)
		if got := receive(t, conn); len(got) != length || got[1] != 3 || got[3] != block {
			t.Fatalf("block %d: %d bytes, %q", block, len(got), got[:4])
		}
		send(t, conn, string([]byte{0, 4, 0, block}))
	}
	if e := r.next(t); e.Outcome != tftp.Done {
		t.Fatalf("reported as %+v", e)
	}
}

func TestBlockNumbersRollOverToZero(t *testing.T) {
	t.Parallel()
	want := content(8*70_000 + 3)
	r := serve(t, &tftp.Server{}, map[string][]byte{"big": want})
	for _, o := range []tftp.Options{{BlockSize: 8}, {BlockSize: 8, Window: 16}} {
		var got bytes.Buffer
		if _, err := tftp.Get(t.Context(), r.addr, "big", &got, o); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%+v: content differs after the roll-over", o)
		}
	}
}

// EDK2 reads every boot file twice; the first time only to learn the size.
func TestSizeProbeIsNoFault(t *testing.T) {
	t.Parallel()
	r := serve(t, &tftp.Server{}, map[string][]byte{"snponly.efi": content(5000)})
	o := tftp.Options{BlockSize: 1468, Probe: true}
	n, err := tftp.Get(t.Context(), r.addr, "/snponly.efi", io.Discard, o)
	if err != nil || n != 5000 {
		t.Fatalf("size %d, %v; want 5000", n, err)
	}
	if e := r.next(t); e.Outcome != tftp.Probed || e.Err != nil {
		t.Fatalf("reported as %+v", e)
	}
}

func TestRefusalsTellTheClientWhy(t *testing.T) {
	t.Parallel()
	r := serve(t, &tftp.Server{Handler: func(_ context.Context, q tftp.Request) (tftp.Content, error) {
		switch q.Path {
		case "secret":
			return tftp.Content{}, tftp.ErrAccess
		case "broken":
			return tftp.Content{}, errors.New("disk on fire at /srv/inside")
		}
		return tftp.Content{}, tftp.ErrNotFound
	}}, nil)
	for path, want := range map[string]tftp.Code{
		"missing": tftp.CodeNotFound, "secret": tftp.CodeAccess, "broken": tftp.CodeUndefined,
		"../../etc/passwd": tftp.CodeAccess,
	} {
		_, err := tftp.Get(t.Context(), r.addr, path, io.Discard, tftp.Options{})
		var remote *tftp.RemoteError
		if !errors.As(err, &remote) || remote.Code != want {
			t.Errorf("%s: %v; want code %d", path, err, want)
			continue
		}
		if strings.Contains(remote.Message, "inside") {
			t.Errorf("%s: the client was told %q", path, remote.Message)
		}
		if e := r.next(t); e.Outcome != tftp.Refused || e.Err == nil {
			t.Errorf("%s: reported as %+v", path, e)
		}
	}
}

func TestWriteRequestIsRefused(t *testing.T) {
	t.Parallel()
	r := serve(t, &tftp.Server{}, nil)
	conn := dial(t, r.addr)
	send(t, conn, "\x00\x02file\x00octet\x00")
	if got := receive(t, conn); !strings.HasPrefix(got, "\x00\x05\x00\x02") {
		t.Fatalf("answer %q; want ERROR 2", got)
	}
}

// A client that sent its request twice must not get two transfers: it would see two ports.
func TestRepeatedRequestStartsOneTransfer(t *testing.T) {
	t.Parallel()
	r := serve(t, &tftp.Server{}, map[string][]byte{"f": content(5)})
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	to, err := net.ResolveUDPAddr("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	udp.SetDeadline(time.Now().Add(10 * time.Second))
	for range 3 {
		if _, err := udp.WriteToUDP([]byte("\x00\x01f\x00octet\x00"), to); err != nil {
			t.Fatal(err)
		}
	}
	var from *net.UDPAddr
	buf := make([]byte, 600)
	// The server repeats its block until the acknowledgement: all from one port.
	for range 3 {
		_, addr, err := udp.ReadFromUDP(buf)
		if err != nil {
			t.Fatal(err)
		}
		if from != nil && from.Port != addr.Port {
			t.Fatalf("two transfers, from ports %d and %d", from.Port, addr.Port)
		}
		from = addr
	}
	if _, err := udp.WriteToUDP([]byte{0, 4, 0, 1}, from); err != nil {
		t.Fatal(err)
	}
	if e := r.next(t); e.Outcome != tftp.Done || e.Resent < 2 {
		t.Fatalf("reported as %+v", e)
	}
}

func TestSilentClientIsReportedLost(t *testing.T) {
	t.Parallel()
	r := serve(t, &tftp.Server{Timeout: 20 * time.Millisecond, Retries: 2},
		map[string][]byte{"f": content(5000)})
	conn := dial(t, r.addr)
	send(t, conn, "\x00\x01f\x00octet\x00")
	// The socket is connected to the request port, so data from the transfer's port is
	// answered by the kernel or dropped; either way nobody acknowledges.
	if e := r.next(t); e.Outcome != tftp.Lost || e.Bytes != 0 {
		t.Fatalf("reported as %+v", e)
	}
}

func TestTransfersBeyondTheBoundAreNotAnswered(t *testing.T) {
	t.Parallel()
	held, release := make(chan struct{}, 10), make(chan struct{})
	var log bytes.Buffer // written under the server's lock, read when it has answered
	s := &tftp.Server{MaxTransfers: 2, Log: slog.New(slog.NewTextHandler(&log, nil))}
	s.Handler = func(context.Context, tftp.Request) (tftp.Content, error) {
		held <- struct{}{}
		<-release
		return tftp.Content{}, tftp.ErrNotFound
	}
	r := serve(t, s, nil)
	for range 20 {
		send(t, dial(t, r.addr), "\x00\x01f\x00octet\x00")
	}
	// Requests are taken in order: once this one is answered the others were looked at.
	conn := dial(t, r.addr)
	send(t, conn, "\x00\x02f\x00octet\x00")
	receive(t, conn)
	<-held
	<-held
	close(release)
	r.next(t)
	r.next(t)
	r.next(t)
	select {
	case <-held:
		t.Fatal("a third transfer was admitted")
	default:
	}
	// Everybody can send requests, and must not fill the log with them.
	if told := strings.Count(log.String(), "tftp busy"); told != 1 {
		t.Errorf("told of %d times:\n%s", told, &log)
	}
}

func TestForeignClientsReadFiles(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	want := content(300_001)
	for name, args := range map[string][]string{
		"tftp-hpa":      {"tftp", "-m", "octet", "HOST", "PORT", "-c", "get", "boot/file", "OUT"},
		"curl":          {"curl", "-s", "-o", "OUT", "tftp://HOST:PORT/boot/file"},
		"curl, blocks":  {"curl", "-s", "--tftp-blksize", "1468", "-o", "OUT", "tftp://HOST:PORT/boot/file"},
		"curl, options": {"curl", "-s", "--tftp-no-options", "-o", "OUT", "tftp://HOST:PORT/boot/file"},
		"busybox": {"busybox", "tftp", "-g", "-b", "1432", "-r", "boot/file", "-l", "OUT",
			"HOST", "PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Fatalf("%v: install the tools with scripts/packages.sh", err)
			}
			inBothModes(t, func(t *testing.T, s *tftp.Server) {
				r := serve(t, s, map[string][]byte{"boot/file": want})
				host, port, _ := net.SplitHostPort(r.addr)
				out := filepath.Join(t.TempDir(), "out")
				fill := strings.NewReplacer("HOST", host, "PORT", port, "OUT", out)
				command := make([]string, len(args))
				for i := range args {
					command[i] = fill.Replace(args[i])
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				text, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, text)
				}
				got, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("%d bytes arrived, digest %x", len(got), sha256.Sum256(got))
				}
			})
		})
	}
}

func TestTransfersSurviveLossAndReordering(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	want := content(1_000_000)
	for _, window := range []int{1, 4, 16, 64} {
		t.Run(fmt.Sprint("window ", window), func(t *testing.T) {
			inBothModes(t, func(t *testing.T, s *tftp.Server) {
				s.Timeout = 500 * time.Millisecond
				r := serve(t, s, map[string][]byte{"f": want})
				proxy := lossy(t, r.addr, 0.02)
				o := tftp.Options{BlockSize: 1432, Window: window, Timeout: 200 * time.Millisecond,
					Retries: 50}
				var got bytes.Buffer
				if _, err := tftp.Get(t.Context(), proxy, "f", &got, o); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Bytes(), want) {
					t.Fatal("content differs")
				}
				// The last acknowledgement may be the one that was lost.
				e := r.next(t)
				t.Logf("%d of %d packets sent again, %s", e.Resent, len(want)/1432, e.Outcome)
				if e.Resent == 0 {
					t.Error("nothing was lost, the test proves nothing")
				}
			})
		})
	}
}

func BenchmarkTransfer(b *testing.B) {
	for _, window := range []int{1, 4, 16, 64} {
		b.Run(fmt.Sprint("window", window), func(b *testing.B) {
			data := content(8 << 20)
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				b.Fatal(err)
			}
			s := &tftp.Server{Handler: func(context.Context, tftp.Request) (tftp.Content, error) {
				return tftp.Content{Reader: bytes.NewReader(data), Size: int64(len(data))}, nil
			}}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx, conn) }()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				o := tftp.Options{BlockSize: 1428, Window: window}
				if _, err := tftp.Get(ctx, conn.LocalAddr().String(), "f", io.Discard, o); err != nil {
					b.Fatal(err)
				}
			}
			cancel()
			<-done
		})
	}
}

// lossy forwards datagrams of one client to addr and back. It drops a share of them and
// swaps some with the following one.
func lossy(t *testing.T, addr string, share float64) string {
	t.Helper()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	server, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards peer and server
	var peer *net.UDPAddr
	var wait sync.WaitGroup
	forward := func(in, out *net.UDPConn, to func(from *net.UDPAddr) *net.UDPAddr, seed uint64) {
		dice := rand.New(rand.NewPCG(seed, 7))
		buf := make([]byte, 70_000)
		var held []byte
		for {
			n, from, err := in.ReadFromUDP(buf)
			if err != nil {
				return
			}
			dst := to(from)
			switch x := dice.Float64(); {
			case x < share:
				continue
			case x < 2*share && held == nil:
				held = bytes.Clone(buf[:n])
				continue
			}
			out.WriteToUDP(buf[:n], dst)
			if held != nil {
				out.WriteToUDP(held, dst)
				held = nil
			}
		}
	}
	wait.Go(func() {
		forward(front, back, func(from *net.UDPAddr) *net.UDPAddr {
			mu.Lock()
			defer mu.Unlock()
			peer = from
			return server
		}, 1)
	})
	wait.Go(func() {
		forward(back, front, func(from *net.UDPAddr) *net.UDPAddr {
			mu.Lock()
			defer mu.Unlock()
			server = from
			return peer
		}, 2)
	})
	t.Cleanup(func() {
		front.Close()
		back.Close()
		wait.Wait()
	})
	return front.LocalAddr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func send(t *testing.T, conn net.Conn, packet string) {
	t.Helper()
	if _, err := conn.Write([]byte(packet)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, conn net.Conn) string {
	t.Helper()
	buf := make([]byte, 2000)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}
