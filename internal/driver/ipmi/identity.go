package ipmi

import (
	"context"
	"regexp"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// guidKey names the machine: in driver_info what a person says, in driver_internal_info what its
// BMC said first.
const guidKey = "ipmi_system_guid"

// anyGUID is the value of guidKey with which machines are not compared.
const anyGUID = "any"

// change is ask for what touches the machine. Addresses are given to other machines, and whoever
// switches by address alone switches off a stranger: the BMC has to be that of the machine.
func (f *Family) change(ctx context.Context, t *driver.Task, what string,
	fn func(ctx context.Context, b bmc) error) error {
	return f.ask(ctx, t, what, func(ctx context.Context, b bmc) error {
		if err := identify(ctx, t, b); err != nil {
			return err
		}
		// There was a turn to wait for, a login and a question.
		if err := t.Allowed(); err != nil {
			return err
		}
		return fn(ctx, b)
	})
}

// identify compares the machine with the one on record; the first one is put on record. A BMC
// without a GUID proves nothing and is believed.
func identify(ctx context.Context, t *driver.Task, b bmc) error {
	i, err := parse(t.Node)
	if err != nil || i.guid == anyGUID {
		return err
	}
	guid, err := b.systemGUID(ctx)
	if err != nil || guid == "" {
		return err
	}
	known := i.guid
	if known == "" {
		known = driver.Text(t.Node.DriverInternalInfo, guidKey)
	}
	switch known {
	case guid:
		return nil
	case "":
		if t.Node.DriverInternalInfo == nil {
			t.Node.DriverInternalInfo = ingot.Object{}
		}
		t.Node.DriverInternalInfo[guidKey] = guid
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "BMC %s belongs to another machine: its system GUID is %s, "+
		"that of node %s is %s. Nothing was done to it. Check ipmi_address; if it is the node's "+
		"machine with a new main board, tell so with: baremetal node set %s --driver-info %s=%s",
		i.address(), guid, t.Node.UUID, known, t.Node.UUID, guidKey, guid)
}

// Identify puts on record which machine it is that the BMC belongs to.
func (p *Power) Identify(ctx context.Context, t *driver.Task) error {
	return p.f.ask(ctx, t, "read the system GUID", func(ctx context.Context, b bmc) error {
		delete(t.Node.DriverInternalInfo, guidKey)
		return identify(ctx, t, b)
	})
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// validGUID tells whether a person's value of guidKey can be one.
func validGUID(text string) bool {
	return text == "" || text == anyGUID || uuidForm.MatchString(text)
}
