package fleet

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"ingot/internal/sim"
)

// take gives the interface an address of a machine, and the way out that DHCP named.
func (f *Fleet) take(ctx context.Context, ack *dhcpv4.DHCPv4) error {
	ones, bits := ack.SubnetMask().Size()
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || bits != 32 {
		return fmt.Errorf("DHCP gave the address %s with the netmask %s", ack.YourIPAddr, ack.SubnetMask())
	}
	var router netip.Addr
	if all := ack.Router(); len(all) > 0 {
		router, _ = netip.AddrFromSlice(all[0].To4())
	}
	address := netip.PrefixFrom(addr, ones)
	f.taking.Lock()
	defer f.taking.Unlock()
	if f.taken[address] {
		return nil
	}
	if err := sim.TakeAddress(ctx, f.wire.iface.Name, address, router); err != nil {
		return err
	}
	f.taken[address] = true
	return f.wire.announce(addr)
}

// announce tells everybody who has an address now (RFC 5227 section 3): the one before, whose MAC
// hosts may remember, was another.
func (w *wire) announce(addr netip.Addr) error {
	const size = 14 + 28
	f := make([]byte, size)
	for i := range 6 {
		f[i] = 0xff
	}
	copy(f[6:], w.iface.HardwareAddr)
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_ARP)
	arp := f[14:]
	copy(arp, []byte{0, 1, 8, 0, 6, 4, 0, 1}) // a request of Ethernet and IPv4
	copy(arp[8:], w.iface.HardwareAddr)
	copy(arp[14:], addr.AsSlice())
	copy(arp[24:], addr.AsSlice())
	_, err := w.socket.Write(f)
	return err
}

// release ends all leases, so that the pool is what it was before. That a message is lost has to be
// borne: the lease ends by itself.
func (f *Fleet) release() {
	for _, m := range f.machines {
		m.mu.Lock()
		ack := m.leased
		m.mu.Unlock()
		if ack == nil {
			continue
		}
		message, err := dhcpv4.NewReleaseFromACK(ack)
		if err != nil {
			continue
		}
		c := f.wire.attach(m.mac)
		_, _ = c.WriteTo(message.ToBytes(), &net.UDPAddr{})
		c.Close()
	}
}
