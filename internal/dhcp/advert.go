package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv6"
)

// RA is what [Advertise] sends. The zero value says: here is nobody you could route through,
// and nothing to configure. That is all iPXE wants to hear. Builds before 2020 (Debian's
// among them) start IPv6 autoconfiguration together with DHCPv4 and boot only when both have
// ended; without any advertisement the solicitations take 13 to 16 s to time out, at every
// start. An advertisement without the M and O flags (RFC 4861 section 4.2) ends it at once,
// whatever else it has. Lifetime 0 keeps all other hosts from taking us for a router.
type RA struct {
	// Prefix is advertised as on-link and for autonomous addresses, if valid. Leave it out unless
	// machines shall have IPv6 addresses of it.
	Prefix netip.Prefix

	// Managed tells hosts to ask DHCPv6 for address and options (flags M and O); Prefix is then
	// on-link only, so that a host has the one address it was given.
	Managed bool

	// Interval between unsolicited advertisements. Default 200 s (RFC 4861 allows 1800).
	Interval time.Duration

	// Log gets sent advertisements at debug level. Required.
	Log *slog.Logger
}

// spacing is the shortest time between two advertisements. RFC 4861 section 6.2.6 has 3 s; but
// then the second of two machines that start together waits, which is what we are here to end.
const spacing = 100 * time.Millisecond

// Packet returns the ICMPv6 message, without checksum. mac is the sender's and may be nil.
func (ra RA) Packet(mac net.HardwareAddr) []byte {
	b := make([]byte, 16) // RFC 4861 section 4.2: hop limit, flags, lifetime, timers all 0
	b[0] = byte(ipv6.ICMPTypeRouterAdvertisement)
	if ra.Managed {
		b[5] = 0x80 | 0x40
	}
	if len(mac) == 6 {
		b = append(append(b, 1, 1), mac...) // section 4.6.1, source link-layer address
	}
	if ra.Prefix.IsValid() && ra.Prefix.Addr().Is6() {
		const onLink, autonomous, day = 0x80, 0x40, 24 * 60 * 60
		flags := byte(onLink)
		if !ra.Managed {
			flags |= autonomous
		}
		b = append(b, 3, 4, byte(ra.Prefix.Bits()), flags) // section 4.6.2
		b = binary.BigEndian.AppendUint32(b, 2*day)
		b = binary.BigEndian.AppendUint32(b, day)
		b = append(b, 0, 0, 0, 0)
		prefix := ra.Prefix.Masked().Addr().As16()
		b = append(b, prefix[:]...)
	}
	return b
}

// An Advertiser sends advertisements on one interface: at once, every Interval, and in answer
// to solicitations, always to all nodes.
type Advertiser struct {
	conn     *ipv6.PacketConn
	dev      *net.Interface
	packet   []byte
	interval time.Duration
	sent     time.Time
	log      *slog.Logger
}

// Advertise opens the socket of an [Advertiser]. It needs the rights of root (raw socket) and
// an interface that has IPv6; without, there is an error.
func Advertise(ctx context.Context, iface string, ra RA) (*Advertiser, error) {
	conn, dev, err := listenRA(ctx, iface)
	if err != nil {
		return nil, fmt.Errorf("open socket for router advertisements on %s: %w", iface, err)
	}
	a := &Advertiser{conn: conn, dev: dev, packet: ra.Packet(dev.HardwareAddr),
		interval: ra.Interval, log: ra.Log}
	if a.interval == 0 {
		a.interval = 200 * time.Second
	}
	return a, nil
}

// Close closes the socket of an Advertiser that does not Run.
func (a *Advertiser) Close() error { return a.conn.Close() }

// Run sends until ctx ends, and returns nil then. It closes the socket.
func (a *Advertiser) Run(ctx context.Context) error {
	defer a.conn.Close()
	defer context.AfterFunc(ctx, func() { a.conn.SetReadDeadline(time.Unix(1, 0)) })()
	a.send()
	next := time.Now().Add(a.interval)
	for {
		switch err := a.solicited(ctx, next); {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			next = time.Now().Add(a.interval)
		case err != nil:
			return fmt.Errorf("receive router solicitation on %s: %w", a.dev.Name, err)
		}
		if wait := time.Until(a.sent.Add(spacing)); wait > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
		a.send()
	}
}

// listenRA opens a raw ICMPv6 socket that gets router solicitations of one interface.
func listenRA(ctx context.Context, iface string) (*ipv6.PacketConn, *net.Interface, error) {
	raw, err := listen(ctx, iface, "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, nil, err
	}
	dev, err := net.InterfaceByName(iface)
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	conn := ipv6.NewPacketConn(raw)
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	for _, err := range []error{
		conn.SetICMPFilter(&filter),
		conn.JoinGroup(dev, &net.IPAddr{IP: net.IPv6linklocalallrouters}),
		conn.SetMulticastInterface(dev),
		// Receivers drop anything that could have come through a router, section 6.1.2.
		conn.SetMulticastHopLimit(255),
		conn.SetMulticastLoopback(false),
		conn.SetControlMessage(ipv6.FlagHopLimit, true),
	} {
		if err != nil {
			conn.Close()
			return nil, nil, err
		}
	}
	return conn, dev, nil
}

// send sends to all nodes. It may fail for a while after an interface came up, until its
// link-local address is known to be unique; the next solicitation finds it working.
func (a *Advertiser) send() {
	to := &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: a.dev.Name}
	if _, err := a.conn.WriteTo(a.packet, nil, to); err != nil {
		a.log.Debug("router advertisement not sent", "interface", a.dev.Name, "error", err)
	}
	a.sent = time.Now()
}

// solicited waits for a valid solicitation (section 6.1.1) until the deadline.
func (a *Advertiser) solicited(ctx context.Context, deadline time.Time) error {
	if err := a.conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // ctx ended before the deadline was set
	}
	buf := make([]byte, 1500)
	for {
		n, control, from, err := a.conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if n >= 8 && buf[1] == 0 && control != nil && control.HopLimit == 255 {
			a.log.Debug("router solicitation", "interface", a.dev.Name, "from", from)
			return nil
		}
	}
}
