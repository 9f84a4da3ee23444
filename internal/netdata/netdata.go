// Package netdata reads the network data of a node: which of its cards have which addresses, for a deploy
// ramdisk in a network without DHCP. The form is OpenStack's network_data.json, as Ironic's API takes it
// (its network-data-schema.json). It configures nothing: ramdisks do.
package netdata

import (
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"

	"ingot/internal/ingot"
)

// Check tells what is wrong with network data; none at all is right.
func Check(o ingot.Object) error {
	_, err := parse(o)
	return err
}

// Text is the file network_data.json, the same for the same data; "" if there are none.
func Text(o ingot.Object) string {
	if len(o) == 0 {
		return ""
	}
	text, err := json.Marshal(o)
	if err != nil { // it came as JSON
		return ""
	}
	return string(text)
}

// Static is the address of a card.
type Static struct {
	MAC     string // lower case, with colons
	Address netip.Prefix
	Gateway netip.Addr // of the default route; the zero value is none
}

// Statics are the IPv4 addresses of cards. What is on a bond, on a VLAN or asked of DHCP is none.
func Statics(o ingot.Object) []Static {
	d, err := parse(o)
	if err != nil {
		return nil
	}
	var list []Static
	for _, n := range d.Networks {
		l := slices.IndexFunc(d.Links, func(l link) bool { return l.ID == n.Link })
		if n.Type != "ipv4" || l < 0 || !slices.Contains(plain, d.Links[l].Type) || n.Address == "" || n.Netmask == "" {
			continue
		}
		address := netip.MustParseAddr(n.Address) // was checked
		bits, _ := net.IPMask(net.ParseIP(n.Netmask).To4()).Size()
		s := Static{Address: netip.PrefixFrom(address, bits),
			MAC: strings.ToLower(strings.ReplaceAll(d.Links[l].MAC, "-", ":"))}
		for _, r := range n.Routes {
			if r.Network == "0.0.0.0" && r.Netmask == "0.0.0.0" && !s.Gateway.IsValid() {
				s.Gateway = netip.MustParseAddr(r.Gateway)
			}
		}
		list = append(list, s)
	}
	return list
}

// data is what the schema describes; members that are not here may be anything.
type data struct {
	Links    []link    `json:"links"`
	Networks []network `json:"networks"`
	Services []service `json:"services"`
}

type link struct {
	ID        string   `json:"id"`
	Type      string   `json:"type"`
	MAC       string   `json:"ethernet_mac_address"`
	MTU       *float64 `json:"mtu"`
	BondMode  string   `json:"bond_mode"`
	BondLinks []string `json:"bond_links"`
	VLANMAC   string   `json:"vlan_mac_address"`
	VLANLink  string   `json:"vlan_link"`
	VLAN      *int     `json:"vlan_id"`
}

type network struct {
	ID        string  `json:"id"`
	Type      string  `json:"type"`
	Link      string  `json:"link"`
	NetworkID string  `json:"network_id"`
	Address   string  `json:"ip_address"`
	Netmask   string  `json:"netmask"`
	Routes    []route `json:"routes"`
}

type route struct {
	Network  string    `json:"network"`
	Netmask  string    `json:"netmask"`
	Gateway  string    `json:"gateway"`
	Services []service `json:"services"`
}

type service struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

var (
	// plain are the types of links that are a card.
	plain = []string{"bridge", "dvs", "hw_veb", "hyperv", "ovs", "tap", "vhostuser", "vif", "phy"}
	// 802.1ad is what Ironic's schema has for 802.3ad.
	bondModes = []string{"802.1ad", "802.3ad", "balance-rr", "active-backup", "balance-xor", "broadcast", "balance-tlb",
		"balance-alb"}
	families = map[string]int{"ipv4": 4, "ipv4_dhcp": 4, "ipv6": 6, "ipv6_dhcp": 6, "ipv6_slaac": 6}
)

