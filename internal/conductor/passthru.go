package conductor

import (
	"context"
	"slices"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/rpc"
)

// describe writes methods as the wire shows them.
func describe(methods []driver.Method, into map[string]rpc.Method) {
	for _, m := range methods {
		into[m.Name] = rpc.Method{HTTPMethods: m.HTTPMethods, Async: m.Async,
			Description: m.Description, Attach: m.Attach, Exclusive: m.Exclusive}
	}
}

// NodeMethods lists the passthru methods of a node.
func (c *Conductor) NodeMethods(ctx context.Context, ident string) (map[string]rpc.Method, error) {
	t, err := c.read(ctx, ident)
	if err != nil {
		return nil, err
	}
	out := map[string]rpc.Method{}
	for _, i := range t.driver().Interfaces() {
		if p, ok := i.(driver.NodePassthru); ok {
			describe(p.NodeMethods(), out)
		}
	}
	return out, nil
}

// DriverMethods lists the passthru methods of a hardware type.
func (c *Conductor) DriverMethods(_ context.Context, name string) (map[string]rpc.Method, error) {
	impls, err := c.o.Table.Implementations(name)
	if err != nil {
		return nil, err
	}
	out := map[string]rpc.Method{}
	for _, i := range impls {
		if p, ok := i.(driver.DriverPassthru); ok {
			describe(p.DriverMethods(), out)
		}
	}
	return out, nil
}

// choose finds the method that was called. For a caller without credentials other methods than
// public ones do not exist.
func choose(methods []driver.Method, call rpc.Call) (driver.Method, bool, error) {
	i := slices.IndexFunc(methods, func(m driver.Method) bool {
		return m.Name == call.Method && (m.Public || !call.PublicOnly)
	})
	if i < 0 {
		return driver.Method{}, false, nil
	}
	m := methods[i]
	if !slices.Contains(m.HTTPMethods, call.HTTPMethod) {
		return m, false, ingot.Errorf(ingot.Invalid, "The method %s does not support HTTP %s; "+
			"use %s", m.Name, call.HTTPMethod, strings.Join(m.HTTPMethods, " or "))
	}
	return m, true, nil
}

func noHandler(call rpc.Call) error {
	return ingot.Errorf(ingot.Invalid, "No handler for method %s", call.Method)
}

func reply(m driver.Method, r driver.Result) rpc.Reply {
	return rpc.Reply{Async: m.Async, Attach: m.Attach, Value: r.Value, Body: r.Body}
}

// driverPassthru is an implementation with the methods that it lists.
type driverPassthru struct {
	driver.DriverPassthru
	methods []driver.Method
}

// driverPassthrus lists what may answer driver calls of a hardware type. It is the same for as
// long as the conductor lives, and each boot script asks for it.
func (c *Conductor) driverPassthrus(name string) ([]driverPassthru, error) {
	if known, ok := c.passthrus.Load(name); ok {
		return known.([]driverPassthru), nil
	}
	impls, err := c.o.Table.Implementations(name)
	if err != nil {
		return nil, err
	}
	var list []driverPassthru
	for _, i := range impls {
		if p, ok := i.(driver.DriverPassthru); ok {
			list = append(list, driverPassthru{p, p.DriverMethods()})
		}
	}
	c.passthrus.Store(name, list)
	return list, nil
}

// CallDriver runs a passthru method of a hardware type.
func (c *Conductor) CallDriver(ctx context.Context, name string, call rpc.Call) (rpc.Reply,
	error) {
	list, err := c.driverPassthrus(name)
	if err != nil {
		return rpc.Reply{}, err
	}
	for _, p := range list {
		m, found, err := choose(p.methods, call)
		if err != nil {
			return rpc.Reply{}, err
		}
		if found {
			r, err := p.CallDriver(ctx, c, m.Name, call.Args)
			return reply(m, r), err
		}
	}
	return rpc.Reply{}, noHandler(call)
}

// CallNode runs a passthru method of a node. An exclusive one gets the reservation, for which
// it waits a little: a ramdisk that is quicker than our own record of waiting for it must not
// be turned away.
func (c *Conductor) CallNode(ctx context.Context, ident string, call rpc.Call) (rpc.Reply, error) {
	t, err := c.read(ctx, ident)
	if err != nil {
		return rpc.Reply{}, err
	}
	for _, i := range t.driver().Interfaces() {
		p, ok := i.(driver.NodePassthru)
		if !ok {
			continue
		}
		m, found, err := choose(p.NodeMethods(), call)
		switch {
		case err != nil:
			return rpc.Reply{}, err
		case !found:
		case m.Exclusive:
			if r, ok := p.(driver.Refuser); ok {
				if refused, err := r.Refuse(ctx, t.dt, m.Name, call.Args); refused {
					return reply(m, driver.Result{}), err
				}
			}
			return c.callExclusive(ctx, t.node.UUID, m, call)
		default:
			r, err := p.CallNode(ctx, t.dt, m.Name, call.Args)
			return reply(m, r), err
		}
	}
	return rpc.Reply{}, noHandler(call)
}

// callExclusive runs a method with the reservation, puts on record what it changed, and goes
// on with the waiting operation if the method says so.
func (c *Conductor) callExclusive(ctx context.Context, uuid string, m driver.Method,
	call rpc.Call) (rpc.Reply, error) {
	if err := c.pool.enter(); err != nil {
		return rpc.Reply{}, err
	}
	t, err := c.reserve(ctx, uuid)
	if err != nil {
		c.pool.leave()
		return rpc.Reply{}, err
	}
	r, err := t.call(ctx, m, call)
	switch {
	case err != nil:
		t.release(ctx)
		c.pool.leave()
		return rpc.Reply{}, err
	case r.Failure != "":
		t.spawn(func(ctx context.Context) {
			defer t.release(ctx)
			t.failed(ctx, operations[lifecycle.Deploying], t.node.LastError)
		})
	case r.Resume:
		c.carryOn(ctx, t)
	default:
		t.release(ctx)
		c.pool.leave()
	}
	return reply(m, r), nil
}

// call runs the method on the node as it is now; its driver may have changed since it was
// chosen.
func (t *task) call(ctx context.Context, m driver.Method, call rpc.Call) (driver.Result, error) {
	if err := t.compose(); err != nil {
		return driver.Result{}, err
	}
	for _, i := range t.driver().Interfaces() {
		p, ok := i.(driver.NodePassthru)
		if !ok {
			continue
		}
		if _, found, _ := choose(p.NodeMethods(), call); !found {
			continue
		}
		r, err := p.CallNode(ctx, t.dt, m.Name, call.Args)
		if err != nil {
			return r, err
		}
		switch {
		case r.Failure != "":
			t.giveUp(t.position() + ": " + r.Failure)
		case r.Resume:
			if err := t.enter(lifecycle.Resume); err != nil {
				return r, err
			}
			t.node.WaitUntil, t.resumed = nil, true
		}
		return r, t.save(ctx)
	}
	return driver.Result{}, noHandler(call)
}
