package neutron

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/extradhcpopts"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/portsbinding"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

	"ingot/internal/ingot"
)

// Port is a port of Neutron.
type Port struct {
	ID, Network, Project string
	// MAC is in lower case, with colons.
	MAC      string
	FixedIPs []netip.Addr
	// Device is what uses the port, and Owner which kind of thing that is.
	Device, Owner string
	// Host is what the port is bound to, a node's UUID for machines; "" if to nothing.
	Host string
	// VIFType is how it is bound: VIFUnbound, VIFFailed, or how it was done. "" hides it from us.
	VIFType  string
	VNICType string
	Profile  ingot.Object
	Options  []Option

	groups []string // security groups
}

// Values of Port.VIFType.
const (
	VIFUnbound = "unbound"
	VIFFailed  = "binding_failed"
)

// Owner is the Port.Owner of ports that are made for a machine, and not by a tenant; also by Ironic.
const Owner = "baremetal:none"

// vnicType is the Port.VNICType of ports of machines.
const vnicType = "baremetal"

// plugged tells whether Neutron has bound the port to something, and so keeps its address as it is.
func (p *Port) plugged() bool {
	return p.Host != "" && p.VIFType != VIFUnbound && p.VIFType != VIFFailed
}

// Binding is what connects a port to a machine.
type Binding struct {
	Host string // the node's UUID
	MAC  string // the machine's
	// Profile tells Neutron's drivers which port of which switch it is; nil leaves what there is.
	Profile ingot.Object
}

// Port shows a port, by its UUID. The error is of kind NotFound if there is none.
func (c *Client) Port(ctx context.Context, id string) (*Port, error) {
	if !ingot.IsUUID(id) {
		return nil, ingot.Errorf(ingot.NotFound, "%q is no UUID of a port of Neutron: see `openstack port "+
			"list`", id)
	}
	var found port
	err := c.do(ctx, "show port "+id, func(ctx context.Context, s *gophercloud.ServiceClient) error {
		return ports.Get(ctx, s, id).ExtractInto(&found)
	})
	if err != nil {
		return nil, err
	}
	return newPort(found), nil
}

// Find returns the ports with a MAC address on a network, by its UUID.
func (c *Client) Find(ctx context.Context, network, mac string) ([]*Port, error) {
	var found []port
	err := c.do(ctx, "find the ports of "+mac, func(ctx context.Context, s *gophercloud.ServiceClient) error {
		page, err := ports.List(s, ports.ListOpts{NetworkID: network, MACAddress: mac}).AllPages(ctx)
		if err != nil {
			return err
		}
		return ports.ExtractPortsInto(page, &found)
	})
	out := make([]*Port, len(found))
	for i := range found {
		out[i] = newPort(found[i])
	}
	return out, err
}

// Spec is what a port for a machine shall be.
type Spec struct {
	Network string // UUID
	Device  string // UUID of the instance, or of the node
	Binding Binding
	// Groups are UUIDs of security groups; none is the default one of ingot's project.
	Groups []string
}

// Create makes a port with Owner, or makes one that is there already, from an attempt whose answer was
// lost, as it shall be. The error is of kind Conflict if a port of somebody else has the MAC address on
// that network.
func (c *Client) Create(ctx context.Context, n Spec) (*Port, error) {
	p, err := c.adopt(ctx, n)
	if p != nil || err != nil {
		return p, err
	}
	want := n.fields()
	want["network_id"], want["mac_address"] = n.Network, n.Binding.MAC
	want["device_owner"], want["admin_state_up"] = Owner, true
	var made port
	err = c.do(ctx, "create a port for "+n.Binding.MAC+" on network "+n.Network,
		func(ctx context.Context, s *gophercloud.ServiceClient) error {
			return ports.Create(ctx, s, fields{want}).ExtractInto(&made)
		})
	if ingot.KindOf(err) == ingot.Conflict { // it may be there since we looked
		if p, again := c.adopt(ctx, n); p != nil || again != nil {
			return p, again
		}
	}
	if err != nil {
		return nil, err
	}
	return newPort(made), nil
}

