package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tftpLoad is clients that fetch one file by TFTP over and over, each from a new port every time.
// They look at block numbers and lengths and drop the content unread (MSG_TRUNC), so that they
// take less of the processor than what they measure.
type tftpLoad struct {
	server  netip.AddrPort // IPv4
	network string         // path of the network namespace; empty: ours
	file    string
	size    int64 // of the file
	clients int
	window  int // 1 does not ask for one
}

const (
	tftpBlock = 1468
	// tftpSilence is after how long a client says again what it said last.
	tftpSilence = 300 * time.Millisecond
)

// tftpClient is one of them.
type tftpClient struct {
	fd       int
	fixed    bool // connected to the port of the transfer
	acked    int64
	last     int64 // block received
	gap      bool  // told the server so
	moved    time.Time
	received int64
}

// tftpRun is one run of the load.
type tftpRun struct {
	tftpLoad
	epoll   int
	clients []tftpClient
	request []byte
	blocks  int64 // of the file
	bytes   int64 // of files that arrived
	files   int64
	again   int64 // things said again after silence

	headers [64]struct {
		unix.Msghdr
		length uint32
	}
	iovecs [64]unix.Iovec
	data   [64][4]byte
}

// run fetches for a while. It returns what arrived and the time it took.
func (l tftpLoad) run(ctx context.Context, d time.Duration) (*tftpRun, time.Duration, error) {
	type result struct {
		run  *tftpRun
		took time.Duration
		err  error
	}
	done := make(chan result)
	go func() {
		r, took, err := l.fetch(ctx, d)
		done <- result{r, took, err}
	}()
	r := <-done
	return r.run, r.took, r.err
}

// fetch is run in a goroutine of its own.
func (l tftpLoad) fetch(ctx context.Context, d time.Duration) (*tftpRun, time.Duration, error) {
	runtime.LockOSThread()
	if l.network == "" {
		defer runtime.UnlockOSThread()
	} else if err := enter(l.network); err != nil {
		return nil, 0, err
	}
	r := &tftpRun{tftpLoad: l, clients: make([]tftpClient, l.clients), blocks: l.size/tftpBlock + 1}
	r.request = fmt.Appendf(nil, "\x00\x01%s\x00octet\x00blksize\x00%d\x00", l.file, tftpBlock)
	if l.window > 1 {
		r.request = fmt.Appendf(r.request, "windowsize\x00%d\x00", l.window)
	}
	for i := range r.headers {
		r.iovecs[i].Base = &r.data[i][0]
		r.iovecs[i].SetLen(len(r.data[i]))
		r.headers[i].Iov = &r.iovecs[i]
		r.headers[i].SetIovlen(1)
	}
	var err error
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, 0, fmt.Errorf("epoll: %w", err)
	}
	defer unix.Close(r.epoll)
	for i := range r.clients {
		r.clients[i].fd = -1
	}
	defer func() {
		for _, c := range r.clients {
			if c.fd >= 0 {
				unix.Close(c.fd)
			}
		}
	}()
	start := time.Now()
	for i := range r.clients {
		if err := r.start(i, start); err != nil {
			return nil, 0, err
		}
	}
	events := make([]unix.EpollEvent, 64)
	for checked := start; ; {
		n, err := unix.EpollWait(r.epoll, events, 50)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, 0, fmt.Errorf("epoll: %w", err)
		}
		now := time.Now()
		for _, e := range events[:max(n, 0)] {
			if err := r.ready(int(e.Fd), now); err != nil {
				return nil, 0, err
			}
		}
		if now.Sub(start) > d {
			return r, now.Sub(start), nil
		}
		if now.Sub(checked) < tftpSilence/4 {
			continue
		}
		checked = now
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		if err := r.nudge(now); err != nil {
			return nil, 0, err
		}
	}
}

// enter moves this thread to a network namespace, for good: locked, it ends with its goroutine.
func enter(network string) error {
	fd, err := unix.Open(network, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// start makes a client ask for the file, from a new port.
func (r *tftpRun) start(i int, now time.Time) error {
	c := &r.clients[i]
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket of a TFTP client: %w", err)
	}
	*c = tftpClient{fd: fd, moved: now, last: -1}
	err = unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return r.say(c)
}

// say sends what the server should know: the request, or the last block in order.
func (r *tftpRun) say(c *tftpClient) error {
	if !c.fixed {
		to := &unix.SockaddrInet4{Port: int(r.server.Port()), Addr: r.server.Addr().As4()}
		if err := unix.Sendto(c.fd, r.request, 0, to); err != nil {
			return fmt.Errorf("send a TFTP request: %w", err)
		}
		return nil
	}
	c.acked = c.last
	ack := [4]byte{1: 4, 2: byte(c.last >> 8), 3: byte(c.last)}
	// What cannot be sent is said again after the silence.
	unix.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(&ack)), 4, 0, 0, 0)
	return nil
}

// nudge lets clients that heard nothing for long repeat what they said.
func (r *tftpRun) nudge(now time.Time) error {
	for i := range r.clients {
		c := &r.clients[i]
		if now.Sub(c.moved) < tftpSilence {
			continue
		}
		c.moved, c.gap = now, false
		r.again++
		if err := r.say(c); err != nil {
			return err
		}
	}
	return nil
}

// ready takes what arrived for a client.
func (r *tftpRun) ready(i int, now time.Time) error {
	c := &r.clients[i]
	if !c.fixed {
		n, from, err := unix.Recvfrom(c.fd, r.data[0][:], unix.MSG_TRUNC)
		if err != nil {
			return nil // nothing there after all
		}
		if err := unix.Connect(c.fd, from); err != nil {
			return fmt.Errorf("connect a TFTP client: %w", err)
		}
		c.fixed = true
		return r.take(i, 0, n, now)
	}
	if r.window == 1 {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.fd),
			uintptr(unsafe.Pointer(&r.data[0])), 4, unix.MSG_TRUNC, 0, 0)
		if errno != 0 {
			return nil
		}
		return r.take(i, 0, int(n), now)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(c.fd),
		uintptr(unsafe.Pointer(&r.headers[0])), uintptr(min(r.window, len(r.headers))),
		unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return nil
	}
	for k := range int(n) {
		if err := r.take(i, k, int(r.headers[k].length), now); err != nil || !c.fixed {
			return err
		}
	}
	return nil
}

// take handles packet k, of length bytes, for client i.
func (r *tftpRun) take(i, k, length int, now time.Time) error {
	c, p := &r.clients[i], &r.data[k]
	switch {
	case length >= 4 && p[1] == 6: // OACK
		if c.last > 0 {
			return nil
		}
		c.last = 0
	case length >= 4 && p[1] == 3: // DATA
		if int16(binary.BigEndian.Uint16(p[2:])-uint16(c.last)) != 1 {
			if r.window > 1 && !c.gap {
				c.gap = true // RFC 7440 section 4: once
				return r.say(c)
			}
			return nil
		}
		c.last++
		r.bytes += int64(length - 4)
		c.received += int64(length - 4)
	default:
		return fmt.Errorf("TFTP server %s sent operation %d", r.server, p[1])
	}
	c.moved, c.gap = now, false
	done := c.last == r.blocks
	if done || c.last-c.acked >= int64(r.window) || c.last == 0 {
		if err := r.say(c); err != nil {
			return err
		}
	}
	if !done {
		return nil
	}
	if c.received != r.size {
		return fmt.Errorf("TFTP server %s sent %d bytes of %d", r.server, c.received, r.size)
	}
	r.files++
	return r.start(i, now)
}
