package dhcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"
)

// Ports of the protocol: RFC 2131 section 4.1, PXE specification 2.1 section 2.2.
const (
	ServerPort = 67
	ClientPort = 68
	ProxyPort  = 4011
)

// A Handler answers one request; nil is silence. It runs concurrently. Its error is logged and
// nothing is sent.
type Handler func(ctx context.Context, p *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error)

// A Server passes requests of one socket to a handler and sends the answers.
type Server struct {
	Handler Handler

	// Slow tells which requests may have to wait, for a disk or another host. Those are handled
	// beside; all others one after the other where they were read, for to hand a packet over costs
	// more than most answers. nil: all may.
	Slow func(p *dhcpv4.DHCPv4) bool

	// Log gets malformed packets at debug level, errors as errors. Required.
	Log *slog.Logger

	// Workers bounds the slow requests handled at once; further packets wait in the socket's
	// buffer, and clients repeat what is lost there. Default 128.
	Workers int

	limit limit[[6]byte] // by MAC
}

// Listen opens a DHCP socket on one interface, by name, for broadcasts too. It needs the
// rights of root (port below 1024, SO_BINDTODEVICE). It is an error if another DHCP server
// has the port.
func Listen(ctx context.Context, iface string, port int) (*net.UDPConn, error) {
	conn, err := listen(ctx, iface, "udp4", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		return nil, fmt.Errorf("listen for DHCP on port %d of %s: %w", port, iface, err)
	}
	return conn.(*net.UDPConn), nil
}

// Serve answers requests on conn until ctx ends, then waits for the handlers and returns nil;
// or it returns the error of the socket. It closes conn.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	l := loop{Server: s, out: answers{conn: ipv4.NewPacketConn(conn), log: s.Log},
		local: conn.LocalAddr().(*net.UDPAddr).Port, jobs: make(chan datagram),
		places: make(chan struct{}, cmp.Or(s.Workers, 128))}
	defer l.wait.Wait()
	defer cancel()

	in := make([]ipv4.Message, batchSize)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, 4096)} // longer packets are cut, and then do not parse
	}
	for {
		n, err := l.out.conn.ReadBatch(in, 0)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("receive DHCP request: %w", err)
		case err != nil:
			s.Log.Debug("dhcp receive", "error", err)
			continue
		}
		for _, m := range in[:n] {
			l.receive(ctx, m.Addr, m.Buffers[0][:m.N])
		}
		l.out.flush()
	}
}

// batchSize bounds the packets of one system call.
const batchSize = 64

// loop is the state of one Serve.
type loop struct {
	*Server
	out    answers // of who reads the socket
	local  int     // port
	turns  turns
	jobs   chan datagram // for workers
	places chan struct{} // one for each worker
	wait   sync.WaitGroup
}

// receive handles a packet or sees to it that somebody does.
func (l *loop) receive(ctx context.Context, from net.Addr, data []byte) {
	mac, ok := hardware(data)
	if !ok || !l.limit.pass(mac) {
		return
	}
	request, err := Parse(data)
	if err != nil {
		l.Log.Debug("dhcp packet ignored", "from", from, "error", err)
		return
	}
	p := datagram{from, mac, request}
	if !l.turns.begin(p) {
		return
	}
	for more := true; more; p, more = l.turns.next(mac) {
		if l.Slow == nil || l.Slow(p.request) {
			l.handOver(ctx, p)
			return
		}
		l.answer(ctx, p, &l.out)
	}
}

// handOver gives a packet to a worker, who ends its turn.
func (l *loop) handOver(ctx context.Context, p datagram) {
	select {
	case l.jobs <- p:
		return
	default:
	}
	l.out.flush() // nobody waits for the one below
	select {
	case l.jobs <- p:
	case l.places <- struct{}{}:
		l.wait.Go(func() { l.work(ctx, p) })
	case <-ctx.Done():
	}
}

// work handles a packet and then jobs until ctx ends. A goroutine for each packet would have its
// stack grown each time, a seventh of the processor.
func (l *loop) work(ctx context.Context, p datagram) {
	out := answers{conn: l.out.conn, log: l.Log}
	for {
		for more := true; more && ctx.Err() == nil; p, more = l.turns.next(p.mac) {
			l.answer(ctx, p, &out)
			out.flush()
		}
		select {
		case p = <-l.jobs:
		case <-ctx.Done():
			return
		}
	}
}

// hardware finds the client's MAC (RFC 2131 section 2) before anything is decoded.
func hardware(data []byte) (mac [6]byte, ok bool) {
	const chaddr = 28
	if len(data) < chaddr+len(mac) {
		return mac, false
	}
	return [6]byte(data[chaddr:]), true
}

