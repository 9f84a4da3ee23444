package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// ForeignDHCP starts dnsmasq on a host of its own, as a site's DHCP server that knows nothing of
// us: it gives addresses and, unless more of its options say so, no boot file. stop ends it; a network
// has one at most.
func (n *Network) ForeignDHCP(ctx context.Context, more ...string) (stop func() error, err error) {
	first, last := n.Addr().As4(), n.Addr().As4()
	first[3], last[3] = 100, 200
	host, err := n.AddHost(ctx, n.Addr().Next())
	if err != nil {
		return nil, err
	}
	args := []string{"--keep-in-foreground", "--port=0", "--conf-file=/dev/null",
		"--interface=" + HostInterface, "--bind-interfaces", "--no-ping",
		"--log-facility=-", "--leasefile-ro",
		fmt.Sprintf("--dhcp-range=%s,%s,1h", netip.AddrFrom4(first), netip.AddrFrom4(last))}
	// Options must not be repeated.
	for option, value := range map[string]string{"--user": "=root", "--pid-file": ""} {
		if !slices.ContainsFunc(more, func(o string) bool { return strings.HasPrefix(o, option+"=") }) {
			args = append(args, option+value)
		}
	}
	cmd := host.Command(context.WithoutCancel(ctx), "dnsmasq", append(args, more...)...)
	out, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	stop = func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // its status tells that it was killed, as asked
		return err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "DHCP, IP range") {
			go io.Copy(io.Discard, out) // ends with the process
			return stop, nil
		}
	}
	return nil, errors.Join(errors.New("dnsmasq ended; install it with scripts/packages.sh"), stop())
}
