package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/policy"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

// node returns the node that an identifier of the request names: a UUID or, since 1.5, a name.
func (c *call) node(ident string) (*node, error) {
	switch {
	case isUUID(ident):
		ident = canonicalUUID(ident)
	case c.minor < 5:
		return nil, ingot.Errorf(ingot.NotFound, "Node %s could not be found.", ident)
	case !validName(c.minor, ident):
		return nil, invalid("Expected UUID or name for node_ident: %s", ident)
	}
	n, err := c.seen(ident)
	if c.suffixed && ingot.KindOf(err) == ingot.NotFound {
		return c.seen(ident + ".json") // the name may really end so
	}
	return n, err
}

// seen reads a node. One that the caller does not see does not exist.
func (c *call) seen(ident string) (*node, error) {
	n, err := c.api.o.Store.Node(c.Context(), ident)
	if err == nil && !c.sees(n) {
		return nil, ingot.Errorf(ingot.NotFound, "Node %s could not be found.", ident)
	}
	return n, err
}

// pathNode returns the node that the path names, if the rules let the caller have it.
func (c *call) pathNode() (*node, error) { return c.allowedNode(c.PathValue("ident")) }

func (c *call) allowedNode(ident string) (*node, error) {
	n, err := c.node(ident)
	if err != nil {
		return nil, err
	}
	return n, c.allow(n)
}

func listNodes(c *call) (reply, error) {
	want, err := nodeFields.selected(c)
	if err != nil {
		return reply{}, err
	}
	return pageOfNodes(c, "/v1/nodes", want)
}

func listNodeDetails(c *call) (reply, error) { return pageOfNodes(c, "/v1/nodes/detail", full) }

func pageOfNodes(c *call, path string, want selection) (reply, error) {
	page, err := c.page()
	if err != nil {
		return reply{}, err
	}
	if err := nodeFields.checkSortKey(c); err != nil {
		return reply{}, err
	}
	project, err := c.project(policy.NodeListAll, policy.NodeList)
	if err != nil {
		return reply{}, err
	}
	filter, err := nodeFilter(c)
	if err != nil {
		return reply{}, err
	}
	filter.Project = project
	list, err := c.api.o.Store.Nodes(c.Context(), filter, page)
	if err != nil {
		return reply{}, err
	}
	if err := c.loadConductors(want); err != nil {
		return reply{}, err
	}
	return collection[node]{name: "nodes", path: path, fields: nodeFields, want: want, page: page,
		key: func(n *node) string { return n.UUID }}.reply(c, list), nil
}

// nodeFilter reads the filters of a list of nodes.
func nodeFilter(c *call) (store.NodeFilter, error) {
	q := c.query
	f := store.NodeFilter{
		Driver:              q.Get("driver"),
		ResourceClass:       q.Get("resource_class"),
		Owner:               q.Get("owner"),
		Lessee:              q.Get("lessee"),
		DescriptionContains: q.Get("description_contains"),
		ProvisionState:      q.Get("provision_state"),
		Fault:               q.Get("fault"),
		Shard:               q.Get("shard"),
		ParentNode:          q.Get("parent_node"),
	}
	if q.Has("conductor_group") {
		group := strings.ToLower(q.Get("conductor_group"))
		f.ConductorGroup = &group
	}
	if q.Has("instance_uuid") {
		id, err := uuid("instance_uuid", q.Get("instance_uuid"))
		if err != nil {
			return f, err
		}
		f.InstanceUUID = id.(string)
	}
	for name, at := range map[string]**bool{
		"associated": &f.Associated, "maintenance": &f.Maintenance, "retired": &f.Retired,
	} {
		var err error
		if *at, err = c.queryBool(name); err != nil {
			return f, err
		}
	}
	if err := filterConductor(c, &f); err != nil {
		return f, err
	}
	state := lifecycle.State(f.ProvisionState)
	if f.ProvisionState != "" && !slices.Contains(lifecycle.States(), state) {
		return f, invalid(`Provision state "%s" is not valid`, f.ProvisionState)
	}
	faults := []ingot.Fault{ingot.FaultPower, ingot.FaultClean, "rescue abort failure",
		"service failure"}
	if f.Fault != "" && !slices.Contains(faults, ingot.Fault(f.Fault)) {
		return f, invalid(`Unrecognized fault "%s" is specified, allowed faults are %v`,
			f.Fault, faults)
	}
	if strings.Contains(f.Shard, ",") {
		return f, invalid("shard takes one name; ask for each shard on its own")
	}
	return f, nil
}

func showNode(c *call) (reply, error) {
	want, err := nodeFields.named(c)
	if err != nil {
		return reply{}, err
	}
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	return c.nodeReply(n, want)
}

