package dhcp_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv6"

	"ingot/internal/dhcp"
	"ingot/internal/testkit"
)

// wire is two network namespaces joined by a veth pair: "server" with 10.77.0.1/24 on one
// side, "client" without address on the other.
type wire struct{ server, client string }

// newWire needs root and iproute2.
func newWire(t *testing.T) wire {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	w := wire{fmt.Sprintf("ingot-%d-ds", os.Getpid()), fmt.Sprintf("ingot-%d-dc", os.Getpid())}
	w.server += t.Name()[len(t.Name())-4:]
	w.client += t.Name()[len(t.Name())-4:]
	t.Cleanup(func() {
		exec.Command("ip", "netns", "del", w.server).Run()
		exec.Command("ip", "netns", "del", w.client).Run()
	})
	testkit.Run(t, "ip", "netns", "add", w.server)
	testkit.Run(t, "ip", "netns", "add", w.client)
	testkit.Run(t, "ip", "-n", w.server, "link", "add", "srv", "type", "veth", "peer", "name", "cli",
		"netns", w.client)
	for _, ns := range []struct{ name, dev string }{{w.server, "srv"}, {w.client, "cli"}} {
		testkit.Run(t, "ip", "netns", "exec", ns.name, "sh", "-c",
			"echo 0 >/proc/sys/net/ipv6/conf/"+ns.dev+"/accept_dad")
		testkit.Run(t, "ip", "-n", ns.name, "link", "set", ns.dev, "up")
	}
	testkit.Run(t, "ip", "-n", w.server, "addr", "add", "10.77.0.1/24", "dev", "srv")
	linkLocal(t, w.server, "srv")
	linkLocal(t, w.client, "cli")
	return w
}

// linkLocal waits until the kernel has given dev its IPv6 address.
func linkLocal(t *testing.T, ns, dev string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		out := testkit.Run(t, "ip", "-n", ns, "-6", "addr", "show", "dev", dev, "-tentative")
		if strings.Contains(out, "fe80:") {
			return
		}
	}
	t.Fatalf("%s has no IPv6 address", dev)
}

func within(t *testing.T, ns string, f func()) {
	t.Helper()
	err := testkit.Within(ns, func() error {
		f()
		return nil
	})
	if err != nil {
		t.Fatalf("enter namespace %s: %v", ns, err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestServerTalksToAForeignClient(t *testing.T) {
	w := newWire(t)
	s := &dhcp.Server{Log: quiet(), Handler: func(_ context.Context, q *dhcpv4.DHCPv4) (
		*dhcpv4.DHCPv4, error,
	) {
		kind := dhcpv4.MessageTypeOffer
		if q.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
		}
		return dhcpv4.NewReplyFromRequest(q, dhcpv4.WithMessageType(kind),
			dhcpv4.WithYourIP(net.IPv4(10, 77, 0, 42)), dhcpv4.WithLeaseTime(600),
			dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 0, 1))))
	}}
	var conn *net.UDPConn
	var err error
	within(t, w.server, func() { conn, err = dhcp.Listen(t.Context(), "srv", dhcp.ServerPort) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, conn) }()
	out := testkit.Run(t, "ip", "netns", "exec", w.client, "busybox", "udhcpc", "-i", "cli", "-n", "-q",
		"-f", "-t", "5", "-T", "1", "-s", "/bin/true")
	if !strings.Contains(out, "10.77.0.42") {
		t.Errorf("udhcpc says %s", out)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestASocketThatDoesNotOpenSaysWhatToDo(t *testing.T) {
	w := newWire(t)
	within(t, w.server, func() {
		first, err := dhcp.Listen(t.Context(), "srv", dhcp.ServerPort)
		if err != nil {
			t.Error(err)
			return
		}
		defer first.Close()
		first6, err := dhcp.Listen6(t.Context(), "srv")
		if err != nil {
			t.Error(err)
			return
		}
		defer first6.Close()
		for _, c := range []struct{ iface, want string }{
			{"srv", "another DHCP server"},
			{"nosuch", "no such interface"},
		} {
			second, err := dhcp.Listen(t.Context(), c.iface, dhcp.ServerPort)
			if err == nil {
				second.Close()
			}
			second6, err6 := dhcp.Listen6(t.Context(), c.iface)
			if err6 == nil {
				second6.Close()
			}
			for _, err := range []error{err, err6} {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("listen on %s: %v, want %q", c.iface, err, c.want)
				}
			}
		}
	})
}

func TestSolicitationIsAnsweredByAnAdvertisement(t *testing.T) {
	w := newWire(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var a *dhcp.Advertiser
	var err error
	within(t, w.server, func() {
		a, err = dhcp.Advertise(ctx, "srv", dhcp.RA{Log: quiet()})
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- a.Run(ctx) }()
	var conn *ipv6.PacketConn
	var dev *net.Interface
	within(t, w.client, func() { conn, dev = solicitor(t) })
	defer conn.Close()
	buf := make([]byte, 1500)
	for range 2 { // the second solicitation is answered, not only the start
		solicit(t, conn, dev)
		n, control, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no advertisement: %v", err)
		}
		if control.HopLimit != 255 || n < 16 || buf[0] != 134 || buf[5]&0xc0 != 0 ||
			buf[6] != 0 || buf[7] != 0 {
			t.Fatalf("advertisement % x with hop limit %d", buf[:n], control.HopLimit)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Advertise: %v", err)
	}
}

// solicitor opens a socket that receives router advertisements on "cli".
func solicitor(t *testing.T) (*ipv6.PacketConn, *net.Interface) {
	dev, err := net.InterfaceByName("cli")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		t.Fatal(err)
	}
	conn := ipv6.NewPacketConn(raw)
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	for _, err := range []error{
		conn.SetICMPFilter(&filter), conn.SetMulticastInterface(dev),
		conn.SetMulticastHopLimit(255), conn.SetControlMessage(ipv6.FlagHopLimit, true),
		conn.SetReadDeadline(time.Now().Add(10 * time.Second)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return conn, dev
}

func solicit(t *testing.T, conn *ipv6.PacketConn, dev *net.Interface) {
	t.Helper()
	to := &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: dev.Name}
	if _, err := conn.WriteTo([]byte{133, 0, 0, 0, 0, 0, 0, 0}, nil, to); err != nil {
		t.Fatal(err)
	}
}
