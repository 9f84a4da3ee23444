package bus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/bus"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

var key = bytes.Repeat([]byte{7}, bus.KeySize)

func open(t testing.TB, o bus.Options) *bus.Bus {
	t.Helper()
	b, err := bus.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// mesh opens so many buses that all know one another.
func mesh(t testing.TB, n int) []*bus.Bus {
	t.Helper()
	all, addresses := make([]*bus.Bus, n), make([]string, n)
	for i := range all {
		all[i] = open(t, bus.Options{Mesh: &bus.Mesh{Listen: "127.0.0.1:0", Key: key}})
		addresses[i] = all[i].MeshAddress()
	}
	for _, b := range all {
		if err := b.SetPeers(addresses); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range all {
		testkit.Eventually(t, fmt.Sprintf("bus %d has %d peers", i, n-1), func() bool {
			return b.Peers() == n-1
		})
	}
	return all
}

func handle(t testing.TB, b *bus.Bus, subject string, f func([]byte) []byte) {
	t.Helper()
	err := b.Handle(subject, func(_ context.Context, data []byte) []byte { return f(data) })
	if err != nil {
		t.Fatal(err)
	}
}

// reach calls until the interest in a subject is known everywhere.
func reach(t testing.TB, b *bus.Bus, subject string) {
	t.Helper()
	testkit.Eventually(t, subject+" is reached", func() bool {
		_, err := b.Call(t.Context(), subject, nil)
		return err == nil
	})
}

func name(s string) func([]byte) []byte {
	return func(data []byte) []byte { return append([]byte(s+" "), data...) }
}

func TestOneProcessCallsItself(t *testing.T) {
	t.Parallel()
	b := open(t, bus.Options{})
	handle(t, b, "x", name("x"))
	got, err := b.Call(t.Context(), "x", []byte("hello"))
	if err != nil || string(got) != "x hello" {
		t.Errorf("%q, %v", got, err)
	}
	if b.MeshAddress() != "" {
		t.Errorf("it listens on %s", b.MeshAddress())
	}
	if err := b.SetPeers([]string{"127.0.0.1:1"}); err != nil {
		t.Errorf("peers without a mesh: %v", err)
	}
}

func TestNobodyAnswersIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t, bus.Options{})
	_, err := b.Call(t.Context(), "conductor."+bus.Address("r1.example"), nil)
	if ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("error %v", err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := open(t, bus.Options{})
	held := make(chan struct{})
	defer close(held)
	handle(t, b, "x", func([]byte) []byte { <-held; return nil })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Call(ctx, "x", nil); ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("error %v", err)
	}
}

func TestMeshCallsOneAndTellsAll(t *testing.T) {
	t.Parallel()
	all := mesh(t, 3)
	var told atomic.Int32
	for i, b := range all {
		// News first: who is reached by the second name is known by the first one, too.
		handle(t, b, "news", func([]byte) []byte { told.Add(1); return nil })
		handle(t, b, fmt.Sprintf("to.%d", i), name(fmt.Sprint(i)))
	}
	for _, b := range all {
		for i := range all {
			reach(t, b, fmt.Sprintf("to.%d", i))
		}
	}
	if got, err := all[0].Call(t.Context(), "to.2", []byte("a")); string(got) != "2 a" {
		t.Errorf("%q, %v", got, err)
	}
	if err := all[1].Tell("news", nil); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, "all three are told", func() bool { return told.Load() == 3 })
}

// Who dies is missed at once, and who comes back under the same address is found again.
func TestPeersComeBack(t *testing.T) {
	t.Parallel()
	all := mesh(t, 2)
	address := all[1].MeshAddress()
	all[1].Close()
	testkit.Eventually(t, "the peer is missed", func() bool { return all[0].Peers() == 0 })
	again := open(t, bus.Options{Mesh: &bus.Mesh{Listen: address, Key: key}})
	handle(t, again, "x", name("x"))
	reach(t, all[0], "x")
}

func TestWhoIsNoPeerAnyMoreIsLeft(t *testing.T) {
	t.Parallel()
	all := mesh(t, 2)
	// Each connects to the other: both have to forget.
	for _, b := range all {
		if err := b.SetPeers(nil); err != nil {
			t.Fatal(err)
		}
	}
	all[1].Close()
	testkit.Eventually(t, "the peer is gone", func() bool { return all[0].Peers() == 0 })
}

