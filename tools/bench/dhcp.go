package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"ingot/internal/ingot"
)

const (
	dhcpClients = 1000
	dhcpWindow  = 100 // clients that are in an exchange at the same time
	dhcpRuns    = 3
	dhcpTime    = 4 * time.Second // of one run
)

// measureDHCP measures whole exchanges, DISCOVER to ACK, as firmware behind a relay makes them.
func measureDHCP(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: "DHCP: exchanges from DISCOVER to ACK",
		How: fmt.Sprintf(`Two network namespaces and a veth pair; the load is one process that is relay and %d PXE clients,
%d of them in an exchange at a time, each exchange DISCOVER, OFFER, REQUEST, ACK; what is lost
is sent again after a second. ingot: bin/ingot serve, a node and a port for each client, who is
told a boot file; the store is below %s, each ACK of a new lease is on that disk
before it is sent, and each packet has its line in the journal, of which none may be lost.
First: no client has a lease, one exchange each. Again: everybody starts over and over for %s; its
lease is young then and ingot writes none, which dnsmasq does. Median of %d runs, with a new store
each. Yardstick: dnsmasq with --no-ping and --quiet-dhcp, the same packets, its leases in a file
in memory (/dev/shm), any client, one boot file; it writes that file anew for each ACK.
`, dhcpClients, dhcpWindow, b.dir, dhcpTime, dhcpRuns),
	}
	wire, err := newDHCPWire(ctx)
	if err != nil {
		return s, err
	}
	defer wire.close()
	var ours, theirs [2][]rate
	for range dhcpRuns {
		for _, server := range []struct {
			name    string
			start   func(context.Context, *dhcpWire) (*exec.Cmd, error)
			results *[2][]rate
		}{{"ingot", b.dhcpIngot, &ours}, {"dnsmasq", b.dhcpDnsmasq, &theirs}} {
			cmd, err := server.start(ctx, wire)
			if err != nil {
				return s, err
			}
			rates, repeats, err := wire.load(ctx, cmd.Process.Pid)
			err = errors.Join(err, endProcess(cmd))
			text, readErr := os.ReadFile(filepath.Join(b.temp, dhcpLog))
			if bytes.Contains(text, []byte("journal entries lost")) {
				err = errors.Join(err, errors.New("journal entries were lost"))
			}
			if err := errors.Join(err, readErr); err != nil {
				return s, fmt.Errorf("%q: %w: %s", cmd.Args, err, text)
			}
			fmt.Fprintf(b.progress, "%s: %s first, %s again, %d packets repeated\n",
				server.name, rates[0], rates[1], repeats)
			for i := range rates {
				server.results[i] = append(server.results[i], rates[i])
			}
		}
	}
	for i, what := range []string{"first exchanges", "again"} {
		s.Figures = append(s.Figures,
			figure{What: what, Value: medianOf(ours[i], rate.perSecond), Unit: "/s",
				Yardstick: medianOf(theirs[i], rate.perSecond), Beside: "dnsmasq", N: dhcpRuns},
			figure{What: "  CPU of the server for each", Value: medianOf(ours[i], rate.cpuMicros),
				Unit: "µs", Yardstick: medianOf(theirs[i], rate.cpuMicros), Beside: "dnsmasq",
				N: dhcpRuns})
	}
	return s, nil
}

// The server's namespace has 10.77.0.1, the load's 10.77.0.2, of one network.
var (
	dhcpServer = net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.77.0.1:67"))
	dhcpRelay  = netip.MustParseAddrPort("10.77.0.2:67")
)

const dhcpFirst, dhcpLast = "10.77.1.0", "10.77.20.255"

// dhcpConfig is a server's configuration; three times the directory.
const dhcpConfig = `
[store]
path = "%s/ingot.db"
[conductor]
enabled_hardware_types = ["fake-hardware"]
sync_power_state_interval = "0s"
[image]
spool = "%s/spool"
[boot]
interface = "srv"
tftp_listen = ""
cache = "%s/boot"
[boot.dhcp]
mode = "server"
range = "` + dhcpFirst + "-" + dhcpLast + `"
`

