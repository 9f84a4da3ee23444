package conductor

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

var inspectStep = ingot.Step{Interface: "inspect", Name: "inspect"}

// prepareInspect plans the one step of an inspection.
func prepareInspect(ctx context.Context, t *task, _ rpc.ProvisionRequest) error {
	if err := t.compose(); err != nil {
		return err
	}
	n, i := t.node, t.driver().Inspect
	if i == nil {
		return ingot.Errorf(ingot.Invalid, "Driver %s does not support inspect (disabled or not implemented).", n.Driver)
	}
	for _, v := range []struct {
		kind string
		driver.Validator
	}{{"power", t.driver().Power}, {"inspect", i}} {
		if err := v.Validate(ctx, t.dt); err != nil {
			return ingot.Errorf(refusalKind(err), "Failed to validate %s interface for node %s. Error: %w", v.kind,
				n.UUID, err)
		}
	}
	t.stamp(ingot.InspectionStarted)
	delete(n.DriverInternalInfo, ingot.InspectionFinished)
	t.plan(inspectStep)
	return nil
}

// stamp puts the time on record, in driver_internal_info.
func (t *task) stamp(key string) {
	if t.node.DriverInternalInfo == nil {
		t.node.DriverInternalInfo = ingot.Object{}
	}
	t.node.DriverInternalInfo[key] = t.c.o.Store.Now().UTC().Format(time.RFC3339Nano)
}

// inspect finds out what is in the machine, and puts it on record: the inventory, what of it is in the
// properties, and ports for cards that have none.
func inspect(ctx context.Context, t *task) error {
	found, err := t.driver().Inspect.Inspect(ctx, t.dt)
	if err != nil {
		return err
	}
	if err := t.may(); err != nil { // it took a while
		return err
	}
	if err := t.c.o.Store.SaveInventory(ctx, t.node, found); err != nil {
		return err
	}
	fillProperties(t.node, found)
	made := 0
	for _, i := range found.Interfaces {
		new, err := t.addPort(ctx, i.MAC)
		if err != nil {
			return err
		}
		if new {
			made++
		}
	}
	t.note(ingot.Entry{Source: "inspect", Text: fmt.Sprintf("found %d processors, %d MiB of memory, %d disks, "+
		"%d network cards, for %d of which a port was created", found.CPU.Count, found.Memory.PhysicalMB,
		len(found.Disks), len(found.Interfaces), made)})
	return nil
}

// minRoot is the size in bytes from which on a disk may have the operating system, as in Ironic.
const minRoot = 4 << 30

// fillProperties takes over into the properties what Ironic does; what was not found stays.
func fillProperties(n *ingot.Node, found ingot.Inventory) {
	if n.Properties == nil {
		n.Properties = ingot.Object{}
	}
	set := func(key string, value int) {
		if value > 0 {
			n.Properties[key] = value
		}
	}
	set("cpus", found.CPU.Count)
	set("memory_mb", found.Memory.PhysicalMB)
	if found.CPU.Architecture != "" {
		n.Properties["cpu_arch"] = found.CPU.Architecture
	}
	root := int64(0)
	for _, d := range found.Disks {
		if d.Size >= minRoot && (root == 0 || d.Size < root) {
			root = d.Size
		}
	}
	set("local_gb", int(root>>30)-1) // partitions take some of it
	if found.Boot.Mode != "" {
		setCapability(n.Properties, "boot_mode", found.Boot.Mode)
	}
}

// setCapability changes one capability of properties, which are an object or a text "k:v,k:v".
func setCapability(o ingot.Object, key, value string) {
	if c, ok := o["capabilities"].(ingot.Object); ok {
		c[key] = value
		return
	}
	text, _ := o["capabilities"].(string)
	pairs := strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
	pairs = slices.DeleteFunc(pairs, func(pair string) bool {
		k, _, _ := strings.Cut(pair, ":")
		return strings.TrimSpace(k) == key
	})
	o["capabilities"] = strings.Join(append(pairs, key+":"+value), ",")
}

// addPort creates a port of the node for a card, unless there is one. A card that is another node's is told of,
// and left to a person.
func (t *task) addPort(ctx context.Context, address string) (made bool, err error) {
	mac, err := net.ParseMAC(address)
	if err != nil || len(mac) != 6 {
		t.note(ingot.Entry{Source: "inspect", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"a network card has the address %q, which is none of Ethernet: no port is made for it", address)})
		return false, nil
	}
	for _, p := range t.dt.Ports {
		if p.Address == mac.String() {
			return false, nil
		}
	}
	p := &ingot.Port{UUID: ingot.NewUUID(), NodeID: t.node.ID, NodeUUID: t.node.UUID, Address: mac.String(),
		PXEEnabled: true}
	err = t.c.o.Store.AddPort(ctx, t.node, p)
	if ingot.KindOf(err) == ingot.Conflict {
		t.note(ingot.Entry{Source: "inspect", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"no port is made for the network card %s: %v", mac, err)})
		return false, nil
	}
	if err != nil {
		return false, err
	}
	t.dt.Ports = append(t.dt.Ports, p)
	return true, nil
}

func endInspect(t *task) error {
	t.stamp(ingot.InspectionFinished)
	return done(t)
}
