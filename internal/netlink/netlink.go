// Package netlink makes the few requests of rtnetlink(7) that ingot has for the kernel: a library for it would
// be larger than the agent's own code. Those who call need CAP_NET_ADMIN.
package netlink

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// Up sets IFF_UP of the interface with an index.
func Up(index int) error {
	body := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(body[4:], uint32(index))
	native.PutUint32(body[8:], unix.IFF_UP)
	native.PutUint32(body[12:], unix.IFF_UP)
	return request(unix.RTM_NEWLINK, 0, body)
}

// AddAddress gives the interface an IPv4 address, or renews the same one. The kernel removes it when life is
// over, whatever becomes of this process; 0 is never. It counts whole seconds, and may be a second late.
func AddAddress(index int, p netip.Prefix, life time.Duration) error {
	if !p.Addr().Is4() {
		return unix.EAFNOSUPPORT
	}
	body := address(index, p)
	if life > 0 {
		// struct ifa_cacheinfo: preferred and valid lifetime in seconds, and two times that only the kernel tells.
		seconds := uint32(max(1, life/time.Second))
		info := native.AppendUint32(native.AppendUint32(nil, seconds), seconds)
		body = attribute(body, unix.IFA_CACHEINFO, append(info, make([]byte, 8)...))
	}
	return request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

// RemoveAddress takes an IPv4 address from the interface; unix.EADDRNOTAVAIL if it has none like it.
func RemoveAddress(index int, p netip.Prefix) error {
	if !p.Addr().Is4() {
		return unix.EAFNOSUPPORT
	}
	return request(unix.RTM_DELADDR, 0, address(index, p))
}

// address is struct ifaddrmsg with the attributes that say which address is meant.
func address(index int, p netip.Prefix) []byte {
	ip := p.Addr().As4()
	body := []byte{unix.AF_INET, byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE, 0, 0, 0, 0}
	native.PutUint32(body[4:], uint32(index))
	body = attribute(body, unix.IFA_LOCAL, ip[:])
	return attribute(body, unix.IFA_ADDRESS, ip[:])
}

// AddDefaultRoute sends everything by the gateway. Onlink: some clouds lease a /32 with a
// router outside it.
func AddDefaultRoute(index int, gateway netip.Addr) error {
	if !gateway.Is4() {
		return unix.EAFNOSUPPORT
	}
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = unix.AF_INET
	body[4] = unix.RT_TABLE_MAIN
	body[5] = unix.RTPROT_DHCP
	body[6] = unix.RT_SCOPE_UNIVERSE
	body[7] = unix.RTN_UNICAST
	native.PutUint32(body[8:], unix.RTNH_F_ONLINK)
	ip := gateway.As4()
	body = attribute(body, unix.RTA_GATEWAY, ip[:])
	body = attribute(body, unix.RTA_OIF, native.AppendUint32(nil, uint32(index)))
	return request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

// attribute appends a route attribute, padded to four bytes.
func attribute(body []byte, kind uint16, value []byte) []byte {
	body = native.AppendUint16(body, uint16(unix.SizeofRtAttr+len(value)))
	body = native.AppendUint16(body, kind)
	body = append(body, value...)
	return append(body, make([]byte, -len(value)&3)...)
}

// request sends one request and waits for its acknowledgement.
func request(kind, flags uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer unix.Close(fd)
	head := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	head = native.AppendUint16(head, kind)
	head = native.AppendUint16(head, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	head = append(head, 1, 0, 0, 0, 0, 0, 0, 0) // sequence, port
	if err := unix.Sendto(fd, append(head, body...), 0, &unix.SockaddrNetlink{
		Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send netlink: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("receive netlink: %w", err)
	}
	if n < unix.SizeofNlMsghdr+4 || native.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink answered %d bytes that are no acknowledgement", n)
	}
	if code := int32(native.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
