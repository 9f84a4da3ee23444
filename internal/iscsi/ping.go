package iscsi

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Two things can be silent: the machine, and the program on it. A machine without power does not
// acknowledge what is sent to it; the kernel notices that (TCP_USER_TIMEOUT, see tune). A program
// that hangs, or has nothing to say because its disk is slow, is told apart by a ping (NOP-Out,
// RFC 7143 11.18): whoever answers it is waited for until the command's own time-out.

// listener is the connection as the reader sees it: it notes when something came in, in the
// middle of a long PDU too.
type listener struct{ l *link }

func (r listener) Read(p []byte) (int, error) {
	n, err := r.l.conn.Read(p)
	r.l.heard.Store(time.Now().UnixNano())
	return n, err
}

// watch pings a silent target, and ends the link when it stays silent.
func (l *link) watch() {
	if l.cfg.PingInterval < 0 {
		return
	}
	tick := time.NewTicker(min(l.cfg.PingInterval, l.cfg.PingTimeout) / 4)
	defer tick.Stop()
	var asked time.Time // when the ping was queued
	for {
		select {
		case <-l.ended:
			return
		case <-tick.C:
		}
		now, heard := time.Now(), time.Unix(0, l.heard.Load())
		switch {
		case asked.Before(heard) && now.Sub(heard) >= l.cfg.PingInterval:
			asked = now
			l.ping()
		case asked.After(heard) && now.Sub(asked) >= l.cfg.PingTimeout && l.delivered():
			l.fail(fmt.Errorf("the target said nothing for %v and does not answer a ping; "+
				"its program hangs", now.Sub(heard).Round(time.Second)))
		}
	}
}

// ping queues a NOP-Out that asks for an answer.
func (l *link) ping() {
	h := newHeader(opNopOut)
	h[0] |= flagImmediate
	h[1] = flagFinal
	copy(h[8:16], l.lun[:])
	h.setTransferTag(noTag)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		h.setTag(l.newTag())
		l.replies = append(l.replies, outgoing{header: h})
		l.wake.Signal()
	}
}

// delivered tells whether all we have to say has reached the target's machine. As long as it has
// not, a ping may be stuck behind data on a slow network, and TCP_USER_TIMEOUT is the judge.
func (l *link) delivered() bool {
	l.mu.Lock()
	waiting := len(l.replies) > 0
	for _, t := range l.tasks {
		waiting = waiting || t.writing
	}
	l.mu.Unlock()
	if waiting {
		return false
	}
	unsent := 0
	if conn, ok := l.conn.(syscall.Conn); ok {
		_ = control(conn, func(fd int) (err error) {
			unsent, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
			return err
		})
	}
	return unsent == 0
}

// tune makes the kernel give up a connection whose other end does not acknowledge data for
// PingTimeout. Without, it takes a quarter of an hour.
func tune(conn net.Conn, cfg Config) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok || cfg.PingInterval < 0 {
		return nil
	}
	return control(tcp, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT,
			int(cfg.PingTimeout.Milliseconds()))
	})
}

// explain adds to the kernel's way to say that PingTimeout is over what it means.
func explain(err error) error {
	if errors.Is(err, unix.ETIMEDOUT) {
		return fmt.Errorf("the target's machine is silent, it may be without power or network: %w",
			err)
	}
	return err
}

// control runs a function on the file descriptor of a connection.
func control(conn syscall.Conn, do func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Control(func(fd uintptr) { failure = do(int(fd)) })
	return errors.Join(err, failure)
}
