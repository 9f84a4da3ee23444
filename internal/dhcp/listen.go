package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen opens a socket that gets packets of one interface, by name; its error says what to do.
func listen(ctx context.Context, iface, network, address string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var bindErr error
		err := raw.Control(func(fd uintptr) {
			bindErr = unix.BindToDevice(int(fd), iface)
		})
		return errors.Join(err, bindErr)
	}}
	conn, err := lc.ListenPacket(ctx, network, address)
	hint := ""
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, unix.EADDRINUSE):
		hint = "; another DHCP server runs on this interface, stop it or switch this one off"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		hint = "; run as root or grant CAP_NET_BIND_SERVICE and CAP_NET_RAW"
	case errors.Is(err, unix.ENODEV):
		hint = "; there is no such interface"
	}
	return nil, fmt.Errorf("%w%s", err, hint)
}
