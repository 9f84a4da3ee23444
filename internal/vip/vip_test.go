package vip_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/testkit"
	"ingot/internal/vip"
)

var address = netip.MustParseAddr("10.77.9.5")

// wire is a network with two hosts, a and b, and one that asks.
type wire struct {
	*testing.T
	asker string
	hosts map[string]string // namespaces by name
}

func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	name := func(who string) string { return fmt.Sprintf("ingot-%d-v%s%d", os.Getpid(), who, len(t.Name())) }
	w := &wire{t, name("x"), map[string]string{"a": name("a"), "b": name("b")}}
	for _, ns := range []string{w.asker, w.hosts["a"], w.hosts["b"]} {
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		testkit.Run(t, "ip", "netns", "add", ns)
	}
	testkit.Run(t, "ip", "-n", w.asker, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	testkit.Run(t, "ip", "-n", w.asker, "addr", "add", "10.77.9.1/24", "dev", "br0")
	testkit.Run(t, "ip", "-n", w.asker, "link", "set", "br0", "up")
	for i, who := range []string{"a", "b"} {
		testkit.Run(t, "ip", "-n", w.asker, "link", "add", "to-"+who, "type", "veth", "peer", "name", "eth0", "netns",
			w.hosts[who])
		testkit.Run(t, "ip", "-n", w.asker, "link", "set", "to-"+who, "master", "br0", "up")
		testkit.Run(t, "ip", "-n", w.hosts[who], "link", "set", "eth0", "up")
		testkit.Run(t, "ip", "-n", w.hosts[who], "addr", "add", fmt.Sprintf("10.77.9.%d/24", 11+i), "dev", "eth0")
		w.answer(who)
	}
	return w
}

// answer has a host say its name to whoever connects.
func (w *wire) answer(who string) {
	w.Helper()
	err := testkit.Within(w.hosts[who], func() error {
		l, err := net.Listen("tcp4", ":8080")
		if err != nil {
			return err
		}
		w.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte(who))
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

// found is which host answers at the service address, "" if none does.
func (w *wire) found() string {
	w.Helper()
	name := make([]byte, 1)
	err := testkit.Within(w.asker, func() error {
		c, err := net.DialTimeout("tcp4", address.String()+":8080", time.Second)
		if err != nil {
			return nil
		}
		defer c.Close()
		n, _ := c.Read(name)
		name = name[:n]
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	return strings.Trim(string(name), "\x00")
}

func (w *wire) has(who string) bool {
	w.Helper()
	return strings.Contains(testkit.Run(w, "ip", "-n", w.hosts[who], "-4", "addr", "show", "dev", "eth0"), address.String()+"/")
}

// lock is a store's; holder may be changed by a test.
type lock struct {
	mu     sync.Mutex
	holder string
	// stuck is who is stopped in the middle of asking.
	stuck string
}

func (l *lock) set(holder, stuck string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder, l.stuck = holder, stuck
}

// of is the lock as one conductor sees it.
type of struct {
	*lock
	who  string
	ends <-chan struct{}
}

func (o of) Take(context.Context) (bool, error) {
	o.mu.Lock()
	if o.holder == "" {
		o.holder = o.who
	}
	held, stuck := o.holder == o.who, o.stuck == o.who
	o.mu.Unlock()
	if stuck { // a process that is stopped hears of no context
		<-o.ends
	}
	return held, nil
}

func (o of) Give(context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.holder == o.who {
		o.holder = ""
	}
	return nil
}

// run has a host take its turns until the test ends, or stop is called.
func (w *wire) run(who string, l *lock, change func(h *vip.Holder)) (stop func()) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	h := &vip.Holder{Address: address, Lock: of{l, who, ctx.Done()}, Left: func() time.Duration { return time.Minute },
		Lease: context.Background, Willing: func() bool { return true },
		Log: slog.New(slog.NewTextHandler(w.Output(), nil)).With("host", who)}
	if change != nil {
		change(h)
	}
	go func() {
		ended <- testkit.Within(w.hosts[who], func() error {
			if err := h.Check(); err != nil {
				return err
			}
			return h.Run(ctx)
		})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(stop)
	return stop
}

func TestTheAddressGoesToWhoeverLives(t *testing.T) {
	t.Parallel()
	w, l := newWire(t), &lock{}
	w.run("a", l, nil)
	testkit.Eventually(t, "a has it", func() bool { return w.found() == "a" })
	stopB := w.run("b", l, nil)
	if w.has("b") {
		t.Error("two have it")
	}
	// a stands still in the midst of it, as a process that is stopped or killed; its lease ends.
	l.set("b", "a")
	testkit.Eventually(t, "the asker finds b", func() bool { return w.found() == "b" })
	testkit.Eventually(t, "the kernel has removed it from a", func() bool { return !w.has("a") })
	if !w.has("b") || w.found() != "b" {
		t.Error("b has it no more")
	}
	// In order it is given up at once.
	l.set("b", "")
	stopB()
	if w.has("b") || l.holder != "" {
		t.Errorf("b has stopped, and the lock is %q's", l.holder)
	}
}

func TestTheAddressIsGivenUp(t *testing.T) {
	t.Parallel()
	w, l := newWire(t), &lock{}
	var mu sync.Mutex
	willing, lease := true, time.Minute
	working, end := context.WithCancel(t.Context())
	w.run("a", l, func(h *vip.Holder) {
		h.Willing = func() bool { mu.Lock(); defer mu.Unlock(); return willing }
		h.Left = func() time.Duration { mu.Lock(); defer mu.Unlock(); return lease }
		h.Lease = func() context.Context { return working }
	})
	testkit.Eventually(t, "a has it", func() bool { return w.has("a") })
	mu.Lock()
	willing = false
	mu.Unlock()
	testkit.Eventually(t, "one that is drained gives it up", func() bool { return !w.has("a") })
	testkit.Eventually(t, "and the lock, too", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.holder == "" })
	mu.Lock()
	willing = true
	mu.Unlock()
	testkit.Eventually(t, "a has it again", func() bool { return w.has("a") })
	mu.Lock()
	lease = 0
	mu.Unlock()
	end()
	testkit.Eventually(t, "it goes with the lease", func() bool { return !w.has("a") })
}

func TestAnAddressOfTheHostItselfIsLeftAlone(t *testing.T) {
	t.Parallel()
	w, l := newWire(t), &lock{}
	testkit.Run(t, "ip", "-n", w.hosts["a"], "addr", "add", address.String()+"/24", "dev", "eth0")
	h := &vip.Holder{Address: address, Lock: of{l, "a", t.Context().Done()}, Log: slog.New(slog.DiscardHandler)}
	err := testkit.Within(w.hosts["a"], func() error {
		if err := h.Check(); err != nil {
			t.Error(err)
		}
		return h.Run(t.Context())
	})
	if err == nil || !strings.Contains(err.Error(), "is an address of this host's interface eth0") {
		t.Errorf("error %v", err)
	}
	if !w.has("a") || l.holder != "" {
		t.Error("it was taken, or removed")
	}
	h.Address = netip.MustParseAddr("10.99.0.1")
	err = testkit.Within(w.hosts["a"], h.Check)
	if err == nil || !strings.Contains(err.Error(), "no interface of this host has a network with 10.99.0.1") {
		t.Errorf("error %v", err)
	}
}
