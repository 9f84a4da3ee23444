package bootd_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"ingot/internal/bootd"
	"ingot/internal/dhcp"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

// host makes a namespace with one interface v1 on the bridge of the site, and returns its name.
func (s *site) host(t *testing.T, suffix, hardware string) string {
	t.Helper()
	ns, ip := s.Name()+"-"+suffix, hostIP(t)
	ip("netns", "add", ns)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	port := "p" + suffix
	ip("-n", s.Name(), "link", "add", port, "type", "veth", "peer", "name", "v1", "netns", ns)
	ip("-n", s.Name(), "link", "set", port, "master", s.Bridge(), "up")
	if hardware != "" {
		ip("-n", ns, "link", "set", "v1", "address", hardware)
	}
	// The address of the link is there at once, without a look whether others have it.
	ip("netns", "exec", ns, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/v1/accept_dad")
	ip("-n", ns, "link", "set", "v1", "up")
	return ns
}

// wireClient speaks DHCP on v1 of a namespace, byte by byte as a test wants.
type wireClient struct {
	t    *testing.T
	ns   string
	conn *net.UDPConn
}

// client makes the host of the enrolled machine.
func (s *site) client(t *testing.T, hardware string) *wireClient {
	t.Helper()
	c := &wireClient{t: t, ns: s.host(t, "c"+hardware[len(hardware)-2:], hardware)}
	c.listen("v1", dhcp.ClientPort)
	return c
}

func (c *wireClient) listen(dev string, port int) {
	c.t.Helper()
	err := testkit.Within(c.ns, func() (err error) {
		c.conn, err = dhcp.Listen(c.t.Context(), dev, port)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { c.conn.Close() })
}

var everyone = netip.MustParseAddr("255.255.255.255")

// send sends a message of a kind to an address.
func (c *wireClient) send(to netip.Addr, kind dhcpv4.MessageType, changes ...dhcpv4.Modifier,
) *dhcpv4.DHCPv4 {
	c.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		c.t.Fatal(err)
	}
	q, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw),
		dhcpv4.WithMessageType(kind)}, changes...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(to, q)
	return q
}

// ask sends and returns the answer to it. As clients do it repeats what may have been lost: a
// new port of a bridge takes a moment.
func (c *wireClient) ask(to netip.Addr, kind dhcpv4.MessageType, changes ...dhcpv4.Modifier,
) *dhcpv4.DHCPv4 {
	c.t.Helper()
	q := c.send(to, kind, changes...)
	buf := make([]byte, 1500)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		c.conn.SetReadDeadline(time.Now().Add(time.Second))
		n, _, err := c.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.write(to, q)
			continue
		}
		if err != nil {
			c.t.Fatal(err)
		}
		if a, err := dhcpv4.FromBytes(buf[:n]); err == nil && a.TransactionID == q.TransactionID &&
			a.OpCode == dhcpv4.OpcodeBootReply {
			return a
		}
	}
	c.t.Fatalf("no answer to %s", kind)
	return nil
}

func (c *wireClient) write(to netip.Addr, q *dhcpv4.DHCPv4) {
	c.t.Helper()
	_, err := c.conn.WriteToUDPAddrPort(q.ToBytes(), netip.AddrPortFrom(to, dhcp.ServerPort))
	if err != nil {
		c.t.Fatal(err)
	}
}

func wantKind(t *testing.T, a *dhcpv4.DHCPv4, kind dhcpv4.MessageType) {
	t.Helper()
	if a.MessageType() != kind || !a.ServerIdentifier().Equal(net.IPv4(10, 77, 0, 1)) {
		t.Fatalf("answer is not %s of 10.77.0.1: %s", kind, a.Summary())
	}
}

