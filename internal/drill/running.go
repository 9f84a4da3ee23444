package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/cli"
	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/lifecycle"
	"ingot/internal/sim/fleet"
)

// RunningOptions describe a drill against an installation in use. API, Interface and Machines are
// required.
type RunningOptions struct {
	API *cli.Client
	// Interface is that of this host whose network machines boot from.
	Interface string
	// BMCAddress is an address of this host that conductors reach: of the BMCs, and of the drill's own
	// files. Default: the IPv4 address of Interface.
	BMCAddress netip.Addr
	// Machines is how many are deployed.
	Machines int
	// Seed names nodes and MACs, 1 to fleet.MaxSeries.
	Seed uint64
	// Kernel and Ramdisk are URLs of what machines boot to be deployed. Default: what the installation
	// has configured; random bytes if that is nothing.
	Kernel, Ramdisk string
	// Image is instance_info of a whole-disk image. Default: a small one that the drill serves.
	Image map[string]any
	// Timeout is how long the storm may take at most; default 10 minutes.
	Timeout time.Duration
	// Keep leaves the nodes, though without machines.
	Keep bool
	// Progress gets lines for a person; default: nobody.
	Progress io.Writer
}

// nodeOwner is the owner of all nodes that drills make, by which they are found again.
const nodeOwner = "ingot drill"

func (o RunningOptions) withDefaults() (RunningOptions, error) {
	o.Timeout = cmp.Or(o.Timeout, 10*time.Minute)
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	switch {
	case o.Interface == "":
		return o, ingot.Errorf(ingot.Invalid, "no interface is given: the one of this host whose "+
			"network machines boot from")
	case o.Machines < 1 || o.Machines > fleet.MaxMachines:
		return o, ingot.Errorf(ingot.Invalid, "%d machines: 1 to %d", o.Machines, fleet.MaxMachines)
	case o.Seed < 1 || o.Seed > uint64(fleet.MaxSeries):
		return o, ingot.Errorf(ingot.Invalid, "seed %d: 1 to %d", o.Seed, fleet.MaxSeries)
	case (o.Kernel == "") != (o.Ramdisk == ""):
		return o, ingot.Errorf(ingot.Invalid, "a deploy kernel goes with a deploy ramdisk")
	}
	if o.BMCAddress.IsValid() {
		return o, nil
	}
	var err error
	o.BMCAddress, err = addressOf(o.Interface)
	return o, err
}

// addressOf is the first IPv4 address of an interface.
func addressOf(link string) (netip.Addr, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return netip.Addr{}, ingot.Errorf(ingot.Invalid, "interface %q: %w", link, err)
	}
	all, err := i.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of %s: %w", link, err)
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, ingot.Errorf(ingot.Invalid, "%s has no IPv4 address: say at which address of "+
		"this host conductors reach the BMCs", link)
}

// visit is a drill in an installation in use.
type visit struct {
	site
	o      RunningOptions
	origin *origin
}

// RunOn deploys simulated machines by an installation in use, and removes all that it made, also when
// ctx ends. It addresses no node but its own. The report is whole if it is not nil; a machine that was
// lost is no error, but a node that could not be removed is. Root is needed.
func RunOn(ctx context.Context, o RunningOptions) (r *RunningReport, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	if err := alone(ctx, o.API); err != nil {
		return nil, err
	}
	v, err := arrive(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.leave(ctx)) }()
	v.say("%d machines are enrolled as %s; their BMCs are at %s, ports %d to %d", o.Machines,
		v.names(), o.BMCAddress, fleet.FirstBMCPort, fleet.FirstBMCPort+o.Machines-1)
	if err := v.enroll(ctx); err != nil {
		return nil, err
	}
	v.say("all are deployed at once:")
	s, err := v.storm(ctx, undisturbed)
	if err != nil {
		return nil, err
	}
	r = &RunningReport{Machines: o.Machines, Seed: o.Seed, Storm: s, OriginSent: v.origin.sent()}
	if r.Conductors, err = v.conductors(ctx); err != nil {
		return nil, err
	}
	if r.Holes, err = mended(ctx, func() ([]string, error) { return v.holes(ctx) }); err != nil {
		return nil, err
	}
	return r, nil
}

