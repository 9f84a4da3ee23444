package tftp

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// receiver reads packets together with the local address they were sent to, so that the
// transfer answers from that address: firmware drops answers from another one, and a
// conductor often has several.
type receiver struct {
	conn net.PacketConn
	udp  *net.UDPConn // nil if conn is none
	four bool         // an AF_INET socket
	oob  []byte
}

func newReceiver(conn net.PacketConn) *receiver {
	r := &receiver{conn: conn}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return r
	}
	local, _ := udp.LocalAddr().(*net.UDPAddr)
	if local != nil && local.IP.To4() != nil {
		r.four = true
		if ipv4.NewPacketConn(udp).SetControlMessage(ipv4.FlagDst, true) != nil {
			return r
		}
	} else if ipv6.NewPacketConn(udp).SetControlMessage(ipv6.FlagDst, true) != nil {
		return r
	}
	r.udp, r.oob = udp, make([]byte, 128)
	return r
}

// receive reads one packet. The local address is invalid if it cannot be known or cannot be
// a source address (broadcast, multicast).
func (r *receiver) receive(buf []byte) (int, netip.AddrPort, netip.Addr, error) {
	if r.udp == nil {
		n, from, err := r.conn.ReadFrom(buf)
		if err != nil {
			return 0, netip.AddrPort{}, netip.Addr{}, err
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok {
			return 0, netip.AddrPort{}, netip.Addr{}, net.UnknownNetworkError(from.Network())
		}
		return n, unmap(udp.AddrPort()), netip.Addr{}, nil
	}
	n, nOOB, _, from, err := r.udp.ReadMsgUDPAddrPort(buf, r.oob)
	if err != nil {
		return 0, netip.AddrPort{}, netip.Addr{}, err
	}
	from = unmap(from)
	return n, from, r.local(r.oob[:nOOB], from.Addr().Zone()), nil
}

func (r *receiver) local(oob []byte, zone string) netip.Addr {
	var dst net.IP
	if r.four {
		var m ipv4.ControlMessage
		if m.Parse(oob) == nil {
			dst = m.Dst
		}
	} else {
		var m ipv6.ControlMessage
		if m.Parse(oob) == nil {
			dst = m.Dst
		}
	}
	a, ok := netip.AddrFromSlice(dst)
	if a = a.Unmap(); !ok || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}
	}
	if a.IsLinkLocalUnicast() && a.Is6() {
		a = a.WithZone(zone)
	}
	return a
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
