package api

import (
	"slices"
	"strings"
	"unicode/utf8"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/policy"
	"ingot/internal/rpc"
)

// hardwareStates are the states in which the driver, the interfaces and the resource class of a
// node may change: nothing depends on them yet.
var hardwareStates = []lifecycle.State{lifecycle.Enroll, lifecycle.Inspecting,
	lifecycle.InspectWait, lifecycle.Manageable, lifecycle.Available}

func patchNode(c *call) (reply, error) {
	ops, err := c.patch()
	if err != nil {
		return reply{}, err
	}
	reset, err := c.checkNodePatch(ops)
	if err != nil {
		return reply{}, err
	}
	c.rules = patchRules(ops)
	n, err := c.changeNode(rpc.UpdateOptions{ResetInterfaces: reset}, func(n *node) error {
		if err := c.checkPatchable(n, ops); err != nil {
			return err
		}
		delta, err := nodeFields.patched(c, n, ops)
		if err != nil {
			return err
		}
		if len(delta) == 0 {
			return errUnchanged
		}
		was := *n
		if err := applyToNode(n, delta); err != nil {
			return err
		}
		if n.Driver == was.Driver && n.ConductorGroup == was.ConductorGroup {
			return nil
		}
		return c.needConductor(n)
	})
	if err != nil {
		return reply{}, err
	}
	return c.nodeReply(n, full)
}

// fieldRules are the rules for those fields of a node that have one of their own; the first one whose
// path begins the operation's counts.
var fieldRules = []struct {
	path string
	rule policy.Rule
}{
	{"/instance_info", policy.NodeInstanceInfo},
	{"/extra", "baremetal:node:update_extra"},
	{"/driver_info", "baremetal:node:update:driver_info"},
	{"/properties", "baremetal:node:update:properties"},
	{"/chassis_uuid", "baremetal:node:update:chassis_uuid"},
	{"/instance_uuid", "baremetal:node:update:instance_uuid"},
	{"/instance_name", policy.NodeInstanceInfo},
	{"/lessee", "baremetal:node:update:lessee"},
	{"/owner", "baremetal:node:update:owner"},
	{"/driver", policy.NodeInterfaces},
	{"/network_data", "baremetal:node:update:network_data"},
	{"/conductor_group", "baremetal:node:update:conductor_group"},
	{"/name", "baremetal:node:update:name"},
	{"/retired", "baremetal:node:update:retired"},
	{"/shard", "baremetal:node:update:shard"},
	{"/parent_node", "baremetal:node:update:parent_node"},
}