// alone refuses to begin beside the nodes of another drill: its machines may have been where ours
// would be.
func alone(ctx context.Context, api *cli.Client) error {
	var first string
	count := 0
	err := api.Nodes(ctx, nodeOwner, func(n cli.Node) error {
		first = cmp.Or(first, n.Name)
		count++
		return nil
	})
	if err != nil || count == 0 {
		return err
	}
	return fmt.Errorf("%d nodes of another drill are there, such as %s; wait for its end. If it died, "+
		"remove them by:\n  %s", count, first, removal)
}

// removal is the command that removes what drills have left.
const removal = "baremetal node list --owner '" + nodeOwner + "' -f value -c UUID | while read n; do\n" +
	"    baremetal node maintenance set $n && baremetal node delete $n; done"

// arrive serves the files and starts the machines. Nothing is asked of the installation yet.
func arrive(ctx context.Context, o RunningOptions) (v *visit, err error) {
	v = &visit{o: o, site: site{machines: o.Machines, apis: []*cli.Client{o.API}, timeout: o.Timeout,
		progress: o.Progress, image: o.Image}}
	all := makeContent()
	if v.origin, err = serve(o.BMCAddress, all); err != nil {
		return nil, err
	}
	machines := lab.FleetOptions{Machines: o.Machines, DiskSize: largeDisk, Keep: diskSize}
	if v.image == nil {
		machines.DiskSize = diskSize
		v.image, v.digest = all.image(v.origin.url+"image"), all.disk()
	}
	v.fleet, err = lab.PlugFleet(ctx, lab.PlugOptions{FleetOptions: machines, Interface: o.Interface,
		BMCAddress: o.BMCAddress, Series: fleet.Series(o.Seed)})
	if err != nil {
		return nil, errors.Join(err, v.origin.server.Close())
	}
	v.fleet.Owner, v.fleet.Progress = nodeOwner, o.Progress
	if o.Kernel != "" {
		v.fleet.DriverInfo = map[string]any{"deploy_kernel": o.Kernel, "deploy_ramdisk": o.Ramdisk}
	}
	return v, nil
}

// largeDisk holds any image; of its content only the beginning is remembered.
const largeDisk = 1 << 40

// names says which nodes the drill has.
func (v *visit) names() string {
	_, first := v.ident(0)
	_, last := v.ident(v.machines - 1)
	return first + " to " + last
}

// enroll makes the nodes, and brings them to available. The first one shows whether the installation
// has a deploy ramdisk of its own.
func (v *visit) enroll(ctx context.Context) error {
	if err := v.fleet.Create(ctx, v.o.API, 0, 1); err != nil {
		return err
	}
	uuid, _ := v.ident(0)
	err := v.o.API.Bootable(ctx, uuid)
	if cli.ExitCode(err) == cli.ExitFailed && v.o.Kernel == "" {
		v.say("no deploy ramdisk is configured that would do (%v); the drill serves its own", err)
		if err := v.o.API.DeleteNode(ctx, uuid); err != nil {
			return err
		}
		v.fleet.DriverInfo = v.origin.bootFiles()
		if err := v.fleet.Create(ctx, v.o.API, 0, 1); err != nil {
			return err
		}
		err = v.o.API.Bootable(ctx, uuid)
	}
	if err != nil {
		return err
	}
	if err := v.fleet.Create(ctx, v.o.API, 1, v.machines); err != nil {
		return err
	}
	if err := v.fleet.Provide(ctx, v.o.API, 0, v.machines); err != nil {
		return fmt.Errorf("%w\nConductors have to reach the BMCs at %s", err, v.o.BMCAddress)
	}
	return nil
}

// conductors counts those that live.
func (v *visit) conductors(ctx context.Context) (alive int, err error) {
	all, _, err := v.o.API.Cluster(ctx)
	for _, c := range all.Conductors {
		if c.Alive {
			alive++
		}
	}
	return alive, err
}

// holes are machines that arrived and whose journal does not tell each change of state.
func (v *visit) holes(ctx context.Context) ([]string, error) {
	nodes, err := v.nodes(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []string
	err = v.each(func(i int) error {
		uuid, name := v.ident(i)
		if nodes[uuid].ProvisionState != string(lifecycle.Active) {
			return nil
		}
		entries, err := v.journal(ctx, uuid)
		if text := hole(entries); text != "" {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, name+": "+text)
		}
		return err
	})
	return all, err
}

