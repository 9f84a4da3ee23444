package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// VIFs are the ports of Neutron that are attached.
func (v vifs) VIFs(t *driver.Task) []string {
	ids := []string{}
	for _, p := range t.Ports {
		if id := driver.Text(p.InternalInfo, ingot.TenantVIF); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// AttachVIF gives a port of Neutron the MAC address of one of the machine's ports, and puts that on
// record. An active machine is connected at once.
func (v vifs) AttachVIF(ctx context.Context, t *driver.Task, want driver.VIF) error {
	id := strings.ToLower(want.ID)
	physical, err := v.look(ctx, t, id, want.Project)
	if err != nil {
		return err
	}
	p, err := choose(t.Ports, driver.VIF{ID: id, PortUUID: want.PortUUID}, physical, v.usable)
	if err != nil {
		return err
	}
	if t.Node.ProvisionState == string(lifecycle.Active) {
		return v.attachBound(ctx, t, p, id)
	}
	// On record comes last: what was done before is done again, and found done, if we get no further.
	if err := v.Client.SetMAC(ctx, id, v.binding(t.Node, p)); err != nil {
		return fmt.Errorf("attach VIF %s: give it the MAC address %s of the machine: %w", id, p.Address, err)
	}
	return record(ctx, t, p, ingot.TenantVIF, id)
}

// attachBound attaches a VIF to a machine in use. It is on record first: a port that is bound and not on
// record would stay bound.
func (v vifs) attachBound(ctx context.Context, t *driver.Task, p *ingot.Port, id string) error {
	if err := record(ctx, t, p, ingot.TenantVIF, id); err != nil {
		return err
	}
	err := v.bindOne(ctx, t, p, id)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("attach VIF %s: %w", id, err)
	if undo := v.Client.Unbind(ctx, id, v.binding(t.Node, p)); undo != nil {
		return fmt.Errorf("%w; it may be bound, and is attached until it is detached: %w", err, undo)
	}
	return errors.Join(err, record(ctx, t, p, ingot.TenantVIF, ""))
}

// look finds out whether there is a VIF for a project ("" is any), and on which physical networks that is;
// none is all. We see all ports, and who asks for one may be a tenant.
func (v vifs) look(ctx context.Context, t *driver.Task, id, project string) ([]string, error) {
	vif, err := v.Client.Port(ctx, id)
	if err == nil && project != "" && vif.Project != project {
		err = ingot.Errorf(ingot.NotFound, "show port %s: it is of another project than yours", id)
	}
	if ingot.KindOf(err) == ingot.NotFound {
		return nil, ingot.Errorf(ingot.Invalid, "Unable to attach VIF %s, because there is no such port of "+
			"Neutron: %v", id, err)
	}
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(t.Ports, func(p *ingot.Port) bool { return p.PhysicalNetwork != "" }) {
		return nil, nil
	}
	network, err := v.Client.Network(ctx, vif.Network)
	if err != nil {
		return nil, err
	}
	var shared []string
	for _, p := range t.Ports {
		if slices.Contains(network.Physical, p.PhysicalNetwork) && !slices.Contains(shared, p.PhysicalNetwork) {
			shared = append(shared, p.PhysicalNetwork)
		}
	}
	if len(shared) > 1 {
		return nil, ingot.Errorf(ingot.Conflict, "Unable to attach VIF %s to node %s. Reason: the node has "+
			"ports on several segments of its network (%s), and Neutron allows one", id, t.Node.UUID,
			strings.Join(shared, ", "))
	}
	return network.Physical, nil
}

// usable tells whether a port of the machine can be connected.
func (v vifs) usable(p *ingot.Port) bool { return !v.managed || len(p.LocalLinkConnection) > 0 }

// choose finds a port of the machine for a VIF: on one of the VIF's physical networks (none is all), then
// one from which the machine may boot. Errors have Ironic's words.
func choose(ports []*ingot.Port, vif driver.VIF, physical []string,
	usable func(*ingot.Port) bool) (*ingot.Port, error) {
	best, rank := (*ingot.Port)(nil), -1
	for _, p := range ports {
		has := driver.Text(p.InternalInfo, ingot.TenantVIF)
		if has == vif.ID {
			return nil, ingot.Errorf(ingot.Conflict, "Unable to attach VIF because VIF %s is already attached to "+
				"Ironic Port %s", vif.ID, p.UUID)
		}
		on := slices.Contains(physical, p.PhysicalNetwork)
		if has != "" || vif.PortUUID != "" && p.UUID != strings.ToLower(vif.PortUUID) || !usable(p) ||
			len(physical) > 0 && p.PhysicalNetwork != "" && !on {
			continue
		}
		score := 0
		if on {
			score += 2
		}
		if p.PXEEnabled {
			score++
		}
		if score > rank {
			best, rank = p, score
		}
	}
	if best == nil {
		return nil, ingot.Errorf(ingot.Invalid, "Unable to attach VIF %s, not enough free physical ports: those "+
			"of the node have a VIF, are on other physical networks, or lack local_link_connection, which "+
			"network_interface neutron needs", vif.ID)
	}
	return best, nil
}

// DetachVIF takes a VIF from the node, and the machine from its network if it is there.
func (v vifs) DetachVIF(ctx context.Context, t *driver.Task, id string) error {
	id = strings.ToLower(id)
	i := slices.IndexFunc(t.Ports, func(p *ingot.Port) bool {
		return driver.Text(p.InternalInfo, ingot.TenantVIF) == id
	})
	if i < 0 || id == "" {
		return ingot.Errorf(ingot.Invalid, "Unable to detach VIF %s from node %s because it is not attached to it.",
			id, t.Node.UUID)
	}
	// Also where it has only our MAC address, which its owner would find on it.
	if err := v.Client.Unbind(ctx, id, v.binding(t.Node, t.Ports[i])); err != nil {
		return fmt.Errorf("detach VIF %s: %w", id, err)
	}
	return record(ctx, t, t.Ports[i], ingot.TenantVIF, "")
}
