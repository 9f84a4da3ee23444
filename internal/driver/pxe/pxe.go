// Package pxe is the boot interfaces `ipxe` and `pxe`: machines boot from the network with iPXE, or
// with PXELINUX (BIOS) and shim and GRUB (UEFI, Secure Boot), told by a text that is computed on
// each request (netboot). Which of the two a node has decides the boot program that DHCP names and
// nothing else: all of them are answered alike. With `redfish-virtual-media` (media.go) the BMC inserts
// what they boot; with `http` and `http-ipxe` (http.go) UEFI's own HTTP client loads it. It chooses kernel and ramdisk, has them
// held (bootfile), records the boot intent and sets the boot device; it never touches power.
// The script goes out through the driver passthru method ipxe_config, as in the specification
// "iPXE dynamic configuration".
//
// Read PrepareRamdisk and PrepareInstance first, then config.go for what a machine is answered.
package pxe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/glance"
	"ingot/internal/ingot"
	"ingot/internal/journal"
	"ingot/internal/netboot"
	"ingot/internal/publish"
)

// Holder makes a file available to machines; *bootfile.Cache is one.
type Holder interface {
	Hold(ctx context.Context, href string) (ingot.File, error)
}

// A Door lets machines to the boot files of this conductor; *bootd.Server is one. Its methods do not
// block.
type Door interface {
	// Turn gives the machine of a node a place, or a wait; asked again, the same one.
	Turn(node string) netboot.Turn
	// Busy tells whether a machine that has none would have to wait.
	Busy() bool
}

// A Swift has images of Glance.
type Swift interface {
	// Image is an image as a boot file, once it is known that machines will get it.
	Image(ctx context.Context, id string) (ingot.File, error)
	// URL is where to fetch it from now on for a while, by whoever has the URL. It mostly asks nobody.
	URL(ctx context.Context, id string) (string, error)
}

// Options is what the boot interface works with.
type Options struct {
	Files Holder
	Env   netboot.Env
	// Servers returns the base URLs of all conductors that live and have a hardware type, any if it is
	// "", this one's (Env.BaseURLs) included or not, in any order; the slice is the caller's. nil:
	// this one is alone.
	Servers func(driver string) []string
	// Await waits until enough conductors of a hardware type hold files, and tells for whom it waits;
	// nil: this one is alone.
	Await func(ctx context.Context, driver string, files []ingot.File,
		say func(level, text string)) error
	// Door is asked before machines load boot files from this conductor; nil lets all in.
	Door Door
	// Switched waits until the trees on disk of enough conductors show what a node boots, as it is on
	// record, and tells for whom it waits; nil: there are none.
	Switched func(ctx context.Context, n *ingot.Node, say func(level, text string)) error
	// Swift has kernels and ramdisks that are images of Glance fetched from there (S4); nil has them held
	// like all others.
	Swift Swift
	// Visible looks for an image of Glance; NotFound if it is for none of some projects. nil: all are for
	// all.
	Visible func(ctx context.Context, id string, projects ...string) (*glance.Image, error)
	// DefaultBootMode is that of nodes which do not say: uefi or bios; "" is uefi. The DHCP of others is
	// told of one boot program.
	DefaultBootMode string
	// MediaURL is the base URL at which media are read, in place of Env's: that of whichever server lives. "" is
	// none.
	MediaURL string
	// Reach tells why nobody can read at a base URL of ours, if that is certain; nil: it is not asked.
	Reach func(ctx context.Context, url string) error
	// Media tells why no media can be made for machines, if none can; nil: they can.
	Media func() error
	// Drive makes the config drive of a node, the same each time; nil: there are none.
	Drive func(ctx context.Context, n *ingot.Node) ([]byte, error)
	// Open opens a file that is held by some conductor; nil: what is held is not looked at.
	Open func(ctx context.Context, digest string) (*os.File, error)
	// Lay makes a medium whose parts are held, to be copied.
	Lay func(ctx context.Context, m netboot.Medium) (io.ReadSeeker, error)
	// Publish is where media of a boot interface are put; nil, or one that is nil: BMCs read them from our
	// servers.
	Publish func(boot string) publish.Store
	// Unpublish removes what was put there, if not now, then later by itself; the error is for the journal.
	Unpublish func(ctx context.Context, r publish.Record) error
	// Kernel and Ramdisk are used for nodes whose driver_info names none. "" is none.
	Kernel, Ramdisk string
	Log             *slog.Logger
	// Note appends to the journal, also for machines nobody knows.
	Note func(e ingot.Entry)
}

