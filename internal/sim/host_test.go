package sim_test

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"ingot/internal/sim"
)

// listen opens a socket on a host and answers whoever connects.
func listen(t *testing.T, h *sim.Host) string {
	t.Helper()
	address := net.JoinHostPort(h.Addr().String(), "8080")
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return address
}

func addHost(t *testing.T, n *sim.Network, addr string) *sim.Host {
	t.Helper()
	h, err := n.AddHost(limit(t), netip.MustParseAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHostsReachOneAnotherWhilePluggedIn(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	one, two := addHost(t, n, "10.77.0.11"), addHost(t, n, "10.77.0.12")
	address := listen(t, two)
	reached := func() bool {
		for _, from := range []*sim.Namespace{one.Namespace, n.Namespace} {
			conn, err := from.Dial(limit(t), "tcp", address)
			if err != nil {
				return false
			}
			conn.Close()
		}
		return true
	}
	if !reached() {
		t.Fatal("a host does not reach the other")
	}
	if err := two.Unplug(limit(t)); err != nil {
		t.Fatal(err)
	}
	err := one.Do(func() error {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err == nil {
		t.Error("a host that is not plugged in is reached")
	}
	if err := two.Plug(limit(t)); err != nil {
		t.Fatal(err)
	}
	until(t, "the host is reached again", reached)
	if out, err := one.Command(limit(t), "ip", "-o", "-4", "addr", "show", "dev",
		sim.HostInterface).CombinedOutput(); err != nil {
		t.Errorf("a command on a host: %v\n%s", err, out)
	}
}

func TestHostsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	addHost(t, n, "10.77.0.11")
	for _, addr := range []string{"10.77.0.11", "10.77.0.1", "192.0.2.1"} {
		if _, err := n.AddHost(limit(t), netip.MustParseAddr(addr)); err == nil {
			t.Errorf("a host with the address %s was made", addr)
		}
	}
}

func TestHostsAreGoneWithTheirNetwork(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	h := addHost(t, n, "10.77.0.11")
	ended := serve(t, h.Namespace)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("a program on the host ended well; want it killed")
	}
	if _, err := os.Stat("/run/netns/" + h.Name()); !os.IsNotExist(err) {
		t.Errorf("the host's namespace: %v, want it gone", err)
	}
	if _, err := n.AddHost(limit(t), netip.MustParseAddr("10.77.0.12")); err == nil {
		t.Error("a closed network takes a host")
	}
}