// adopt finds the port that was made before, and makes it as it shall be; nil if there is none.
func (c *Client) adopt(ctx context.Context, n Spec) (*Port, error) {
	found, err := c.Find(ctx, n.Network, n.Binding.MAC)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	p := found[0] // Neutron lets a MAC address be once on a network
	if p.Owner != Owner {
		return nil, ingot.Errorf(ingot.Conflict, "port %s has the MAC address %s of the machine on network %s "+
			"already, and is of %q; delete it, or give it another address: openstack port set --mac-address",
			p.ID, n.Binding.MAC, n.Network, p.Owner)
	}
	slices.Sort(p.groups)
	sameGroups := len(n.Groups) == 0 || slices.Equal(p.groups, slices.Sorted(slices.Values(n.Groups)))
	if p.Device == n.Device && sameGroups && p.bound(n.Binding) {
		return p, nil
	}
	return c.update(ctx, p.ID, "make port "+p.ID+" one for "+n.Binding.MAC, n.fields())
}

// fields are those that may be set with a port that is there as well as with a new one.
func (n Spec) fields() map[string]any {
	out := map[string]any{"device_id": n.Device, "binding:host_id": n.Binding.Host,
		"binding:vnic_type": vnicType, "binding:profile": n.Binding.Profile}
	if len(n.Groups) > 0 {
		out["security_groups"] = n.Groups
	}
	return out
}

// bound tells whether the port is bound so; a binding that failed is not, for Neutron tries it anew with
// each change.
func (p *Port) bound(b Binding) bool {
	return p.Host == b.Host && p.MAC == b.MAC && p.VNICType == vnicType && p.VIFType != VIFFailed &&
		p.VIFType != VIFUnbound && (b.Profile == nil || same(p.Profile, b.Profile))
}

