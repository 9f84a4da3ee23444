package vip

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The operations of ARP (RFC 826).
const (
	arpRequest = 1
	arpReply   = 2
)

// announce tells everybody on the network of a card that it has an address now, so that nobody goes on to send
// to the one before: as a request that asks for itself (RFC 5227, section 2.3), and as an answer, since some
// hosts heed only one of them.
func announce(link *net.Interface, a netip.Addr) error {
	if len(link.HardwareAddr) != 6 {
		return nil // loopback has nobody to tell
	}
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
	fd, err := packetSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	all := unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Index, Halen: 6,
		Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	for _, operation := range []uint16{arpRequest, arpReply} {
		if err := unix.Sendto(fd, arp(operation, link.HardwareAddr, a), 0, &all); err != nil {
			return fmt.Errorf("send ARP: %w", err)
		}
	}
	return nil
}

// announcing tells why announce cannot, as far as can be told beforehand.
func announcing(link *net.Interface) error {
	if len(link.HardwareAddr) != 6 {
		return nil
	}
	fd, err := packetSocket()
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// packetSocket sends and receives nothing by itself. It takes CAP_NET_RAW.
func packetSocket() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fd, fmt.Errorf("open a packet socket: %w", err)
	}
	return fd, nil
}

// arp is a packet that says where an address is.
func arp(operation uint16, mac net.HardwareAddr, a netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4} // Ethernet and IPv4, with the lengths of their addresses
	p = binary.BigEndian.AppendUint16(p, operation)
	p = append(append(p, mac...), a.AsSlice()...)
	if operation == arpRequest {
		p = append(p, make([]byte, 6)...)
	} else {
		p = append(p, mac...)
	}
	return append(p, a.AsSlice()...)
}
