package tftp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchSize bounds the datagrams of one system call.
	batchSize = 64
	// bufferSize is what sockets are asked to hold in each direction, bytes: all transfers
	// share them. The kernel may give less.
	bufferSize = 4 << 20
	// controlSize holds the packet information of either family, twice: a socket of IPv6 gives
	// both for IPv4.
	controlSize = 128
	// patience is how long a full send buffer is waited for, milliseconds, before packets count as lost.
	patience = 100
)

// mmsghdr is struct mmsghdr, recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	length uint32
}

// peer identifies a client: RFC 1350 calls its port the transfer identifier. IPv4 is mapped.
type peer struct {
	addr  [16]byte
	scope uint32 // of link-local IPv6, an interface index
	port  uint16
}

// peerOf decodes a socket address that the kernel wrote.
func peerOf(name *unix.RawSockaddrInet6) peer {
	if name.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		p := peer{port: swap(four.Port)}
		p.addr[10], p.addr[11] = 0xff, 0xff
		copy(p.addr[12:], four.Addr[:])
		return p
	}
	return peer{addr: name.Addr, scope: name.Scope_id, port: swap(name.Port)}
}

// swap reads the bytes of a port in memory as network order.
func swap(port uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, port))
}

// address is the peer for people and handlers.
func (p peer) address() netip.AddrPort {
	a := netip.AddrFrom16(p.addr).Unmap()
	if p.scope != 0 {
		zone := strconv.Itoa(int(p.scope))
		if i, err := net.InterfaceByIndex(int(p.scope)); err == nil {
			zone = i.Name
		}
		a = a.WithZone(zone)
	}
	return netip.AddrPortFrom(a, p.port)
}

// route is how packets get to one client: to its port, from the address that it asked, because
// firmware drops answers from another one and a conductor often has several.
type route struct {
	name    unix.RawSockaddrInet6 // as received; of IPv4 if the family says so
	length  uint32                // of name
	control []byte                // source address, then the size of segments
	source  int                   // bytes of control that are the source address
	whole   bool                  // the kernel refused segments on this route
}

// newRoute answers a packet from name whose control messages are oob.
func newRoute(name unix.RawSockaddrInet6, length uint32, oob []byte) (route, netip.Addr) {
	r := route{name: name, length: length}
	local, control := source(oob, name.Scope_id)
	r.source = len(control)
	r.control = append(control, make([]byte, unix.CmsgSpace(2))...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&r.control[r.source]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	return r, local
}

// source finds the address a packet was sent to, and the control message to answer from it. The
// address is invalid if it is unknown or cannot be a source (multicast).
func source(oob []byte, scope uint32) (local netip.Addr, control []byte) {
	for len(oob) >= unix.CmsgLen(0) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		oob = rest
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO &&
			len(data) >= unix.SizeofInet4Pktinfo:
			// Not the destination in the packet, which may be a broadcast address, but the
			// address of ours that goes with it.
			info := *(*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			if info.Spec_dst == [4]byte{} {
				info.Spec_dst = info.Addr // it came before the socket was set up
			}
			a := netip.AddrFrom4(info.Spec_dst)
			if a.IsMulticast() || info.Spec_dst == [4]byte{255, 255, 255, 255} {
				return netip.Addr{}, nil
			}
			return a, unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: info.Spec_dst})
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO &&
			len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			a := netip.AddrFrom16(info.Addr)
			if a.Is4In6() || a.IsMulticast() {
				continue
			}
			if scope != 0 {
				a = a.WithZone(strconv.Itoa(int(scope)))
			}
			local, control = a, unix.PktInfo6(&unix.Inet6Pktinfo{Addr: info.Addr, Ifindex: scope})
		}
	}
	return local, control
}

// socket is a UDP socket that is read and written in batches. One goroutine reads; writes are
// guarded by the caller.
type socket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	in   receiver
	out  sender
}

// newSocket takes over a socket. info asks for the local address of received packets.
func newSocket(conn *net.UDPConn, info bool) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("use TFTP socket: %w", err)
	}
	s := &socket{conn: conn, raw: raw}
	if err := s.control(func(fd int) error { return prepare(fd, info) }); err != nil {
		return nil, fmt.Errorf("set up TFTP socket: %w", err)
	}
	s.in.init()
	s.out.init()
	return s, nil
}

// prepare sets the options of a socket.
func prepare(fd int, info bool) error {
	for _, o := range [][2]int{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		// Past the bound of the host only with CAP_NET_ADMIN; up to it for everybody.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], bufferSize) != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], bufferSize); err != nil {
				return err
			}
		}
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	// A socket of IPv6 has the options of IPv4, too, for clients with mapped addresses.
	options := [][2]int{{unix.IPPROTO_IP, unix.IP_RECVERR}}
	if domain == unix.AF_INET6 {
		options = append(options, [2]int{unix.IPPROTO_IPV6, unix.IPV6_RECVERR})
	}
	if info {
		options = append(options, [2]int{unix.IPPROTO_IP, unix.IP_PKTINFO})
		if domain == unix.AF_INET6 {
			options = append(options, [2]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO})
		}
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], 1); err != nil {
			return err
		}
	}
	return nil
}

