package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

// The arguments of calls that have more than one.
type (
	nodeArgs struct {
		Node    *ingot.Node
		Options rpc.UpdateOptions
	}
	powerArgs struct {
		Ident   string
		Request rpc.PowerRequest
	}
	deviceArgs struct {
		Ident  string
		Device rpc.BootDevice
	}
	firmwareArgs struct {
		Ident      string
		BootMode   string
		SecureBoot bool
	}
	vifArgs struct {
		Ident string
		VIF   rpc.VIF
	}
	heartbeatArgs struct {
		UUID      string
		Heartbeat rpc.Heartbeat
	}
	passthruArgs struct {
		Ident string // node or driver
		Call  rpc.Call
	}
)

// CreateNode is done here if the hardware type is known here.
func (r *Router) CreateNode(ctx context.Context, n *ingot.Node) (out *ingot.Node, err error) {
	err = r.call(ctx, r.ofDriver(n.Driver), "CreateNode", nodeArgs{Node: n}, &out,
		func(c rpc.Conductor) error {
			out, err = c.CreateNode(ctx, n)
			return err
		})
	return out, err
}

// UpdateNode is done here if the hardware type is known here.
func (r *Router) UpdateNode(ctx context.Context, n *ingot.Node, o rpc.UpdateOptions) (
	out *ingot.Node, err error) {
	err = r.call(ctx, r.ofDriver(n.Driver), "UpdateNode", nodeArgs{n, o}, &out,
		func(c rpc.Conductor) error {
			out, err = c.UpdateNode(ctx, n, o)
			return err
		})
	return out, err
}

// DeleteNode is done here: it needs no hardware.
func (r *Router) DeleteNode(ctx context.Context, ident string) error {
	return r.Local.DeleteNode(ctx, ident)
}

// provisionWithSteps is Provision with deploy steps, which an older conductor would not see in a request: it would
// deploy without them. This name it does not know.
const provisionWithSteps = "ProvisionWithSteps"

// Provision is done by the owner of the node.
func (r *Router) Provision(ctx context.Context, q rpc.ProvisionRequest) error {
	at, err := r.ofNode(ctx, q.Ident)
	if err != nil {
		return err
	}
	method := "Provision"
	if len(q.DeploySteps) > 0 {
		method = provisionWithSteps
	}
	return r.call(ctx, at, method, q, nil, func(c rpc.Conductor) error {
		return c.Provision(ctx, q)
	})
}

// SetPower is done by the owner of the node.
func (r *Router) SetPower(ctx context.Context, ident string, q rpc.PowerRequest) error {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return err
	}
	return r.call(ctx, at, "SetPower", powerArgs{ident, q}, nil, func(c rpc.Conductor) error {
		return c.SetPower(ctx, ident, q)
	})
}

// Validate is done by the owner of the node.
func (r *Router) Validate(ctx context.Context, ident string) (out map[string]rpc.Validation,
	err error) {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return nil, err
	}
	err = r.call(ctx, at, "Validate", ident, &out, func(c rpc.Conductor) error {
		out, err = c.Validate(ctx, ident)
		return err
	})
	return out, err
}

// BootDevice is done by the owner of the node.
func (r *Router) BootDevice(ctx context.Context, ident string) (out rpc.BootDevice, err error) {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return out, err
	}
	err = r.call(ctx, at, "BootDevice", ident, &out, func(c rpc.Conductor) error {
		out, err = c.BootDevice(ctx, ident)
		return err
	})
	return out, err
}

// SetBootDevice is done by the owner of the node.
func (r *Router) SetBootDevice(ctx context.Context, ident string, d rpc.BootDevice) error {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return err
	}
	return r.call(ctx, at, "SetBootDevice", deviceArgs{ident, d}, nil,
		func(c rpc.Conductor) error { return c.SetBootDevice(ctx, ident, d) })
}

// SetBootMode is done by the owner of the node.
func (r *Router) SetBootMode(ctx context.Context, ident, mode string) error {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return err
	}
	return r.call(ctx, at, "SetBootMode", firmwareArgs{Ident: ident, BootMode: mode}, nil,
		func(c rpc.Conductor) error { return c.SetBootMode(ctx, ident, mode) })
}

// SetSecureBoot is done by the owner of the node.
func (r *Router) SetSecureBoot(ctx context.Context, ident string, on bool) error {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return err
	}
	return r.call(ctx, at, "SetSecureBoot", firmwareArgs{Ident: ident, SecureBoot: on}, nil,
		func(c rpc.Conductor) error { return c.SetSecureBoot(ctx, ident, on) })
}

// VIFs is done by the owner of the node.
func (r *Router) VIFs(ctx context.Context, ident string) (out []string, err error) {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return nil, err
	}
	err = r.call(ctx, at, "VIFs", ident, &out, func(c rpc.Conductor) error {
		out, err = c.VIFs(ctx, ident)
		return err
	})
	return out, err
}

