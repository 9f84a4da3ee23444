// Package rpc is the contract between the API and the conductors: the calls one may make, with
// arguments and results that survive encoding, because the two need not run in one process. It
// leaves routing and transport to whoever implements Conductor; in one process that is the
// conductor itself.
package rpc

import (
	"context"
	"time"

	"ingot/internal/ingot"
)

// Conductor is what the API asks of conductors. Errors carry an ingot.Kind. Calls that start
// work return when the work is accepted and on record, not when it is done.
type Conductor interface {
	// CreateNode fills defaults, checks driver and interfaces, and stores the node.
	CreateNode(ctx context.Context, n *ingot.Node) (*ingot.Node, error)
	// UpdateNode checks interfaces and stores the node as changed by the caller; n.Generation
	// is the one that was read. Locked when a conductor is at work on it.
	UpdateNode(ctx context.Context, n *ingot.Node, u UpdateOptions) (*ingot.Node, error)
	// DeleteNode removes the node and its ports.
	DeleteNode(ctx context.Context, ident string) error
	// Provision starts a verb (Event of lifecycle) on a node.
	Provision(ctx context.Context, r ProvisionRequest) error
	// SetPower starts a power action; target_power_state is on record when it returns.
	SetPower(ctx context.Context, ident string, r PowerRequest) error
	// SetBootMode starts a change of the mode in which the machine boots: uefi or bios. It is over when the
	// node is not reserved any more; the node tells what became of it.
	SetBootMode(ctx context.Context, ident, mode string) error
	// SetSecureBoot is the same for Secure Boot.
	SetSecureBoot(ctx context.Context, ident string, on bool) error
	// Validate returns a result for every interface kind; it never changes the node.
	Validate(ctx context.Context, ident string) (map[string]Validation, error)
	// BootDevice asks the BMC. Waits for it.
	BootDevice(ctx context.Context, ident string) (BootDevice, error)
	// SetBootDevice tells the BMC. Waits for it.
	SetBootDevice(ctx context.Context, ident string, d BootDevice) error
	// SupportedBootDevices lists what the management interface can set.
	SupportedBootDevices(ctx context.Context, ident string) ([]string, error)
	// VIFs lists the ports of Neutron that are attached to the node.
	VIFs(ctx context.Context, ident string) ([]string, error)
	// AttachVIF finds a port of the node for one of Neutron. Conflict if it has one already.
	AttachVIF(ctx context.Context, ident string, v VIF) error
	// DetachVIF undoes it; Invalid if it is not attached.
	DetachVIF(ctx context.Context, ident, vif string) error
	// NodeMethods and DriverMethods list passthru methods by name.
	NodeMethods(ctx context.Context, ident string) (map[string]Method, error)
	DriverMethods(ctx context.Context, driver string) (map[string]Method, error)
	// CallNode and CallDriver run a passthru method.
	CallNode(ctx context.Context, ident string, c Call) (Reply, error)
	CallDriver(ctx context.Context, driver string, c Call) (Reply, error)
	// AgentToken gives out the token of the agent in the node's ramdisk: once for each boot, later it is
	// ingot.Masked. NotFound if none is waited for; Locked when a conductor is at work on the node.
	AgentToken(ctx context.Context, uuid string) (string, error)
	// Heartbeat takes what an agent says of itself. Invalid if it is not that of the node, or is another
	// one than before; while a conductor is at work on the node it is passed over.
	Heartbeat(ctx context.Context, uuid string, h Heartbeat) error
}

// UpdateOptions changes how UpdateNode treats interfaces.
type UpdateOptions struct {
	// ResetInterfaces drops explicit interfaces when the driver changes (1.45).
	ResetInterfaces bool
}

// ProvisionRequest asks for a verb.
type ProvisionRequest struct {
	Ident string
	Event string // lifecycle.Event: deploy, delete, manage...
	// ConfigDrive is what deploy and rebuild were given: an object, a string or nil.
	ConfigDrive any
	// DeploySteps are those that deploy and rebuild were given besides their own.
	DeploySteps []ingot.Step
}

// PowerRequest asks for a power action.
type PowerRequest struct {
	Target  ingot.PowerState
	Timeout time.Duration // 0: the configured default
}

// Validation is the result for one interface: true, or false with the reason.
type Validation struct {
	Result bool   `json:"result"`
	Reason string `json:"reason,omitempty"`
}

// Heartbeat is what an agent in a ramdisk says of itself.
type Heartbeat struct {
	Token   string
	URL     string // of its API
	Version string
	CA      string // PEM of the certificate of that; "" if it names none
}

// BootDevice is a boot device and whether it outlasts one boot.
type BootDevice struct {
	Device     string `json:"boot_device"`
	Persistent bool   `json:"persistent"`
}

// VIF is a port of Neutron, and who is to have it.
type VIF struct {
	ID       string
	PortUUID string // of the port of the node that is to have it; "" is any
	Project  string // of which it has to be, because who asks may use no other's; "" is any
}

// Method describes a passthru method as the wire shows it.
type Method struct {
	HTTPMethods []string `json:"http_methods"`
	Async       bool     `json:"async"`
	Description string   `json:"description"`
	Attach      bool     `json:"attach"`
	Exclusive   bool     `json:"require_exclusive_lock"`
}

// Call names a passthru method, how it was called, and its arguments: body and query merged.
type Call struct {
	Method     string
	HTTPMethod string
	Args       ingot.Object
	// PublicOnly refuses methods that need credentials, as if they did not exist: set for calls
	// that arrive on the machines' socket.
	PublicOnly bool
}

// Reply is what a passthru method returned (S1.7): Async is a 202 without body, Attach serves
// Body raw as text/plain, else Value is the JSON body.
type Reply struct {
	Async  bool
	Attach bool
	Value  any
	Body   []byte
}
