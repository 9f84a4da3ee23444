package openstack

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/subnets"
)

// Networking is gophercloud's client of Neutron, of an administrator.
func (c *Cloud) Networking(t testing.TB) *gophercloud.ServiceClient {
	t.Helper()
	client := &gophercloud.ProviderClient{}
	if c.Keystone != "" {
		client = c.SignIn(t, "admin", "admin")
	}
	return &gophercloud.ServiceClient{ProviderClient: client, Endpoint: c.Neutron + "/v2.0/"}
}

// Network makes a network of Neutron with subnets and returns its id. physical is the name of the physical
// network that it is to be on, "" for none. It is deleted with the test, with all its ports.
func (c *Cloud) Network(t testing.TB, name, physical string, cidrs ...string) (id string) {
	t.Helper()
	n := c.Networking(t)
	fields := map[string]any{"name": name}
	if physical != "" {
		fields["provider:network_type"], fields["provider:physical_network"] = "flat", physical
	}
	var made struct{ Network struct{ ID string } }
	_, err := n.Post(t.Context(), n.ServiceURL("networks"), map[string]any{"network": fields}, &made, nil)
	if err != nil {
		t.Fatal(err)
	}
	id = made.Network.ID
	t.Cleanup(func() {
		ctx := context.Background()
		page, err := ports.List(n, ports.ListOpts{NetworkID: id}).AllPages(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		left, _ := ports.ExtractPorts(page)
		for _, p := range left {
			_ = ports.Delete(ctx, n, p.ID) // it may be going
		}
		if err := networks.Delete(ctx, n, id).ExtractErr(); err != nil {
			t.Error(err)
		}
	})
	for _, cidr := range cidrs {
		version, dhcp := gophercloud.IPv4, false // it has a port of its own with DHCP
		if strings.Contains(cidr, ":") {
			version = gophercloud.IPv6
		}
		_, err := subnets.Create(t.Context(), n, subnets.CreateOpts{NetworkID: id, CIDR: cidr,
			IPVersion: version, EnableDHCP: &dhcp}).Extract()
		if err != nil {
			t.Fatal(err)
		}
	}
	return id
}

// Port makes a port of Neutron on a network, as a tenant does, and returns its id.
func (c *Cloud) Port(t testing.TB, network string) (id string) {
	t.Helper()
	p, err := ports.Create(t.Context(), c.Networking(t), ports.CreateOpts{NetworkID: network}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return p.ID
}

var macs atomic.Int64

// MAC is an address that no other test of the process has.
func MAC() string {
	n := macs.Add(1)
	return fmt.Sprintf("52:54:00:00:%02x:%02x", n>>8, n&0xff)
}
