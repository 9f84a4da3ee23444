package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/policy"
	"ingot/internal/store"
)

func listPorts(c *call) (reply, error) {
	want, err := portFields.selected(c)
	if err != nil {
		return reply{}, err
	}
	return pageOfPorts(c, want)
}

func listPortDetails(c *call) (reply, error) { return pageOfPorts(c, full) }

func pageOfPorts(c *call, want selection) (reply, error) {
	page, err := c.page()
	if err != nil {
		return reply{}, err
	}
	if err := portFields.checkSortKey(c); err != nil {
		return reply{}, err
	}
	project, err := c.project(policy.PortListAll, policy.PortList)
	if err != nil {
		return reply{}, err
	}
	filter, err := portFilter(c)
	if err != nil {
		return reply{}, err
	}
	filter.Project = project
	list, err := c.api.o.Store.Ports(c.Context(), filter, page)
	if err != nil {
		return reply{}, err
	}
	return collection[port]{name: "ports", path: c.URL.Path, fields: portFields, want: want,
		page: page, key: func(p *port) string { return p.UUID }}.reply(c, list), nil
}

func portFilter(c *call) (store.PortFilter, error) {
	var f store.PortFilter
	if c.query.Has("address") {
		address, err := mac("address", c.query.Get("address"))
		if err != nil {
			return f, err
		}
		f.Address = address.(string)
	}
	ident := or(c.PathValue("ident"), or(c.query.Get("node_uuid"), c.query.Get("node")))
	if ident == "" {
		return f, nil
	}
	n, err := c.node(ident)
	if err != nil {
		return f, err
	}
	f.NodeID = n.ID
	return f, nil
}

// pathPort returns the port that the path names, if the rules let the caller have it. A port of a node
// that the caller does not see does not exist.
func (c *call) pathPort() (*port, error) {
	id, err := uuid("port_ident", c.PathValue("port"))
	if err != nil {
		return nil, err
	}
	p, err := c.api.o.Store.Port(c.Context(), id.(string))
	if err != nil || c.who == policy.Operator {
		return p, err
	}
	n, err := c.api.o.Store.Node(c.Context(), p.NodeUUID)
	switch {
	case err != nil && ingot.KindOf(err) != ingot.NotFound:
		return nil, err
	case err != nil, !c.sees(n):
		return nil, ingot.Errorf(ingot.NotFound, "Port %s could not be found.", p.UUID)
	}
	return p, c.allow(n)
}

func showPort(c *call) (reply, error) {
	want, err := portFields.named(c)
	if err != nil {
		return reply{}, err
	}
	p, err := c.pathPort()
	if err != nil {
		return reply{}, err
	}
	return reply{body: portFields.project(c, p, want)}, nil
}

func createPort(c *call) (reply, error) {
	body, err := c.decode()
	if err != nil {
		return reply{}, err
	}
	values, err := portFields.check("port", orNoMembers(body), create)
	if err != nil {
		return reply{}, err
	}
	if err := portFields.refuseNewer(c, values); err != nil {
		return reply{}, err
	}
	p := &port{PXEEnabled: true}
	portFields.apply(p, values)
	if p.UUID == "" {
		p.UUID = ingot.NewUUID()
	}
	if _, err := c.portNode(p.NodeUUID); err != nil {
		return reply{}, err
	}
	if err := c.api.o.Store.CreatePort(c.Context(), p); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusCreated, location: "/v1/ports/" + p.UUID,
		body: portFields.project(c, p, full)}, nil
}

// portNode returns the node that a port shall belong to, if the rules let the caller have it. It is part
// of the request's body, so that it does not exist is the caller's mistake and no 404.
func (c *call) portNode(id string) (*node, error) {
	n, err := c.seen(id)
	switch {
	case ingot.KindOf(err) == ingot.NotFound:
		return nil, invalid("%s", message(err))
	case err != nil:
		return nil, err
	}
	return n, c.allow(n)
}

func patchPort(c *call) (reply, error) {
	ops, err := c.patch()
	if err != nil {
		return reply{}, err
	}
	if err := portFields.checkPatch(c, ops); err != nil {
		return reply{}, err
	}
	for range staleTries {
		var p *port
		if p, err = c.pathPort(); err != nil {
			return reply{}, err
		}
		if err = c.changePort(p, ops); ingot.KindOf(err) != ingot.Stale {
			return reply{body: portFields.project(c, p, full)}, err
		}
	}
	return reply{}, err
}

// changePort applies a patch to a port and stores it.
func (c *call) changePort(p *port, ops []operation) error {
	delta, err := portFields.patched(c, p, ops)
	if err != nil || len(delta) == 0 {
		return err
	}
	n, err := c.api.o.Store.Node(c.Context(), p.NodeUUID)
	if err != nil {
		return err
	}
	if err := checkPortChange(p, n, delta); err != nil {
		return err
	}
	portFields.apply(p, delta)
	if _, moved := delta["node_uuid"]; moved {
		target, err := c.portNode(p.NodeUUID)
		if err != nil {
			return err
		}
		p.NodeID = target.ID
	}
	return c.api.o.Store.UpdatePort(c.Context(), p)
}

// States in which the way a port is connected may change, and what belongs to that.
var (
	connectStates = []lifecycle.State{lifecycle.Enroll, lifecycle.Inspecting,
		lifecycle.InspectWait, lifecycle.Manageable}
	connectFields = []string{"local_link_connection", "physical_network", "portgroup_uuid",
		"pxe_enabled"}
)

// checkPortChange refuses changes under a machine in use.
func checkPortChange(p *port, n *node, delta ingot.Object) error {
	if n.Maintenance {
		return nil
	}
	_, address := delta["address"]
	if address && (n.ProvisionState == string(lifecycle.Active) || n.InstanceUUID != "") {
		return ingot.Errorf(ingot.Conflict, "Cannot update hardware address for port %s as node "+
			"%s is active or has instance UUID assigned", p.UUID, n.UUID)
	}
	if contains(connectStates, n.ProvisionState) {
		return nil
	}
	names := make([]string, len(connectStates))
	for i, s := range connectStates {
		names[i] = string(s)
	}
	for name := range maps.Keys(delta) {
		if slices.Contains(connectFields, name) {
			return ingot.Errorf(ingot.Conflict, "Port %s can not have any connectivity attributes "+
				"(%s) updated unless node %s is in a %s state or in maintenance mode. The current "+
				"state is %s.", p.UUID, strings.Join(connectFields, ", "), n.UUID,
				strings.Join(names, ", "), n.ProvisionState)
		}
	}
	return nil
}

func deletePort(c *call) (reply, error) {
	p, err := c.pathPort()
	if err != nil {
		return reply{}, err
	}
	if vif, use := p.VIF(); vif != "" {
		n, err := c.api.o.Store.Node(c.Context(), p.NodeUUID)
		if err != nil {
			return reply{}, err
		}
		if !n.Maintenance {
			return reply{}, ingot.Errorf(ingot.Conflict, "Cannot delete the port %s as it is bound to VIF %s for %s "+
				"use.", p.UUID, vif, use)
		}
	}
	if err := c.api.o.Store.DeletePort(c.Context(), p); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusNoContent}, nil
}