// patchRules are the rules that have to let the caller change a node so.
func patchRules(ops []operation) []policy.Rule {
	var rules []policy.Rule
	for _, op := range ops {
		if rule := op.rule(); !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	if len(rules) == 0 {
		return []policy.Rule{policy.NodeUpdate}
	}
	return rules
}

// rule is the rule for an operation on a node.
func (o operation) rule() policy.Rule {
	for _, f := range fieldRules {
		if strings.HasPrefix(o.path, f.path) {
			return f.rule
		}
	}
	switch {
	case strings.HasSuffix(o.root(), interfaceSuffix):
		return policy.NodeInterfaces
	case o.root() == "automated_clean" && o.hasValue && o.value != nil:
		if clean, err := boolean("automated_clean", o.value); err == nil && clean == false {
			return policy.NodeNoCleaning
		}
	}
	return policy.NodeUpdate
}

// checkNodePatch checks what can be told without the node, and returns whether interfaces are to
// be reset.
func (c *call) checkNodePatch(ops []operation) (reset bool, err error) {
	for _, op := range ops {
		if op.root() == "traits" {
			return false, invalid("Cannot update node traits via node patch. Node traits should " +
				"be updated via the node traits API.")
		}
	}
	if err := nodeFields.checkPatch(c, ops); err != nil {
		return false, err
	}
	flag, err := c.queryBool("reset_interfaces")
	if err != nil {
		return false, err
	}
	reset = flag != nil && *flag
	changesDriver := slices.ContainsFunc(ops, func(op operation) bool {
		return op.path == "/driver" && op.op != "remove"
	})
	if reset && !changesDriver {
		return false, invalid("The reset_interfaces parameter can only be used when changing the " +
			"node's driver.")
	}
	for _, op := range ops {
		s, isText := op.value.(string)
		switch {
		case op.path == "/description" && utf8.RuneCountInString(s) > maxDescription:
			return false, invalid("Cannot update node with description exceeding %d characters",
				maxDescription)
		case op.path == "/name" && isText:
			err := c.checkName(s, "Node "+c.PathValue("ident")+
				": Cannot change name to invalid name '"+s+"'")
			if err != nil {
				return false, err
			}
		}
	}
	return reset, nil
}

// checkPatchable refuses changes while a state transition is under way. One is always possible:
// taking the instance away from a node in maintenance.
func (c *call) checkPatchable(n *node, ops []operation) error {
	if n.Maintenance && len(ops) == 1 && ops[0].op == "remove" && ops[0].path == "/instance_uuid" {
		return nil
	}
	state := lifecycle.State(n.ProvisionState)
	if state == lifecycle.Active && !c.who.MayOn(policy.NodeOwnerInUse, n.Owner, n.Lessee) &&
		slices.ContainsFunc(ops, func(op operation) bool { return op.root() == "owner" }) {
		return ingot.Errorf(ingot.Conflict, `Cannot update owner of node "%s" while it is in state "%s".`,
			n.UUID, n.ProvisionState)
	}
	if n.TargetProvisionState != "" && !lifecycle.Updatable(state) {
		return ingot.Errorf(ingot.Conflict, "Node %s can not be updated while a state transition "+
			"is in progress.", c.PathValue("ident"))
	}
	if state == lifecycle.Inspecting && c.minor >= 39 {
		return ingot.Errorf(ingot.Conflict, `Cannot update node "%s" while it is in state "%s".`,
			n.UUID, n.ProvisionState)
	}
	return nil
}

// applyToNode stores the changed fields in n, if the rules between them and the node's state
// allow it.
func applyToNode(n *node, delta ingot.Object) error {
	was := *n
	if err := checkChassis(delta); err != nil {
		return err
	}
	if err := checkHardware(n, delta); err != nil {
		return err
	}
	if id, ok := delta["instance_uuid"].(string); ok && id != "" && n.InstanceUUID != "" {
		return ingot.Errorf(ingot.Conflict, "Node %s is associated with instance %s.", n.UUID,
			n.InstanceUUID)
	}
	nodeFields.apply(n, delta)
	n.ExpandClassic(namedIn(delta))
	if was.Maintenance && !n.Maintenance {
		n.MaintenanceReason, n.Fault = "", ""
	}
	if err := checkProtected(n, delta); err != nil {
		return err
	}
	return checkRetired(n, delta)
}

// namedIn tells whether a request names the interface of a kind.
func namedIn(values ingot.Object) func(kind string) bool {
	return func(kind string) bool {
		name, _ := values[kind+interfaceSuffix].(string)
		return name != ""
	}
}

// checkHardware refuses changes of the driver, the interfaces and the resource class of a node
// in use.
func checkHardware(n *node, delta ingot.Object) error {
	if contains(hardwareStates, n.ProvisionState) {
		return nil
	}
	names := make([]string, len(hardwareStates))
	for i, s := range hardwareStates {
		names[i] = string(s)
	}
	allowed := strings.Join(names, ", ")
	for _, f := range nodeFields {
		_, changed := delta[f.name]
		switch {
		case !changed:
		case (f.name == "driver" || strings.HasSuffix(f.name, interfaceSuffix)) && !n.Maintenance:
			return ingot.Errorf(ingot.Conflict, "Node %s can not have %s updated unless it is in "+
				"one of allowed (%s) states or in maintenance mode. Current state is '%s'.",
				n.UUID, f.name, allowed, n.ProvisionState)
		case f.name == "resource_class" && n.ResourceClass != "":
			return ingot.Errorf(ingot.Conflict, "Node %s can not have resource_class updated "+
				"unless it is in one of allowed (%s) states. Current state is '%s'.", n.UUID,
				allowed, n.ProvisionState)
		}
	}
	return nil
}

func checkProtected(n *node, delta ingot.Object) error {
	_, changed := delta["protected"]
	inUse := contains([]lifecycle.State{lifecycle.Active, lifecycle.Rescue}, n.ProvisionState)
	if changed && n.Protected && !inUse {
		return ingot.Errorf(ingot.Conflict, "Node %s can only be made protected in provision "+
			"states 'active' or 'rescue', the current state is '%s'", n.UUID, n.ProvisionState)
	}
	if changed && !n.Protected {
		n.ProtectedReason = ""
	}
	if _, given := delta["protected_reason"]; given && n.ProtectedReason != "" && !n.Protected {
		return invalid("The protected_reason field can only be set when protected is True")
	}
	return nil
}

func checkRetired(n *node, delta ingot.Object) error {
	_, changed := delta["retired"]
	if changed && n.Retired && n.ProvisionState == string(lifecycle.Available) {
		return ingot.Errorf(ingot.Conflict, "Node %s can not have 'retired' set in provision state "+
			"'available', the current state is '%s'", n.UUID, n.ProvisionState)
	}
	if changed && !n.Retired {
		n.RetiredReason = ""
	}
	if _, given := delta["retired_reason"]; given && n.RetiredReason != "" && !n.Retired {
		return invalid("The retired_reason field can only be set when retired is True")
	}
	return nil
}
