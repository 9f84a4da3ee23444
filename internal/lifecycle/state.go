// Package lifecycle is the provision state machine of a node as OpenStack Ironic defines it:
// states, events, transitions and the verbs of PUT states/provision, as tables. It touches no
// node and does no I/O; who may ask, and what work an event starts, is decided above.
//
// Read state.go, then transition.go.
package lifecycle

import "slices"

// State is a provision state, equal to the word on the wire (at most 15 characters).
type State string

// The provision states.
const (
	Enroll         State = "enroll"
	Verifying      State = "verifying"
	Manageable     State = "manageable"
	Available      State = "available"
	Deploying      State = "deploying"
	WaitCallBack   State = "wait call-back"
	DeployHold     State = "deploy hold"
	DeployFailed   State = "deploy failed"
	Active         State = "active"
	Deleting       State = "deleting"
	Error          State = "error"
	Cleaning       State = "cleaning"
	CleanWait      State = "clean wait"
	CleanHold      State = "clean hold"
	CleanFailed    State = "clean failed"
	Inspecting     State = "inspecting"
	InspectWait    State = "inspect wait"
	InspectFailed  State = "inspect failed"
	Adopting       State = "adopting"
	AdoptFailed    State = "adopt failed"
	Rescuing       State = "rescuing"
	RescueWait     State = "rescue wait"
	Rescue         State = "rescue"
	RescueFailed   State = "rescue failed"
	Unrescuing     State = "unrescuing"
	UnrescueFailed State = "unrescue failed"
	Servicing      State = "servicing"
	ServiceWait    State = "service wait"
	ServiceHold    State = "service hold"
	ServiceFailed  State = "service failed"
)

// Kind tells who moves a node out of a state.
type Kind string

// Kinds of states.
const (
	Stable    Kind = "stable"    // nobody, until an operator asks
	Transient Kind = "transient" // a conductor, which normally holds the reservation
	Waiting   Kind = "waiting"   // the machine's agent, or a deadline; nothing is reserved
	Hold      Kind = "hold"      // an operator, in the middle of an operation
	Failed    Kind = "failed"    // an operator, after an operation went wrong
)

// Info is the row of one state.
type Info struct {
	State State
	Kind  Kind
	// Targets are the values target_provision_state may have here: the first is the default,
	// another one is kept if the node already has it. Empty for stable states.
	Targets []State
	// Lookup: an agent may look this node up. FastTrackLookup: it may when fast track is on.
	Lookup, FastTrackLookup bool
	// Updatable: PATCH is allowed.
	Updatable bool
	// Deletable: DELETE is allowed without maintenance.
	Deletable bool
	// OnStart is where a conductor that starts puts nodes its previous life left here; "" is
	// nowhere.
	OnStart State
}

// infos is in the order in which a node usually meets the states.
var infos = []Info{
	{State: Enroll, Kind: Stable, FastTrackLookup: true, Updatable: true, Deletable: true},
	{State: Verifying, Kind: Transient, Targets: to(Manageable), Updatable: true,
		OnStart: Enroll},
	{State: Manageable, Kind: Stable, FastTrackLookup: true, Updatable: true, Deletable: true},
	{State: Available, Kind: Stable, FastTrackLookup: true, Updatable: true},
	{State: Deploying, Kind: Transient, Targets: to(Active), Lookup: true,
		FastTrackLookup: true, OnStart: DeployFailed},
	{State: WaitCallBack, Kind: Waiting, Targets: to(Active), Lookup: true,
		FastTrackLookup: true},
	{State: DeployHold, Kind: Hold, Targets: to(Active)},
	{State: DeployFailed, Kind: Failed, Targets: to(Active), Updatable: true},
	{State: Active, Kind: Stable, Updatable: true},
	{State: Deleting, Kind: Transient, Targets: to(Available), OnStart: Error},
	{State: Error, Kind: Stable, Updatable: true},
	{State: Cleaning, Kind: Transient, Targets: to(Available, Manageable), Lookup: true,
		FastTrackLookup: true, OnStart: CleanFailed},
	{State: CleanWait, Kind: Waiting, Targets: to(Available, Manageable), Lookup: true,
		FastTrackLookup: true},
	{State: CleanHold, Kind: Hold, Targets: to(Available, Manageable)},
	{State: CleanFailed, Kind: Failed, Targets: to(Available, Manageable), Updatable: true},
	{State: Inspecting, Kind: Transient, Targets: to(Manageable), Lookup: true,
		FastTrackLookup: true, Updatable: true, OnStart: InspectFailed},
	{State: InspectWait, Kind: Waiting, Targets: to(Manageable), Lookup: true,
		FastTrackLookup: true, Updatable: true},
	{State: InspectFailed, Kind: Failed, Targets: to(Manageable), Updatable: true},
	{State: Adopting, Kind: Transient, Targets: to(Active), OnStart: AdoptFailed},
	{State: AdoptFailed, Kind: Failed, Targets: to(Active), Updatable: true, Deletable: true},
	{State: Rescuing, Kind: Transient, Targets: to(Rescue), Lookup: true,
		FastTrackLookup: true, OnStart: RescueFailed},
	{State: RescueWait, Kind: Waiting, Targets: to(Rescue), Lookup: true,
		FastTrackLookup: true},
	{State: Rescue, Kind: Stable, Updatable: true},
	{State: RescueFailed, Kind: Failed, Targets: to(Rescue), Updatable: true},
	{State: Unrescuing, Kind: Transient, Targets: to(Active), OnStart: UnrescueFailed},
	{State: UnrescueFailed, Kind: Failed, Targets: to(Active), Updatable: true},
	{State: Servicing, Kind: Transient, Targets: to(Active), FastTrackLookup: true,
		OnStart: ServiceFailed},
	{State: ServiceWait, Kind: Waiting, Targets: to(Active), Lookup: true,
		FastTrackLookup: true},
	{State: ServiceHold, Kind: Hold, Targets: to(Active), FastTrackLookup: true,
		Updatable: true},
	{State: ServiceFailed, Kind: Failed, Targets: to(Active), Updatable: true},
}

func to(states ...State) []State { return states }

// InfoOf returns the row of a state; false if there is no such state.
func InfoOf(s State) (Info, bool) {
	for _, i := range infos {
		if i.State == s {
			i.Targets = slices.Clone(i.Targets)
			return i, true
		}
	}
	return Info{}, false
}

// States returns all states, in the order in which a node usually meets them.
func States() []State {
	all := make([]State, len(infos))
	for i := range infos {
		all[i] = infos[i].State
	}
	return all
}

// KindOf returns the kind of a state, "" for a word that is none.
func KindOf(s State) Kind {
	i, _ := InfoOf(s)
	return i.Kind
}

// Rests tells whether nothing goes on with a node in the state, and nothing is waited for.
func Rests(s State) bool {
	k := KindOf(s)
	return k == Stable || k == Failed
}

// Target returns the target that is recorded when the state is entered, "" for stable states.
// Enter knows about targets that are kept instead.
func Target(s State) State {
	i, _ := InfoOf(s)
	if len(i.Targets) == 0 {
		return ""
	}
	return i.Targets[0]
}

// Updatable tells whether PATCH of a node is allowed in the state.
func Updatable(s State) bool {
	i, _ := InfoOf(s)
	return i.Updatable
}

// Deletable tells whether a node in the state may be deleted without maintenance.
func Deletable(s State) bool {
	i, _ := InfoOf(s)
	return i.Deletable
}
