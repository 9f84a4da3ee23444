// Package ramdisk is the deploy interface `ramdisk`: a machine that boots what instance_info names, a kernel and
// a ramdisk or an ISO, at each start, and whose disks are not touched. There is no agent, and nothing to wait for:
// the node is active as soon as its machine is on. What it boots, and how it gets there, is the business of the
// boot interface.
//
// Read Execute.
package ramdisk

import (
	"context"
	"errors"
	"strings"

	"ingot/internal/configdrive"
	"ingot/internal/driver"
	"ingot/internal/driver/source"
	"ingot/internal/image"
	"ingot/internal/ingot"
)

// Name is the name of the deploy interface.
const Name = driver.RamdiskDeploy

// Deploy is the deploy interface ramdisk.
type Deploy struct{ source source.Source }

var (
	_ driver.Deploy   = (*Deploy)(nil)
	_ driver.Resolver = (*Deploy)(nil)
)

// New returns the deploy interface. Of images it knows what Glance tells of their kernels and ramdisks.
func New(images image.Options) *Deploy { return &Deploy{source.Source{Image: images}} }

// stepDeploy is the only step, with Ironic's name.
const stepDeploy = "deploy"

// Steps is the plan of a deployment; the priority is Ironic's.
func (d *Deploy) Steps(*ingot.Node) []ingot.Step {
	return []ingot.Step{{Interface: "deploy", Name: stepDeploy, Priority: 100}}
}

// Resolve records what Glance tells of image_source, which may stand for a kernel and a ramdisk.
func (d *Deploy) Resolve(ctx context.Context, t *driver.Task) error { return d.source.Resolve(ctx, t) }

// Validate asks for one thing to boot, and for a boot interface that can boot it at each start.
func (d *Deploy) Validate(_ context.Context, t *driver.Task) error {
	n := t.Node
	if _, ok := t.Driver.Boot.(driver.InstanceHolder); !ok {
		return ingot.Errorf(ingot.Invalid, "Invalid configuration: The boot interface must have the `ramdisk_boot` "+
			"capability. Boot interface %s has not; use ipxe or redfish-virtual-media.", n.Interfaces["boot"])
	}
	iso := driver.BootISO(n)
	given := func(keys ...string) (there []string) {
		for _, key := range keys {
			if driver.Text(n.InstanceInfo, key) != "" {
				there = append(there, "'"+key+"'")
			}
		}
		return there
	}
	if also := given("image_source", "kernel", "ramdisk"); iso != "" && len(also) > 0 {
		return ingot.Errorf(ingot.Invalid, "%s and 'boot_iso' may not be specified at the same time in instance_info of "+
			"node %s: a machine boots one of them; unset what is not meant", strings.Join(also, ", "), n.UUID)
	}
	if drive := n.InstanceInfo["configdrive"]; source.Given(drive) {
		if err := configdrive.Check(drive); err != nil {
			return ingot.Errorf(ingot.Invalid, "node %s: %w", n.UUID, err)
		}
	}
	if iso != "" || driver.InstanceKernel(n) != "" && driver.InstanceRamdisk(n) != "" {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "Cannot validate image information for node %s because one or more parameters "+
		"are missing from its instance_info. Set 'kernel' and 'ramdisk', or 'boot_iso', or an image_source in Glance "+
		"that names a kernel_id and a ramdisk_id.", n.UUID)
}

// Execute holds what the machine is to boot before it does anything to it, so that a wrong URL leaves a running
// instance alone. Then the machine is switched off: it must not look into its drives while they change.
func (d *Deploy) Execute(ctx context.Context, t *driver.Task, s ingot.Step) (driver.Outcome, error) {
	if s.Name != stepDeploy {
		return driver.Done, ingot.Errorf(ingot.Invalid, "deploy interface ramdisk has no step %q", s.Name)
	}
	boot, ok := t.Driver.Boot.(driver.InstanceHolder)
	if !ok {
		return driver.Done, d.Validate(ctx, t)
	}
	if err := d.source.ResolveAgain(ctx, t); err != nil {
		return driver.Done, err
	}
	if err := d.Validate(ctx, t); err != nil {
		return driver.Done, err
	}
	if err := boot.HoldInstance(ctx, t); err != nil {
		return driver.Done, err
	}
	driver.NextAttempt(t.Node)
	if t.Driver.Network == nil {
		if err := t.SetPower(ctx, ingot.PowerOff); err != nil {
			return driver.Done, err
		}
	} else if err := t.ToTenant(ctx); err != nil {
		return driver.Done, err
	}
	if err := t.PrepareFirmware(ctx); err != nil {
		return driver.Done, err
	}
	if err := boot.PrepareInstance(ctx, t); err != nil {
		return driver.Done, err
	}
	return driver.Done, t.StartInstance(ctx, ingot.PowerOn)
}

// CleanUp forgets what the machine was to boot.
func (d *Deploy) CleanUp(ctx context.Context, t *driver.Task) error {
	t.Node.Attempt = nil
	return errors.Join(t.Driver.Boot.CleanUpRamdisk(ctx, t), t.Driver.Boot.CleanUpInstance(ctx, t))
}