// Every message and state of RFC 2131 section 4.3 on a real wire.
func TestEveryMessageIsAnsweredOnTheWire(t *testing.T) {
	t.Parallel()
	s := newSite(t, bootd.ModeServer)
	c, us := s.client(t, mac), netip.MustParseAddr("10.77.0.1")
	offer := c.ask(everyone, dhcpv4.MessageTypeDiscover)
	wantKind(t, offer, dhcpv4.MessageTypeOffer)
	// No look whether somebody has the address, by ping or by ARP: either leaves an entry there.
	if got := s.run(t, "ip", "neigh", "show", offer.YourIPAddr.String()); got != "" {
		t.Errorf("the server looked for the address before it offered it: %s", got)
	}
	mine := dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
	other := dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 99, 0, 7)))
	ours := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(us.AsSlice()))

	wantKind(t, c.ask(everyone, dhcpv4.MessageTypeRequest, ours, other), dhcpv4.MessageTypeNak)
	ack := c.ask(everyone, dhcpv4.MessageTypeRequest, ours, mine)
	wantKind(t, ack, dhcpv4.MessageTypeAck)
	if !ack.YourIPAddr.Equal(offer.YourIPAddr) || ack.IPAddressLeaseTime(0) != time.Hour {
		t.Errorf("ACK gives %s for %s", ack.YourIPAddr, ack.IPAddressLeaseTime(0))
	}
	wantKind(t, c.ask(everyone, dhcpv4.MessageTypeRequest, mine), dhcpv4.MessageTypeAck)  // init-reboot
	wantKind(t, c.ask(everyone, dhcpv4.MessageTypeRequest, other), dhcpv4.MessageTypeNak) // moved

	hostIP(t)("-n", c.ns, "addr", "add", offer.YourIPAddr.String()+"/24", "dev", "v1")
	has := dhcpv4.WithClientIP(offer.YourIPAddr)
	wantKind(t, c.ask(us, dhcpv4.MessageTypeRequest, has), dhcpv4.MessageTypeAck)       // renewing
	wantKind(t, c.ask(everyone, dhcpv4.MessageTypeRequest, has), dhcpv4.MessageTypeAck) // rebinding
	inform := c.ask(us, dhcpv4.MessageTypeInform, has)
	wantKind(t, inform, dhcpv4.MessageTypeAck)
	if !inform.YourIPAddr.IsUnspecified() || inform.SubnetMask() == nil {
		t.Errorf("INFORM is answered by %s", inform.Summary())
	}
	c.send(us, dhcpv4.MessageTypeRelease, has, ours)
	s.journal.wait(t, "address released")
	if _, err := s.store.Lease(t.Context(), mac); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("lease after release: %v", err)
	}

	offer = c.ask(everyone, dhcpv4.MessageTypeDiscover)
	c.ask(everyone, dhcpv4.MessageTypeRequest, ours,
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)))
	c.send(everyone, dhcpv4.MessageTypeDecline, ours,
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)))
	s.journal.wait(t, "declined "+offer.YourIPAddr.String())
	if again := c.ask(everyone, dhcpv4.MessageTypeDiscover); again.YourIPAddr.Equal(offer.YourIPAddr) {
		t.Errorf("%s was declined and is offered again", offer.YourIPAddr)
	}
}

