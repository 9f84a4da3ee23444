package bootd

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/dhcp"
	"ingot/internal/ingot"
)

// Network is one subnet that machines get addresses of.
type Network struct {
	Prefix netip.Prefix // gives the subnet mask
	Pool   dhcp.Pool    // addresses to give out; may be empty: reservations only
	Router netip.Addr   // invalid: none is told
	DNS    []netip.Addr
	// Prefix6 is the network of 64 bits that IPv6 addresses are of. Invalid: none are given.
	Prefix6 netip.Prefix
}

// Site is what every DHCP answer says about us and the networks of the machines.
type Site struct {
	Mode    Mode
	Address netip.Addr // ours, IPv4: server identifier and next server
	Service netip.Addr // that of Config, which is no machine's either
	Lease   time.Duration
	// Networks are those we give addresses of; the first one is that of our interface.
	Networks []Network
}

// network tells on which of our networks a client is, and by what it is known. nil: on none.
//
// The relay knows best, and of what it says the link (RFC 3527) goes before its own address:
// its own may be of another network than the client's. A client that has an address and sends
// through no relay has routed its request (renewal, RFC 2131 section 4.3.6), or is beside us.
func (s Site) network(q *dhcpv4.DHCPv4) (*Network, netip.Addr) {
	by := ipv4(q.GatewayIPAddr)
	relayed := isSet(by)
	if subnet := ipv4(q.Options.Get(dhcpv4.OptionSubnetSelection)); isSet(subnet) { // RFC 3011
		by = subnet
	}
	if info := q.RelayAgentInfo(); relayed && info != nil {
		if link := ipv4(info.Get(dhcpv4.LinkSelectionSubOption)); isSet(link) {
			by = link
		}
	}
	if isSet(by) {
		return s.containing(by), by
	}
	if n := s.containing(ipv4(q.ClientIPAddr)); n != nil {
		return n, ipv4(q.ClientIPAddr)
	}
	return &s.Networks[0], s.Address
}

func (s Site) containing(a netip.Addr) *Network {
	for i := range s.Networks {
		if s.Networks[i].Prefix.Contains(a) {
			return &s.Networks[i]
		}
	}
	return nil
}

// check tells what is wrong with the networks, the first one being that of iface.
func (s Site) check(iface string) error {
	for i, n := range s.Networks {
		if n.Pool.Size() > 0 && (!n.Prefix.Contains(n.Pool.First) || !n.Prefix.Contains(n.Pool.Last)) {
			return ingot.Errorf(ingot.Invalid, "boot.dhcp: the range %s is not within the network %s%s",
				n.Pool, n.Prefix, map[bool]string{true: " of boot.interface " + iface}[i == 0])
		}
		for _, other := range s.Networks[:i] {
			if n.Prefix.Overlaps(other.Prefix) {
				return ingot.Errorf(ingot.Invalid, "boot.dhcp.network: the subnets %s and %s overlap",
					other.Prefix, n.Prefix)
			}
		}
	}
	return nil
}

// ipv4 converts an address of a packet; anything but four bytes is none.
func ipv4[T ~[]byte](b T) netip.Addr {
	a, _ := netip.AddrFromSlice(net.IP(b).To4())
	return a
}

func isSet(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }
