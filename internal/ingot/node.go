package ingot

import (
	"fmt"
	"time"
)

// Object is a free-form JSON object of a resource (driver_info, extra...). Never nil on the wire.
type Object = map[string]any

// PowerState is the wire string of a power state or of a power target.
type PowerState string

// Power states, and the targets of PUT states/power.
const (
	PowerOn      PowerState = "power on"
	PowerOff     PowerState = "power off"
	PowerError   PowerState = "error"
	Rebooting    PowerState = "rebooting"
	SoftReboot   PowerState = "soft rebooting"
	SoftPowerOff PowerState = "soft power off"
)

// BootIntent says what a node shall boot next. The provision state alone cannot tell: deploying
// covers both "boot the deploy ramdisk" and "boot what was written". It is written in the same
// transaction as the step that changes it, and every boot answer is computed from it.
type BootIntent string

// Boot intents.
const (
	BootNone     BootIntent = "none"     // nothing of ours: next boot device
	BootDeploy   BootIntent = "deploy"   // the deploy ramdisk
	BootRescue   BootIntent = "rescue"   // the rescue ramdisk
	BootInspect  BootIntent = "inspect"  // the deploy ramdisk, to look at the machine
	BootInstance BootIntent = "instance" // the instance's own kernel and ramdisk, ISO or volume
	BootDisk     BootIntent = "disk"     // the local disk
	BootError    BootIntent = "error"    // say what is wrong on the console
)

// Fault is why a node is in maintenance without a person having asked for it.
type Fault string

// Faults, as Ironic names them.
const (
	FaultPower Fault = "power failure"
	FaultClean Fault = "clean failure"
)

// Node is one machine. Field names and types are Ironic's (Go spelling) unless a comment says
// otherwise; nil pointers are JSON null. Objects are never nil after the store returned them.
type Node struct {
	ID         int64 // row number: key of keyset paging, never on the wire
	Generation int64 // grows with every write; a writer names the one it has read

	UUID           string
	Name           string // "" is null
	ChassisUUID    string
	InstanceUUID   string
	Driver         string
	Owner          string
	Lessee         string
	Description    string
	ResourceClass  string
	ConductorGroup string
	Shard          string
	ParentNode     string
	InstanceName   string

	DriverInfo         Object
	DriverInternalInfo Object
	InstanceInfo       Object
	Properties         Object
	Extra              Object
	NetworkData        Object

	// Traits are what the machine has to offer, by the names of os-traits or CUSTOM_ ones; sorted,
	// none twice.
	Traits []string

	// Interfaces maps an interface kind ("power", "boot"...) to the implementation chosen for
	// this node ("ipmitool"); on the wire <kind>_interface.
	Interfaces map[string]string

	PowerState           PowerState // "" is null: not known yet
	TargetPowerState     PowerState
	ProvisionState       string // lifecycle.State
	TargetProvisionState string // "" is null
	ProvisionUpdatedAt   *time.Time
	LastError            string
	Reservation          string // host name of the conductor at work on it; "" is null

	Maintenance       bool
	MaintenanceReason string
	Fault             Fault
	Protected         bool
	ProtectedReason   string
	Retired           bool
	RetiredReason     string
	AutomatedClean    *bool
	ConsoleEnabled    bool
	BootMode          string // "bios", "uefi" or "" (not known)
	SecureBoot        *bool

	BootIntent BootIntent
	// Steps is the plan of the running operation, in order; Step counts those that are done.
	// Steps[Step] is what runs now or runs when the wait ends. Empty when nothing runs.
	Steps []Step
	Step  int
	// WaitUntil is the deadline of the current wait; nil when nothing is waited for.
	WaitUntil *time.Time
	// Attempt is what belongs to the current deployment only; nil when there is none.
	Attempt *Attempt
	// Instance is what the deployed instance boots over the network; nil when it boots its disk.
	Instance *Instance

	CreatedAt time.Time
	UpdatedAt *time.Time
}

// Step is one step of a plan: a method of one of the node's interfaces.
type Step struct {
	Interface string `json:"interface"` // "deploy", "boot"...
	Name      string `json:"step"`
	Priority  int    `json:"priority"`
	Args      Object `json:"args,omitempty"`
}