// behindRelay is a site with a second network, 10.1.0.0/24, behind a host of namespace relay with
// an interface in each network: v1 and r1.
func behindRelay(t *testing.T) (s *site, relay string) {
	s = newSite(t, bootd.ModeServer, func(c *bootd.Config) {
		c.Relayed = []bootd.Network{{Prefix: netip.MustParsePrefix("10.1.0.0/24"),
			Pool: dhcp.Pool{First: netip.MustParseAddr("10.1.0.100"),
				Last: netip.MustParseAddr("10.1.0.110")},
			Router: netip.MustParseAddr("10.1.0.1")}}
	})
	relay, ip := s.host(t, "r", ""), hostIP(t)
	ip("-n", relay, "addr", "add", "10.77.0.2/24", "dev", "v1")
	ip("-n", s.Name(), "route", "add", "10.1.0.0/24", "via", "10.77.0.2")
	ip("netns", "exec", relay, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	return s, relay
}

// A foreign relay (dnsmasq) and a foreign client (udhcpc), from the first message to the last;
// renewal and release are routed, not relayed.
func TestForeignClientBehindAForeignRelay(t *testing.T) {
	t.Parallel()
	s, relay := behindRelay(t)
	ns, ip := s.Name()+"-c", hostIP(t)
	ip("netns", "add", ns)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	ip("-n", relay, "link", "add", "r1", "type", "veth", "peer", "name", "v1", "netns", ns)
	ip("-n", relay, "addr", "add", "10.1.0.1/24", "dev", "r1")
	ip("-n", relay, "link", "set", "r1", "up")
	ip("-n", ns, "link", "set", "v1", "address", mac, "up")
	startRelay(t, relay)

	udhcpc := startUdhcpc(t, ns, "10.77.0.1")
	ack := s.journal.wait(t, "DHCP REQUEST answered with ACK: 10.1.0.1")
	if err := udhcpc.Signal(syscall.SIGUSR1); err != nil { // renew
		t.Fatal(err)
	}
	s.journal.waitAfter(t, ack.Time, "DHCP REQUEST answered with ACK: 10.1.0.1")
	if err := udhcpc.Signal(syscall.SIGUSR2); err != nil { // release
		t.Fatal(err)
	}
	s.journal.wait(t, "address released")
}

// startRelay starts dnsmasq as a relay between the networks.
func startRelay(t *testing.T, ns string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", ns, "dnsmasq", "--keep-in-foreground", "--port=0",
		"--conf-file=/dev/null", "--user=root", "--pid-file", "--log-facility=-", "--leasefile-ro",
		"--dhcp-relay=10.1.0.1,10.77.0.1")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (tools: scripts/packages.sh)", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "DHCP relay from 10.1.0.1 to 10.77.0.1") {
			go io.Copy(io.Discard, out) // ends with the process
			return
		}
	}
	t.Fatal("dnsmasq ended (tools: scripts/packages.sh)")
}

// startUdhcpc starts a client on v1 of a namespace and returns when a server gave it an address,
// which it then has, with the route it was told.
func startUdhcpc(t *testing.T, ns, server string) *os.Process {
	t.Helper()
	script := filepath.Join(t.TempDir(), "lease")
	err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n"+
		"ip addr add \"$ip/$mask\" dev \"$interface\"\n"+
		"[ -z \"$router\" ] || ip route add default via \"$router\"\n"), 0o700)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	udhcpc := exec.CommandContext(ctx, "ip", "netns", "exec", ns, "busybox", "udhcpc", "-i",
		"v1", "-n", "-f", "-t", "10", "-T", "1", "-s", script)
	out, err := udhcpc.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := udhcpc.Start(); err != nil {
		t.Fatalf("%v (tools: scripts/packages.sh)", err)
	}
	t.Cleanup(func() {
		udhcpc.Process.Kill()
		udhcpc.Wait()
	})
	for lines := bufio.NewScanner(out); ; {
		if !lines.Scan() {
			t.Fatal("udhcpc ended without a lease")
		}
		if strings.Contains(lines.Text(), "obtained from "+server) {
			return udhcpc.Process
		}
	}
}

