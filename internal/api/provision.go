package api

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/policy"
	"ingot/internal/rpc"
)

// provisionArgs are the members of the body of PUT states/provision.
var provisionArgs = []string{"target", "configdrive", "clean_steps", "deploy_steps",
	"rescue_password", "disable_ramdisk", "service_steps", "runbook"}

// setProvisionState keeps Ironic's order of checks: clients act on which refusal comes first.
func setProvisionState(c *call) (reply, error) {
	body, err := c.decodeUpTo(maxProvisionBody)
	if err != nil {
		return reply{}, err
	}
	args, err := asArgs(body, provisionArgs)
	if err != nil {
		return reply{}, err
	}
	if !empty(args["clean_steps"]) {
		c.rules = append(c.rules, policy.NodeCleanSteps)
	}
	if !empty(args["service_steps"]) {
		c.rules = append(c.rules, policy.NodeServiceSteps)
	}
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	target, err := mandatoryText(args, "target")
	if err != nil {
		return reply{}, err
	}
	verb, known := lifecycle.VerbByName(target)
	if known && c.minor < verb.MinorVersion {
		return reply{}, notAcceptable()
	}
	if err := checkConditions(n, verb); err != nil {
		return reply{}, err
	}
	if err := checkEvent(n, target, verb, known); err != nil {
		return reply{}, err
	}
	if err := c.checkExtras(args, verb); err != nil {
		return reply{}, err
	}
	if c.minor < verb.VersionIn(lifecycle.State(n.ProvisionState)) {
		return reply{}, notAcceptable()
	}
	steps, err := deploySteps(args["deploy_steps"])
	if err != nil {
		return reply{}, err
	}
	err = c.api.o.Conductor.Provision(c.Context(), rpc.ProvisionRequest{Ident: n.UUID,
		Event: string(verb.Event), ConfigDrive: args["configdrive"], DeploySteps: steps})
	if err != nil {
		return reply{}, err
	}
	return accepted(n), nil
}

// checkConditions refuses verbs for nodes in maintenance; what a protected or retired node may
// not do is said only after the event is known to be legal.
func checkConditions(n *node, verb lifecycle.Verb) error {
	if n.Maintenance && slices.Contains(verb.Refused, lifecycle.Maintenance) {
		return invalid("The provisioning operation can't be performed on node %s because it's in "+
			"maintenance mode.", n.UUID)
	}
	return nil
}

// checkEvent asks the state machine. A node that is reserved may be on its way to a state that
// allows the verb, so that is a conflict and not a mistake.
func checkEvent(n *node, target string, verb lifecycle.Verb, known bool) error {
	event := verb.Event
	if !known {
		event = lifecycle.Event(target) // words of the state machine pass here, as in Ironic
	}
	_, legal := lifecycle.Next(lifecycle.State(n.ProvisionState), event)
	switch {
	case !legal && n.Reservation != "":
		return ingot.Errorf(ingot.Locked, "Node %s is locked by host %s, please retry after the "+
			"current operation is completed.", n.UUID, n.Reservation)
	case !legal:
		return notPossible(target, n.UUID, n.ProvisionState)
	case !known:
		return invalid(`The requested action "%s" could not be understood.`, target)
	case n.Protected && slices.Contains(verb.Refused, lifecycle.Protected):
		return ingot.Errorf(ingot.Forbidden, "Node %s is protected and cannot be undeployed, "+
			"rebuilt or deleted.", n.UUID)
	case n.Retired && slices.Contains(verb.Refused, lifecycle.Retired):
		return invalid("The %s operation can't be performed on node %s because it is retired.",
			target, n.UUID)
	}
	return nil
}

// checkExtras refuses members of the body that do not belong to the verb, and verbs without the
// members that they need.
func (c *call) checkExtras(args ingot.Object, verb lifecycle.Verb) error {
	if err := c.checkConfigDrive(args["configdrive"], verb); err != nil {
		return err
	}
	for _, name := range provisionArgs[2:] {
		if empty(args[name]) {
			continue
		}
		i := slices.IndexFunc(verb.Extras, func(e lifecycle.Extra) bool { return e.Name == name })
		if minor := firstVersion(name); c.minor < minor {
			return notAcceptable()
		}
		if i < 0 {
			return invalid(`"%s" is only valid when setting target provision state to %s`, name,
				strings.Join(targetsWith(name), " or "))
		}
		if c.minor < verb.Extras[i].MinorVersion {
			return notAcceptable()
		}
	}
	return checkRequired(args, verb)
}

// maxSteps bounds those that a request may have.
const maxSteps = 64

