package lifecycle

import "slices"

// Event moves a node from one state to another. Operators cause some of them by a Verb, the
// work itself the others.
type Event string

// Events that operators cause.
const (
	Manage      Event = "manage"
	Provide     Event = "provide"
	Inspect     Event = "inspect"
	Clean       Event = "clean" // also caused by the end of deleting
	Adopt       Event = "adopt"
	Deploy      Event = "deploy"
	Rebuild     Event = "rebuild"
	Delete      Event = "delete"
	StartRescue Event = "rescue"
	Unrescue    Event = "unrescue"
	Service     Event = "service"
	Unhold      Event = "unhold"
	Abort       Event = "abort"
)

// Events that the work itself causes.
const (
	Resume Event = "resume" // the agent called back
	Wait   Event = "wait"   // a step waits for the agent
	Pause  Event = "hold"   // a step waits for an operator
	Done   Event = "done"
	Fail   Event = "fail"
)

// Transition is one row of the table: in state From, event Event leads to state To.
type Transition struct {
	From  State
	Event Event
	To    State
	// Target replaces the target that To records; "" is the usual rule of Enter. Manual
	// cleaning aims at manageable where automated cleaning aims at available.
	Target State
}

// transitions is complete: what is not here is not allowed. It is Ironic's, and one row more: a
// deployment may be deleted also while a step of it runs (Interrupts).
var transitions = []Transition{
	{Enroll, Manage, Verifying, ""},
	{Verifying, Done, Manageable, ""},
	{Verifying, Fail, Enroll, ""},
	{Manageable, Provide, Cleaning, ""},
	{Manageable, Inspect, Inspecting, ""},
	{Manageable, Clean, Cleaning, Manageable},
	{Manageable, Adopt, Adopting, ""},
	{Available, Manage, Manageable, ""},
	{Available, Deploy, Deploying, ""},
	{Deploying, Wait, WaitCallBack, ""},
	{Deploying, Pause, DeployHold, ""},
	{Deploying, Done, Active, ""},
	{Deploying, Fail, DeployFailed, ""},
	{Deploying, Delete, Deleting, ""},
	{WaitCallBack, Delete, Deleting, ""},
	{WaitCallBack, Resume, Deploying, ""},
	{WaitCallBack, Pause, DeployHold, ""},
	{WaitCallBack, Fail, DeployFailed, ""},
	{WaitCallBack, Abort, DeployFailed, ""},
	{DeployHold, Unhold, WaitCallBack, ""},
	{DeployHold, Abort, DeployFailed, ""},
	{DeployFailed, Deploy, Deploying, ""},
	{DeployFailed, Rebuild, Deploying, ""},
	{DeployFailed, Delete, Deleting, ""},
	{Active, Rebuild, Deploying, ""},
	{Active, Delete, Deleting, ""},
	{Active, StartRescue, Rescuing, ""},
	{Active, Service, Servicing, ""},
	{Deleting, Clean, Cleaning, ""},
	{Deleting, Fail, Error, ""},
	{Error, Rebuild, Deploying, ""},
	{Error, Delete, Deleting, ""},
	{Cleaning, Manage, Manageable, ""},
	{Cleaning, Wait, CleanWait, ""},
	{Cleaning, Pause, CleanHold, ""},
	{Cleaning, Done, Available, ""},
	{Cleaning, Fail, CleanFailed, ""},
	{CleanWait, Resume, Cleaning, ""},
	{CleanWait, Pause, CleanHold, ""},
	{CleanWait, Fail, CleanFailed, ""},
	{CleanWait, Abort, CleanFailed, ""},
	{CleanHold, Unhold, CleanWait, ""},
	{CleanHold, Abort, CleanFailed, ""},
	{CleanFailed, Manage, Manageable, ""},
	{Inspecting, Wait, InspectWait, ""},
	{Inspecting, Done, Manageable, ""},
	{Inspecting, Fail, InspectFailed, ""},
	{InspectWait, Resume, Inspecting, ""},
	{InspectWait, Done, Manageable, ""},
	{InspectWait, Fail, InspectFailed, ""},
	{InspectWait, Abort, InspectFailed, ""},
	{InspectFailed, Manage, Manageable, ""},
	{InspectFailed, Inspect, Inspecting, ""},
	{Adopting, Done, Active, ""},
	{Adopting, Fail, AdoptFailed, ""},
	{AdoptFailed, Manage, Manageable, ""},
	{AdoptFailed, Adopt, Adopting, ""},
	{Rescuing, Wait, RescueWait, ""},
	{Rescuing, Done, Rescue, ""},
	{Rescuing, Fail, RescueFailed, ""},
	{RescueWait, Delete, Deleting, ""},
	{RescueWait, Resume, Rescuing, ""},
	{RescueWait, Fail, RescueFailed, ""},
	{RescueWait, Abort, RescueFailed, ""},
	{Rescue, Delete, Deleting, ""},
	{Rescue, StartRescue, Rescuing, ""},
	{Rescue, Unrescue, Unrescuing, ""},
	{RescueFailed, Delete, Deleting, ""},
	{RescueFailed, StartRescue, Rescuing, ""},
	{RescueFailed, Unrescue, Unrescuing, ""},
	{Unrescuing, Done, Active, ""},
	{Unrescuing, Fail, UnrescueFailed, ""},
	{UnrescueFailed, Delete, Deleting, ""},
	{UnrescueFailed, StartRescue, Rescuing, ""},
	{UnrescueFailed, Unrescue, Unrescuing, ""},
	{Servicing, Wait, ServiceWait, ""},
	{Servicing, Pause, ServiceHold, ""},
	{Servicing, Done, Active, ""},
	{Servicing, Fail, ServiceFailed, ""},
	{ServiceWait, Delete, Deleting, ""},
	{ServiceWait, Resume, Servicing, ""},
	{ServiceWait, Pause, ServiceHold, ""},
	{ServiceWait, Fail, ServiceFailed, ""},
	{ServiceWait, Abort, ServiceFailed, ""},
	{ServiceHold, Service, Servicing, ""},
	{ServiceHold, Unhold, ServiceWait, ""},
	{ServiceHold, Fail, ServiceFailed, ""},
	{ServiceHold, Abort, ServiceFailed, ""},
	{ServiceFailed, Delete, Deleting, ""},
	{ServiceFailed, StartRescue, Rescuing, ""},
	{ServiceFailed, Service, Servicing, ""},
	{ServiceFailed, Wait, ServiceWait, ""},
	{ServiceFailed, Pause, ServiceHold, ""},
	{ServiceFailed, Abort, Active, ""},
}