// A stranger's attempts to join fail, and both logs say why, but not each second.
func TestAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	var logs [2]lockedBuffer
	join := func(i int, key []byte) *bus.Bus {
		return open(t, bus.Options{Log: slog.New(slog.NewTextHandler(&logs[i], &slog.HandlerOptions{
			Level: slog.LevelDebug})), Mesh: &bus.Mesh{Listen: "127.0.0.1:0", Key: key}})
	}
	ours, stranger := join(0, key), join(1, bytes.Repeat([]byte{8}, bus.KeySize))
	handle(t, ours, "x", name("x"))
	if err := stranger.SetPeers([]string{ours.MeshAddress()}); err != nil {
		t.Fatal(err)
	}
	for i := range logs {
		testkit.Eventually(t, "both notice it twice", func() bool {
			return strings.Count(logs[i].String(), "handshake error") > 1
		})
		if n := strings.Count(logs[i].String(), "level=ERROR"); n != 1 ||
			!strings.Contains(logs[i].String(), "it has another [cluster] key") {
			t.Errorf("log %d has %d errors:\n%s", i, n, logs[i].String())
		}
	}
	if ours.Peers()+stranger.Peers() > 0 {
		t.Error("the stranger is a peer")
	}
	if _, err := stranger.Call(t.Context(), "x", nil); ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("a call of the stranger: %v", err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The site's own NATS does as well as the embedded one.
func TestExternalServer(t *testing.T) {
	t.Parallel()
	url := natsServer(t)
	one, two := open(t, bus.Options{URL: url}), open(t, bus.Options{URL: url})
	handle(t, one, "x", name("x"))
	if got, err := two.Call(t.Context(), "x", []byte("a")); string(got) != "x a" {
		t.Errorf("%q, %v", got, err)
	}
}

// natsServer runs one of Debian and returns its URL.
func natsServer(t *testing.T) string {
	t.Helper()
	ports := t.TempDir()
	cmd := exec.Command("nats-server", "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", ports)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; install it: scripts/packages.sh", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var said struct{ NATS []string }
	testkit.Eventually(t, "nats-server says where it is", func() bool {
		files, _ := filepath.Glob(filepath.Join(ports, "*.ports"))
		if len(files) == 0 {
			return false
		}
		text, err := os.ReadFile(files[0])
		return err == nil && json.Unmarshal(text, &said) == nil && len(said.NATS) > 0
	})
	return said.NATS[0]
}

// A config drive of some megabytes travels in a call.
func TestGreatMessages(t *testing.T) {
	t.Parallel()
	all := mesh(t, 2)
	handle(t, all[1], "x", func(b []byte) []byte { return b })
	reach(t, all[0], "x")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<19) // 8 MiB
	got, err := all[0].Call(t.Context(), "x", data)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back: %v", len(got), err)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	taken := open(t, bus.Options{Mesh: &bus.Mesh{Listen: "127.0.0.1:0", Key: key}})
	for what, o := range map[string]bus.Options{
		"no port":      {Mesh: &bus.Mesh{Listen: "127.0.0.1", Key: key}},
		"a bad port":   {Mesh: &bus.Mesh{Listen: "127.0.0.1:x", Key: key}},
		"a short key":  {Mesh: &bus.Mesh{Listen: "127.0.0.1:0", Key: key[:31]}},
		"no server":    {URL: "nats://user:pass@127.0.0.1:1"},
		"a taken port": {Mesh: &bus.Mesh{Listen: taken.MeshAddress(), Key: key}},
	} {
		b, err := bus.Open(o)
		if err == nil {
			b.Close()
		}
		if k := ingot.KindOf(err); k != ingot.Invalid && k != ingot.Unavailable {
			t.Errorf("%s: error %v", what, err)
		}
		if err != nil && bytes.Contains([]byte(err.Error()), []byte("pass@")) {
			t.Errorf("%s: the error tells a password: %v", what, err)
		}
	}
}

func TestAddressIsOneToken(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"r1": "r1", "r1.example": "r1%2Eexample",
		"a b*>%": "a%20b%2A%3E%25"} {
		if got := bus.Address(name); got != want {
			t.Errorf("address of %q is %q, want %q", name, got, want)
		}
	}
}

// Who comes and goes does not cut off those that stay from their own server.
func TestChangesOfPeersDisturbNobody(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	b := open(t, bus.Options{Log: slog.New(slog.NewTextHandler(&log, nil)),
		Mesh: &bus.Mesh{Listen: "127.0.0.1:0", Key: key}})
	handle(t, b, "x", name("x"))
	other := open(t, bus.Options{Mesh: &bus.Mesh{Listen: "127.0.0.1:0", Key: key}})
	for _, peers := range [][]string{{other.MeshAddress()}, nil, {other.MeshAddress()}} {
		if err := b.SetPeers(peers); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Call(t.Context(), "x", nil); err != nil {
			t.Error(err)
		}
	}
	if strings.Contains(log.String(), "lost the bus") {
		t.Error(log.String())
	}
}
