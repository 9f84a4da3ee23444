package network

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/neutron"
)

// names are the options that are set by ingot, or were by Ironic, and are taken back: boot file and server
// (RFC 2132, 5970, 5859, 5071), dnsmasq's own 255, and the vendor class of HTTP boot. Option 61, a client
// id, is the machine's.
var names = []string{"59", "60", "66", "67", "150", "210", "255", "tag:ipxe,67", "tag:!ipxe,67",
	"tag:ipxe6,59", "tag:!ipxe6,59"}

// SetDHCP tells Neutron what its DHCP answers the machine, on the ports of Neutron that the machine has
// now. It is an error if there are none, or one has no address: such a machine gets no answer.
func (v vifs) SetDHCP(ctx context.Context, t *driver.Task, options []driver.DHCPOption) error {
	if len(options) == 0 {
		return v.clearDHCP(ctx, t)
	}
	count := 0
	for _, p := range t.Ports {
		id := cmp.Or(driver.Text(p.InternalInfo, ingot.ProvisioningVIF), driver.Text(p.InternalInfo, ingot.TenantVIF))
		if id == "" || !p.PXEEnabled {
			continue
		}
		count++
		found, err := v.Client.Port(ctx, id)
		if err != nil {
			return fmt.Errorf("set the DHCP options of port %s: %w", p.Address, err)
		}
		want, err := fitting(found, options)
		if err != nil {
			return fmt.Errorf("set the DHCP options of port %s: %w", p.Address, err)
		}
		if err := v.Client.SetOptions(ctx, found, names, want); err != nil {
			return err
		}
	}
	if count == 0 {
		return ingot.Errorf(ingot.Invalid, "Neutron's DHCP cannot answer the machine, because no port of the "+
			"node that has pxe_enabled has a port of Neutron; attach one: openstack baremetal node vif attach %s "+
			"PORT", t.Node.UUID)
	}
	return nil
}

// clearDHCP takes our options from all ports of Neutron that the machine has.
func (v vifs) clearDHCP(ctx context.Context, t *driver.Task) error {
	for _, p := range t.Ports {
		for _, key := range []string{ingot.ProvisioningVIF, ingot.TenantVIF} {
			id := driver.Text(p.InternalInfo, key)
			if id == "" {
				continue
			}
			found, err := v.Client.Port(ctx, id)
			if err == nil {
				err = v.Client.SetOptions(ctx, found, names, nil)
			}
			if err != nil && ingot.KindOf(err) != ingot.NotFound {
				return fmt.Errorf("take back the DHCP options of port %s: %w", p.Address, err)
			}
		}
	}
	return nil
}

// fitting are the options for the versions of IP of which the port has an address.
func fitting(p *neutron.Port, options []driver.DHCPOption) ([]neutron.Option, error) {
	if len(p.FixedIPs) == 0 {
		return nil, ingot.Errorf(ingot.Invalid, "port %s of Neutron has no IP address, so DHCP does not answer "+
			"it; give it one (openstack port set --fixed-ip), or set pxe_enabled of the node's port to false if "+
			"the machine does not boot from it", p.ID)
	}
	var out []neutron.Option
	for _, o := range options {
		version := cmp.Or(o.Version, 4)
		if slices.ContainsFunc(p.FixedIPs, func(a netip.Addr) bool { return a.Is4() == (version == 4) }) {
			out = append(out, neutron.Option{Name: o.Name, Value: o.Value, Version: version})
		}
	}
	if len(out) == 0 {
		return nil, ingot.Errorf(ingot.Invalid, "port %s of Neutron has addresses of another version of IP than "+
			"the machine can boot with; give it one of IPv%d (openstack port set --fixed-ip)", p.ID,
			cmp.Or(options[0].Version, 4))
	}
	return out, nil
}