// Boot is all of the boot interfaces.
type Boot struct {
	o    Options
	told journal.Hourly // what was warned of
	// unread are the machines that ask while the store does not answer.
	unread outage
}

var (
	_ driver.Boot           = (*Boot)(nil)
	_ driver.DriverPassthru = (*Boot)(nil)
	_ driver.Properties     = (*Boot)(nil)
	_ driver.Repointer      = (*Boot)(nil)
	_ driver.Restorer       = (*Boot)(nil)
)

// New returns the boot interface, which is all of them.
func New(o Options) *Boot { return &Boot{o: o} }

// Properties are the driver_info keys of the boot interface.
func (b *Boot) Properties() map[string]string {
	return map[string]string{
		"deploy_kernel": "URL (file:// or http(s)://) or Glance UUID of the kernel of the deploy " +
			"ramdisk. Optional when a default is configured.",
		"deploy_ramdisk": "URL (file:// or http(s)://) or Glance UUID of the deploy ramdisk. " +
			"Optional when a default is configured.",
		"deploy_iso": "URL (http(s)://, read by the BMC, or file://) or Glance UUID of an ISO with a deploy ramdisk " +
			"of the site's own, for virtual media. Its parameters are on a floppy. Also: ilo_deploy_iso. Optional.",
		"kernel_append_params": "Kernel arguments of the deploy ramdisk, in place of the " +
			"configured ones; %default% inserts those. Optional.",
		"force_persistent_boot_device": "Always, Never or Default: whether a boot device is set " +
			"persistently. Default: network once, disk persistently. A virtual CD is booted once, always. Optional.",
	}
}

// sources returns the URLs of kernel and ramdisk of a node.
func (b *Boot) sources(n *ingot.Node) (kernel, ramdisk string) {
	kernel, ramdisk = driver.Text(n.DriverInfo, "deploy_kernel"),
		driver.Text(n.DriverInfo, "deploy_ramdisk")
	if kernel == "" {
		kernel = b.o.Kernel
	}
	if ramdisk == "" {
		ramdisk = b.o.Ramdisk
	}
	return kernel, ramdisk
}

// Validate asks for a port that boots from the network, kernel and ramdisk.
func (b *Boot) Validate(ctx context.Context, t *driver.Task) error {
	n := t.Node
	diskless := driver.Diskless(n)
	if !slices.ContainsFunc(t.Ports, func(p *ingot.Port) bool { return p.PXEEnabled }) &&
		!(diskless && Kind(n) == MediaName) { // no card is named on its medium
		return ingot.Errorf(ingot.Invalid, "Node %s does not have any port associated with it; "+
			"boot interface %s needs one with pxe_enabled: baremetal port create --node %s MAC", n.UUID,
			n.Interfaces["boot"], n.UUID)
	}
	var missing []string
	kernel, ramdisk := b.sources(n)
	if kernel == "" {
		missing = append(missing, "'deploy_kernel'")
	}
	if ramdisk == "" {
		missing = append(missing, "'deploy_ramdisk'")
	}
	if len(missing) > 0 && deployISO(n) == "" && !diskless {
		return ingot.Errorf(ingot.Invalid, "Cannot validate the deploy ramdisk of node %s. Some "+
			"parameters were missing in node's driver_info. Missing are: [%s]; set them, or a "+
			"default in the section [deploy] of the configuration.", n.UUID,
			strings.Join(missing, ", "))
	}
	if err := validateInstance(n); err != nil {
		return err
	}
	if err := b.validateHTTP(n); err != nil {
		return err
	}
	if err := b.validateDiskless(n); err != nil {
		return err
	}
	if err := b.validateMedium(t); err != nil {
		return err
	}
	if err := b.probe(ctx, n); err != nil {
		return err
	}
	_, err := b.persistent(n, false)
	return err
}