// AttachVIF is done by the owner of the node.
func (r *Router) AttachVIF(ctx context.Context, ident string, v rpc.VIF) error {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return err
	}
	return r.call(ctx, at, "AttachVIF", vifArgs{ident, v}, nil,
		func(c rpc.Conductor) error { return c.AttachVIF(ctx, ident, v) })
}

// DetachVIF is done by the owner of the node.
func (r *Router) DetachVIF(ctx context.Context, ident, vif string) error {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return err
	}
	return r.call(ctx, at, "DetachVIF", vifArgs{ident, rpc.VIF{ID: vif}}, nil,
		func(c rpc.Conductor) error { return c.DetachVIF(ctx, ident, vif) })
}

// SupportedBootDevices is done by the owner of the node.
func (r *Router) SupportedBootDevices(ctx context.Context, ident string) (out []string, err error) {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return nil, err
	}
	err = r.call(ctx, at, "SupportedBootDevices", ident, &out, func(c rpc.Conductor) error {
		out, err = c.SupportedBootDevices(ctx, ident)
		return err
	})
	return out, err
}

// NodeMethods is done by the owner of the node.
func (r *Router) NodeMethods(ctx context.Context, ident string) (out map[string]rpc.Method,
	err error) {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return nil, err
	}
	err = r.call(ctx, at, "NodeMethods", ident, &out, func(c rpc.Conductor) error {
		out, err = c.NodeMethods(ctx, ident)
		return err
	})
	return out, err
}

// DriverMethods is done by one who knows the hardware type.
func (r *Router) DriverMethods(ctx context.Context, driver string) (out map[string]rpc.Method,
	err error) {
	err = r.call(ctx, r.ofDriver(driver), "DriverMethods", driver, &out,
		func(c rpc.Conductor) error {
			out, err = c.DriverMethods(ctx, driver)
			return err
		})
	return out, err
}

// CallNode is done by the owner of the node.
func (r *Router) CallNode(ctx context.Context, ident string, q rpc.Call) (out rpc.Reply, err error) {
	at, err := r.ofNode(ctx, ident)
	if err != nil {
		return out, err
	}
	err = r.call(ctx, at, "CallNode", passthruArgs{ident, q}, &out, func(c rpc.Conductor) error {
		out, err = c.CallNode(ctx, ident, q)
		return err
	})
	return out, err
}

// CallDriver is done by one who knows the hardware type.
func (r *Router) CallDriver(ctx context.Context, driver string, q rpc.Call) (out rpc.Reply,
	err error) {
	err = r.call(ctx, r.ofDriver(driver), "CallDriver", passthruArgs{driver, q}, &out,
		func(c rpc.Conductor) error {
			out, err = c.CallDriver(ctx, driver, q)
			return err
		})
	return out, err
}

// AgentToken is done by the owner of the node.
func (r *Router) AgentToken(ctx context.Context, uuid string) (out string, err error) {
	at, err := r.ofNode(ctx, uuid)
	if err != nil {
		return "", err
	}
	err = r.call(ctx, at, "AgentToken", uuid, &out, func(c rpc.Conductor) error {
		out, err = c.AgentToken(ctx, uuid)
		return err
	})
	return out, err
}

// Heartbeat is done by the owner of the node.
func (r *Router) Heartbeat(ctx context.Context, uuid string, h rpc.Heartbeat) error {
	at, err := r.ofNode(ctx, uuid)
	if err != nil {
		return err
	}
	return r.call(ctx, at, "Heartbeat", heartbeatArgs{uuid, h}, nil,
		func(c rpc.Conductor) error { return c.Heartbeat(ctx, uuid, h) })
}

// Serve answers the calls of others to this conductor until the bus is closed.
func (r *Router) Serve() error { return r.Bus.Handle(subject(r.Host), r.handle) }

