package agent

import (
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Three requests of rtnetlink(7); a library for it would be larger than the agent's own code.

var native = binary.NativeEndian

// linkUp sets IFF_UP.
func linkUp(index int) error {
	body := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(body[4:], uint32(index))
	native.PutUint32(body[8:], unix.IFF_UP)
	native.PutUint32(body[12:], unix.IFF_UP)
	return netlink(unix.RTM_NEWLINK, 0, body)
}

// addAddress gives the interface an IPv4 address, or replaces the same one.
func addAddress(index int, ip net.IP, ones int) error {
	body := []byte{unix.AF_INET, byte(ones), 0, unix.RT_SCOPE_UNIVERSE, 0, 0, 0, 0}
	native.PutUint32(body[4:], uint32(index))
	body = attribute(body, unix.IFA_LOCAL, ip.To4())
	body = attribute(body, unix.IFA_ADDRESS, ip.To4())
	return netlink(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

// addDefaultRoute sends everything by the gateway. Onlink: some clouds lease a /32 with a
// router outside it.
func addDefaultRoute(index int, gateway net.IP) error {
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = unix.AF_INET
	body[4] = unix.RT_TABLE_MAIN
	body[5] = unix.RTPROT_DHCP
	body[6] = unix.RT_SCOPE_UNIVERSE
	body[7] = unix.RTN_UNICAST
	native.PutUint32(body[8:], unix.RTNH_F_ONLINK)
	out := native.AppendUint32(nil, uint32(index))
	body = attribute(body, unix.RTA_GATEWAY, gateway.To4())
	body = attribute(body, unix.RTA_OIF, out)
	return netlink(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body)
}

// attribute appends a route attribute, padded to four bytes.
func attribute(body []byte, kind uint16, value []byte) []byte {
	body = native.AppendUint16(body, uint16(unix.SizeofRtAttr+len(value)))
	body = native.AppendUint16(body, kind)
	body = append(body, value...)
	return append(body, make([]byte, -len(value)&3)...)
}

// netlink sends one request and waits for its acknowledgement.
func netlink(kind, flags uint16, body []byte) error {
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
