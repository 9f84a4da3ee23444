// Package driver holds the contracts between the conductor and the hardware: what a power,
// management, boot, deploy or vendor interface promises, and how a hardware type is composed of
// them. The implementations live one floor up, one package for each family or method, and only
// translate; the conductor owns order, persistence and time.
//
// Read the interfaces in this file first, then hardware.go (composition).
package driver

import (
	"context"
	"time"

	"ingot/internal/ingot"
)

// Outcome is how a step ended when it did not fail: done (the zero value), or waiting for the
// machine. A failure is an error.
type Outcome struct {
	// Wait says that the step goes on when the machine calls back; the reservation is released.
	Wait bool
	// Timeout bounds the wait; 0 takes the configured deploy_callback_timeout. A step that waited before
	// has the time that was left, unless Renew says that it got on.
	Timeout time.Duration
	Renew   bool
}

// Done is the outcome of a step that has ended.
var Done = Outcome{}

// Validator checks, without talking to the hardware and without changing anything, that the
// node has what the interface needs. Errors are ingot.Invalid and tell what to set.
type Validator interface {
	Validate(ctx context.Context, t *Task) error
}

// Power switches a machine. All methods may be repeated; SetPower to the present state is
// success. Targets are PowerOn, PowerOff, Rebooting and, where supported, SoftPowerOff and
// SoftReboot. SetPower returns when the machine has reached the state, or an error when it has
// not after the context's deadline.
type Power interface {
	Validator
	PowerState(ctx context.Context, t *Task) (ingot.PowerState, error)
	SetPower(ctx context.Context, t *Task, target ingot.PowerState) error
}

// Identifier is an optional ability of Power: Identify puts on record, on Node, which machine it is
// that the node's controller belongs to. From then on another one is not touched.
type Identifier interface {
	Identify(ctx context.Context, t *Task) error
}

// Observer is an optional ability of Power: what the BMC tells besides the power state, in one breath.
type Observer interface {
	Observe(ctx context.Context, t *Task) (Observation, error)
}

// BootDevice is a boot device and whether it outlasts one boot. Devices: pxe, disk, cdrom,
// bios, safe, uefihttp.
type BootDevice struct {
	Device     string `json:"boot_device"`
	Persistent bool   `json:"persistent"`
	// URL is what uefihttp boots, where the BMC can tell the machine; it may be secret. DHCP tells it, too.
	URL string `json:"-"`
}

// Management asks and sets what a machine boots from, through its BMC. SetBootDevice is Invalid for a device
// that the BMC does not know.
type Management interface {
	Validator
	SupportedBootDevices(ctx context.Context, t *Task) ([]string, error)
	BootDevice(ctx context.Context, t *Task) (BootDevice, error)
	SetBootDevice(ctx context.Context, t *Task, d BootDevice) error
}

// Firmware is an optional ability of Management: how the firmware of the machine boots. Both may run twice,
// and are done when the BMC has taken it: it may count from the next start of the machine on, or after some
// minutes of that, which Observe tells then. ErrUnsupported if it cannot be, on this machine.
type Firmware interface {
	// SetBootMode is for UEFI or BIOS.
	SetBootMode(ctx context.Context, t *Task, mode string) error
	SetSecureBoot(ctx context.Context, t *Task, on bool) error
}

// Setup is the settings of a machine's firmware (interface bios). ErrUnsupported if its BMC tells none, or cannot do it.
type Setup interface {
	Validator
	Settings(ctx context.Context, t *Task) ([]ingot.BIOSSetting, error)
	// Apply changes some of them, and Reset makes all those of the factory: both count from the machine's next
	// start on, or after some minutes of that, which Settings tells. Both may run twice.
	Apply(ctx context.Context, t *Task, values map[string]any) error
	Reset(ctx context.Context, t *Task) error
}

// Drive is a virtual drive of a machine.
type Drive string

// The drives.
const (
	CD     Drive = "CD"
	Floppy Drive = "floppy"
)

// Media is an optional ability of Management. InsertMedium puts what is at a URL into a virtual drive of the
// machine, in place of what is there; Invalid if it has none. EjectMedium takes it out, but leaves what is
// known to come from URLs without a part; no drive and an empty one are success. HoldsMedium tells whether there is
// a medium that may come from a URL with a part: not all BMCs tell the URL that they were given. All may run
// twice.
type Media interface {
	InsertMedium(ctx context.Context, t *Task, d Drive, url string) error
	EjectMedium(ctx context.Context, t *Task, d Drive, part string) error
	HoldsMedium(ctx context.Context, t *Task, d Drive, part string) (bool, error)
}

// Boot makes a machine boot the deploy ramdisk or the instance: it prepares content (fetches
// kernel and ramdisk), sets Node.BootIntent and the boot device; it does not touch power. Every
// method may run twice.
type Boot interface {
	Validator
	PrepareRamdisk(ctx context.Context, t *Task) error
	CleanUpRamdisk(ctx context.Context, t *Task) error
	PrepareInstance(ctx context.Context, t *Task) error
	CleanUpInstance(ctx context.Context, t *Task) error
}

// InstanceHolder is what Boot does beside that for an instance which boots without a disk, at each start (Ironic's
// capability ramdisk_boot). HoldInstance fetches what the instance boots and puts it on Node; nothing is done to
// the machine, and with an error Node is as it was.
type InstanceHolder interface {
	Boot
	HoldInstance(ctx context.Context, t *Task) error
}

// Repointer is an optional ability of Boot where the DHCP of others names a server. Lost tells whether that
// lives no more; Repoint has one named that does, on the networks on which the machine is now.
type Repointer interface {
	Lost(n *ingot.Node) bool
	Repoint(ctx context.Context, t *Task) error
}

// Restorer is an optional ability of Boot where a BMC reads media that a server has published. Bereft tells
// whether the machine of a waiting node may need them, and that server lives no more. Restore publishes them anew
// if they cannot be read any more, and has the BMC insert what it does not have; this server looks after them
// then. With an error they are bereft still.
type Restorer interface {
	Bereft(n *ingot.Node) bool
	Restore(ctx context.Context, t *Task) error
}

// Network connects a machine's ports to networks that somebody else runs (Neutron). A VIF is a port of
// such a network that is to be had by a port of the machine; which one is recorded in the InternalInfo of
// the port, by Ironic's names, and is on record (Task.SavePort) when a method returns. Every method may
// run twice.
type Network interface {
	Validator
	// AddProvisioning connects the machine to the network from which it loads its ramdisk.
	AddProvisioning(ctx context.Context, t *Task) error
	RemoveProvisioning(ctx context.Context, t *Task) error
	// ConfigureTenant connects it to the networks of its VIFs.
	ConfigureTenant(ctx context.Context, t *Task) error
	UnconfigureTenant(ctx context.Context, t *Task) error
	// AttachVIF finds a port for a VIF; Conflict if it has one, Invalid if there is none left.
	AttachVIF(ctx context.Context, t *Task, v VIF) error
	// DetachVIF is Invalid if the VIF is not attached.
	DetachVIF(ctx context.Context, t *Task, id string) error
	// VIFs are the ids of those that are attached.
	VIFs(t *Task) []string
	// SetDHCP makes the network's DHCP answer the machine with options, in place of those that it was
	// told before; with none of ours if there are none.
	SetDHCP(ctx context.Context, t *Task, options []DHCPOption) error
}

// Networks are the names of the network interfaces, in Ironic's order.
var Networks = []string{"flat", "neutron", "noop"}

// VIF is a port of Neutron, and who is to have it.
type VIF struct {
	ID       string
	PortUUID string // of the port that is to have it; "" is any
	Project  string // of which it has to be, because who asks may use no other's; "" is any
}

// DHCPOption is an option of DHCP as Neutron's agents take it: Name is its number, which tags may
// precede ("tag:ipxe,67"); Version is that of the IP, 4 or 6.
type DHCPOption struct {
	Name, Value string
	Version     int
}

// Inspect finds out what is in a machine, without changing it.
type Inspect interface {
	Validator
	Inspect(ctx context.Context, t *Task) (ingot.Inventory, error)
}

// Deploy puts an image on a machine in steps. Steps is pure. Execute may be called again for
// the same step after a crash at any point, and must then reach the same end. A step that waited
// is executed again when the machine has called back; it sees on the node what arrived. CleanUp
// undoes what a deploy left behind, in any state, repeatedly; it is also tear-down.
type Deploy interface {
	Validator
	Steps(n *ingot.Node) []ingot.Step
	Execute(ctx context.Context, t *Task, s ingot.Step) (Outcome, error)
	CleanUp(ctx context.Context, t *Task) error
}

// Waiter is an optional ability of Deploy. WaitsFor tells what a waiting step waits for ("the
// deploy ramdisk to ...") and what a person should check when it does not come.
type Waiter interface {
	WaitsFor(n *ingot.Node, s ingot.Step) (what, check string)
}

// Preflight is an optional ability of Deploy: it finds out what Validate cannot, by asking others
// than the machine, within seconds. A running instance is not given up before it has succeeded.
type Preflight interface {
	Preflight(ctx context.Context, t *Task) error
}

// Resolver is an optional ability of Deploy: it looks up what instance_info merely names, before
// anything is validated, and puts on record what the other interfaces have to know of it.
type Resolver interface {
	Resolve(ctx context.Context, t *Task) error
}

// Copier is an optional ability of Deploy. Copies tells that a step moves an image through this
// conductor; so many of them run at once and no more.
type Copier interface {
	Copies(s ingot.Step) bool
}

// Method describes one vendor passthru method, as GET .../vendor_passthru/methods shows it.
type Method struct {
	Name        string
	HTTPMethods []string
	Description string
	Async       bool // 202 and no body; else 200 and the result
	Attach      bool // the result is served raw as text/plain, not as JSON
	// Public methods need no credentials: a machine calls them (S1.8). They check what they are
	// told themselves.
	Public bool
	// Exclusive methods run with the node's reservation.
	Exclusive bool
}

// Result is what a passthru method returns: Value encoded as JSON, or, for Attach methods, Body
// as it is. Resume asks the conductor to go on with the waiting step; Failure, to end the
// running operation as failed, for the reason it gives.
type Result struct {
	Value   any
	Body    []byte
	Resume  bool
	Failure string
}

// NodePassthru is an optional ability of any interface: vendor passthru methods of a node.
type NodePassthru interface {
	NodeMethods() []Method
	CallNode(ctx context.Context, t *Task, method string, args ingot.Object) (Result, error)
}

// Refuser is an optional ability of NodePassthru: Refuse tells, from the node as it was read and
// without its reservation, that an exclusive call would change nothing, and how it is answered
// then. So a stranger cannot keep a node reserved by calls.
type Refuser interface {
	Refuse(ctx context.Context, t *Task, method string, args ingot.Object) (refused bool, err error)
}

// Finder lets a driver-level method look up the machine that is asking. Both return
// ingot.NotFound for machines nobody knows. NodeByMAC returns the port with that address alone,
// and both of them as far only as boot answers need them (store.Machine); they are shared, and
// must not be changed.
type Finder interface {
	NodeByIdent(ctx context.Context, ident string) (*ingot.Node, []*ingot.Port, error)
	NodeByMAC(ctx context.Context, mac string) (*ingot.Node, []*ingot.Port, error)
}

// DriverPassthru is an optional ability of any interface: vendor passthru methods of a hardware
// type, without a node being named in the path.
type DriverPassthru interface {
	DriverMethods() []Method
	CallDriver(ctx context.Context, f Finder, method string, args ingot.Object) (Result, error)
}

// Properties is an optional ability: the driver_info keys an interface reads, with a help text
// each.
type Properties interface {
	Properties() map[string]string
}
