// Package iscsi is the deploy interface `iscsi`: the deploy ramdisk exports the machine's disk
// by iSCSI, the conductor writes the image to it with its own initiator, and the machine is
// power-cycled into what was written (blueprint pxe-mount-and-dd, Ironic 2014.1 to 17.0; the
// names and the protocol with the ramdisk are kept). It orders power and boot through the task,
// and leaves image formats to package image, the copy to package deploy and the wire to package
// iscsi.
//
// Read Execute first: one method for each step. callback.go is what the ramdisk may say.
package iscsi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"ingot/internal/deploy"
	"ingot/internal/driver"
	"ingot/internal/driver/source"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/iscsi"
)

// Name is the name of the deploy interface.
const Name = "iscsi"

// Options is what the deploy interface works with; the zero value works.
type Options struct {
	// Image is where images may come from and where they are spooled.
	Image image.Options
	// OutcomePort is the TCP port on which a ramdisk waits to hear how the copy ended; 0 is
	// 10000, as ever.
	OutcomePort int
	// LetGoTimeout is how long a ramdisk that heard of the end may take to say Completed; 0 is
	// 5 minutes.
	LetGoTimeout time.Duration
	// DefaultBootMode is that of nodes which do not say: uefi or bios; "" is uefi. It decides
	// about the kind of partition table.
	DefaultBootMode string
}

const (
	defaultOutcomePort  = 10000
	defaultLetGoTimeout = 5 * time.Minute
	// logoutTimeout bounds the end of a session after the task was told to stop.
	logoutTimeout = 2 * time.Second
)

// Deploy is the deploy interface iscsi.
type Deploy struct {
	o      Options
	source source.Source
}

var (
	_ driver.Deploy       = (*Deploy)(nil)
	_ driver.NodePassthru = (*Deploy)(nil)
	_ driver.Refuser      = (*Deploy)(nil)
	_ driver.Waiter       = (*Deploy)(nil)
	_ driver.Copier       = (*Deploy)(nil)
	_ driver.Preflight    = (*Deploy)(nil)
)

// New returns the deploy interface.
func New(o Options) *Deploy {
	if o.OutcomePort == 0 {
		o.OutcomePort = defaultOutcomePort
	}
	if o.LetGoTimeout == 0 {
		o.LetGoTimeout = defaultLetGoTimeout
	}
	return &Deploy{o, source.Source{Image: o.Image}}
}

// Names of the steps, as in Ironic.
const (
	stepDeploy   = "deploy"
	stepWrite    = "write_image"
	stepPrepare  = "prepare_instance_boot"
	stepTearDown = "tear_down_agent"
	stepBoot     = "boot_instance"
)

// Steps is the plan of a deployment; priorities are Ironic's.
func (d *Deploy) Steps(*ingot.Node) []ingot.Step {
	return []ingot.Step{
		{Interface: "deploy", Name: stepDeploy, Priority: 100},
		{Interface: "deploy", Name: stepWrite, Priority: 80},
		{Interface: "deploy", Name: stepPrepare, Priority: 60},
		{Interface: "deploy", Name: stepTearDown, Priority: 40},
		{Interface: "deploy", Name: stepBoot, Priority: 20},
	}
}

// Copies tells which step is the costly one.
func (d *Deploy) Copies(s ingot.Step) bool { return s.Name == stepWrite }

// Execute runs a step.
func (d *Deploy) Execute(ctx context.Context, t *driver.Task, s ingot.Step) (driver.Outcome,
	error) {
	switch s.Name {
	case stepDeploy:
		return d.bootRamdisk(ctx, t)
	case stepWrite:
		return driver.Done, d.writeImage(ctx, t)
	case stepPrepare:
		return driver.Done, t.Driver.Boot.PrepareInstance(ctx, t)
	case stepTearDown:
		return d.tearDownAgent(ctx, t)
	case stepBoot:
		// The ramdisk does not restart by itself: it has said Completed and waits (S2.9).
		return driver.Done, t.BootInstance(ctx, ingot.Rebooting)
	}
	return driver.Done, ingot.Errorf(ingot.Invalid, "deploy interface iscsi has no step %q", s.Name)
}

// WaitsFor tells what the waiting steps wait for.
func (d *Deploy) WaitsFor(n *ingot.Node, s ingot.Step) (what, check string) {
	if s.Name == stepTearDown {
		return "the deploy ramdisk to confirm that it has let go of the disk",
			"the console of the machine: the image is written, but the ramdisk did not say so"
	}
	return "the deploy ramdisk to report its iSCSI target",
		"that the machine boots from its network card (boot order, cable, DHCP on the " +
			"provisioning network), that the ramdisk has a driver for the card, and the " +
			"machine's console; everything that was seen is in 'ingot node journal " +
			n.Label() + "'"
}

// bootRamdisk starts the machine into the ramdisk. When the machine has called back its target
// is on record and there is nothing left to do. Repeated before that, it is a new attempt: a
// ramdisk that the one before has started is about to lose its power, and must not be heard.
func (d *Deploy) bootRamdisk(ctx context.Context, t *driver.Task) (driver.Outcome, error) {
	n := t.Node
	if n.Attempt != nil && n.Attempt.Target != nil {
		return driver.Done, nil
	}
	if err := d.source.ResolveAgain(ctx, t); err != nil {
		return driver.Done, err
	}
	ref, err := d.source.Reference(n)
	if err != nil {
		return driver.Done, err
	}
	// A wrong image is better found out now than after the machine has booted.
	if err := d.source.Look(ctx, t, ref); err != nil {
		return driver.Done, err
	}
	driver.NextAttempt(n)
	if err := t.BootRamdisk(ctx); err != nil {
		return driver.Done, err
	}
	return driver.Outcome{Wait: true}, nil
}

// writeImage writes the image to the machine's disk. Repeated, it writes all of it again,
// unless the end of an earlier copy is on record.
func (d *Deploy) writeImage(ctx context.Context, t *driver.Task) error {
	a := t.Node.Attempt
	if a == nil || a.Target == nil {
		return ingot.Errorf(ingot.Internal, "the ramdisk's iSCSI target is not on record; "+
			"undeploy the node and deploy it again")
	}
	if a.Written {
		return nil
	}
	err := d.copy(ctx, t)
	if err != nil {
		if ctx.Err() == nil {
			d.tellFailure(ctx, t, err)
		}
		return err
	}
	a.Written = true
	return nil
}

func (d *Deploy) copy(ctx context.Context, t *driver.Task) error {
	if err := d.source.ResolveAgain(ctx, t); err != nil {
		return err
	}
	ref, err := d.source.Reference(t.Node)
	if err != nil {
		return err
	}
	src, err := image.Open(ctx, ref, d.source.Options(t))
	if err != nil {
		return err
	}
	defer src.Close()
	drive, err := d.source.Drive(ctx, t.Node)
	if err != nil {
		return err
	}

	cfg := config(t.Node.Attempt.Target)
	cfg.OnReconnect = func(reason error, outage time.Duration) {
		t.Note(ingot.Entry{Source: "iscsi", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"connected to the machine's disk again after %v, and going on: %v",
			outage.Round(time.Millisecond), reason),
			Data: ingot.Object{"seconds": outage.Seconds()}})
	}
	disk, err := iscsi.Dial(ctx, cfg)
	if err != nil {
		return ingot.Errorf(ingot.Unavailable, "connect to the machine's disk: %w", err)
	}
	hangUp := sync.OnceFunc(func() {
		// Also after the task was told to stop: a session left open keeps the disk busy.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
		defer cancel()
		if err := disk.Close(ctx); err != nil {
			t.Log.Warn("iSCSI logout failed", "error", err)
		}
	})
	defer hangUp()
	// A write that hangs ends with its session, not with ctx: without this the process could
	// not stop before the command's time-out.
	defer context.AfterFunc(ctx, hangUp)()
	t.Note(ingot.Entry{Source: "iscsi", Text: fmt.Sprintf("connected to the machine's disk: "+
		"%d bytes in blocks of %d", disk.Size(), disk.BlockSize()),
		Data: ingot.Object{"bytes": disk.Size(), "address": t.Node.Attempt.Target.Address}})

	var r deploy.Result
	if driver.IsPartitionImage(t.Node) {
		r, err = d.writePartitions(ctx, t, disk, deploy.Contents{Image: src,
			ConfigDrive: drive})
	} else {
		r, err = deploy.WriteImage(ctx, disk, src, deploy.Options{Progress: copyProgress(t),
			ConfigDrive: drive, Seed: t.Node.UUID})
	}
	if errors.Is(err, iscsi.ErrLost) {
		return ingot.Errorf(ingot.Unavailable, "%w; look at the machine's console and at the "+
			"provisioning network, then deploy again", err)
	}
	if err != nil {
		return err
	}
	record(t.Node, r)
	t.Note(ingot.Entry{Source: "image", Text: fmt.Sprintf("image written and verified (%s): "+
		"%d bytes, %d of them zeros, in %s", r.Digest, r.Read, r.Zeroed,
		r.Duration.Round(time.Millisecond)),
		Data: ingot.Object{"bytes": r.Read, "written": r.Written, "zeroed": r.Zeroed,
			"seconds": r.Duration.Seconds(), "digest": r.Digest}})
	if t.Node.Attempt.NeedsLoader {
		t.Note(ingot.Entry{Source: "image", Level: ingot.LevelWarning, Text: "the image has no " +
			"boot loader in its boot sector; the deploy ramdisk must install one"})
	}
	if !driver.IsPartitionImage(t.Node) && !r.BootSector {
		is := "has no boot sector (55 AA at the end of its first 512 bytes)"
		if r.Filesystem.Kind != "" {
			is = "is a file system (" + r.Filesystem.Kind + ") without a boot sector"
		}
		t.Note(ingot.Entry{Source: "image", Level: ingot.LevelWarning, Text: "the image " + is +
			", so that no firmware will find anything to boot on the disk; check that image_source " +
			"is an image of a whole disk and no archive, or set image_type to partition"})
	}
	return nil
}

func config(target *ingot.ISCSITarget) iscsi.Config {
	c := iscsi.Config{
		Address: net.JoinHostPort(target.Address, strconv.Itoa(target.Port)),
		Target:  target.IQN, LUN: uint64(target.LUN),
	}
	if target.Username != "" {
		c.CHAP = &iscsi.CHAP{Username: target.Username, Secret: target.Password.Reveal()}
	}
	return c
}

// CleanUp forgets the attempt and what the machine was to boot.
func (d *Deploy) CleanUp(ctx context.Context, t *driver.Task) error {
	t.Node.Attempt = nil
	return errors.Join(t.Driver.Boot.CleanUpRamdisk(ctx, t), t.Driver.Boot.CleanUpInstance(ctx, t))
}
