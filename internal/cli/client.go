package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/httpbasic"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/noauth"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/nodes"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/ports"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// microversion is what these commands are written against.
const microversion = "1.82"

// defaultURL is where `ingot serve` listens by default.
const defaultURL = "http://127.0.0.1:6385"

// Client calls the API. Errors are already explained, with exit codes.
type Client struct {
	endpoint string
	keystone string // where the client has signed in; "" is nowhere
	service  *gophercloud.ServiceClient
}

// Credentials are what an API with authentication asks for; the zero value is for one without.
type Credentials struct {
	User     string
	Password ingot.Secret
}

// Dial prepares a client for the API at base; it does not connect yet.
func Dial(base string, as Credentials) (*Client, error) {
	base, err := apiURL(base)
	if err != nil {
		return nil, err
	}
	var service *gophercloud.ServiceClient
	if as.User == "" {
		service, err = noauth.NewBareMetalNoAuth(noauth.EndpointOpts{IronicEndpoint: base + "/v1/"})
	} else {
		service, err = httpbasic.NewBareMetalHTTPBasic(httpbasic.EndpointOpts{
			IronicEndpoint: base + "/v1/", IronicUser: as.User,
			IronicUserPassword: as.Password.Reveal()})
	}
	if err != nil {
		return nil, fmt.Errorf("prepare client: %w", err)
	}
	service.Microversion = microversion
	return &Client{endpoint: base, service: service}, nil
}

// apiURL checks the URL of the API; it comes without a slash and a version at the end.
func apiURL(base string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return "", usage("%q is not a URL of the API; write for example %s", base, defaultURL)
	}
	return strings.TrimSuffix(strings.TrimSuffix(u.String(), "/"), "/v1"), nil
}

// UseTransport replaces the HTTP transport, for callers that live in another network namespace.
func (c *Client) UseTransport(t http.RoundTripper) { c.service.HTTPClient.Transport = t }

// Node is a node as the API shows it, with the wire names.
type Node = nodes.Node

// Node returns one node by name or UUID.
func (c *Client) Node(ctx context.Context, ident string) (*Node, error) {
	n, err := nodes.Get(ctx, c.service, ident).Extract()
	return n, c.explain(err)
}

// Raw returns one node as the JSON that came.
func (c *Client) Raw(ctx context.Context, ident string) (json.RawMessage, error) {
	var body json.RawMessage
	_, err := c.service.Get(ctx, c.service.ServiceURL("nodes", ident), &body, nil)
	return body, c.explain(err)
}

// Nodes calls yield for every node of an owner, "" for all nodes, page by page.
func (c *Client) Nodes(ctx context.Context, owner string, yield func(Node) error) error {
	pager := nodes.ListDetail(c.service, nodes.ListOpts{Owner: owner})
	return c.explain(pager.EachPage(ctx,
		func(_ context.Context, p pagination.Page) (bool, error) {
			page, err := nodes.ExtractNodes(p)
			if err != nil {
				return false, err
			}
			for _, n := range page {
				if err := yield(n); err != nil {
					return false, err
				}
			}
			return true, nil
		}))
}

// RawNodes returns every node as the JSON that came.
func (c *Client) RawNodes(ctx context.Context) ([]any, error) {
	all := []any{}
	pager := nodes.ListDetail(c.service, nodes.ListOpts{})
	err := pager.EachPage(ctx, func(_ context.Context, p pagination.Page) (bool, error) {
		body, _ := p.GetBody().(map[string]any)
		page, _ := body["nodes"].([]any)
		all = append(all, page...)
		return true, nil
	})
	return all, c.explain(err)
}

// CreateNode creates a node and, with a MAC, its port.
func (c *Client) CreateNode(ctx context.Context, o nodes.CreateOpts, mac string) (*Node, error) {
	n, err := nodes.Create(ctx, c.service, o).Extract()
	if err != nil {
		return nil, c.explain(err)
	}
	if mac == "" {
		return n, nil
	}
	_, err = ports.Create(ctx, c.service, ports.CreateOpts{NodeUUID: n.UUID, Address: mac}).Extract()
	if err == nil {
		return n, nil
	}
	// A node without its port is half a node: take it back, so that the same command can be
	// repeated with the right address. The clean-up outlives a cancelled command.
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if undo := nodes.Delete(short, c.service, n.UUID).ExtractErr(); undo != nil {
		err = fmt.Errorf("%w (the node stayed: %w)", err, undo)
	}
	return nil, c.explain(err)
}

