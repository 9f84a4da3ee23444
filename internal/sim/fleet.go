package sim

import (
	"context"
	"net/netip"
)

// FleetInterface is the interface inside the namespace that simulated machines share.
const FleetInterface = "fleet1"

// AddFleet makes room for simulated machines (package fleet): an interface that is plugged into
// the bridge, and a pool of addresses of which all are local to the namespace, so that a machine
// has its own as soon as DHCP gave it. A machine with a kernel of its own must not get one of them.
func (n *Network) AddFleet(ctx context.Context, pool netip.Prefix) error {
	return ip(ctx, n.Name(),
		"link add fleet0 type veth peer name "+FleetInterface,
		"link set fleet0 master "+bridgeName+" up",
		// Of two interfaces that answer for an address it is the bridge.
		"link set "+FleetInterface+" arp off up",
		"route add local "+pool.String()+" dev lo")
}