// deploySteps reads steps of a deployment. Those of BIOS settings can be asked for; to drop others silently would
// deploy something else than what was asked for.
func deploySteps(v any) ([]ingot.Step, error) {
	if empty(v) {
		return nil, nil
	}
	list, ok := v.([]any)
	if !ok || len(list) > maxSteps {
		return nil, invalid(`"deploy_steps" is no list of at most %d steps`, maxSteps)
	}
	steps := make([]ingot.Step, len(list))
	for i, v := range list {
		o, _ := v.(ingot.Object)
		if o["interface"] != "bios" {
			return nil, invalid(`"deploy_steps" can not be given: the steps of a deployment are fixed here; ` +
				`leave the member out`)
		}
		name, named := o["step"].(string)
		args, hasArgs := o["args"].(ingot.Object)
		number, _ := o["priority"].(json.Number)
		priority, err := strconv.Atoi(string(number))
		if len(o) != 4 || !named || !hasArgs || err != nil || priority < 0 {
			return nil, invalid("deploy step %s is not valid: it has an interface, a step, args and a priority of 0 or "+
				"more, and nothing else", pythonText(v))
		}
		steps[i] = ingot.Step{Interface: "bios", Name: name, Args: args, Priority: priority}
	}
	return steps, nil
}

// checkRequired refuses a verb without its steps or password.
func checkRequired(args ingot.Object, verb lifecycle.Verb) error {
	for _, e := range verb.Extras {
		if e.Required == "" || !empty(args[e.Name]) {
			continue
		}
		alternative := slices.ContainsFunc(verb.Extras, func(o lifecycle.Extra) bool {
			return o.Required == e.Required && !empty(args[o.Name])
		})
		switch {
		case alternative:
		case e.Name == "rescue_password":
			return invalid(`A non-empty "rescue_password" is required when setting target `+
				`provision state to %s`, verb.Name)
		default:
			return invalid(`"%s" is required when setting target provision state to %s`, e.Name,
				verb.Name)
		}
	}
	return nil
}

// empty tells whether a member says nothing: null, false, or without content.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return strings.TrimSpace(v) == ""
	case []any:
		return len(v) == 0
	case ingot.Object:
		return len(v) == 0
	}
	return false
}

// firstVersion is the first microversion in which any verb takes the member.
func firstVersion(extra string) int {
	first := 0
	for _, v := range lifecycle.Verbs() {
		for _, e := range v.Extras {
			if e.Name == extra && (first == 0 || e.MinorVersion < first) {
				first = e.MinorVersion
			}
		}
	}
	return first
}

// targetsWith are the verbs that take the member.
func targetsWith(extra string) []string {
	var names []string
	for _, v := range lifecycle.Verbs() {
		if slices.ContainsFunc(v.Extras, func(e lifecycle.Extra) bool { return e.Name == extra }) {
			names = append(names, v.Name)
		}
	}
	return names
}

// Microversions of config drives: for rebuild, as an object, with vendor_data.
const (
	rebuildDriveMinor = 35
	objectDriveMinor  = 56
	vendorDataMinor   = 59
)

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\n\r\t "

// checkConfigDrive checks a config drive: an object, a base64 string, or a URL.
func (c *call) checkConfigDrive(drive any, verb lifecycle.Verb) error {
	if empty(drive) {
		return nil
	}
	allowed := verb.Event == lifecycle.Deploy ||
		verb.Event == lifecycle.Rebuild && c.minor >= rebuildDriveMinor
	if !allowed {
		targets := "active"
		if c.minor >= rebuildDriveMinor {
			targets += ", rebuild"
		}
		return invalid("Adding a config drive is only supported when setting provision state to %s",
			targets)
	}
	switch d := drive.(type) {
	case string:
		if !strings.Contains(d, "://") && strings.Trim(d, base64Alphabet) != "" {
			return invalid("Invalid configdrive format: it is neither a JSON, nor a URL, nor a " +
				"base64 string")
		}
		return nil
	case ingot.Object:
		return c.checkDriveObject(d)
	}
	return invalid("Expected types %s for configdrive: %s", "NoneType, dict, str",
		pythonText(drive))
}

func (c *call) checkDriveObject(d ingot.Object) error {
	if c.minor < objectDriveMinor {
		return invalid("Providing a JSON object for configdrive is only supported starting with "+
			"API version %s", versionString(objectDriveMinor))
	}
	for name, v := range d {
		types := []string{"object"}
		switch name {
		case "meta_data", "network_data":
		case "user_data":
			types = []string{"object", "array", "string", "null"}
		case "vendor_data":
			if c.minor < vendorDataMinor {
				return invalid("Providing vendor_data in configdrive is only supported starting "+
					"with API version %s", versionString(vendorDataMinor))
			}
		default:
			return invalid("Invalid configdrive format: Additional properties are not allowed "+
				"(%s was unexpected)", pythonQuote(name))
		}
		if !slices.Contains(types, jsonType(v)) {
			return invalid("Invalid configdrive format: %s is not of type %s", name,
				pythonList(types))
		}
	}
	return nil
}