func (r *Router) handle(ctx context.Context, data []byte) []byte {
	if r.Lease != nil {
		ctx = r.Lease() // before the time of the call is looked at
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var a answer
	value, err := r.answer(ctx, data)
	if err != nil && ctx.Err() != nil && ingot.KindOf(err) == ingot.Internal {
		err = ingot.Errorf(ingot.Unavailable, "conductor %s: %w (%w); try again", r.Host,
			context.Cause(ctx), err)
	}
	if err == nil && value != nil {
		a.Value, err = encode(value)
	}
	if err != nil {
		a.Kind, a.Error = ingot.KindOf(err), err.Error()
		a.Unknown = errors.Is(err, errUnknown)
	}
	text, err := encode(a)
	if err != nil {
		r.Log.Error("an answer was not encoded", "error", err)
	}
	return text
}

// arguments decodes those of a request.
func arguments[T any](q request) (v T, err error) {
	err = decode(q.Args, &v)
	return v, err
}

func (r *Router) answer(ctx context.Context, data []byte) (any, error) {
	var q request
	if err := decode(data, &q); err != nil {
		return nil, err
	}
	if now := r.Store.Now(); now.After(q.Until) {
		return nil, ingot.Errorf(ingot.Unavailable, "the call came %s late; whoever sent it has "+
			"done it elsewhere", now.Sub(q.Until).Round(time.Millisecond))
	}
	if ctx.Err() != nil {
		return nil, ingot.Errorf(ingot.Unavailable, "conductor %s: %w", r.Host, context.Cause(ctx))
	}
	switch q.Method {
	case "CreateNode", "UpdateNode":
		v, err := arguments[nodeArgs](q)
		if err != nil {
			return nil, err
		}
		return r.storeNode(ctx, q.Method, v)
	case "Provision", provisionWithSteps:
		v, err := arguments[rpc.ProvisionRequest](q)
		if err != nil {
			return nil, err
		}
		return nil, r.Local.Provision(ctx, v)
	case "SetPower":
		v, err := arguments[powerArgs](q)
		if err != nil {
			return nil, err
		}
		return nil, r.Local.SetPower(ctx, v.Ident, v.Request)
	case "SetBootDevice":
		v, err := arguments[deviceArgs](q)
		if err != nil {
			return nil, err
		}
		return nil, r.Local.SetBootDevice(ctx, v.Ident, v.Device)
	case "SetBootMode", "SetSecureBoot":
		v, err := arguments[firmwareArgs](q)
		if err != nil {
			return nil, err
		}
		if q.Method == "SetBootMode" {
			return nil, r.Local.SetBootMode(ctx, v.Ident, v.BootMode)
		}
		return nil, r.Local.SetSecureBoot(ctx, v.Ident, v.SecureBoot)
	case "AttachVIF", "DetachVIF":
		v, err := arguments[vifArgs](q)
		if err != nil {
			return nil, err
		}
		if q.Method == "AttachVIF" {
			return nil, r.Local.AttachVIF(ctx, v.Ident, v.VIF)
		}
		return nil, r.Local.DetachVIF(ctx, v.Ident, v.VIF.ID)
	case "Heartbeat":
		v, err := arguments[heartbeatArgs](q)
		if err != nil {
			return nil, err
		}
		return nil, r.Local.Heartbeat(ctx, v.UUID, v.Heartbeat)
	case "CallNode", "CallDriver":
		v, err := arguments[passthruArgs](q)
		if err != nil {
			return nil, err
		}
		if q.Method == "CallNode" {
			return reply(r.Local.CallNode(ctx, v.Ident, v.Call))
		}
		return reply(r.Local.CallDriver(ctx, v.Ident, v.Call))
	}
	do, known := byIdent[q.Method]
	if !known {
		return nil, fmt.Errorf("%w: conductor %s knows no call %q", errUnknown, r.Host, q.Method)
	}
	ident, err := arguments[string](q)
	if err != nil {
		return nil, err
	}
	return do(ctx, r.Local, ident)
}

// errUnknown is the answer to a call that a newer version has added: whoever sent it does it itself.
var errUnknown = errors.New("this conductor is of an older version")

// byIdent are the calls whose one argument is the name of a node or a hardware type.
var byIdent = map[string]func(context.Context, rpc.Conductor, string) (any, error){
	"Validate": func(ctx context.Context, c rpc.Conductor, ident string) (any, error) {
		return reply(c.Validate(ctx, ident))
	},
	"BootDevice": func(ctx context.Context, c rpc.Conductor, ident string) (any, error) {
		return reply(c.BootDevice(ctx, ident))
	},
	"SupportedBootDevices": func(ctx context.Context, c rpc.Conductor, ident string) (any, error) {
		return reply(c.SupportedBootDevices(ctx, ident))
	},
	"VIFs": func(ctx context.Context, c rpc.Conductor, ident string) (any, error) {
		return reply(c.VIFs(ctx, ident))
	},
	"AgentToken": func(ctx context.Context, c rpc.Conductor, ident string) (any, error) {
		return reply(c.AgentToken(ctx, ident))
	},
	"NodeMethods": func(ctx context.Context, c rpc.Conductor, ident string) (any, error) {
		return reply(c.NodeMethods(ctx, ident))
	},
	"DriverMethods": func(ctx context.Context, c rpc.Conductor, ident string) (any, error) {
		return reply(c.DriverMethods(ctx, ident))
	},
}

// storeNode creates or updates a node. Secrets of a deployment do not travel; they are those of
// the row, which the generation says is the one that the caller has read.
func (r *Router) storeNode(ctx context.Context, method string, v nodeArgs) (any, error) {
	if v.Node == nil {
		return nil, ingot.Errorf(ingot.Invalid, "a call without a node")
	}
	if method == "CreateNode" {
		return reply(r.Local.CreateNode(ctx, v.Node))
	}
	now, err := r.Store.Node(ctx, v.Node.UUID)
	if err != nil {
		return nil, err
	}
	v.Node.Attempt = now.Attempt
	return reply(r.Local.UpdateNode(ctx, v.Node, v.Options))
}

func reply[T any](v T, err error) (any, error) { return v, err }
