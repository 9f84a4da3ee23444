package sim_test

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"ingot/internal/sim"
	"ingot/internal/testkit"
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

func TestACableThatLosesPackets(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	n := newNetwork(t)
	one, two := addHost(t, n, "10.77.0.11"), addHost(t, n, "10.77.0.12")
	sent := func() (arrived int) {
		from := newPacket(t, one)
		to := newPacket(t, two)
		for i := range 200 {
			if _, err := from.WriteTo([]byte{byte(i)}, to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			_ = to.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if _, _, err := to.ReadFrom(make([]byte, 8)); err == nil {
				arrived++
			}
		}
		return arrived
	}
	until(t, "packets arrive", func() bool { return sent() == 200 })
	for _, percent := range []int{20, 30} { // the second one replaces the first one
		if err := two.Lose(limit(t), percent); err != nil {
			t.Fatal(err)
		}
		if got := sent(); got < 80 || got > 190 {
			t.Errorf("%d of 200 packets arrived, though %d of 100 are lost", got, percent)
		}
	}
	for range 2 {
		if err := two.Lose(limit(t), 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := sent(); got != 200 {
		t.Errorf("%d of 200 packets arrived", got)
	}
}

func newPacket(t *testing.T, h *sim.Host) (conn net.PacketConn) {
	t.Helper()
	err := h.Do(func() (err error) {
		conn, err = net.ListenPacket("udp", net.JoinHostPort(h.Addr().String(), "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
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
