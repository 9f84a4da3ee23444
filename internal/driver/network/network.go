// Package network connects machines to networks of Neutron: the network interfaces flat and neutron, with
// the meaning that they have in Ironic. With flat the ports of the switch stay as they are, and a machine
// is deployed on the network of its instance; with neutron Neutron configures the switch, and a machine
// is deployed on a network of its own. The interface noop is no code.
//
// A port of Neutron is changed before it is put on record that it was, and found again if it was not.
//
// Read Options first, then flat.go and neutron.go, which say when a machine is connected to what; vif.go
// has the ports that tenants bring, and dhcp.go what DHCP tells the machines.
package network

import (
	"context"
	"fmt"
	"strconv"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/neutron"
)

// Options are what both interfaces need.
type Options struct {
	// Client asks Neutron; with nil every use is an error that says what to configure.
	Client *neutron.Client
	// ProvisioningNetwork is the name or UUID of the network on which neutron deploys; driver_info
	// provisioning_network precedes it.
	ProvisioningNetwork string
	// SecurityGroups are UUIDs of those of the ports on it; none is the default one.
	SecurityGroups []string
	// FailOnBindingFailure ends what is going on if Neutron could not bind a port, for interface neutron:
	// the machine would be on the wrong network. driver_info fail_on_binding_failure precedes it.
	FailOnBindingFailure bool
}

// vifs is what both interfaces have in common.
type vifs struct {
	Options
	managed bool // Neutron configures the switch
}

// record puts it on record which port of Neutron a port has; "" is none.
func record(ctx context.Context, t *driver.Task, p *ingot.Port, key, id string) error {
	if driver.Text(p.InternalInfo, key) == id {
		return nil
	}
	if p.InternalInfo == nil {
		p.InternalInfo = ingot.Object{}
	}
	if p.InternalInfo[key] = id; id == "" {
		delete(p.InternalInfo, key)
	}
	return t.SavePort(ctx, p)
}

// binding is what binds a port of Neutron to a port of the machine.
func (v vifs) binding(n *ingot.Node, p *ingot.Port) neutron.Binding {
	b := neutron.Binding{Host: n.UUID, MAC: p.Address}
	if v.managed {
		b.Profile = ingot.Object{"local_link_information": []any{p.LocalLinkConnection}}
	}
	return b
}

// bind binds the VIFs of the machine, and tells how many it has.
func (v vifs) bind(ctx context.Context, t *driver.Task) (int, error) {
	count := 0
	for _, p := range t.Ports {
		id := driver.Text(p.InternalInfo, ingot.TenantVIF)
		if id == "" {
			continue
		}
		count++
		if err := v.bindOne(ctx, t, p, id); err != nil {
			return count, err
		}
	}
	return count, nil
}

func (v vifs) bindOne(ctx context.Context, t *driver.Task, p *ingot.Port, id string) error {
	got, err := v.Client.Bind(ctx, id, v.binding(t.Node, p))
	if err != nil {
		return fmt.Errorf("bind VIF of port %s: %w", p.Address, err)
	}
	return v.verify(t, p, got)
}

// verify tells whether Neutron has connected a port of the machine. flat does not care: nobody has to.
func (v vifs) verify(t *driver.Task, p *ingot.Port, got *neutron.Port) error {
	if got.VIFType != neutron.VIFFailed || !v.managed {
		return nil
	}
	must := v.FailOnBindingFailure
	if own, err := strconv.ParseBool(driver.Text(t.Node.DriverInfo, "fail_on_binding_failure")); err == nil {
		must = own
	}
	if !must {
		t.Log.Warn("Neutron could not bind a port", "port", p.Address, "vif", got.ID)
		return nil
	}
	return ingot.Errorf(ingot.Conflict, "Neutron could not bind port %s to port %s of the machine "+
		"(binding_failed): see the log of neutron-server, whether one of its mechanism_drivers is for the "+
		"switch, and local_link_connection of the port; or set [neutron] fail_on_port_binding_failure or "+
		"driver_info fail_on_binding_failure to false", got.ID, p.Address)
}

// unbind takes the VIFs from the machine; they stay on record.
func (v vifs) unbind(ctx context.Context, t *driver.Task) error {
	for _, p := range t.Ports {
		id := driver.Text(p.InternalInfo, ingot.TenantVIF)
		if id == "" {
			continue
		}
		if err := v.Client.Unbind(ctx, id, v.binding(t.Node, p)); err != nil {
			return fmt.Errorf("unbind VIF of port %s: %w", p.Address, err)
		}
	}
	return nil
}