// sibling opens a socket like conn on a free port: same address, families and device.
func sibling(conn *net.UDPConn) (*net.UDPConn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("use TFTP socket: %w", err)
	}
	var domain, only int
	var device string
	s := socket{raw: raw}
	err = s.control(func(fd int) (err error) {
		if domain, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
			return err
		}
		if device, err = unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err != nil {
			return err
		}
		if domain == unix.AF_INET6 {
			only, err = unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at TFTP socket: %w", err)
	}
	network := "udp4"
	switch {
	case domain == unix.AF_INET6 && only == 0:
		network = "udp"
	case domain == unix.AF_INET6:
		network = "udp6"
	}
	address := *conn.LocalAddr().(*net.UDPAddr)
	address.Port = 0
	if address.IP.IsUnspecified() {
		address.IP = nil
	}
	twin, err := net.ListenUDP(network, &address)
	if err != nil {
		return nil, fmt.Errorf("open TFTP transfer socket: %w", err)
	}
	if device == "" {
		return twin, nil
	}
	if s.raw, err = twin.SyscallConn(); err == nil {
		err = s.control(func(fd int) error { return unix.BindToDevice(fd, device) })
	}
	if err != nil {
		twin.Close()
		return nil, fmt.Errorf("bind TFTP transfer socket to %s: %w", device, err)
	}
	return twin, nil
}

// control calls f with the descriptor.
func (s *socket) control(f func(fd int) error) error {
	var inner error
	if err := s.raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// refused calls gone for every client whose host told that nobody listens on its port.
func (s *socket) refused(gone func(peer)) {
	oob := make([]byte, 512)
	for {
		var from unix.Sockaddr
		var n int
		err := s.control(func(fd int) (err error) {
			_, n, _, from, err = unix.Recvmsg(fd, nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			return err
		})
		if err != nil {
			return // nothing more to read, or the socket is closed
		}
		if !isRefusal(oob[:n]) {
			continue // host or network unreachable: that may pass, and packets are sent again
		}
		switch a := from.(type) {
		case *unix.SockaddrInet4:
			p := peer{port: uint16(a.Port)}
			p.addr = netip.AddrFrom4(a.Addr).As16()
			gone(p)
		case *unix.SockaddrInet6:
			gone(peer{addr: a.Addr, scope: a.ZoneId, port: uint16(a.Port)})
		}
	}
}

// isRefusal looks for ECONNREFUSED in the control messages of an error.
func isRefusal(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range messages {
		error4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		error6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (error4 || error6) && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data) == uint32(unix.ECONNREFUSED)
		}
	}
	return false
}

// receiver reads a batch of packets.
type receiver struct {
	headers  [batchSize]mmsghdr
	iovecs   [batchSize]unix.Iovec
	names    [batchSize]unix.RawSockaddrInet6
	controls [batchSize][controlSize]byte
	buffers  [batchSize][maxRequest + 1]byte // one more: longer packets are known by it
	n        int                             // packets of the last batch
	err      error
	try      func(uintptr) bool // r.read, made once
}

func (r *receiver) init() {
	for i := range r.headers {
		r.iovecs[i].Base = &r.buffers[i][0]
		r.iovecs[i].SetLen(len(r.buffers[i]))
		h := &r.headers[i].Msghdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.iovecs[i]
		h.SetIovlen(1)
		h.Control = &r.controls[i][0]
	}
	r.n = batchSize
	r.try = r.read
}

// receive waits for packets. They are valid until the next call.
func (s *socket) receive() (int, error) {
	r := &s.in
	for i := range r.n {
		r.headers[i].Namelen = unix.SizeofSockaddrInet6
		r.headers[i].SetControllen(controlSize)
	}
	r.n, r.err = 0, nil
	if err := s.raw.Read(r.try); err != nil {
		return 0, err
	}
	return r.n, r.err
}

func (r *receiver) read(fd uintptr) bool {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.headers[0])),
			batchSize, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			r.n = int(n)
			return true
		case unix.EAGAIN:
			return false
		case unix.EINTR:
		default:
			r.err = errno
			return true
		}
	}
}

// packet is packet i of the last batch.
func (r *receiver) packet(i int) []byte { return r.buffers[i][:r.headers[i].length] }

// route is the way back to the sender of packet i.
func (r *receiver) route(i int) (route, netip.Addr) {
	h := &r.headers[i]
	return newRoute(r.names[i], h.Namelen, r.controls[i][:h.Controllen])
}

// sender collects packets and sends them together. Packets of equal size to one client, and a
// shorter one behind them, go to the kernel as one that is cut as late as possible (UDP_SEGMENT,
// udp(7)); a window costs little more than one packet.
type sender struct {
	headers [batchSize]mmsghdr
	iovecs  [batchSize]unix.Iovec
	owners  [batchSize]*transfer
	sizes   [batchSize]int // of the packets in a message, the last may be shorter
	lengths [batchSize]int // of the whole message
	open    bool           // the last message may get another packet
	n       int            // messages
	buffer  []byte
	used    int
	sent    int           // messages that are done with
	try     func(uintptr) // flushes, made once
	soft    bool          // an error of an earlier packet came up: the error queue has something
	failed  []*transfer   // that have failure set since they were last looked at
}

