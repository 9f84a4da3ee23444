package dhcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/net/ipv6"
)

// ServerPort6 is the port of servers and relays, RFC 8415 section 7.2.
const ServerPort6 = 547

// allServers is the group of servers and relays, RFC 8415 section 7.1.
var allServers = net.ParseIP("ff02::1:2")

// A Request6 is a message of a client, out of what relays put around it.
type Request6 struct {
	*dhcpv6.Message
	// MACs are the addresses the client may have, the surest first: what the relay saw (RFC
	// 6939), what its link-local address is made of (RFC 4291 appendix A), what it says itself
	// (DUID-LLT, DUID-LL). EDK2 says nothing itself: its DUID is the machine's UUID.
	MACs []net.HardwareAddr
	// Link is of the client's network, as the relay next to it says; invalid: our own network.
	Link netip.Addr

	client netip.Addr // as we or the relay next to it saw it
}

// A Handler6 answers one message; nil is silence. It runs concurrently with nothing.
type Handler6 func(ctx context.Context, q *Request6) (*dhcpv6.Message, error)

// A Server6 passes messages of one socket to a handler and sends the answers, one after the
// other: IPv6 machines need no leases, so nothing takes time.
type Server6 struct {
	Handler Handler6

	// Log gets malformed packets at debug level, errors as errors. Required.
	Log *slog.Logger

	limit limit[netip.Addr] // by client
}

// Listen6 opens the socket of a DHCPv6 server on one interface, by name. It needs the rights of
// root, and an interface that has IPv6. It is an error if another DHCP server has the port.
func Listen6(ctx context.Context, iface string) (*ipv6.PacketConn, error) {
	raw, err := listen(ctx, iface, "udp6", fmt.Sprintf("[::]:%d", ServerPort6))
	if err != nil {
		return nil, fmt.Errorf("listen for DHCPv6 on %s: %w", iface, err)
	}
	dev, err := net.InterfaceByName(iface)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("listen for DHCPv6 on %s: %w", iface, err)
	}
	conn := ipv6.NewPacketConn(raw)
	err = errors.Join(conn.JoinGroup(dev, &net.UDPAddr{IP: allServers}),
		conn.SetControlMessage(ipv6.FlagDst, true))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen for DHCPv6 on %s: %w", iface, err)
	}
	return conn, nil
}

// Serve answers until ctx ends and returns nil then, or the error of the socket. It closes conn.
func (s *Server6) Serve(ctx context.Context, conn *ipv6.PacketConn) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	buf := make([]byte, 4096) // longer packets are cut, and then do not parse
	for {
		n, control, from, err := conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("receive DHCPv6 message: %w", err)
		case err != nil:
			s.Log.Debug("dhcpv6 receive", "error", err)
			continue
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		multicast := control != nil && control.Dst.IsMulticast()
		if answer := s.answer(ctx, buf[:n], udp.AddrPort().Addr(), multicast); answer != nil {
			if _, err := conn.WriteTo(answer, nil, from); err != nil {
				s.Log.Warn("dhcpv6 answer not sent", "to", from, "error", err)
			}
		}
	}
}

// answer handles one datagram. The answer goes to where it came from: clients and relays ask
// from the port they listen on.
func (s *Server6) answer(ctx context.Context, data []byte, from netip.Addr, multicast bool) []byte {
	// A relay speaks for many clients: those are counted, and known only when decoded.
	relayed := len(data) > 0 && data[0] == byte(dhcpv6.MessageTypeRelayForward)
	if !relayed && !s.limit.pass(from) {
		return nil
	}
	q, relay, err := Parse6(data, from)
	if err == nil && relay == nil && !multicast {
		err = errors.New("client sent to our own address, which nobody told it to") // section 16
	}
	if err != nil {
		s.Log.Debug("dhcpv6 packet ignored", "from", from, "error", err)
		return nil
	}
	if relayed && !s.limit.pass(q.client) {
		return nil
	}
	reply, err := s.Handler(ctx, q)
	if err != nil {
		if ctx.Err() == nil {
			s.Log.Error("dhcpv6 message not answered", "from", from, "error", err)
		}
		return nil
	}
	if reply == nil {
		return nil
	}
	if relay == nil {
		return reply.ToBytes()
	}
	wrapped, err := dhcpv6.NewRelayReplFromRelayForw(relay, reply)
	if err != nil {
		s.Log.Error("dhcpv6 answer not wrapped for its relay", "from", from, "error", err)
		return nil
	}
	return wrapped.ToBytes()
}