// same tells whether two values are the same in JSON.
func same(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

// Delete deletes a port; one that is not there is deleted.
func (c *Client) Delete(ctx context.Context, id string) error {
	err := c.do(ctx, "delete port "+id, func(ctx context.Context, s *gophercloud.ServiceClient) error {
		// Eventlet, which serves most Neutrons, sends a body with 204, which would be taken for the
		// beginning of the next answer.
		headers := map[string]string{"Connection": "close"}
		maps.Copy(headers, s.MoreHeaders)
		s.MoreHeaders = headers
		return ports.Delete(ctx, s, id).ExtractErr()
	})
	if ingot.KindOf(err) == ingot.NotFound {
		return nil
	}
	return err
}

// Bind binds a port to a machine and returns what became of it. Its VIFType may be VIFFailed: then no
// driver of Neutron has connected it. The error is of kind NotFound if there is no such port, Conflict if
// it is bound to another machine, Forbidden if we may not see whether it is bound.
func (c *Client) Bind(ctx context.Context, id string, b Binding) (*Port, error) {
	p, err := c.Port(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case p.taken(b.Host) != nil:
		return nil, p.taken(b.Host)
	case p.bound(b):
		return p, nil
	case p.plugged() && p.MAC != b.MAC:
		if _, err := c.update(ctx, id, "unbind port "+id, unbound()); err != nil {
			return nil, err
		}
	}
	want := map[string]any{"binding:host_id": b.Host, "binding:vnic_type": vnicType, "mac_address": b.MAC}
	if b.Profile != nil {
		want["binding:profile"] = b.Profile
	}
	p, err = c.update(ctx, id, "bind port "+id, want)
	if err == nil && p.VIFType == "" {
		err = hint(ingot.Errorf(ingot.Forbidden, "bind port %s: Neutron does not tell how it is bound", id))
	}
	return p, err
}

// Unbind takes a port from a machine: it loses its host, its profile, and the machine's MAC address,
// which would be in the way of the machine's next port on that network. One that is not there, or is
// bound to something else by now, is left alone.
func (c *Client) Unbind(ctx context.Context, id string, b Binding) error {
	p, err := c.Port(ctx, id)
	if err == nil && p.taken(b.Host) == nil {
		err = c.unbind(ctx, p, b.MAC)
	}
	if ingot.KindOf(err) == ingot.NotFound {
		return nil
	}
	return err
}

func (c *Client) unbind(ctx context.Context, p *Port, mac string) error {
	if p.Host != "" || len(p.Profile) > 0 {
		if _, err := c.update(ctx, p.ID, "unbind port "+p.ID, unbound()); err != nil {
			return err
		}
	}
	if p.MAC != mac {
		return nil
	}
	// In a request of its own: Neutron refuses a new address to a port that is bound. null has it
	// choose one.
	_, err := c.update(ctx, p.ID, "take the machine's MAC address from port "+p.ID,
		map[string]any{"mac_address": nil})
	return err
}

// SetMAC gives a port the MAC address of a machine, and unbinds it if it is bound to this machine with
// another one. Errors are those of Bind.
func (c *Client) SetMAC(ctx context.Context, id string, b Binding) error {
	p, err := c.Port(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case p.taken(b.Host) != nil:
		return p.taken(b.Host)
	case p.MAC == b.MAC:
		return nil
	case p.plugged():
		if _, err := c.update(ctx, id, "unbind port "+id, unbound()); err != nil {
			return err
		}
	}
	_, err = c.update(ctx, id, "set the MAC address of port "+id, map[string]any{"mac_address": b.MAC})
	return err
}

// taken is the error if the port is bound to another node. With network interface flat Nova binds it to
// the host of nova-compute before it attaches it.
func (p *Port) taken(node string) error {
	if p.Host == node || !ingot.IsUUID(p.Host) {
		return nil
	}
	return ingot.Errorf(ingot.Conflict, "port %s is bound to node %s; detach it there first, or, if nothing "+
		"uses it, unbind it: openstack port unset --host", p.ID, p.Host)
}

// unbound are the fields of a port that is bound to nothing.
func unbound() map[string]any {
	return map[string]any{"binding:host_id": "", "binding:profile": map[string]any{}}
}

func (c *Client) update(ctx context.Context, id, what string, to map[string]any) (*Port, error) {
	var got port
	err := c.do(ctx, what, func(ctx context.Context, s *gophercloud.ServiceClient) error {
		return ports.Update(ctx, s, id, fields{to}).ExtractInto(&got)
	})
	if err != nil {
		return nil, err
	}
	return newPort(got), nil
}

// fields are what is sent of a port. gophercloud's own options cannot say null.
type fields struct{ port map[string]any }

func (f fields) ToPortCreateMap() (map[string]any, error) { return map[string]any{"port": f.port}, nil }
func (f fields) ToPortUpdateMap() (map[string]any, error) { return map[string]any{"port": f.port}, nil }

// port is all that gophercloud reads of one.
type port struct {
	ports.Port
	portsbinding.PortsBindingExt
	extradhcpopts.ExtraDHCPOptsExt
}

func newPort(p port) *Port {
	out := &Port{ID: p.ID, Network: p.NetworkID, Project: p.ProjectID, MAC: strings.ToLower(p.MACAddress),
		Device: p.DeviceID, Owner: p.DeviceOwner, Host: p.HostID, VIFType: p.VIFType, VNICType: p.VNICType,
		Profile: p.Profile, groups: p.SecurityGroups}
	for _, ip := range p.FixedIPs {
		if a, err := netip.ParseAddr(ip.IPAddress); err == nil {
			out.FixedIPs = append(out.FixedIPs, a)
		}
	}
	for _, o := range p.ExtraDHCPOpts {
		out.Options = append(out.Options, Option{Name: o.OptName, Value: o.OptValue, Version: o.IPVersion})
	}
	return out
}