const (
	maxDatagram = 65507 // RFC 768 and 791
	maxSegments = 64    // older kernels take no more
)

func (b *sender) init() {
	b.buffer = make([]byte, 2*maxDatagram)
	for i := range b.headers {
		b.headers[i].Iov = &b.iovecs[i]
		b.headers[i].SetIovlen(1)
	}
	b.try = b.write
}

// add reserves a packet of at most size bytes for the client of t. The caller fills it, then
// says by commit how much of it is used.
func (s *socket) add(size int) []byte {
	b := &s.out
	if b.n == batchSize || b.used+size > len(b.buffer) {
		s.flush()
	}
	return b.buffer[b.used : b.used+size]
}

// commit queues the first size bytes of what add returned.
func (s *socket) commit(t *transfer, size int) {
	b := &s.out
	last := b.n - 1
	fits := last >= 0 && b.open && b.owners[last] == t && !t.route.whole && size <= b.sizes[last] &&
		b.lengths[last]+size <= maxDatagram && b.lengths[last] < maxSegments*b.sizes[last]
	if fits {
		b.lengths[last] += size
		b.open = size == b.sizes[last]
	} else {
		last = b.n
		b.n++
		b.owners[last], b.sizes[last], b.lengths[last] = t, size, size
		b.iovecs[last].Base = &b.buffer[b.used]
		b.open = true
	}
	b.iovecs[last].SetLen(b.lengths[last])
	b.used += size
}

// flush sends what was collected.
func (s *socket) flush() {
	b := &s.out
	if b.n == 0 {
		return
	}
	for i := range b.n {
		r, h := &b.owners[i].route, &b.headers[i].Msghdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&r.name)), r.length
		h.Control = &r.control[0]
		length := r.source
		if b.lengths[i] > b.sizes[i] {
			length = len(r.control)
			binary.NativeEndian.PutUint16(r.control[r.source+unix.CmsgLen(0):], uint16(b.sizes[i]))
		}
		h.SetControllen(length)
	}
	b.sent = 0
	if err := s.raw.Control(b.try); err != nil {
		for _, t := range b.owners[:b.n] {
			b.fail(t, err)
		}
	}
	clear(b.owners[:b.n])
	b.n, b.used, b.open = 0, 0, false
}

// write sends all messages. A message that cannot be sent does not keep the others back.
func (b *sender) write(fd uintptr) {
	again := false // this message had an error already
	for b.sent < b.n {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd,
			uintptr(unsafe.Pointer(&b.headers[b.sent])), uintptr(b.n-b.sent), unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			b.sent += int(n)
			again = false
			continue
		}
		if errno == unix.EINTR || !again && b.recover(int(fd), errno) {
			again = errno != unix.EINTR
			continue
		}
		b.skip(int(fd), errno)
		again = false
	}
}

// fail notes that a transfer cannot go on.
func (b *sender) fail(t *transfer, err error) {
	t.failure = fmt.Errorf("send to %s: %w", t.req.Client, err)
	b.failed = append(b.failed, t)
}

// recover does something about an error and tells whether to try once more.
func (b *sender) recover(fd int, errno unix.Errno) bool {
	switch errno {
	case unix.EAGAIN:
		// Bounded, because a host that does not answer ARP may hold the buffer for seconds.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, patience)
		return err == nil && n > 0
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EPROTO:
		b.soft = true // maybe of an earlier packet, maybe of another client's
		return true
	}
	return false
}

// skip gives up the next message: its packets go alone where only their being together was
// refused, are lost where the host is busy, and else end their transfer.
func (b *sender) skip(fd int, errno unix.Errno) {
	i := b.sent
	t, h := b.owners[i], &b.headers[i].Msghdr
	b.sent++
	switch {
	case errno == unix.EAGAIN, errno == unix.ENOBUFS, errno == unix.ENOMEM,
		errno == unix.ECONNREFUSED:
		return
	case b.lengths[i] > b.sizes[i]:
		// EINVAL, EMSGSIZE, EIO: larger than the path takes, or a device without checksums.
		t.route.whole = true
	case t.route.source > 0 && errno == unix.EINVAL:
		// The address has gone, or never was one to send from.
		t.route.control, t.route.source = t.route.control[t.route.source:], 0
	default:
		b.fail(t, errno)
		return
	}
	h.Control = &t.route.control[0]
	h.SetControllen(t.route.source)
	message := unsafe.Slice(b.iovecs[i].Base, b.lengths[i])
	for len(message) > 0 {
		n := min(b.sizes[i], len(message))
		b.iovecs[i].Base = &message[0]
		b.iovecs[i].SetLen(n)
		_, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(h)),
			unix.MSG_DONTWAIT)
		if errno != 0 && errno != unix.EAGAIN && errno != unix.ENOBUFS {
			b.fail(t, errno)
			return
		}
		message = message[n:]
	}
}
