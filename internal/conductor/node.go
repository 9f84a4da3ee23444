package conductor

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

// CreateNode fills defaults, checks driver and interfaces, and stores the node.
func (c *Conductor) CreateNode(ctx context.Context, n *ingot.Node) (*ingot.Node, error) {
	created := *n
	if created.UUID == "" {
		created.UUID = ingot.NewUUID()
	}
	if created.ProvisionState == "" {
		created.ProvisionState = string(lifecycle.Enroll)
	}
	created.BootIntent = ingot.BootNone
	if err := c.o.Table.Complete(&created); err != nil {
		return nil, err
	}
	if err := c.o.Store.CreateNode(ctx, &created); err != nil {
		return nil, err
	}
	c.o.Journal.Add(ingot.Entry{Node: created.UUID, Source: "state", Level: ingot.LevelInfo,
		Text: fmt.Sprintf("created, driver %s, state %s", created.Driver, created.ProvisionState)})
	return &created, nil
}

// locked is Ironic's answer for a node that a conductor is at work on.
func locked(n *ingot.Node) error {
	return ingot.Errorf(ingot.Locked, "Node %s is locked by host %s, please retry after the "+
		"current operation is completed.", n.UUID, n.Reservation)
}

// UpdateNode checks interfaces and stores the node as changed by the caller.
func (c *Conductor) UpdateNode(ctx context.Context, n *ingot.Node,
	u rpc.UpdateOptions) (*ingot.Node, error) {
	if n.Reservation != "" {
		return nil, locked(n)
	}
	old, err := c.o.Store.Node(ctx, n.UUID)
	if err != nil {
		return nil, err
	}
	if old.Reservation != "" {
		return nil, locked(old)
	}
	changed := *n
	changed.Interfaces = maps.Clone(n.Interfaces)
	if u.ResetInterfaces && changed.Driver != old.Driver {
		// What was not set together with the driver belonged to the old one.
		maps.DeleteFunc(changed.Interfaces, func(kind, name string) bool {
			return old.Interfaces[kind] == name
		})
	}
	if err := c.o.Table.Complete(&changed); err != nil {
		return nil, err
	}
	if was, now := old.Interfaces["network"], changed.Interfaces["network"]; was != now {
		if err := c.refuseVIFs(ctx, old, fmt.Sprintf("its network_interface cannot become %s", now)); err != nil {
			return nil, err
		}
	}
	if old.Maintenance && !changed.Maintenance {
		changed.Fault = "" // a person says that it is repaired
	}
	if err := c.o.Store.UpdateNode(ctx, &changed); err != nil {
		return nil, err
	}
	if old.Maintenance != changed.Maintenance {
		text := map[bool]string{true: "maintenance begins", false: "maintenance ends"}
		c.o.Journal.Add(ingot.Entry{Node: n.UUID, Source: "api", Level: ingot.LevelInfo,
			Text: text[changed.Maintenance]})
	}
	return &changed, nil
}

// DeleteNode removes the node and its ports.
func (c *Conductor) DeleteNode(ctx context.Context, ident string) error {
	n, err := c.o.Store.Node(ctx, ident)
	if err != nil {
		return err
	}
	switch {
	case n.Reservation != "":
		return locked(n)
	case n.Protected:
		return ingot.Errorf(ingot.Forbidden, "Node %s is protected and cannot be undeployed, "+
			"rebuilt or deleted.", n.UUID)
	case n.Maintenance:
	case n.InstanceUUID != "":
		return ingot.Errorf(ingot.Conflict, "Node %s is associated with instance %s.", n.UUID,
			n.InstanceUUID)
	case !lifecycle.Deletable(lifecycle.State(n.ProvisionState)) &&
		n.ProvisionState != string(lifecycle.Available):
		return ingot.Errorf(ingot.Conflict, "Can not delete node \"%s\" while it is in provision "+
			"state \"%s\". Valid provision states to perform deletion are: \"%s\", or set the "+
			"node into maintenance mode", n.UUID, n.ProvisionState,
			strings.Join(deletable(), ", "))
	default:
		if err := c.refuseVIFs(ctx, n, "it cannot be deleted, or is to be set into maintenance mode"); err != nil {
			return err
		}
	}
	if err := c.o.Store.DeleteNode(ctx, n); err != nil {
		return err
	}
	c.sensed.forget(n.UUID)
	return nil
}

// refuseVIFs refuses what would leave a node's ports of Neutron to nobody.
func (c *Conductor) refuseVIFs(ctx context.Context, n *ingot.Node, what string) error {
	ports, err := c.o.Store.Ports(ctx, store.PortFilter{NodeID: n.ID}, store.Page{})
	if err != nil {
		return err
	}
	for _, p := range ports {
		if vif, use := p.VIF(); vif != "" {
			return ingot.Errorf(ingot.Conflict, "Node %s has VIF %s for %s use on port %s, so %s. Detach it first "+
				"(baremetal node vif detach), or undeploy the node.", n.UUID, vif, use, p.UUID, what)
		}
	}
	return nil
}

// deletable lists the states in which a node may be deleted. Available ones may be, too, as in
// Ironic with its default allow_deleting_available_nodes.
func deletable() []string {
	names := []string{string(lifecycle.Available)}
	for _, s := range lifecycle.States() {
		if lifecycle.Deletable(s) {
			names = append(names, string(s))
		}
	}
	return names
}

// NodeByIdent finds a node and its ports for a driver.
func (c *Conductor) NodeByIdent(ctx context.Context, ident string) (*ingot.Node, []*ingot.Port,
	error) {
	n, err := c.o.Store.Node(ctx, ident)
	if err != nil {
		return nil, nil, err
	}
	ports, err := c.o.Store.Ports(ctx, store.PortFilter{NodeID: n.ID}, store.Page{})
	return n, ports, err
}

// NodeByMAC finds the port with an address and its node, as far as boot answers need them.
func (c *Conductor) NodeByMAC(ctx context.Context, mac string) (*ingot.Node, []*ingot.Port,
	error) {
	n, p, err := c.o.Store.Machine(ctx, mac)
	if err != nil {
		return nil, nil, err
	}
	return n, []*ingot.Port{p}, nil
}