// Parse6 decodes a message of a client; relay is what relays put around it, nil without any.
func Parse6(data []byte, from netip.Addr) (q *Request6, relay *dhcpv6.RelayMessage, err error) {
	outer, err := dhcpv6.FromBytes(data)
	if err != nil {
		return nil, nil, fmt.Errorf("decode DHCPv6 message: %w", err)
	}
	q = &Request6{}
	peer := from
	if outer.IsRelay() {
		relay = outer.(*dhcpv6.RelayMessage)
		if relay.Type() != dhcpv6.MessageTypeRelayForward {
			return nil, nil, errors.New("DHCPv6 message is no request")
		}
		nearest, err := dhcpv6.DecapsulateRelayIndex(relay, -1)
		if err != nil {
			return nil, nil, fmt.Errorf("decode relayed DHCPv6 message: %w", err)
		}
		inner := nearest.(*dhcpv6.RelayMessage)
		if peer, err = fromIP(inner.PeerAddr); err != nil {
			return nil, nil, err
		}
		if q.Link, err = fromIP(inner.LinkAddr); err != nil {
			return nil, nil, err
		}
		if kind, mac := inner.Options.ClientLinkLayerAddress(); kind == iana.HWTypeEthernet {
			q.add(mac)
		}
	}
	if q.Message, err = outer.GetInnerMessage(); err != nil {
		return nil, nil, fmt.Errorf("decode relayed DHCPv6 message: %w", err)
	}
	q.client = peer
	q.add(fromEUI64(peer))
	switch id := q.Options.ClientID().(type) {
	case *dhcpv6.DUIDLLT:
		q.add(id.LinkLayerAddr)
	case *dhcpv6.DUIDLL:
		q.add(id.LinkLayerAddr)
	}
	return q, relay, nil
}

// add adds a MAC that is one and is new.
func (q *Request6) add(mac net.HardwareAddr) {
	if len(mac) != 6 || mac[0]&1 != 0 {
		return
	}
	for _, known := range q.MACs {
		if bytes.Equal(known, mac) {
			return
		}
	}
	q.MACs = append(q.MACs, mac)
}

func fromIP(ip net.IP) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return a, errors.New("relay without address")
	}
	return a, nil
}

// EUI64 is the address that a MAC makes in a network of 64 bits, RFC 4291 appendix A. It is the
// MAC's alone: two machines never share it, and every server computes the same.
func EUI64(network netip.Prefix, mac net.HardwareAddr) netip.Addr {
	b := network.Addr().As16()
	copy(b[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(b)
}

// fromEUI64 is the MAC in a link-local address; nil if it is made of none.
func fromEUI64(a netip.Addr) net.HardwareAddr {
	b := a.As16()
	if !a.IsLinkLocalUnicast() || b[11] != 0xff || b[12] != 0xfe {
		return nil
	}
	return net.HardwareAddr{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}
}

// Identify6 tells who sent a message, as Identify does. EDK2 and iPXE send their class in option
// 16 (RFC 3315 section 22.16), their architecture in option 61 (RFC 5970 section 3.3).
func Identify6(q *dhcpv6.Message) Client {
	c := Client{Arch: iana.INTEL_X86PC}
	for _, vendor := range q.Options.VendorClasses() {
		for _, text := range vendor.Data {
			switch {
			case strings.HasPrefix(string(text), string(ClassPXE)):
				c.Class = ClassPXE
			case strings.HasPrefix(string(text), string(ClassHTTP)):
				c.Class = ClassHTTP
			}
		}
	}
	if arch := q.Options.ArchTypes(); len(arch) > 0 {
		c.Arch = arch[0]
	}
	for _, class := range q.Options.UserClasses() {
		c.IPXE = c.IPXE || string(class) == "iPXE"
	}
	return c
}
