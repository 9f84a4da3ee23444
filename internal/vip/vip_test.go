package vip_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/testkit"
	"ingot/internal/vip"
)

var address = netip.MustParseAddr("10.77.9.5")

// wires counts them, for their names.
var wires atomic.Int32

// wire is a network with two hosts, a and b, and one that asks.
type wire struct {
	*testing.T
	asker string
	hosts map[string]string // namespaces by name
	macs  map[string]string // names by MAC
	ear   int               // a socket that hears ARP
	mu    sync.Mutex        // guards heard
	heard map[string]int    // how often a host has announced the address
}

func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	number := wires.Add(1)
	name := func(who string) string { return fmt.Sprintf("ingot-%d-v%s%d", os.Getpid(), who, number) }
	w := &wire{T: t, asker: name("x"), hosts: map[string]string{"a": name("a"), "b": name("b")},
		macs: map[string]string{}, heard: map[string]int{}}
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
		mac := fmt.Sprintf("02:00:00:00:00:%02x", 11+i)
		testkit.Run(t, "ip", "-n", w.hosts[who], "link", "set", "eth0", "address", mac)
		w.macs[mac] = who
		w.answer(who)
	}
	w.listen()
	return w
}

// listen opens the ear. The kernel keeps what it hears until announced is asked for it.
func (w *wire) listen() {
	w.Helper()
	err := testkit.Within(w.asker, func() (err error) {
		if w.ear, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		w.Cleanup(func() { unix.Close(w.ear) })
		br0, err := net.InterfaceByName("br0")
		if err != nil {
			return err
		}
		protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
		return unix.Bind(w.ear, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: br0.Index})
	})
	if err != nil {
		w.Fatal(err)
	}
}

// announced is how often a host has told all that it has the address.
func (w *wire) announced(who string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := make([]byte, 64); ; {
		n, err := unix.Read(w.ear, p)
		if err != nil || n < 28 {
			return w.heard[who]
		}
		sender, target := p[14:18], p[24:28]
		if slices.Equal(sender, address.AsSlice()) && slices.Equal(target, address.AsSlice()) {
			w.heard[w.macs[net.HardwareAddr(p[8:14]).String()]]++
		}
	}
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

// lock is a store's; its fields may be changed by a test.
type lock struct {
	mu     sync.Mutex // guards the next ones
	holder string
	// stuck is who is stopped in the middle of asking.
	stuck string
	asked map[string]int // how often a host has asked for it
	// unheard has what is asked for be done without an answer; refused is so many Gives that fail.
	unheard bool
	refused int
}

var errAway = errors.New("the store is away")

func (l *lock) set(holder, stuck string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder, l.stuck = holder, stuck
}

func (l *lock) has(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder == who
}

func (l *lock) asks(who string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[who]
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
	if o.asked == nil {
		o.asked = map[string]int{}
	}
	o.asked[o.who]++
	held, stuck, unheard := o.holder == o.who, o.stuck == o.who, o.unheard
	o.mu.Unlock()
	if stuck { // a process that is stopped hears of no context
		<-o.ends
	}
	if unheard {
		return false, errAway
	}
	return held, nil
}

func (o of) Give(context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refused > 0 {
		o.refused--
		return errAway
	}
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
	testkit.Eventually(t, "b has asked, and looked at the answer", func() bool { return l.asks("b") >= 2 })
	if w.has("b") {
		t.Error("two have it")
	}
	// a stands still in the midst of it, as a process that is stopped or killed; its lease ends.
	l.set("b", "a")
	testkit.Eventually(t, "b says that it is there", func() bool { return w.announced("b") > 0 })
	testkit.Eventually(t, "the asker finds b", func() bool { return w.found() == "b" })
	testkit.Eventually(t, "the kernel has removed it from a", func() bool { return !w.has("a") })
	if !w.has("b") || w.found() != "b" {
		t.Error("b has it no more")
	}
	// In order it is given up at once.
	l.set("b", "")
	stopB()
	if w.has("b") || !l.has("") {
		t.Error("b has stopped, and has it still")
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
	testkit.Eventually(t, "and the lock, too", func() bool { return l.has("") })
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

// turns has host a take its turns for a time that passes at once. Each of its looks is a second; begin changes its
// thread before the first one, if it is not nil.
func (w *wire) turns(h *vip.Holder, length time.Duration, begin func() error) {
	w.Helper()
	h.Address, h.Log = address, slog.New(slog.NewTextHandler(w.Output(), nil))
	if h.Left == nil {
		h.Left = func() time.Duration { return time.Minute }
	}
	if h.Willing == nil {
		h.Willing = func() bool { return true }
	}
	h.Lease = context.Background
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	err := testkit.Within(w.hosts["a"], func() error {
		if err := h.Check(); err != nil {
			return err
		}
		if begin != nil {
			if err := begin(); err != nil {
				return err
			}
		}
		return h.Run(ctx)
	})
	if err != nil {
		w.Error(err)
	}
}

func TestTheLockIsGivenBackThoughTheStoreWasAway(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		change  func(l *lock) // when it has the lock
		drained func(l *lock) // when it shall give it up
		leaves  bool          // its lease is about to end before
	}{
		"when it was to be given back": {drained: func(l *lock) { l.refused = 3 }},
		"when it was taken": {change: func(l *lock) { l.unheard = true },
			drained: func(l *lock) { l.unheard = false }},
		"when the lease was about to end": {leaves: true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w, l := newWire(t), &lock{}
			if c.change != nil {
				c.change(l)
			}
			synctest.Test(t, func(t *testing.T) {
				second := 0
				ends := make(chan struct{})
				w.turns(&vip.Holder{Lock: of{l, "a", ends},
					Left: func() time.Duration {
						if c.leaves && second > 3 {
							return time.Second
						}
						return time.Minute
					},
					Willing: func() bool {
						second++
						switch {
						case second == 6 && !l.has("a"):
							t.Error("it does not have the lock")
						case second == 6 && c.drained != nil:
							c.drained(l)
						case second == 12 && !l.has(""):
							t.Error("it has the lock still")
						}
						return second < 6
					}}, 20*time.Second, nil)
				if second < 12 {
					t.Errorf("it looked %d times", second)
				}
			})
		})
	}
}

func TestAHolderWithoutLinkLeavesTheAddressToOthers(t *testing.T) {
	t.Parallel()
	w, l := newWire(t), &lock{}
	w.run("a", l, nil)
	testkit.Eventually(t, "a has it", func() bool { return w.has("a") })
	w.run("b", l, nil)
	testkit.Run(t, "ip", "-n", w.asker, "link", "set", "to-a", "down")
	testkit.Eventually(t, "the asker finds b", func() bool { return w.found() == "b" })
	if w.has("a") || !l.has("b") {
		t.Error("a has it, too")
	}
}

// without takes capabilities from this thread.
func without(capabilities ...int) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return err
	}
	for _, c := range capabilities {
		data[c/32].Effective &^= 1 << (c % 32)
	}
	return unix.Capset(&head, &data[0])
}