// hole is the way of a node by the journal, "" if that begins at enroll, leaves each state that it has
// come to, and ends at active.
func hole(entries []cli.Entry) string {
	at, whole := any(string(lifecycle.Enroll)), true
	var way []string
	for _, e := range entries {
		if e.Source != "state" || e.Data["to"] == nil {
			continue
		}
		way = append(way, e.Text)
		whole = whole && e.Data["from"] == at
		at = e.Data["to"]
	}
	if whole && at == string(lifecycle.Active) {
		return ""
	}
	return cmp.Or(strings.Join(way, "; "), "nothing")
}

// leaveTime is how long an installation may take to let go of the machines.
const leaveTime = 5 * time.Minute

// leave removes all that the drill made: the nodes are undeployed while they have machines, and those
// give their addresses back while they have nodes.
func (v *visit) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	if !v.o.Keep {
		v.say("the nodes are undeployed and removed")
		v.undeploy(ctx)
	}
	err := errors.Join(v.fleet.Stop(), v.origin.server.Close())
	if v.o.Keep {
		v.say("the nodes stay, without machines; remove them by:\n  %s", removal)
		return err
	}
	_ = wait(ctx, time.Second) // DHCP servers answer nobody whose node is gone
	return errors.Join(err, v.remove(ctx))
}

// undeploy returns when no node has anything more to do with its machine, or half of the time is up.
func (v *visit) undeploy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime/2)
	defer cancel()
	for told := time.Now(); ; {
		nodes, err := v.nodes(ctx)
		if err != nil {
			return // time is up
		}
		var g errgroup.Group
		g.SetLimit(8)
		busy := 0
		for i := range v.machines {
			uuid, _ := v.ident(i)
			n, there := nodes[uuid]
			if !there || idle(n) {
				continue
			}
			busy++
			if _, legal := lifecycle.Next(lifecycle.State(n.ProvisionState), lifecycle.Delete); legal {
				g.Go(func() error { v.free(ctx, uuid); return nil })
			}
		}
		_ = g.Wait()
		if busy == 0 {
			return
		}
		if time.Since(told) >= 2*time.Second {
			told = time.Now()
			v.say("  %d of %d nodes are not free yet", busy, v.machines)
		}
		if wait(ctx, 500*time.Millisecond) != nil {
			return
		}
	}
}

// idle tells whether nobody works on a node or waits for its machine. What is there in a failed state
// has a machine that does not obey, and is removed as it is.
func idle(n cli.Node) bool {
	switch lifecycle.State(n.ProvisionState) {
	case lifecycle.Enroll, lifecycle.Manageable, lifecycle.Available, lifecycle.Error, lifecycle.CleanFailed:
		return n.Reservation == ""
	}
	return false
}

// remove deletes the nodes, whatever their state is.
func (v *visit) remove(ctx context.Context) error {
	for {
		nodes, err := v.nodes(ctx)
		var left []string
		for i := range v.machines {
			uuid, name := v.ident(i)
			if _, there := nodes[uuid]; there || err != nil {
				left = append(left, name)
			}
		}
		if len(left) == 0 {
			return nil
		}
		if err != nil || ctx.Err() != nil {
			return fmt.Errorf("these nodes could not be removed: %s; remove them by:\n  %s",
				strings.Join(left, ", "), removal)
		}
		_ = v.each(func(i int) error {
			uuid, _ := v.ident(i)
			if _, there := nodes[uuid]; there {
				v.drop(ctx, uuid)
			}
			return nil
		})
		_ = wait(ctx, 100*time.Millisecond) // its end is found above
	}
}

// free asks for the end of a node's deployment. What is refused or lost is asked for again.
func (v *visit) free(ctx context.Context, uuid string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_ = v.o.API.Provision(ctx, uuid, "deleted")
}

// drop deletes a node. What is refused or lost is asked for again.
func (v *visit) drop(ctx context.Context, uuid string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if v.o.API.DeleteNode(ctx, uuid) != nil {
		_ = v.o.API.DiscardNode(ctx, uuid)
	}
}
