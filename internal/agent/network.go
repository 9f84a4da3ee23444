package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"ingot/internal/netlink"
)

// errNoCard and errNoLease tell what a person standing before the machine can do.
var (
	errNoCard = errors.New("no network card of that address has a driver here. If the machine " +
		"has none of virtio, use a deploy ramdisk of flavour generic")
	errNoLease = errors.New("no DHCP server answered. Check the cable, the port's VLAN and " +
		"that it forwards at once (spanning tree portfast), and the DHCP server")
)

// joinNetwork finds the interface and gives it its address, or gets one for it and keeps the lease
// until the context ends.
func joinNetwork(ctx context.Context, mac net.HardwareAddr, fixed Static) (net.IP, error) {
	trying, cancel := context.WithTimeout(ctx, netPatience)
	defer cancel()
	card, err := findCard(trying, mac)
	if err != nil {
		return nil, err
	}
	if fixed.IP != nil {
		return fixed.IP, fixed.set(card)
	}
	lease, err := acquire(trying, card)
	if err != nil {
		return nil, fmt.Errorf("%s (%s): %w", card.Name, card.HardwareAddr, err)
	}
	if err := configure(card, lease.ACK); err != nil {
		return nil, err
	}
	ip := lease.ACK.YourIPAddr
	say("network %s (%s) has address %s", card.Name, card.HardwareAddr, ip)
	spawn(func() { renew(ctx, card, lease) })
	return ip, nil
}

// findCard waits for the interface with that address, or without one for the first that has a
// link. It brings interfaces up, because without that there is no link to see.
func findCard(ctx context.Context, mac net.HardwareAddr) (*net.Interface, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if lo, err := net.InterfaceByName("lo"); err == nil {
		_ = netlink.Up(lo.Index) // nothing here needs it; the target's portal covers it
	}
	var found *net.Interface
	for {
		cards, err := net.Interfaces()
		if err != nil {
			return nil, fmt.Errorf("list network cards: %w", err)
		}
		for i, card := range cards {
			wrong := mac != nil && !bytes.Equal(card.HardwareAddr, mac)
			if card.Flags&net.FlagLoopback != 0 || len(card.HardwareAddr) != 6 || wrong {
				continue
			}
			if err := netlink.Up(card.Index); err != nil {
				return nil, fmt.Errorf("bring up %s: %w", card.Name, err)
			}
			found = &cards[i]
			if hasLink(sysNet, card.Name) {
				return found, nil
			}
		}
		select {
		case <-ctx.Done():
			if found != nil {
				return found, nil // some drivers never tell; DHCP will
			}
			return nil, fmt.Errorf("BOOTIF=%s: %w", mac, errNoCard)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// hasLink reads carrier of an interface that is up.
func hasLink(sysNet, name string) bool {
	text, err := os.ReadFile(filepath.Join(sysNet, name, "carrier"))
	return err == nil && strings.TrimSpace(string(text)) == "1"
}

// acquire asks for a lease until the context ends: a switch port may need half a minute to
// forward after the link came up.
func acquire(ctx context.Context, card *net.Interface) (*nclient4.Lease, error) {
	client, err := nclient4.New(card.Name, nclient4.WithTimeout(time.Second),
		nclient4.WithRetry(2))
	if err != nil {
		return nil, fmt.Errorf("open DHCP socket: %w", err)
	}
	defer client.Close()
	for {
		lease, err := client.Request(ctx, vendorClass)
		if err == nil && lease.ACK.YourIPAddr.To4() != nil {
			return lease, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%v)", errNoLease, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// vendorClass tells a DHCP server that this is no boot loader asking for a program.
func vendorClass(m *dhcpv4.DHCPv4) {
	m.UpdateOption(dhcpv4.OptClassIdentifier("ingot-agent"))
}

// configure sets address and default route of an acknowledged lease. A server that names no
// router has its machines on one network.
func configure(card *net.Interface, ack *dhcpv4.DHCPv4) error {
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	ones, _ := mask.Size()
	if err := addAddress(card.Index, ack.YourIPAddr, ones); err != nil {
		return fmt.Errorf("set address %s/%d of %s: %w", ack.YourIPAddr, ones, card.Name, err)
	}
	if routers := ack.Router(); len(routers) > 0 {
		if err := addDefaultRoute(card.Index, routers[0]); err != nil {
			return fmt.Errorf("route by %s: %w", routers[0], err)
		}
	}
	return nil
}

// addAddress gives a card an IPv4 address until it is taken away.
func addAddress(index int, ip net.IP, ones int) error {
	a, _ := netip.AddrFromSlice(ip.To4())
	return netlink.AddAddress(index, netip.PrefixFrom(a, ones), 0)
}

// addDefaultRoute sends everything by an IPv4 gateway.
func addDefaultRoute(index int, gateway net.IP) error {
	a, _ := netip.AddrFromSlice(gateway.To4())
	return netlink.AddDefaultRoute(index, a)
}

// renew asks for the lease again each time half of it is over, so that no server gives the
// address away while a long image is written. The address stays when nobody answers.
func renew(ctx context.Context, card *net.Interface, lease *nclient4.Lease) {
	for {
		half := max(lease.ACK.IPAddressLeaseTime(time.Hour)/2, 10*time.Second)
		select {
		case <-ctx.Done():
			return
		case <-time.After(half):
		}
		client, err := nclient4.New(card.Name)
		if err != nil {
			say("open DHCP socket to renew the address: %v", err)
			continue
		}
		if next, err := client.Renew(ctx, lease, vendorClass); err == nil {
			lease = next
		} else {
			say("the address was not renewed: %v; keeping it", err)
		}
		client.Close()
	}
}