func TestAHostThatCannotAddTheAddressRests(t *testing.T) {
	t.Parallel()
	w, l := newWire(t), &lock{}
	synctest.Test(t, func(*testing.T) {
		w.turns(&vip.Holder{Lock: of{l, "a", make(chan struct{})}}, 2*time.Minute,
			func() error { return without(unix.CAP_NET_ADMIN) })
	})
	if n := l.asks("a"); n < 2 || n > 5 || !l.has("") {
		t.Errorf("it took the lock %d times in two minutes, and has it now: %t", n, l.has("a"))
	}
}

func TestAHostThatMayNotHoldTheAddressSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	for _, capability := range []int{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW} {
		err := testkit.Within(w.hosts["a"], func() error {
			if err := without(capability); err != nil {
				t.Error(err)
			}
			return (&vip.Holder{Address: address}).Check()
		})
		if err == nil || !strings.Contains(err.Error(), "capabilities CAP_NET_ADMIN and CAP_NET_RAW") {
			t.Errorf("without capability %d: %v", capability, err)
		}
	}
}

// A process that stands still after it was told that it has the lock may go on when another one has it.
func TestNothingIsDoneAfterTheLease(t *testing.T) {
	t.Parallel()
	for name, calls := range map[string]int{"the lock is taken": 1, "the address is added": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, l := newWire(t), &lock{}
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				w.turns(&vip.Holder{Lock: of{l, "a", make(chan struct{})}, Left: func() time.Duration {
					if asked++; asked > calls {
						return 0
					}
					return time.Minute
				}, Willing: func() bool {
					if asked > 0 && w.has("a") {
						t.Error("it has the address")
					}
					return true
				}}, 3*time.Second, nil)
				if asked <= calls {
					t.Errorf("the lease was looked at %d times", asked)
				}
			})
			if n := w.announced("a"); n > 0 {
				t.Errorf("announced %d times", n)
			}
		})
	}
}

func TestTheAddressIsAnnouncedNowAndThen(t *testing.T) {
	t.Parallel()
	w, l := newWire(t), &lock{}
	synctest.Test(t, func(*testing.T) {
		w.turns(&vip.Holder{Lock: of{l, "a", make(chan struct{})}}, 5*time.Minute, nil)
	})
	// Two packets in each of the first 10 seconds, and then every 30.
	testkit.Eventually(t, "announced again and again", func() bool { return w.announced("a") >= 2*(10+8) })
	if n := w.announced("a"); n > 2*(11+10) {
		t.Errorf("%d packets", n)
	}
}

func TestTheAddressGoesToTheInterfaceOfTheMachines(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	ns := w.hosts["a"]
	testkit.Run(t, "ip", "-n", ns, "link", "add", "small", "type", "veth", "peer", "name", "machines")
	testkit.Run(t, "ip", "-n", ns, "link", "set", "small", "up")
	testkit.Run(t, "ip", "-n", ns, "link", "set", "machines", "up")
	testkit.Run(t, "ip", "-n", ns, "addr", "add", "10.77.9.2/28", "dev", "small")
	testkit.Run(t, "ip", "-n", ns, "addr", "add", "10.77.3.1/16", "dev", "machines")
	for prefer, want := range map[string]string{"": "small", "machines": "machines", "other": "small"} {
		synctest.Test(t, func(t *testing.T) {
			looks := 0
			w.turns(&vip.Holder{Interface: prefer, Lock: of{&lock{}, "a", make(chan struct{})}, Willing: func() bool {
				looks++
				at := testkit.Run(t, "ip", "-n", ns, "-4", "-o", "addr", "show", "to", address.String())
				if looks > 1 && !strings.Contains(at, ": "+want+" ") {
					t.Errorf("boot.interface %q: it is at %q", prefer, at)
				}
				return true
			}}, 2*time.Second, nil)
			if looks < 2 {
				t.Errorf("%d looks", looks)
			}
		})
	}
	testkit.Run(t, "ip", "-n", w.hosts["b"], "addr", "flush", "dev", "eth0")
	testkit.Run(t, "ip", "-n", w.hosts["b"], "addr", "add", address.String()+"/24", "dev", "eth0")
	err := testkit.Within(w.hosts["b"], func() error { return (&vip.Holder{Address: address}).Check() })
	if err == nil || !strings.Contains(err.Error(), "is the only address of its network that this host has, on interface eth0") {
		t.Errorf("error %v", err)
	}
}