// dhcpIngot starts ingot in the server's namespace.
func (b *bench) dhcpIngot(ctx context.Context, w *dhcpWire) (*exec.Cmd, error) {
	data, err := os.MkdirTemp(b.temp, "dhcp-")
	if err != nil {
		return nil, err
	}
	node := activeNode()
	node.BootIntent = ingot.BootDeploy
	if err := makeFleet(ctx, data, dhcpClients, node); err != nil {
		return nil, err
	}
	config := filepath.Join(data, "ingot.toml")
	err = os.WriteFile(config, fmt.Appendf(nil, dhcpConfig, data, data, data), 0o600)
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	cmd := w.command(b.binary, "serve", "--config", config)
	return cmd, b.startLogged(cmd)
}

// dhcpDnsmasq starts dnsmasq there.
func (b *bench) dhcpDnsmasq(_ context.Context, w *dhcpWire) (*exec.Cmd, error) {
	leases, err := os.CreateTemp("/dev/shm", "ingot-bench-leases-")
	if err != nil {
		return nil, err
	}
	leases.Close()
	w.cleanup = append(w.cleanup, func() { os.Remove(leases.Name()) })
	cmd := w.command("dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null",
		"--interface=srv", "--bind-interfaces", "--user=root", "--pid-file", "--log-facility=-",
		"--no-ping", "--quiet-dhcp", "--dhcp-authoritative", "--dhcp-lease-max=10000",
		"--dhcp-range="+dhcpFirst+","+dhcpLast+",255.255.0.0,1h", "--dhcp-boot=snponly.efi",
		"--dhcp-leasefile="+leases.Name())
	return cmd, b.startLogged(cmd)
}

// dhcpLog is what the server printed last.
const dhcpLog = "dhcp.log"

func (b *bench) startLogged(cmd *exec.Cmd) error {
	log, err := os.Create(filepath.Join(b.temp, dhcpLog))
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w; install it: scripts/packages.sh", err)
	}
	return nil
}

// endProcess ends a process and waits for it.
func endProcess(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("it ended by itself: %w", err)
	}
	_ = cmd.Wait() // the status says that it was told to end
	return nil
}

// dhcpWire is the two namespaces.
type dhcpWire struct {
	server, client string
	conn           *net.UDPConn // of the relay
	cleanup        []func()     // run in the opposite order
}

func newDHCPWire(ctx context.Context) (*dhcpWire, error) {
	w := &dhcpWire{server: fmt.Sprintf("ingot-bench-%d-s", os.Getpid()),
		client: fmt.Sprintf("ingot-bench-%d-c", os.Getpid())}
	for _, ns := range []string{w.server, w.client} {
		w.cleanup = append(w.cleanup, func() { exec.Command("ip", "netns", "del", ns).Run() })
	}
	for _, args := range [][]string{
		{"netns", "add", w.server}, {"netns", "add", w.client},
		{"-n", w.server, "link", "set", "lo", "up"},
		{"-n", w.server, "link", "add", "srv", "type", "veth", "peer", "name", "cli", "netns", w.client},
		{"-n", w.server, "addr", "add", "10.77.0.1/16", "dev", "srv"},
		{"-n", w.client, "addr", "add", "10.77.0.2/16", "dev", "cli"},
		{"-n", w.server, "link", "set", "srv", "up"}, {"-n", w.client, "link", "set", "cli", "up"},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			w.close()
			return nil, fmt.Errorf("ip %q: %w: %s", args, err, out)
		}
	}
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := enter("/run/netns/" + w.client)
		if err == nil {
			w.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(dhcpRelay))
		}
		opened <- err
	}()
	if err := <-opened; err != nil {
		w.close()
		return nil, fmt.Errorf("open the relay's socket: %w", err)
	}
	return w, nil
}

func (w *dhcpWire) close() {
	if w.conn != nil {
		w.conn.Close()
	}
	for i := range w.cleanup {
		w.cleanup[len(w.cleanup)-1-i]()
	}
}

func (w *dhcpWire) command(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", w.server}, args...)...)
}

// rate is what a server did in a while.
type rate struct {
	exchanges int
	wall, cpu time.Duration // cpu is of the server, user and system
}