// The relay is the test: option 82 comes back byte by byte, and to port 67 of the relay.
func TestRelayOptionsAreHonouredAndEchoed(t *testing.T) {
	t.Parallel()
	s, relay := behindRelay(t)
	hostIP(t)("-n", relay, "addr", "add", "10.1.0.1/32", "dev", "lo")
	hostIP(t)("-n", relay, "addr", "add", "10.99.0.1/32", "dev", "lo")
	c := &wireClient{t: t, ns: relay}
	c.listen("v1", dhcp.ServerPort)
	us := netip.MustParseAddr("10.77.0.1")
	type modifiers = []dhcpv4.Modifier
	circuit := []byte{1, 3, 'e', 't', 'h', 2, 2, 0xff, 0}
	relayed := func(giaddr string, info []byte) modifiers {
		return modifiers{dhcpv4.WithGatewayIP(net.ParseIP(giaddr)),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, info))}
	}
	link := append([]byte{5, 4, 10, 1, 0, 0}, circuit...)
	for name, d := range map[string]struct {
		changes modifiers
		info    []byte
		network string
	}{
		"by giaddr":           {relayed("10.1.0.1", circuit), circuit, "10.1.0.0/24"},
		"local network":       {relayed("10.77.0.2", circuit), circuit, "10.77.0.0/24"},
		"by link selection":   {relayed("10.77.0.2", link), link, "10.1.0.0/24"},
		"by subnet selection": {append(relayed("10.77.0.2", circuit), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionSubnetSelection, []byte{10, 1, 0, 0}))), circuit, "10.1.0.0/24"},
		"empty option 82":     {relayed("10.1.0.1", []byte{}), []byte{}, "10.1.0.0/24"},
	} {
		offer := c.ask(us, dhcpv4.MessageTypeDiscover, d.changes...)
		wantKind(t, offer, dhcpv4.MessageTypeOffer)
		address, _ := netip.AddrFromSlice(offer.YourIPAddr.To4())
		if !netip.MustParsePrefix(d.network).Contains(address) {
			t.Errorf("%s: offer of %s", name, address)
		}
		got := offer.Options.Get(dhcpv4.OptionRelayAgentInformation)
		if !offer.Options.Has(dhcpv4.OptionRelayAgentInformation) || string(got) != string(d.info) {
			t.Errorf("%s: option 82 came back as % x, want % x", name, got, d.info)
		}
		nak := c.ask(us, dhcpv4.MessageTypeRequest, append(d.changes,
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 99, 0, 7))))...)
		wantKind(t, nak, dhcpv4.MessageTypeNak)
		if !nak.IsBroadcast() {
			t.Errorf("%s: NAK without the broadcast bit", name)
		}
	}

	// A relay nobody configured: one warning, and silence. The answer to the next request of a
	// known relay is the first one there is.
	for range 3 {
		c.send(us, dhcpv4.MessageTypeDiscover, relayed("10.99.0.1", circuit)...)
	}
	next := c.ask(us, dhcpv4.MessageTypeDiscover, relayed("10.1.0.1", circuit)...)
	wantKind(t, next, dhcpv4.MessageTypeOffer)
	s.journal.wait(t, "10.99.0.1")
	var warned []string
	for _, e := range s.journal.all() {
		if e.Level == ingot.LevelWarning {
			warned = append(warned, e.Text)
		}
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "10.99.0.1") {
		t.Errorf("journal warns %q", warned)
	}
}

// A flood of one MAC, a flood of unknown ones and garbage do not keep a known machine from its
// address.
func TestFloodsDoNotStarveAKnownMachine(t *testing.T) {
	t.Parallel()
	s := newSite(t, bootd.ModeServer)
	c := s.client(t, mac)
	server := netip.AddrPortFrom(everyone, dhcp.ServerPort)
	flood := func(hw net.HardwareAddr) {
		q, err := dhcpv4.NewDiscovery(hw)
		if err != nil {
			t.Fatal(err)
		}
		// A full socket buffer is what a flood makes.
		if _, err := c.conn.WriteToUDPAddrPort(q.ToBytes(), server); err != nil && !isFull(err) {
			t.Fatal(err)
		}
	}
	for i := range 5000 {
		flood(net.HardwareAddr{2, 0, 0, 0, 0, 1})
		flood(net.HardwareAddr{2, 0, 1, 0, byte(i >> 8), byte(i)})
		if _, err := c.conn.WriteToUDPAddrPort(make([]byte, i%600), server); err != nil && !isFull(err) {
			t.Fatal(err)
		}
	}
	wantKind(t, c.ask(everyone, dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer)
	s.journal.wait(t, "unknown machine")
	warned := 0
	for _, e := range s.journal.all() {
		if e.Level == ingot.LevelWarning {
			warned++
		}
	}
	if warned == 0 || warned > 200 {
		t.Errorf("%d warnings about unknown machines", warned)
	}
}

func isFull(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN)
}