// validateInstance asks for both parts of what an instance boots from the network.
func validateInstance(n *ingot.Node) error {
	kernel, ramdisk := driver.InstanceKernel(n), driver.InstanceRamdisk(n)
	if driver.Diskless(n) || !driver.IsPartitionImage(n) || driver.BootsPartition(n) || (kernel == "") == (ramdisk == "") {
		return nil
	}
	missing := "kernel"
	if kernel != "" {
		missing = "ramdisk"
	}
	return ingot.Errorf(ingot.Invalid, "Cannot validate image information for node %s because one "+
		"or more parameters are missing from its instance_info. Missing are: ['%s']; an instance "+
		"boots from the network with both kernel and ramdisk, or from its disk with "+
		"boot_option:local in instance_info.capabilities.", n.UUID, missing)
}

// persistent applies force_persistent_boot_device to the usual choice.
func (b *Boot) persistent(n *ingot.Node, usual bool) (bool, error) {
	switch v := strings.ToLower(driver.Text(n.DriverInfo, "force_persistent_boot_device")); v {
	case "", "default", "false": // false is Ironic's old spelling
		return usual, nil
	case "always", "true":
		return true, nil
	case "never":
		return false, nil
	default:
		return false, ingot.Errorf(ingot.Invalid, "driver_info.force_persistent_boot_device of "+
			"node %s is %q; allowed: Always, Never, Default", n.UUID, v)
	}
}

// PrepareRamdisk holds kernel and ramdisk, also those of an instance that boots from the network,
// so that a wrong URL shows before anything is done to the machine (S0.5). It makes the deploy
// ramdisk what the machine boots next. The node must have an Attempt.
func (b *Boot) PrepareRamdisk(ctx context.Context, t *driver.Task) error {
	n := t.Node
	if n.Attempt == nil {
		return ingot.Errorf(ingot.Internal, "node %s has no attempt to boot a ramdisk for", n.UUID)
	}
	persistent, err := b.persistent(n, false)
	if err != nil {
		return err
	}
	if err := b.holdRamdisk(ctx, n); err != nil {
		return err
	}
	if err := b.holdInstance(ctx, n); err != nil {
		return err
	}
	if err := b.await(ctx, t); err != nil {
		return err
	}
	n.BootIntent = ingot.BootDeploy
	b.prepareMedium(n)
	if err := b.switchTo(ctx, t); err != nil {
		return err
	}
	_, what := boots(n.Attempt)
	t.Note(ingot.Entry{Source: "step", Text: "ready to boot the deploy ramdisk: " + what,
		Data: ingot.Object{"kernel": n.Attempt.Kernel.SHA256,
			"ramdisk": n.Attempt.Ramdisk.SHA256,
			"bytes":   n.Attempt.Kernel.Size + n.Attempt.Ramdisk.Size}})
	if Kind(n) == MediaName {
		return b.insert(ctx, t)
	}
	if err := b.checkHTTP(t); err != nil {
		return err
	}
	return b.setNetwork(ctx, t, persistent)
}

// holdRamdisk holds what the ramdisk is loaded from.
func (b *Boot) holdRamdisk(ctx context.Context, n *ingot.Node) (err error) {
	if iso := deployISO(n); iso != "" {
		return b.holdISO(ctx, n, iso)
	}
	n.Attempt.ISO = ingot.ISO{}
	kernel, ramdisk := b.sources(n)
	if n.Attempt.Kernel, err = b.hold(ctx, n, kernel); err != nil {
		return fmt.Errorf("deploy_kernel of driver_info or of the configuration: %w", err)
	}
	if n.Attempt.Ramdisk, err = b.hold(ctx, n, ramdisk); err != nil {
		return fmt.Errorf("deploy_ramdisk of driver_info or of the configuration: %w", err)
	}
	return nil
}

// hold makes a file available to the machine of a node, by whatever its boot interface loads from.
func (b *Boot) hold(ctx context.Context, n *ingot.Node, href string) (ingot.File, error) {
	id, image := glance.ID(href)
	if image && b.o.Swift != nil && (Kind(n) == Name || Kind(n) == HTTPIPXEName) {
		return b.o.Swift.Image(ctx, id)
	}
	return b.o.Files.Hold(ctx, href)
}

// await waits until the machine may ask any conductor for its files (S0.6).
func (b *Boot) await(ctx context.Context, t *driver.Task) error {
	if b.o.Await == nil {
		return nil
	}
	n := t.Node
	var files []ingot.File
	if !driver.Diskless(n) {
		files, _ = boots(n.Attempt)
	}
	if i := n.Instance; i != nil {
		files = append(files, i.Kernel, i.Ramdisk, i.ISO.File)
	}
	files = slices.DeleteFunc(files, func(f ingot.File) bool { return f.SHA256 == "" })
	if len(files) == 0 {
		return nil
	}
	return b.o.Await(ctx, n.Driver, files, say(t))
}

// say tells the journal of a node.
func say(t *driver.Task) func(level, text string) {
	return func(level, text string) {
		t.Note(ingot.Entry{Source: "step", Level: level, Text: text})
	}
}

// switchTo puts on record what the machine boots from now on, before it can ask: a request that comes
// first would be told what it booted before. Where the answer is a file it waits for that (S0.10).
func (b *Boot) switchTo(ctx context.Context, t *driver.Task) error {
	b.prepareDHCP(t)
	if err := t.Save(ctx); err != nil {
		return err
	}
	if err := b.tellDHCP(ctx, t); err != nil || b.o.Switched == nil {
		return err
	}
	return b.o.Switched(ctx, t.Node, say(t))
}

// CleanUpRamdisk takes the ramdisk back; held files stay for others.
func (b *Boot) CleanUpRamdisk(ctx context.Context, t *driver.Task) error {
	if t.Node.BootIntent != ingot.BootDeploy {
		return nil
	}
	t.Node.BootIntent = ingot.BootNone
	b.unpublish(ctx, t)
	b.prepareDHCP(t)
	return b.tellDHCP(ctx, t)
}

// PrepareInstance makes the instance what the machine boots: from the network for as long as it is
// active, when it brings a kernel; else the disk, by script for machines that ask the network
// first and through the BMC for those that would never reach the disk from there (UEFI).
func (b *Boot) PrepareInstance(ctx context.Context, t *driver.Task) error {
	n := t.Node
	persistent, err := b.persistent(n, true)
	if err != nil {
		return err
	}
	n.BootIntent = ingot.BootDisk
	b.eject(ctx, t)
	if driver.BootsFromNetwork(n) {
		n.BootIntent = ingot.BootInstance
		if d := netboot.Decide(n); d.Problem != "" {
			return ingot.Errorf(ingot.Internal, "node %s: %s", n.UUID, d.Problem)
		}
		b.prepareInstanceMedium(n)
	}
	if err := b.switchTo(ctx, t); err != nil {
		return err
	}
	switch {
	case n.BootIntent == ingot.BootInstance && Kind(n) == MediaName:
		return b.insertInstance(ctx, t, persistent)
	case n.BootIntent == ingot.BootInstance:
		return b.setNetwork(ctx, t, persistent)
	}
	return t.SetBootDevice(ctx, driver.BootDevice{Device: "disk", Persistent: persistent})
}

// CleanUpInstance leaves the machine without anything of ours to boot; held files stay for others.
func (b *Boot) CleanUpInstance(ctx context.Context, t *driver.Task) error {
	t.Node.BootIntent, t.Node.Instance = ingot.BootNone, nil
	b.prepareDHCP(t)
	b.eject(ctx, t)
	return b.tellDHCP(ctx, t)
}
