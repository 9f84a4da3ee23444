package lifecycle

import "slices"

// Verb is a value of "target" in PUT /v1/nodes/{id}/states/provision.
type Verb struct {
	Name  string // on the wire
	Event Event
	// MinorVersion is the first API microversion (the x of 1.x) that has the verb.
	MinorVersion int
	// Later holds states in which the verb came with a later microversion.
	Later map[State]int
	// Extras are the members the request body may have besides target.
	Extras []Extra
	// Refused are the conditions of a node under which the verb is refused.
	Refused []Condition
}

// Extra is a member of the request body.
type Extra struct {
	Name         string
	MinorVersion int
	// Required: the verb needs this member; or another one with the same Required word.
	Required string
}

// Condition is a flag of a node that forbids verbs.
type Condition string

// Conditions, named as the node's fields.
const (
	Maintenance Condition = "maintenance" // 400
	Protected   Condition = "protected"   // 403
	Retired     Condition = "retired"     // 400
)

var (
	deployExtras = []Extra{
		{Name: "configdrive", MinorVersion: 1},
		{Name: "deploy_steps", MinorVersion: 69},
	}
	rebuildExtras = []Extra{
		{Name: "configdrive", MinorVersion: 35},
		{Name: "deploy_steps", MinorVersion: 69},
	}
	cleanExtras = []Extra{
		{Name: "clean_steps", MinorVersion: 15, Required: "steps"},
		{Name: "runbook", MinorVersion: 92, Required: "steps"},
		{Name: "disable_ramdisk", MinorVersion: 70},
	}
	serviceExtras = []Extra{
		{Name: "service_steps", MinorVersion: 87, Required: "steps"},
		{Name: "runbook", MinorVersion: 92, Required: "steps"},
		{Name: "disable_ramdisk", MinorVersion: 108},
	}
	rescueExtras = []Extra{{Name: "rescue_password", MinorVersion: 38, Required: "password"}}
)

// verbs has two names for deploy and delete: 1.73 added the second.
var verbs = []Verb{
	{Name: "active", Event: Deploy, MinorVersion: 1, Extras: deployExtras,
		Refused: []Condition{Maintenance}},
	{Name: "deploy", Event: Deploy, MinorVersion: 73, Extras: deployExtras,
		Refused: []Condition{Maintenance}},
	{Name: "rebuild", Event: Rebuild, MinorVersion: 1, Extras: rebuildExtras,
		Refused: []Condition{Maintenance, Protected}},
	{Name: "deleted", Event: Delete, MinorVersion: 1, Refused: []Condition{Protected}},
	{Name: "undeploy", Event: Delete, MinorVersion: 73, Refused: []Condition{Protected}},
	{Name: "manage", Event: Manage, MinorVersion: 4},
	{Name: "provide", Event: Provide, MinorVersion: 4, Refused: []Condition{Retired}},
	{Name: "inspect", Event: Inspect, MinorVersion: 6},
	{Name: "abort", Event: Abort, MinorVersion: 13,
		// Ironic has it in wait call-back since 1.110, which is more than what this API claims:
		// nobody could ask.
		Later: map[State]int{InspectWait: 41}},
	{Name: "clean", Event: Clean, MinorVersion: 15, Extras: cleanExtras,
		Refused: []Condition{Maintenance}},
	{Name: "adopt", Event: Adopt, MinorVersion: 17},
	{Name: "rescue", Event: StartRescue, MinorVersion: 38, Extras: rescueExtras},
	{Name: "unrescue", Event: Unrescue, MinorVersion: 38},
	{Name: "unhold", Event: Unhold, MinorVersion: 85},
	{Name: "service", Event: Service, MinorVersion: 87, Extras: serviceExtras},
}

// Verbs returns all verbs. The rows are shared: do not change what they point to.
func Verbs() []Verb { return slices.Clone(verbs) }

// VerbByName returns the verb with that target word.
func VerbByName(target string) (Verb, bool) {
	for _, v := range verbs {
		if v.Name == target {
			return v, true
		}
	}
	return Verb{}, false
}

// VersionIn returns the first microversion (the x of 1.x) with which the verb may be asked of a
// node in state s. Whether s allows it at all is the answer of Next.
func (v Verb) VersionIn(s State) int {
	return max(v.MinorVersion, v.Later[s])
}

// Accepted returns the verbs an operator may ask for in a state. Transient states accept only
// what Interrupts: where the table has another operator's event there (the end of manual cleaning
// is "manage"), it is the conductor that causes it.
func Accepted(s State) []Verb {
	var accepted []Verb
	for _, v := range verbs {
		if KindOf(s) == Transient && !Interrupts(s, v.Event) {
			continue
		}
		if _, ok := Next(s, v.Event); ok {
			accepted = append(accepted, v)
		}
	}
	return accepted
}
