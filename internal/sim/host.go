package sim

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// HostInterface is the network card of a Host.
const HostInterface = "eth0"

// A Host is a network namespace of its own that is plugged into the bridge: for servers of which
// there are several, and for other people's.
type Host struct {
	*Namespace
	bridge *Namespace
	link   string // the port of the bridge
	addr   netip.Addr
}

// AddHost plugs a host into the bridge, with an address of the bridge's network. It is gone with
// the network.
func (n *Network) AddHost(ctx context.Context, addr netip.Addr) (*Host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("add host %s: the network is closed", addr)
	}
	if !n.opts.Prefix.Contains(addr) {
		return nil, fmt.Errorf("add host %s: the network is %s", addr, n.opts.Prefix.Masked())
	}
	for _, other := range append([]netip.Addr{n.Addr()}, addresses(n.hosts)...) {
		if other == addr {
			return nil, fmt.Errorf("add host %s: there is one with this address", addr)
		}
	}
	link := fmt.Sprintf("host%d", len(n.hosts))
	h := &Host{Namespace: &Namespace{name: n.Name() + "-" + link}, bridge: n.Namespace, link: link,
		addr: addr}
	// A host that could not be made is removed with the network, as far as it came.
	n.hosts = append(n.hosts, h)
	if err := h.create(ctx, n.save); err != nil {
		return nil, err
	}
	err := ip(ctx, n.Name(),
		"link add "+link+" type veth peer name "+HostInterface+" netns "+h.Name(),
		"link set "+link+" master "+bridgeName+" up")
	if err != nil {
		return nil, err
	}
	if err := h.noDuplicateDetection(HostInterface); err != nil {
		return nil, err
	}
	return h, ip(ctx, h.Name(),
		"addr add "+netip.PrefixFrom(addr, n.opts.Prefix.Bits()).String()+" dev "+HostInterface,
		"link set "+HostInterface+" up")
}

func addresses(hosts []*Host) []netip.Addr {
	var all []netip.Addr
	for _, h := range hosts {
		all = append(all, h.addr)
	}
	return all
}

// Addr is the host's IPv4 address.
func (h *Host) Addr() netip.Addr { return h.addr }

// ReachFleet has the host reach simulated machines by the bridge, which has their addresses, and not each
// by ARP: a kernel remembers 1024 neighbours, in all its namespaces together.
func (h *Host) ReachFleet(ctx context.Context, pool netip.Prefix, bridge netip.Addr) error {
	return ip(ctx, h.Name(), "route add "+pool.Masked().String()+" via "+bridge.String()+" dev "+
		HostInterface)
}

// Unplug pulls the host's cable; what is inside goes on.
func (h *Host) Unplug(ctx context.Context) error {
	return ip(ctx, h.bridge.Name(), "link set "+h.link+" down")
}

// Plug puts the cable back.
func (h *Host) Plug(ctx context.Context) error {
	return ip(ctx, h.bridge.Name(), "link set "+h.link+" up")
}

// Lose makes the host's cable lose so many of 100 packets in each direction; 0 mends it. It needs nft.
func (h *Host) Lose(ctx context.Context, percent int) error {
	// The first two lines remove the table also where there is none.
	rules := fmt.Sprintf("table netdev %[1]s {}\ndelete table netdev %[1]s\n", h.link)
	if percent > 0 {
		rules += fmt.Sprintf("table netdev %s {\n", h.link)
		for _, hook := range []string{"ingress", "egress"} {
			rules += fmt.Sprintf("chain %[1]s { type filter hook %[1]s device %[2]s priority 0; "+
				"numgen random mod 100 < %[3]d drop; }\n", hook, h.link, percent)
		}
		rules += "}\n"
	}
	cmd := h.bridge.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lose packets of %s: nft (package nftables): %w: %s", h.addr, err, out)
	}
	return nil
}