func (r rate) perSecond() float64 { return float64(r.exchanges) / r.wall.Seconds() }

func (r rate) cpuMicros() float64 { return float64(r.cpu.Nanoseconds()) / 1e3 / float64(r.exchanges) }

func (r rate) String() string {
	return fmt.Sprintf("%.0f/s (%.0f µs CPU each)", r.perSecond(), r.cpuMicros())
}

func medianOf(rates []rate, value func(rate) float64) float64 {
	var values []float64
	for _, r := range rates {
		values = append(values, value(r))
	}
	return median(values)
}

// load returns what became of all clients' first exchanges, and of those after, and how many
// packets were not answered within a second. pid is the server.
func (w *dhcpWire) load(ctx context.Context, pid int) (rates [2]rate, repeats int, err error) {
	l := &dhcpLoad{conn: w.conn}
	for i := range l.clients {
		l.clients[i].mac, err = net.ParseMAC(mac(i + 1))
		if err != nil {
			return rates, l.repeats, err
		}
	}
	if err := l.awaitServer(ctx); err != nil {
		return rates, l.repeats, err
	}
	for i, most := range []struct {
		count int
		time  time.Duration
	}{{dhcpClients, time.Hour}, {1 << 30, dhcpTime}} {
		l.done = 0
		before, err := cpuClock(pid)
		if err != nil {
			return rates, l.repeats, err
		}
		start := time.Now()
		if err := l.run(ctx, most.count, most.time); err != nil {
			return rates, l.repeats, err
		}
		wall := time.Since(start)
		after, err := cpuClock(pid)
		if err != nil {
			return rates, l.repeats, err
		}
		rates[i] = rate{l.done, wall, after - before}
	}
	return rates, l.repeats, nil
}

// dhcpLoad is the clients.
type dhcpLoad struct {
	conn    *net.UDPConn
	clients [dhcpClients]dhcpClient
	next    int // client whose turn is next
	xid     uint16
	started int
	done    int // whole exchanges
	open    int
	repeats int
	out     []ipv4.Message // to be sent
}

// dhcpClient is one of them; packet is what it waits for an answer to, nil if for none.
type dhcpClient struct {
	mac    net.HardwareAddr
	xid    uint32
	packet []byte
	sent   time.Time
}

// awaitServer asks, as a machine that is none of the clients or the last one, until there is an
// answer or the server had enough time to start.
func (l *dhcpLoad) awaitServer(ctx context.Context) error {
	buf := make([]byte, 2048)
	c := &l.clients[dhcpClients-1]
	for range 200 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.send(c, dhcpClients-1, 8, nil) // INFORM takes no lease
		if err := l.flush(ipv4.NewPacketConn(l.conn)); err != nil {
			return err
		}
		l.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			n, err := l.conn.Read(buf)
			if err != nil {
				break
			}
			// Not an answer of the server before this one that was not read any more.
			if n > 8 && binary.BigEndian.Uint32(buf[4:]) == c.xid {
				c.packet = nil
				return nil
			}
		}
	}
	return errors.New("no answer from the server within 20 s")
}

