package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
)

// dnsmasqScript runs in a network namespace without a name, which ends with it; its first line of
// output says that it is there. The first line on standard input says that its end of the cable is
// there; the end of standard input, also by the death of who started it, is the end of dnsmasq.
const dnsmasqScript = `echo inside
read cable
ip addr add "$1" dev d1 && ip link set d1 up || exit
dnsmasq --keep-in-foreground --port=0 --conf-file=/dev/null --interface=d1 --bind-interfaces \
	--no-ping --user=root --dhcp-range="$2,$3,1h" --pid-file --log-facility=- --leasefile-ro 2>&1 &
read end
kill $!`

// ForeignDHCP starts dnsmasq on a port of the bridge, as a site's DHCP server that knows nothing
// of us: it gives addresses and no boot file. stop ends it.
func (n *Network) ForeignDHCP(ctx context.Context) (stop func() error, err error) {
	first, last := n.Addr().As4(), n.Addr().As4()
	first[3], last[3] = 100, 200
	own := netip.PrefixFrom(n.Addr().Next(), n.opts.Prefix.Bits())
	cmd := exec.Command("unshare", "--net", "sh", "-c", dnsmasqScript, "sh", own.String(),
		netip.AddrFrom4(first).String(), netip.AddrFrom4(last).String())
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	stop = func() error {
		err := in.Close()
		_ = cmd.Wait() // its status tells that it was killed, as asked
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Scan() // before it the process is in our namespace, and so would be the cable
	err = ip(ctx, n.Name(),
		fmt.Sprintf("link add d0 type veth peer name d1 netns %d", cmd.Process.Pid),
		"link set d0 master "+n.Bridge()+" up")
	if err == nil {
		_, err = io.WriteString(in, "there\n")
	}
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	for lines.Scan() {
		if strings.Contains(lines.Text(), "DHCP, IP range") {
			go io.Copy(io.Discard, out) // ends with the process
			return stop, nil
		}
	}
	return nil, errors.Join(errors.New("dnsmasq ended; install it with scripts/packages.sh"), stop())
}