// DeleteNode removes a node and its ports.
func (c *Client) DeleteNode(ctx context.Context, ident string) error {
	return c.explain(nodes.Delete(ctx, c.service, ident).ExtractErr())
}

// DiscardNode removes a node and its ports in whatever state it is: nobody is to care for its machine
// any more.
func (c *Client) DiscardNode(ctx context.Context, ident string) error {
	err := nodes.SetMaintenance(ctx, c.service, ident,
		nodes.MaintenanceOpts{Reason: "it is to be removed"}).ExtractErr()
	if err != nil {
		return c.explain(err)
	}
	return c.DeleteNode(ctx, ident)
}

// Bootable returns an error unless the server knows how to boot the node's ramdisk.
func (c *Client) Bootable(ctx context.Context, ident string) error {
	found, err := nodes.Validate(ctx, c.service, ident).Extract()
	if err != nil {
		return c.explain(err)
	}
	if !found.Boot.Result {
		return &exitError{ExitFailed, errors.New(found.Boot.Reason)}
	}
	return nil
}

// SetInstance puts keys into instance_info; one whose value is nil is taken out of it. Others stay
// as they are. It returns what the keys were before.
func (c *Client) SetInstance(ctx context.Context, ident string, info map[string]any) (
	before map[string]any, err error) {
	n, err := c.Node(ctx, ident)
	if err != nil {
		return nil, err
	}
	before = map[string]any{}
	var patch nodes.UpdateOpts
	for key, value := range info {
		before[key] = n.InstanceInfo[key]
		if value == nil {
			if _, there := n.InstanceInfo[key]; there {
				patch = append(patch, nodes.UpdateOperation{
					Op: nodes.RemoveOp, Path: "/instance_info/" + key,
				})
			}
			continue
		}
		patch = append(patch, nodes.UpdateOperation{
			Op: nodes.AddOp, Path: "/instance_info/" + key, Value: value,
		})
	}
	_, err = nodes.Update(ctx, c.service, ident, patch).Extract()
	return before, c.explain(err)
}

// Provision asks for a verb: manage, provide, active, rebuild, deleted.
func (c *Client) Provision(ctx context.Context, ident, verb string) error {
	err := nodes.ChangeProvisionState(ctx, c.service, ident, nodes.ProvisionStateOpts{
		Target: nodes.TargetProvisionState(verb),
	}).ExtractErr()
	refused := gophercloud.ResponseCodeIs(err, http.StatusBadRequest)
	err = c.explain(err)
	if refused && c.TooEarly(ctx, ident, verb) {
		return &exitError{ExitConflict, err}
	}
	return err
}

// TooEarly tells whether a verb is refused because of the node's state: Ironic says 400 to that
// as to a mistake, but a script wants to tell them apart.
func (c *Client) TooEarly(ctx context.Context, ident, verb string) bool {
	v, known := lifecycle.VerbByName(verb)
	n, err := nodes.Get(ctx, c.service, ident).Extract()
	if err != nil || !known {
		return false
	}
	_, legal := lifecycle.Next(lifecycle.State(n.ProvisionState), v.Event)
	return !legal
}

// Power asks for a power target, with its wire name.
func (c *Client) Power(ctx context.Context, ident, target string) error {
	err := nodes.ChangePowerState(ctx, c.service, ident, nodes.PowerStateOpts{
		Target: nodes.TargetPowerState(target),
	}).ExtractErr()
	return c.explain(err)
}

// Journal returns the entries after seq, waiting up to the given time for the first.
func (c *Client) Journal(
	ctx context.Context, ident string, after int64, wait time.Duration,
) ([]ingot.Entry, error) {
	u := c.service.ServiceURL("nodes", ident, "journal") +
		fmt.Sprintf("?after=%d&wait=%d", after, int(wait.Seconds()))
	var body struct {
		Journal []ingot.Entry `json:"journal"`
	}
	_, err := c.service.Get(ctx, u, &body, nil)
	return body.Journal, c.explain(err)
}
