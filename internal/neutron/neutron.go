// Package neutron reads and changes what an OpenStack cloud's Neutron has of machines: their ports, how
// these are bound to switches, and with which DHCP options they are answered. All that it changes may be
// repeated. Which port belongs to which machine, and when, is decided elsewhere (driver/network).
//
// Read Client first, then port.go and option.go.
package neutron

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/provider"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/networks"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
)

// Client asks one Neutron. Its methods may be called concurrently. Errors have the kind Unavailable if
// Neutron does not answer in time, or not now; those of a nil client say that none is configured.
type Client struct {
	service *keystone.Service
	timeout time.Duration
}

// DefaultTimeout bounds a request to Neutron, as in Ironic: it may configure a switch meanwhile.
const DefaultTimeout = 45 * time.Second

// New returns a client of the Neutron that a session finds. at is its URL, "" if the catalog knows it;
// timeout bounds each request, 0 is DefaultTimeout.
func New(s *keystone.Session, at string, timeout time.Duration) *Client {
	timeout = cmp.Or(timeout, DefaultTimeout)
	return &Client{s.Service("Neutron", "network", at).WithAnswerTime(timeout), timeout}
}

// NewOpen returns a client of a Neutron at a URL that wants no token.
func NewOpen(s *keystone.Session, at string, timeout time.Duration) *Client {
	c := New(s, at, timeout)
	c.service = c.service.WithoutToken()
	return c
}

// ErrNowhere says that there is no Neutron.
var ErrNowhere = ingot.Errorf(ingot.Invalid, "networks of Neutron cannot be used, because no cloud is "+
	"configured; set [keystone_authtoken] (auth_url, username...) or [neutron] endpoint_override, or the "+
	"node's network_interface to noop")

// do calls f with a client of Neutron's API, in time; f may run twice.
func (c *Client) do(ctx context.Context, what string,
	f func(context.Context, *gophercloud.ServiceClient) error) error {
	if c == nil {
		return ErrNowhere
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	err := c.service.Do(ctx, what, func(client *gophercloud.ServiceClient) error {
		if !strings.HasSuffix(client.Endpoint, "/v2.0/") { // most catalogs name it without
			client.Endpoint += "v2.0/"
		}
		return f(ctx, client)
	})
	return hint(err)
}

// hint tells what to do about an answer of Neutron.
func hint(err error) error {
	switch kind := ingot.KindOf(err); kind {
	case ingot.Unavailable:
		return ingot.Errorf(kind, "%w; see whether Neutron is up (`openstack network list`), and where "+
			"[neutron] endpoint_override or Keystone's catalog says that it is", err)
	case ingot.Forbidden:
		return ingot.Errorf(kind, "%w; the user of [keystone_authtoken] needs the role admin, or service, in "+
			"its project, to bind ports to machines", err)
	default:
		return err
	}
}

// Network is a network of the cloud.
type Network struct {
	ID, Name string
	// Project is the id of the one that it is of, and Shared tells whether all may use it.
	Project string
	Shared  bool
	// Physical are the names of the physical networks that it is on; none is all of them.
	Physical []string
}

// network is all that gophercloud reads of one.
type network struct {
	networks.Network
	provider.NetworkProviderExt
}

// Network finds a network by its UUID or its name. The error is of kind Invalid if there is none of it, or
// several that have the name.
func (c *Client) Network(ctx context.Context, ref string) (*Network, error) {
	if ref == "" {
		return nil, ingot.Errorf(ingot.Invalid, "no network is named; write its UUID or name, as "+
			"`openstack network list` shows it")
	}
	var found []network
	if id := strings.ToLower(ref); ingot.IsUUID(id) {
		if err := c.networks(ctx, ref, networks.ListOpts{ID: id}, &found); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		if err := c.networks(ctx, ref, networks.ListOpts{Name: ref}, &found); err != nil {
			return nil, err
		}
	}
	switch len(found) {
	case 0:
		return nil, ingot.Errorf(ingot.Invalid, "Neutron has no network with the name or UUID %s, or none "+
			"for the user of [keystone_authtoken]: see `openstack network list`", ref)
	case 1:
		return newNetwork(found[0]), nil
	}
	ids := make([]string, len(found))
	for i := range found {
		ids[i] = found[i].ID
	}
	return nil, ingot.Errorf(ingot.Invalid, "Neutron has %d networks with the name %s; write the UUID of the "+
		"one that is meant: %s", len(ids), ref, strings.Join(ids, ", "))
}

func (c *Client) networks(ctx context.Context, ref string, which networks.ListOpts, to *[]network) error {
	return c.do(ctx, "find network "+ref, func(ctx context.Context, s *gophercloud.ServiceClient) error {
		page, err := networks.List(s, which).AllPages(ctx)
		if err != nil {
			return err
		}
		return networks.ExtractNetworksInto(page, to)
	})
}

func newNetwork(n network) *Network {
	out := &Network{ID: n.ID, Name: n.Name, Project: n.ProjectID, Shared: n.Shared}
	for _, s := range append(n.Segments, provider.Segment{PhysicalNetwork: n.PhysicalNetwork}) {
		if s.PhysicalNetwork != "" {
			out.Physical = append(out.Physical, s.PhysicalNetwork)
		}
	}
	return out
}