// answer handles one packet.
func (l *loop) answer(ctx context.Context, p datagram, out *answers) {
	reply, err := l.Handler(ctx, p.request)
	if err != nil {
		if ctx.Err() == nil {
			l.Log.Error("dhcp request not answered", "mac", p.request.ClientHWAddr.String(), "error", err)
		}
		return
	}
	if reply == nil {
		return
	}
	var peer netip.AddrPort
	if udp, ok := p.from.(*net.UDPAddr); ok {
		peer = udp.AddrPort()
	}
	out.add(reply, destination(p.request, reply, peer, l.local))
}

// answers collects packets that are sent together. One goroutine uses it.
type answers struct {
	conn *ipv4.PacketConn
	log  *slog.Logger
	list []ipv4.Message
}

func (a *answers) add(reply *dhcpv4.DHCPv4, to netip.AddrPort) {
	a.list = append(a.list, ipv4.Message{Buffers: [][]byte{reply.ToBytes()},
		Addr: net.UDPAddrFromAddrPort(to)})
}

// flush sends what was collected. What cannot be sent does not keep the others back.
func (a *answers) flush() {
	for rest := a.list; len(rest) > 0; {
		n, err := a.conn.WriteBatch(rest, 0)
		if err != nil {
			n = 1
			a.log.Warn("dhcp answer not sent", "to", rest[0].Addr, "error", err)
		}
		rest = rest[n:]
	}
	clear(a.list)
	a.list = a.list[:0]
}

// Parse decodes a request of an Ethernet client and refuses what cannot be answered: replies,
// other hardware, a MAC that is a group or nothing.
func Parse(data []byte) (*dhcpv4.DHCPv4, error) {
	p, err := dhcpv4.FromBytes(data)
	if err == nil {
		err = overloaded(p, data)
	}
	if err != nil {
		return nil, fmt.Errorf("decode DHCP packet: %w", err)
	}
	switch mac := p.ClientHWAddr; {
	case p.OpCode != dhcpv4.OpcodeBootRequest:
		return nil, errors.New("DHCP packet is no request")
	case len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00":
		return nil, fmt.Errorf("DHCP client address %s is no Ethernet address", mac)
	}
	return p, nil
}

// overloaded reads the options that a client put into the fields file and sname of the header, in
// this order (option 52, RFC 2132 section 9.3 and RFC 3396 section 5).
func overloaded(p *dhcpv4.DHCPv4, data []byte) error {
	const sname, file, end = 44, 108, 236
	which := p.Options.Get(dhcpv4.OptionOptionOverload)
	if len(which) != 1 {
		return nil
	}
	p.Options.Del(dhcpv4.OptionOptionOverload)
	if which[0]&1 != 0 {
		p.BootFileName = ""
		if err := p.Options.FromBytes(data[file:end]); err != nil {
			return fmt.Errorf("options in field file: %w", err)
		}
	}
	if which[0]&2 != 0 {
		p.ServerHostName = ""
		if err := p.Options.FromBytes(data[sname:file]); err != nil {
			return fmt.Errorf("options in field sname: %w", err)
		}
	}
	p.Options.Del(dhcpv4.OptionOptionOverload)
	return nil
}

// destination tells where a reply goes. RFC 2131 section 4.1, with one simplification: a client
// without address that did not ask for broadcast gets a broadcast all the same, for a unicast
// to it would need ARP by hand; clients have to accept it.
func destination(request, reply *dhcpv4.DHCPv4, peer netip.AddrPort, local int) netip.AddrPort {
	everyone := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), ClientPort)
	relay, _ := netip.AddrFromSlice(request.GatewayIPAddr.To4())
	client, _ := netip.AddrFromSlice(request.ClientIPAddr.To4())
	switch {
	case isSet(relay):
		port := uint16(ServerPort)
		// RFC 8357: a relay on another port says so in option 82.19 and is answered there.
		if info := request.RelayAgentInfo(); info != nil && info.Has(relaySourcePort) {
			port = peer.Port()
		}
		return netip.AddrPortFrom(relay, port)
	case local == ProxyPort && peer.IsValid() && isSet(peer.Addr()):
		// PXE 2.1 section 2.2.5: the boot server answers the port the client asks from.
		return netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	case reply.MessageType() == dhcpv4.MessageTypeNak:
		return everyone
	case isSet(client):
		return netip.AddrPortFrom(client, ClientPort)
	default:
		return everyone
	}
}

// relaySourcePort is the sub-option of RFC 8357 section 5.1.
const relaySourcePort = dhcpv4.GenericOptionCode(19)

func isSet(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }
