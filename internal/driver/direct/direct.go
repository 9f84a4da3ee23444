// Package direct is the deploy interface `direct`: an agent in the deploy ramdisk, which speaks Ironic's
// agent protocol, fetches the image itself and writes it to the machine's disk. The conductor tells it what
// to fetch from where, waits for its heartbeats, and switches the machine. What the agent cannot fetch or
// read (files of the conductor, images of Glance, qcow2) all conductors serve to it, as it is to be on the
// disk.
//
// It orders power and boot through the task; what was heard of the agent is on the node when a step runs
// (driver.Heartbeat), and package ipa is the way to it. Read Execute first, then write.go, which is the
// dialogue about the image, then serve.go.
package direct

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/source"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/ipa"
	"ingot/internal/journal"
	"ingot/internal/ring"
)

// Name is the name of the deploy interface.
const Name = "direct"

// Options is what the deploy interface works with.
type Options struct {
	// Image is where images may come from and where they are spooled.
	Image image.Options
	// PrivateCA says that servers of images have certificates of authorities that only this host knows,
	// and agents do not: conductors serve what is at https URLs.
	PrivateCA bool
	// DownloadSource is from where agents fetch images whose nodes do not say, FromHTTP by default.
	DownloadSource string
	// SwiftURL makes a temporary URL of an image of Glance; nil: there is no Swift.
	SwiftURL func(ctx context.Context, id string) (string, error)
	// URL is where machines reach this conductor, "http://10.77.0.1:8080"; Servers are the URLs of all that
	// live and have a hardware type, this one included or not, in any order; nil: this one is alone.
	URL     string
	Servers func(driver string) []string
	// Local says that agents may be on this host, as those of simulated machines are.
	Local bool
	// DefaultBootMode is that of nodes which do not say: uefi or bios; "" is uefi. It decides about the kind of
	// partition table of partition images.
	DefaultBootMode string
	// Silence is how long an agent that writes an image may be silent; 0 is 10 minutes. Ironic's own sends
	// a heartbeat every 90 to 180 s.
	Silence time.Duration
	// Kexec allows machines to go on into what was written without a start of their firmware, where it can be and the
	// node does not say. Default: not.
	Kexec bool
	// Leaving bounds how long an agent may be there still that has said that it goes on into another kernel; 0 is 30 s.
	Leaving time.Duration
}

const (
	defaultSilence = 10 * time.Minute
	// defaultDigestWithin is enough for more than a terabyte on processors of ten years ago.
	defaultDigestWithin = time.Hour
	// maxServers are named to an agent for one image.
	maxServers = 4
	// unpacker is in the versions of agents that unpack what is compressed.
	unpacker = "ingot"
	// Keys of driver_internal_info, Ironic's.
	infoWholeDisk = "is_whole_disk_image"
	infoRootID    = "root_uuid_or_disk_id"
)

// Deploy is the deploy interface direct.
type Deploy struct {
	o      Options
	source source.Source
	told   journal.Hourly // which failures to reach an agent the journals were told of
	// digestWithin bounds how long the digest of an image may take that conductors serve.
	digestWithin time.Duration
}

var (
	_ driver.Deploy    = (*Deploy)(nil)
	_ driver.Waiter    = (*Deploy)(nil)
	_ driver.Preflight = (*Deploy)(nil)
	_ driver.Resolver  = (*Deploy)(nil)
	_ driver.Listener  = (*Deploy)(nil)

	_ driver.Properties = (*Deploy)(nil)
)