// Transitions returns the whole table, grouped by From in the order of States.
func Transitions() []Transition { return slices.Clone(transitions) }

// Interrupts tells whether an operator may ask for the event while a conductor is at work in the
// state, whose step is broken off then.
func Interrupts(s State, e Event) bool { return s == Deploying && e == Delete }

// Next returns the state to which the event leads, false if it is not allowed in s.
func Next(s State, e Event) (State, bool) {
	t, ok := find(s, e)
	return t.To, ok
}

// Enter returns the state to which the event leads, and the target to record with it, for a
// node in state cur with target curTarget ("" is none). A stable state has no target. Any other
// records its own, unless the node already has another one that the state allows: so the
// waits and failures of manual cleaning still aim at manageable. ok is false if the event is
// not allowed in cur.
func Enter(cur, curTarget State, e Event) (next, target State, ok bool) {
	t, ok := find(cur, e)
	if !ok {
		return "", "", false
	}
	if t.Target != "" {
		return t.To, t.Target, true
	}
	if info, _ := InfoOf(t.To); slices.Contains(info.Targets, curTarget) {
		return t.To, curTarget, true
	}
	return t.To, Target(t.To), true
}

func find(s State, e Event) (Transition, bool) {
	for _, t := range transitions {
		if t.From == s && t.Event == e {
			return t, true
		}
	}
	return Transition{}, false
}