// nodeReply is 200 with a node.
func (c *call) nodeReply(n *node, want selection) (reply, error) {
	if err := c.loadConductors(want); err != nil {
		return reply{}, err
	}
	return reply{body: nodeFields.project(c, n, want)}, nil
}

func createNode(c *call) (reply, error) {
	own, err := c.mayCreate()
	if err != nil {
		return reply{}, err
	}
	body, err := c.decode()
	if err != nil {
		return reply{}, err
	}
	values, err := nodeFields.check("node", orNoMembers(body), create)
	if err != nil {
		return reply{}, err
	}
	if err := nodeFields.refuseNewer(c, values); err != nil {
		return reply{}, err
	}
	if name, ok := values["name"].(string); ok {
		if err := c.checkName(name, "Cannot create node with invalid name '"+name+"'"); err != nil {
			return reply{}, err
		}
	}
	if err := checkChassis(values); err != nil {
		return reply{}, err
	}
	n := &node{ProvisionState: string(lifecycle.Available)}
	if c.minor >= 11 {
		n.ProvisionState = string(lifecycle.Enroll)
	}
	nodeFields.apply(n, values)
	n.ExpandClassic(namedIn(values))
	if n.UUID == "" {
		n.UUID = ingot.NewUUID()
	}
	if own && n.Owner != "" && n.Owner != c.who.Project {
		return reply{}, invalid("Cannot create a node as a project scoped admin with an owner other " +
			"than your own project.")
	}
	if own {
		n.Owner = c.who.Project
	}
	if err := c.needConductor(n); err != nil {
		return reply{}, err
	}
	created, err := c.api.o.Conductor.CreateNode(c.Context(), n)
	if err != nil {
		return reply{}, err
	}
	answer, err := c.nodeReply(created, full)
	answer.status, answer.location = http.StatusCreated, "/v1/nodes/"+created.UUID
	return answer, err
}

// mayCreate tells whether the caller may create nodes for the own project only.
func (c *call) mayCreate() (own bool, err error) {
	switch {
	case c.who.May(policy.NodeCreate):
		return false, nil
	case c.api.o.OwnNodes && c.who.Project != "" && c.who.May(policy.NodeCreateOwn):
		return true, nil
	}
	return false, forbidden(policy.NodeCreate)
}

func orNoMembers(body any) any {
	if body == nil {
		return ingot.Object{}
	}
	return body
}

// reservedNames cannot be names of nodes: they are words of the paths below /v1/nodes.
var reservedNames = []string{"allocation", "bios", "children", "detail", "firmware", "history",
	"indicators", "inventory", "journal", "maintenance", "management", "portgroups", "ports",
	"states", "traits", "validate", "vendor_passthru", "vifs", "vmedia", "volume"}

// checkName refuses names that cannot stand in a path; text is the refusal.
func (c *call) checkName(name, text string) error {
	if !validName(c.minor, name) || isUUID(name) {
		return invalid("%s", text)
	}
	if slices.Contains(reservedNames, name) {
		return invalid(`The word "%s" is reserved and can not be used as a node name. Reserved `+
			`words are: %s.`, name, strings.Join(reservedNames, ", "))
	}
	return nil
}

// checkChassis refuses chassis: there are none to refer to.
func checkChassis(values ingot.Object) error {
	if id, ok := values["chassis_uuid"].(string); ok {
		return invalid("Chassis %s could not be found.", id)
	}
	return nil
}

func deleteNode(c *call) (reply, error) {
	n, err := c.pathNode()
	if c.api.o.OwnNodes && ingot.KindOf(err) == ingot.Forbidden {
		c.rules = []policy.Rule{policy.NodeDeleteOwn}
		n, err = c.pathNode()
	}
	if err != nil {
		return reply{}, err
	}
	if err := c.api.o.Conductor.DeleteNode(c.Context(), n.UUID); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusNoContent}, nil
}

// staleTries is how often a change is made again when somebody else wrote the node in between.
// Clients do not say which version of the node they mean, so making it again is what they want.
const staleTries = 3

// changeNode reads the node of the path, lets change decide, and has the conductor store it.
func (c *call) changeNode(u rpc.UpdateOptions, change func(*node) error) (*node, error) {
	var err error
	for range staleTries {
		var n, updated *node
		if n, err = c.pathNode(); err != nil {
			return nil, err
		}
		if err = change(n); errors.Is(err, errUnchanged) {
			return n, nil
		} else if err != nil {
			return nil, err
		}
		updated, err = c.api.o.Conductor.UpdateNode(c.Context(), n, u)
		if ingot.KindOf(err) != ingot.Stale {
			return updated, err
		}
	}
	return nil, err
}

// errUnchanged is what change returns when there is nothing to store.
var errUnchanged = errors.New("nothing to change")