// run makes exchanges until count of them were started and ended, or time is over.
func (l *dhcpLoad) run(ctx context.Context, count int, most time.Duration) error {
	l.started = 0
	end := time.Now().Add(most)
	in := make([]ipv4.Message, dhcpWindow)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	conn := ipv4.NewPacketConn(l.conn)
	swept := time.Now()
	for l.open > 0 || l.started < count {
		now := time.Now()
		if now.After(end) {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for l.open < dhcpWindow && l.started < count {
			l.discover()
		}
		if now.Sub(swept) > 100*time.Millisecond {
			swept = now
			l.repeat(now)
		}
		if err := l.flush(conn); err != nil {
			return err
		}
		l.conn.SetReadDeadline(now.Add(100 * time.Millisecond))
		n, err := conn.ReadBatch(in, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return err
		}
		for _, m := range in[:n] {
			if err := l.answer(m.Buffers[0][:m.N]); err != nil {
				return err
			}
		}
	}
	for i := range l.clients {
		l.clients[i].packet = nil
	}
	l.open = 0
	return nil
}

// discover starts the exchange of the next client.
func (l *dhcpLoad) discover() {
	for l.clients[l.next].packet != nil {
		l.next = (l.next + 1) % dhcpClients
	}
	l.send(&l.clients[l.next], l.next, 1, nil)
	l.next = (l.next + 1) % dhcpClients
	l.started++
	l.open++
}

// repeat sends again what was not answered for a second.
func (l *dhcpLoad) repeat(now time.Time) {
	for i := range l.clients {
		if c := &l.clients[i]; c.packet != nil && now.Sub(c.sent) > time.Second {
			c.sent = now
			l.repeats++
			l.out = append(l.out, ipv4.Message{Buffers: [][]byte{c.packet}, Addr: dhcpServer})
		}
	}
}

// answer goes on with the exchange that a packet belongs to.
func (l *dhcpLoad) answer(p []byte) error {
	if len(p) < 244 || p[0] != 2 {
		return nil
	}
	xid := binary.BigEndian.Uint32(p[4:])
	number := int(xid & 0xffff)
	if number >= dhcpClients {
		return nil
	}
	c := &l.clients[number]
	if c.packet == nil || c.xid != xid {
		return nil
	}
	switch kind := option(p, 53); {
	case len(kind) == 1 && kind[0] == 2 && c.packet[242] == 1:
		l.send(c, number, 3, p)
	case len(kind) == 1 && kind[0] == 5 && c.packet[242] == 3:
		if option(p, 67) == nil && p[108] == 0 {
			return fmt.Errorf("client %d was told no boot file", number)
		}
		c.packet = nil
		l.open--
		l.done++
	case len(kind) == 1 && kind[0] == 6:
		return fmt.Errorf("client %d was refused", number)
	}
	return nil
}

// option finds an option, RFC 2132 section 2.
func option(p []byte, code byte) []byte {
	for o := p[240:]; len(o) > 1 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		end := 2 + int(o[1])
		if end > len(o) {
			return nil
		}
		if o[0] == code {
			return o[2:end]
		}
		o = o[end:]
	}
	return nil
}

// send sends a message of a kind; a REQUEST answers an offer.
func (l *dhcpLoad) send(c *dhcpClient, number int, kind byte, offer []byte) {
	l.xid++
	c.xid = uint32(l.xid)<<16 | uint32(number)
	p := make([]byte, 240, 420)
	p[0], p[1], p[2], p[3] = 1, 1, 6, 1 // request, Ethernet, one hop
	binary.BigEndian.PutUint32(p[4:], c.xid)
	giaddr := dhcpRelay.Addr().As4()
	copy(p[24:], giaddr[:])
	copy(p[28:], c.mac)
	copy(p[236:], "\x63\x82\x53\x63")
	p = append(p, 53, 1, kind)
	if offer != nil {
		p = append(append(p, 50, 4), offer[16:20]...)
		p = append(append(p, 54, 4), option(offer, 54)...)
	}
	p = append(p, "\x3c\x20PXEClient:Arch:00007:UNDI:003000"...)
	p = append(p, 93, 2, 0, 7, 94, 3, 1, 3, 0, 57, 2, 5, 0xc0)
	p = append(p, 55, 8, 1, 3, 6, 43, 60, 66, 67, 97)
	p = append(append(append(p, 97, 17, 0), bytes.Repeat(c.mac, 3)[:16]...), 255)
	if kind == 8 { // INFORM
		copy(p[12:], giaddr[:])
	}
	c.packet, c.sent = p, time.Now()
	l.out = append(l.out, ipv4.Message{Buffers: [][]byte{p}, Addr: dhcpServer})
}

// flush sends what the clients have to say: the load takes as little as possible of the processors
// that it shares with the server. What is lost is repeated.
func (l *dhcpLoad) flush(conn *ipv4.PacketConn) error {
	for rest := l.out; len(rest) > 0; {
		n, err := conn.WriteBatch(rest, 0)
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		rest = rest[n:]
	}
	l.out = l.out[:0]
	return nil
}