// New returns the deploy interface.
func New(o Options) *Deploy {
	if o.Silence <= 0 {
		o.Silence = defaultSilence
	}
	if o.Leaving <= 0 {
		o.Leaving = defaultLeaving
	}
	return &Deploy{o: o, source: source.Source{Image: o.Image}, digestWithin: defaultDigestWithin}
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

// Execute runs a step.
func (d *Deploy) Execute(ctx context.Context, t *driver.Task, s ingot.Step) (driver.Outcome, error) {
	switch s.Name {
	case stepDeploy:
		return d.bootRamdisk(ctx, t)
	case stepWrite:
		return d.writeImage(ctx, t)
	case stepPrepare:
		return d.prepareBoot(ctx, t)
	case stepTearDown:
		return driver.Done, d.tearDownAgent(ctx, t)
	case stepBoot:
		if a := t.Node.Attempt; a != nil && a.Kexec == ingot.KexecDone {
			return driver.Done, nil
		}
		return driver.Done, t.BootInstance(ctx, ingot.PowerOn)
	}
	return driver.Done, ingot.Errorf(ingot.Invalid, "deploy interface direct has no step %q", s.Name)
}

// WaitsFor tells what the waiting steps wait for.
func (d *Deploy) WaitsFor(n *ingot.Node, s ingot.Step) (what, check string) {
	if command, ordered := orders[s.Name]; ordered {
		where := "its address"
		if n.Attempt != nil && n.Attempt.Agent != nil {
			where = n.Attempt.Agent.URL
		}
		what := "the agent in the deploy ramdisk to write the image"
		if command == loaderName {
			what = "the agent in the deploy ramdisk to install the boot loader"
		}
		return what, "that the conductor reaches the agent at " + where + ", and the agent the server of the " +
			"image; and the machine's console"
	}
	return "the agent in the deploy ramdisk to send its first heartbeat",
		"that the machine boots from its network card or its virtual CD (boot order, cable, DHCP on " +
			"the provisioning network), that the ramdisk has a driver for the card and an agent that " +
			"speaks Ironic's protocol, and the machine's console; everything that was seen is in " +
			"'ingot node journal " + n.Label() + "'"
}

// Resolve records what Glance tells of the image.
func (d *Deploy) Resolve(ctx context.Context, t *driver.Task) error { return d.source.Resolve(ctx, t) }

// Preflight looks whether there is an image.
func (d *Deploy) Preflight(ctx context.Context, t *driver.Task) error {
	return d.source.Preflight(ctx, t)
}

// Validate checks instance_info: an image that can be fetched and verified, and nothing asked for that this
// interface would silently leave undone.
func (d *Deploy) Validate(_ context.Context, t *driver.Task) error {
	if _, err := d.downloadSource(t.Node); err != nil {
		return err
	}
	if _, err := d.allowsKexec(t.Node); err != nil {
		return err
	}
	if err := d.source.Validate(t.Node); err != nil || !driver.IsPartitionImage(t.Node) {
		return err
	}
	_, err := source.LayoutOf(t.Node, d.o.DefaultBootMode)
	return err
}

// bootRamdisk starts the machine into the ramdisk. When its agent has sent a heartbeat there is nothing
// left to do. Repeated before that, it is a new attempt: the agent of the one before has lost its token.
func (d *Deploy) bootRamdisk(ctx context.Context, t *driver.Task) (driver.Outcome, error) {
	n := t.Node
	if n.Attempt != nil && n.Attempt.Called() {
		return driver.Done, nil
	}
	if err := d.source.ResolveAgain(ctx, t); err != nil {
		return driver.Done, err
	}
	// A wrong image is better found out now than after the machine has booted.
	plan, err := d.plan(ctx, t)
	if err != nil {
		return driver.Done, err
	}
	driver.NextAttempt(n)
	n.Attempt.Agent, n.Attempt.Content = &ingot.Agent{}, plan.content
	if err := t.BootRamdisk(ctx); err != nil {
		return driver.Done, err
	}
	return driver.Outcome{Wait: true}, nil
}

// plan is how an image gets to the agent.
type plan struct {
	urls   []string // of its source; none if conductors serve it
	digest image.Digest
	// content is what conductors serve; none if they do not.
	content ingot.File
}

// plan finds out how the image of a node gets to an agent, and makes it ready where this conductor has to
// serve it.
func (d *Deploy) plan(ctx context.Context, t *driver.Task) (plan, error) {
	ref, err := d.source.Reference(t.Node)
	if err != nil {
		return plan{}, err
	}
	facts, err := image.Look(ctx, ref, d.source.Options(t))
	if err != nil {
		return plan{}, err
	}
	from, err := d.route(ctx, t.Node, ref, facts)
	if err != nil {
		return plan{}, err
	}
	if from != "" {
		return plan{urls: []string{from}, digest: facts.Digest}, nil
	}
	content, err := image.OpenContent(ctx, ref, d.source.Options(t))
	if err != nil {
		return plan{}, err
	}
	defer content.Close()
	digest, err := d.digest(ctx, t, content)
	if err != nil {
		return plan{}, err
	}
	p := plan{digest: digest, content: ingot.File{Name: contentName, Size: content.Size()}}
	if digest.Algorithm == "sha256" {
		p.content.SHA256 = digest.Hex
	}
	return p, nil
}

// digest finds out what the agent has to verify, within the time that is given to it: no other deadline
// applies to the step.
func (d *Deploy) digest(ctx context.Context, t *driver.Task, content *image.Content) (image.Digest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.digestWithin, ingot.Errorf(ingot.Invalid, "the digest of the "+
		"image was not found out within %s: all of its %d bytes are read for that, after those of at most two "+
		"others; publish it as raw by http, which agents fetch themselves, or make it smaller: qemu-img "+
		"resize --shrink", d.digestWithin, content.Size()))
	defer cancel()
	return content.Digest(ctx, t.FetchProgress())
}

// servers are the URLs of conductors that serve the content of a node's image, this one first: it has it.
func (d *Deploy) servers(n *ingot.Node) []string {
	urls := []string{d.o.URL}
	if d.o.Servers != nil {
		others := ring.Rank(n.UUID, d.o.Servers(n.Driver))
		urls = append(urls, slices.DeleteFunc(others, func(u string) bool { return u == d.o.URL })...)
	}
	return urls[:min(len(urls), maxServers)]
}

// agent is the way to the agent of the attempt.
func (d *Deploy) agent(n *ingot.Node) (*ipa.Client, error) {
	if n.Attempt == nil || n.Attempt.Agent == nil || n.Attempt.Agent.URL == "" {
		return nil, ingot.Errorf(ingot.Internal, "the agent of the ramdisk is not on record; undeploy the "+
			"node and deploy it again")
	}
	a := n.Attempt.Agent
	o := ipa.Options{URL: a.URL, CA: a.CA, Token: a.Token.Reveal()}
	if !d.o.Local {
		o.Allow = driver.Dialable
	}
	return ipa.New(o)
}

const (
	syncTries = 3
	syncPause = time.Second
)

// tearDownAgent has the agent flush what it has written, and switches the machine off, unless it goes on by kexec. An
// agent that does not answer has flushed the disk all the same: write_image does.
func (d *Deploy) tearDownAgent(ctx context.Context, t *driver.Task) error {
	a := t.Node.Attempt
	if a == nil {
		return ingot.Errorf(ingot.Internal, "the attempt is not on record")
	}
	if a.Kexec == ingot.KexecDone {
		return nil // a repetition
	}
	if a.Kexec == ingot.KexecOrdered {
		t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: "it is not known whether the machine went on " +
			"by kexec: it is restarted by its firmware"})
	}
	if !a.Completed {
		loaded := d.mayGoOn(t)
		if err := d.flush(ctx, t); err != nil {
			if ctx.Err() != nil {
				return err
			}
			loaded = false
			t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: fmt.Sprintf(
				"the agent was not heard to flush the disk, which it has done after writing: %v", err)})
		}
		// On record before the machine is off, or in another kernel: an agent is asked in vain then.
		if a.Completed = true; loaded {
			a.Kexec = ingot.KexecOrdered
		}
		if err := t.Save(ctx); err != nil {
			return err
		}
		if loaded {
			went, err := d.goOn(ctx, t)
			if err != nil {
				return err
			}
			if went {
				t.Node.PowerState, a.Kexec = ingot.PowerOn, ingot.KexecDone
				d.forget(t.Node)
				return nil
			}
		}
	}
	if err := t.SetPower(ctx, ingot.PowerOff); err != nil {
		return err
	}
	d.forget(t.Node)
	return nil
}

// forget leaves nothing of the agent: what boots now is none.
func (d *Deploy) forget(n *ingot.Node) {
	driver.ForgetAgent(n)
	n.Attempt.Agent, n.Attempt.Content = nil, ingot.File{}
}

func (d *Deploy) flush(ctx context.Context, t *driver.Task) error {
	agent, err := d.agent(t.Node)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		_, err = agent.Run(ctx, "standby.sync", ingot.Object{})
		if errors.Is(err, context.DeadlineExceeded) {
			return err // it is busy with what it does not get done, maybe kexec.load
		}
		if ingot.KindOf(err) != ingot.Unavailable || try == syncTries || !driver.Wait(ctx, syncPause) {
			return err
		}
	}
}

// CleanUp forgets the attempt and what the machine was to boot.
func (d *Deploy) CleanUp(ctx context.Context, t *driver.Task) error {
	driver.ForgetAgent(t.Node)
	t.Node.Attempt = nil
	return errors.Join(t.Driver.Boot.CleanUpRamdisk(ctx, t), t.Driver.Boot.CleanUpInstance(ctx, t))
}
