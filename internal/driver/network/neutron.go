package network

import (
	"cmp"
	"context"
	"fmt"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/neutron"
)

// Neutron is the network interface neutron: Neutron configures the switches. While a machine is deployed
// it has ports that are made for it on the provisioning network, and its VIFs only afterwards.
type Neutron struct{ vifs }

var (
	_ driver.Network    = (*Neutron)(nil)
	_ driver.Properties = (*Neutron)(nil)
)

// NewNeutron returns the network interface neutron.
func NewNeutron(o Options) *Neutron { return &Neutron{vifs{Options: o, managed: true}} }

// Properties are the keys of driver_info.
func (n *Neutron) Properties() map[string]string {
	return map[string]string{
		"provisioning_network": "Name or UUID of the network of Neutron on which the node is deployed. Default: " +
			"[neutron] provisioning_network. Optional.",
		"fail_on_binding_failure": "Whether it is an error that Neutron could not bind a port. Default: " +
			"[neutron] fail_on_port_binding_failure. Optional.",
	}
}

// Validate checks that there is a provisioning network.
func (n *Neutron) Validate(ctx context.Context, t *driver.Task) error {
	_, err := n.provisioning(ctx, t)
	return err
}

// provisioning is the network on which the node is deployed.
func (n *Neutron) provisioning(ctx context.Context, t *driver.Task) (*neutron.Network, error) {
	ref := cmp.Or(driver.Text(t.Node.DriverInfo, "provisioning_network"), n.ProvisioningNetwork)
	switch {
	case n.Client == nil:
		return nil, neutron.ErrNowhere
	case ref == "":
		return nil, ingot.Errorf(ingot.Invalid, "no provisioning network is configured; set [neutron] "+
			"provisioning_network or driver_info provisioning_network to its UUID or name")
	}
	found, err := n.Client.Network(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("provisioning network: %w", err)
	}
	// An owner may change driver_info, and we may use all networks.
	owner := t.Node.Owner
	if ref != n.ProvisioningNetwork && owner != "" && !found.Shared && found.Project != owner {
		return nil, ingot.Errorf(ingot.Invalid, "provisioning network %s of driver_info is neither of the project "+
			"that owns the node nor shared; unset provisioning_network, or take another one", ref)
	}
	return found, nil
}

// AddProvisioning makes a port on the provisioning network for each port from which the machine may boot. A
// machine without a VIF would be deployed in vain.
func (n *Neutron) AddProvisioning(ctx context.Context, t *driver.Task) error {
	if len(n.VIFs(t)) == 0 {
		return noVIF(t)
	}
	network, err := n.provisioning(ctx, t)
	if err != nil {
		return err
	}
	made := 0
	for _, p := range t.Ports {
		switch {
		case !p.PXEEnabled:
			continue
		case !n.usable(p):
			t.Log.Warn("a port is not connected to the provisioning network: it has no local_link_connection",
				"port", p.Address)
			continue
		}
		if err := n.addProvisioning(ctx, t, p, network.ID); err != nil {
			return fmt.Errorf("connect port %s to network %s: %w", p.Address, network.ID, err)
		}
		made++
	}
	if made == 0 {
		return ingot.Errorf(ingot.Invalid, "none of the node's ports can be connected to the provisioning "+
			"network; at least one needs pxe_enabled and local_link_connection (switch_id, port_id): see "+
			"`openstack baremetal port list --node %s --long`", t.Node.UUID)
	}
	return nil
}

func (n *Neutron) addProvisioning(ctx context.Context, t *driver.Task, p *ingot.Port, network string) error {
	made, err := n.Client.Create(ctx, neutron.Spec{Network: network,
		Device:  cmp.Or(t.Node.InstanceUUID, t.Node.UUID),
		Binding: n.binding(t.Node, p), Groups: n.SecurityGroups})
	if err != nil {
		return err
	}
	if old := driver.Text(p.InternalInfo, ingot.ProvisioningVIF); old != "" && old != made.ID {
		if err := n.Client.Delete(ctx, old); err != nil { // the network is another one by now
			return err
		}
	}
	if err := record(ctx, t, p, ingot.ProvisioningVIF, made.ID); err != nil {
		return err
	}
	return n.verify(t, p, made)
}

// RemoveProvisioning deletes the ports on the provisioning network, also those that were made and are not
// on record.
func (n *Neutron) RemoveProvisioning(ctx context.Context, t *driver.Task) error {
	network, err := n.provisioning(ctx, t)
	if err != nil && ingot.KindOf(err) != ingot.Invalid {
		return err
	}
	for _, p := range t.Ports {
		var ids []string
		if id := driver.Text(p.InternalInfo, ingot.ProvisioningVIF); id != "" {
			ids = append(ids, id)
		}
		if network != nil { // else it was deleted, or is not named any more
			found, err := n.Client.Find(ctx, network.ID, p.Address)
			if err != nil {
				return err
			}
			for _, f := range found {
				if f.Owner == neutron.Owner && f.ID != driver.Text(p.InternalInfo, ingot.TenantVIF) {
					ids = append(ids, f.ID)
				}
			}
		}
		for _, id := range ids {
			if err := n.Client.Delete(ctx, id); err != nil {
				return err
			}
		}
		if err := record(ctx, t, p, ingot.ProvisioningVIF, ""); err != nil {
			return err
		}
	}
	return nil
}

// ConfigureTenant binds the VIFs; there has to be one.
func (n *Neutron) ConfigureTenant(ctx context.Context, t *driver.Task) error {
	count, err := n.bind(ctx, t)
	if err == nil && count == 0 {
		return noVIF(t)
	}
	return err
}

// noVIF is the error of a machine that would have no network.
func noVIF(t *driver.Task) error {
	return ingot.Errorf(ingot.Invalid, "the node has no VIF, so the machine would be on no network; attach "+
		"a port of Neutron: openstack baremetal node vif attach %s PORT", t.Node.UUID)
}

// UnconfigureTenant unbinds the VIFs.
func (n *Neutron) UnconfigureTenant(ctx context.Context, t *driver.Task) error {
	return n.unbind(ctx, t)
}
