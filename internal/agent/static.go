package agent

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Static is the address of the card that booted the machine, where there is no DHCP. The zero value is none.
type Static struct {
	IP      net.IP
	Bits    int    // of the network
	Gateway net.IP // of the default route; nil is none
}

// parseStatic reads agent_ip: ADDRESS/PREFIX, and a comma and a gateway if there is one. "" is none.
func parseStatic(text string) (Static, error) {
	if text == "" {
		return Static{}, nil
	}
	address, way, routed := strings.Cut(text, ",")
	prefix, err := netip.ParsePrefix(address)
	gateway, err2 := netip.ParseAddr(way)
	if err != nil || !prefix.Addr().Is4() || routed && (err2 != nil || !gateway.Is4()) {
		return Static{}, badParam("agent_ip", text, "an IPv4 address and its gateway such as 10.0.0.5/24,10.0.0.1")
	}
	s := Static{IP: prefix.Addr().AsSlice(), Bits: prefix.Bits()}
	if routed {
		s.Gateway = gateway.AsSlice()
	}
	return s, nil
}

// set gives it to a card.
func (s Static) set(card *net.Interface) error {
	if err := addAddress(card.Index, s.IP, s.Bits); err != nil {
		return fmt.Errorf("set address %s/%d of %s: %w", s.IP, s.Bits, card.Name, err)
	}
	if s.Gateway != nil {
		if err := addDefaultRoute(card.Index, s.Gateway); err != nil {
			return fmt.Errorf("route by %s: %w", s.Gateway, err)
		}
	}
	say("network %s (%s) has address %s/%d, as configured", card.Name, card.HardwareAddr, s.IP, s.Bits)
	return nil
}