func parse(o ingot.Object) (d data, err error) {
	if len(o) == 0 {
		return d, nil
	}
	for _, name := range []string{"links", "networks", "services"} {
		if _, ok := o[name]; !ok {
			return d, ingot.Errorf(ingot.Invalid, "network_data has no %s; give links, networks and services, each a "+
				"list", name)
		}
	}
	text, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		return d, ingot.Errorf(ingot.Invalid, "network_data is no network_data.json of OpenStack: %w", err)
	}
	for _, l := range d.Links {
		if err := l.check(); err != nil {
			return d, err
		}
	}
	for _, n := range d.Networks {
		if err := n.check(); err != nil {
			return d, err
		}
	}
	return d, services("services", d.Services, 0)
}

func (l link) check() error {
	wrong := func(what, value, want string) error {
		return ingot.Errorf(ingot.Invalid, "network_data: link %q has %s %q; write %s", l.ID, what, value, want)
	}
	mac, name := l.MAC, "ethernet_mac_address"
	switch {
	case l.ID == "":
		return ingot.Errorf(ingot.Invalid, "network_data: a link has no id")
	case l.Type == "bond" && !slices.Contains(bondModes, l.BondMode):
		return wrong("bond_mode", l.BondMode, strings.Join(bondModes, ", "))
	case l.Type == "bond" && l.BondLinks == nil:
		return wrong("bond_links", "", "a list of links")
	case l.Type == "vlan":
		mac, name = l.VLANMAC, "vlan_mac_address"
		if l.VLAN == nil || l.VLANLink == "" {
			return wrong("vlan_link", l.VLANLink, "that, and vlan_id")
		}
	case l.Type != "bond" && !slices.Contains(plain, l.Type):
		return wrong("type", l.Type, "phy, bond or vlan")
	}
	if hw, err := net.ParseMAC(mac); err != nil || len(hw) != 6 || strings.Contains(mac, ".") {
		return wrong(name, mac, "a MAC address")
	}
	if l.MTU != nil && (*l.MTU < 1 || *l.MTU > 65535) {
		return ingot.Errorf(ingot.Invalid, "network_data: link %q has mtu %g; 1 to 65535", l.ID, *l.MTU)
	}
	return nil
}

func (n network) check() error {
	wrong := func(what, value, want string) error {
		return ingot.Errorf(ingot.Invalid, "network_data: network %q has %s %q; write %s", n.ID, what, value, want)
	}
	family := families[n.Type]
	switch {
	case n.ID == "" || n.Link == "" || n.NetworkID == "":
		return ingot.Errorf(ingot.Invalid, "network_data: network %q has to have id, link and network_id", n.ID)
	case family == 0:
		return wrong("type", n.Type, "ipv4, ipv4_dhcp, ipv6, ipv6_dhcp or ipv6_slaac")
	}
	address, prefix, long := strings.Cut(n.Address, "/")
	if long && (family == 4 || !isPrefix(address+"/"+prefix)) || n.Address != "" && !isAddress(address, family) {
		return wrong("ip_address", n.Address, "an address of the network's family")
	}
	if n.Netmask != "" && !isMask(n.Netmask, family) {
		return wrong("netmask", n.Netmask, "a mask, for example 255.255.255.0")
	}
	for _, r := range n.Routes {
		if !isAddress(r.Network, family) || !isMask(r.Netmask, family) || !isAddress(r.Gateway, family) {
			return wrong("a route to", r.Network+" "+r.Netmask+" by "+r.Gateway, "network, netmask and gateway")
		}
		if err := services("a route", r.Services, family); err != nil {
			return err
		}
	}
	return nil
}

// services checks a list of them; family 0 is any.
func services(of string, list []service, family int) error {
	for _, s := range list {
		if s.Type != "dns" || !isAddress(s.Address, family) {
			return ingot.Errorf(ingot.Invalid, "network_data: %s: a service has type %q and address %q; write dns, and "+
				"the address of a name server", of, s.Type, s.Address)
		}
	}
	return nil
}

func isPrefix(text string) bool {
	_, err := netip.ParsePrefix(text)
	return err == nil
}

func isAddress(text string, family int) bool {
	a, err := netip.ParseAddr(text)
	return err == nil && (family != 4 || a.Is4()) && (family != 6 || a.Is6())
}

// isMask tells whether a text is a mask: ones, then zeros.
func isMask(text string, family int) bool {
	if !isAddress(text, family) {
		return false
	}
	ip := net.ParseIP(text)
	if family == 4 {
		ip = ip.To4()
	}
	_, size := net.IPMask(ip).Size()
	return size != 0
}