// Attempt is the private state of one deployment, from the first boot of the ramdisk to the
// end. It is stored with the node and never on the wire.
type Attempt struct {
	ID      string // 8 hex digits: marks everything this attempt caused, on console and in journal
	Key     Secret // deploy key, 32 alphanumerics; "" once the ramdisk said Completed
	Kernel  File   // deploy kernel
	Ramdisk File   // deploy ramdisk
	ISO     ISO    // in place of both: what the machine boots by virtual media, if it is the site's own
	Target  *ISCSITarget
	// Completed tells that the ramdisk has let go of the disk and waits for the power cycle.
	Completed bool
	// Written tells that the image is on the disk and was flushed.
	Written bool
	// NeedsLoader tells that the written disk boots only if the ramdisk installs a boot loader.
	NeedsLoader bool
	// Boots counts how often the deployment has started the machine into its ramdisk, earlier
	// attempts included.
	Boots int
	// BootedAt is when it did so last; zero before, and in rows of binaries that did not count.
	BootedAt time.Time
	// Agent is the agent of a ramdisk that speaks Ironic's agent protocol; nil if it speaks another.
	Agent *Agent
	// Kexec is how far the machine is on its way into its instance without a start of its firmware.
	Kexec Kexec
	// Content is the image as conductors serve it to the agent; none if the agent fetches the image
	// from its source.
	Content File
}

// Kexec is how far a machine is on its way from its ramdisk into its instance by kexec; "" is not at all.
type Kexec string

// The states of that.
const (
	KexecLoaded  Kexec = "loaded"  // the agent has loaded what the instance boots
	KexecOrdered Kexec = "ordered" // the agent is about to be told to start it, or was; nobody knows
	KexecDone    Kexec = "done"    // the agent has said that it does, and is gone
)

// ISO is a medium that a site has made.
type ISO struct {
	File File   // held by the conductors; none if BMCs read it from URL
	URL  string `json:",omitempty"`
}

// Known tells whether there is one.
func (i ISO) Known() bool { return i.URL != "" || i.File.Known() }

// Called tells whether the ramdisk of the attempt has called back.
func (a *Attempt) Called() bool { return a.Target != nil || a.Agent != nil && a.Agent.URL != "" }

// Format prints the attempt's name alone, for every verb: fmt passes over the methods of its
// fields where the verb does not suit them, and some of them are secret.
func (a Attempt) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "attempt %s", a.ID) }

// Agent is what is known of the agent in a ramdisk, for one boot of it (Ironic's agent protocol).
type Agent struct {
	// Token is what both sides prove with whom they talk; "" until it was given out.
	Token Secret
	// OnMedium tells that Token is on the medium that the machine boots from: nobody is given it by
	// the network.
	OnMedium bool
	URL      string // of its API (callback_url); "" until its first heartbeat
	CA       string // PEM of the certificate of that; "" is one that authorities vouch for
	Version  string
	HeardAt  time.Time // of its last heartbeat
	// Done is how much of the image it had written when it was asked last, in bytes.
	Done int64
}

// Format prints where the agent is without the token, for every verb, as Attempt does.
func (a Agent) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "agent %s at %s", a.Version, a.URL) }

// Instance is what an instance on a partition image boots for as long as it is active: its own
// kernel and ramdisk, from the network, with the root partition named by UUID (S1.4, S2.5); or what one
// without a disk does. It is stored with the node and never on the wire.
type Instance struct {
	Kernel  File
	Ramdisk File
	// RootUUID is the UUID of the file system on the root partition, for root=UUID=; "" until the
	// image was written.
	RootUUID string
	// KernelArgs are appended to the command line (instance_info.kernel_append_params).
	KernelArgs string
	// Key makes the path of its medium unguessable; "" until it has one.
	Key Secret `json:",omitempty"`
	// Diskless tells that there is no root partition.
	Diskless bool `json:",omitempty"`
	// ISO is booted in place of kernel and ramdisk.
	ISO ISO `json:",omitzero"`
}

// File names boot content by its digest, so any conductor that holds it can serve it; or by its image,
// which nobody holds.
type File struct {
	SHA256 string // hex; "" when there is none
	Name   string // base name for URLs, e.g. "vmlinuz"
	Size   int64  // bytes
	// Image is its id in Glance, if machines fetch it from Swift by a temporary URL; SHA256 is "" then.
	Image string `json:",omitempty"`
}

// Known tells whether there is one.
func (f File) Known() bool { return f.SHA256 != "" || f.Image != "" }

// ISCSITarget is where a ramdisk exported its disk (seed 2, pass_deploy_info).
type ISCSITarget struct {
	Address  string // IP
	Port     int
	IQN      string
	LUN      int
	Username string // CHAP; "" is no authentication
	Password Secret
}

// Format prints the address without the credentials, for every verb, as Attempt does.
func (t ISCSITarget) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%s LUN %d at %s port %d", t.IQN, t.LUN, t.Address, t.Port)
}

// Deploying tells whether an operation of several steps is under way.
func (n *Node) Deploying() bool { return len(n.Steps) > 0 }

// CurrentStep returns the step that runs now or is waited in, nil when there is none.
func (n *Node) CurrentStep() *Step {
	if n.Step < 0 || n.Step >= len(n.Steps) {
		return nil
	}
	return &n.Steps[n.Step]
}

// Label is how people call the node: its name, else its UUID.
func (n *Node) Label() string {
	if n.Name != "" {
		return n.Name
	}
	return n.UUID
}
