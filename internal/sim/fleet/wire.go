package fleet

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

const (
	clientPort = 68
	serverPort = 67
	headers    = 14 + 20 + 8 // Ethernet, IPv4, UDP
)

// wire is the interface that the machines share, below the addresses: each sends frames under its
// own MAC, and gets the DHCP answers that name it.
type wire struct {
	iface  *net.Interface
	socket *os.File
	done   chan struct{}

	mu    sync.Mutex
	cards map[string]*card // by MAC
}

// plug opens the interface.
func plug(name string) (*wire, error) {
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %q of the machines: %w", name, err)
	}
	const ip4 = unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, ip4)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w; run as root", err)
	}
	// Hundreds of machines may be answered at once.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip4, Ifindex: iface.Index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("packet socket on %s: %w", name, err)
	}
	w := &wire{iface: iface, socket: os.NewFile(uintptr(fd), "packet socket"), done: make(chan struct{}),
		cards: make(map[string]*card)}
	go w.listen()
	return w, nil
}

// listen hands DHCP answers to the machines they are for.
func (w *wire) listen() {
	defer close(w.done)
	frame := make([]byte, 64<<10)
	for {
		n, err := w.socket.Read(frame)
		if err != nil {
			return
		}
		p := frame[:n]
		if len(p) < headers || p[14]>>4 != 4 || p[23] != unix.IPPROTO_UDP {
			continue
		}
		udp := p[14+int(p[14]&15)*4:]
		if len(udp) < 8 || binary.BigEndian.Uint16(udp[2:]) != clientPort {
			continue
		}
		answer, err := dhcpv4.FromBytes(udp[8:])
		if err != nil || answer.OpCode != dhcpv4.OpcodeBootReply {
			continue
		}
		w.mu.Lock()
		c := w.cards[answer.ClientHWAddr.String()]
		w.mu.Unlock()
		if c != nil {
			select {
			case c.in <- append([]byte(nil), udp[8:]...):
			default: // its owner does not listen; a lost packet
			}
		}
	}
}

func (w *wire) close() error {
	err := w.socket.Close()
	<-w.done
	return err
}

// card is a machine's side of the wire: a connection that carries DHCP, as nclient4 wants it.
type card struct {
	wire *wire
	mac  net.HardwareAddr
	in   chan []byte
	ctx  context.Context
	end  context.CancelFunc
}

var _ net.PacketConn = (*card)(nil)

// attach makes the machine's answers arrive.
func (w *wire) attach(mac net.HardwareAddr) *card {
	ctx, cancel := context.WithCancel(context.Background())
	c := &card{wire: w, mac: mac, in: make(chan []byte, 16), ctx: ctx, end: cancel}
	w.mu.Lock()
	w.cards[mac.String()] = c
	w.mu.Unlock()
	return c
}

// ReadFrom returns the next DHCP answer for the machine.
func (c *card) ReadFrom(p []byte) (int, net.Addr, error) {
	select {
	case message := <-c.in:
		return copy(p, message), &net.UDPAddr{IP: net.IPv4zero, Port: serverPort}, nil
	case <-c.ctx.Done():
		return 0, nil, net.ErrClosed
	}
}

// WriteTo sends a DHCP message as a machine without an address does: from 0.0.0.0, to all.
func (c *card) WriteTo(p []byte, _ net.Addr) (int, error) {
	f := make([]byte, headers, headers+len(p))
	for i := range 6 {
		f[i] = 0xff
	}
	copy(f[6:], c.mac)
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := f[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(p)))
	copy(ip[16:], net.IPv4bcast.To4())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	udp := f[34:]
	binary.BigEndian.PutUint16(udp, clientPort)
	binary.BigEndian.PutUint16(udp[2:], serverPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(p))) // no checksum, as RFC 768 allows
	if _, err := c.wire.socket.Write(append(f, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// checksum is the Internet checksum of a header (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}

// Close ends the card; its machine hears nothing any more.
func (c *card) Close() error {
	c.end()
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	if c.wire.cards[c.mac.String()] == c {
		delete(c.wire.cards, c.mac.String())
	}
	return nil
}

// LocalAddr is nothing yet.
func (c *card) LocalAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4zero, Port: clientPort} }

// SetDeadline is not needed: the client counts time itself.
func (c *card) SetDeadline(time.Time) error { return nil }

// SetReadDeadline is not needed.
func (c *card) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is not needed.
func (c *card) SetWriteDeadline(time.Time) error { return nil }
