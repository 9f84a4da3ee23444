package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/nodes"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"ingot/internal/cli"
	"ingot/internal/ingot"
	"ingot/internal/sim"
	"ingot/internal/sim/fleet"
)

// The addresses of a lab. Those of simulated machines are local to the namespace, which no address
// of a machine with a kernel of its own may be.
const (
	machineRange = "10.77.0.100-10.77.0.200"
	fleetRange   = "10.77.16.1-10.77.31.254"
)

var (
	network   = netip.MustParsePrefix("10.77.0.1/16")
	fleetPool = netip.MustParsePrefix("10.77.16.0/20")
)

// FleetOptions describe simulated machines.
type FleetOptions struct {
	// Machines is how many; 0 is none.
	Machines int
	// DiskSize and Keep are as in fleet.Options.
	DiskSize, Keep int64
	// TFTP makes machines without iPXE in their network cards.
	TFTP bool
}

// Fleet is simulated machines in a process of their own.
type Fleet struct {
	// DriverInfo is what nodes have in driver_info besides the BMC.
	DriverInfo map[string]any
	// Owner is that of the nodes; default: none.
	Owner string
	// Progress gets a line every two seconds of waiting for nodes; default: nothing.
	Progress io.Writer

	cmd *exec.Cmd

	mu      sync.Mutex
	stages  map[string]fleet.Event // the last of each machine
	traces  map[string][]Arrival   // all of them
	changed chan struct{}          // closed at the next event
	ended   error                  // set when the process has ended

	bmc    netip.Addr // of all BMCs
	series fleet.Series
	uuids  []string         // of the nodes
	socket *sim.FleetSocket // nil in a lab, whose network they share
}

// startFleet starts the machines of a lab and returns when their BMCs listen, at the bridge's address
// so that conductors on hosts of their own reach them.
func startFleet(ctx context.Context, n *sim.Network, binary string, o FleetOptions) (*Fleet, error) {
	if err := n.AddFleet(ctx, fleetPool); err != nil {
		return nil, err
	}
	f := newFleet(n.Addr(), 0, o)
	f.cmd = n.Command(context.WithoutCancel(ctx), binary, f.arguments(o)...)
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.start(f.cmd.Start); err != nil {
		return nil, err
	}
	return f, nil
}

// PlugOptions describe simulated machines beside an interface of this host.
type PlugOptions struct {
	FleetOptions
	// Interface is that of the host, whose network the machines are in.
	Interface string
	// BMCAddress is an address of this host, of all BMCs.
	BMCAddress netip.Addr
	Series     fleet.Series
}

// PlugFleet starts machines beside an interface of this host, in a network namespace that they have to
// themselves, and returns when their BMCs listen. They end with this process, and leave nothing.
func PlugFleet(ctx context.Context, o PlugOptions) (*Fleet, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	f := newFleet(o.BMCAddress, o.Series, o.FleetOptions)
	if f.socket, err = sim.PlugFleet(ctx, o.Interface); err != nil {
		return nil, err
	}
	f.cmd = exec.Command(binary, append(f.arguments(o.FleetOptions), "--outside", sim.OutsidePath)...)
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := f.start(func() error { return f.socket.Start(f.cmd) }); err != nil {
		return nil, errors.Join(err, f.socket.Close())
	}
	return f, nil
}

func newFleet(bmc netip.Addr, series fleet.Series, o FleetOptions) *Fleet {
	f := &Fleet{stages: make(map[string]fleet.Event), traces: make(map[string][]Arrival),
		changed: make(chan struct{}), bmc: bmc, series: series, Progress: io.Discard}
	for range o.Machines {
		f.uuids = append(f.uuids, ingot.NewUUID())
	}
	return f
}

// arguments are those of the program that is the machines.
func (f *Fleet) arguments(o FleetOptions) []string {
	return []string{"lab", "simulate", "--interface", sim.FleetInterface,
		"--bmc-address", f.bmc.String(), "--series", strconv.Itoa(int(f.series)),
		"--machines", strconv.Itoa(o.Machines), "--disk-size", strconv.FormatInt(o.DiskSize, 10),
		"--keep", strconv.FormatInt(o.Keep, 10), "--tftp=" + strconv.FormatBool(o.TFTP)}
}

// start starts the process and returns when its BMCs listen.
func (f *Fleet) start(start func() error) error {
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start simulated machines: %w", err)
	}
	var complaints tail
	f.cmd.Stderr = &complaints
	if err := start(); err != nil {
		return fmt.Errorf("start simulated machines: %w", err)
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		ended := f.cmd.Wait() // all of what it complains about is here then
		return fmt.Errorf("start simulated machines: %w: %s", ended, complaints.text())
	}
	go f.follow(lines, &complaints)
	return nil
}

// tail keeps the end of what a process complains about.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-2000):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// follow records stages until the process ends.
func (f *Fleet) follow(out io.Reader, complaints *tail) {
	events := json.NewDecoder(out)
	for {
		var e fleet.Event
		err := events.Decode(&e)
		f.mu.Lock()
		if err != nil {
			f.ended = fmt.Errorf("the simulated machines ended: %w: %s", f.cmd.Wait(),
				complaints.text())
		} else {
			f.stages[e.Machine] = e
			f.traces[e.Machine] = append(f.traces[e.Machine], Arrival{time.Now(), e})
		}
		close(f.changed)
		f.changed = make(chan struct{})
		f.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// PID is the process of the machines.
func (f *Fleet) PID() int { return f.cmd.Process.Pid }

// Stages is the last event of every machine that has had one, by name.
func (f *Fleet) Stages() map[string]fleet.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[string]fleet.Event, len(f.stages))
	for name, e := range f.stages {
		all[name] = e
	}
	return all
}

// Arrival is an event with the time at which it was heard of.
type Arrival struct {
	At time.Time
	fleet.Event
}

// Last is the last event of a machine; false if there was none.
func (f *Fleet) Last(machine string) (Arrival, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	trace := f.traces[machine]
	if len(trace) == 0 {
		return Arrival{}, false
	}
	return trace[len(trace)-1], true
}

// Trace is all that a machine has told, the oldest first.
func (f *Fleet) Trace(machine string) []Arrival {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.traces[machine])
}

// Wait returns when so many machines are at a stage. The error names those that are stuck.
func (f *Fleet) Wait(ctx context.Context, stage fleet.Stage, machines int) error {
	for {
		f.mu.Lock()
		count, changed, ended := 0, f.changed, f.ended
		stuck := ""
		for _, e := range f.stages {
			switch e.Stage {
			case stage:
				count++
			case fleet.Stuck:
				stuck = e.Machine + ": " + e.Text
			}
		}
		f.mu.Unlock()
		if count >= machines {
			return nil
		}
		if ended != nil {
			return ended
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d machines are at stage %s: %w; stuck: %s", count, machines,
				stage, context.Cause(ctx), stuck)
		}
	}
}

// Stop ends the machines.
func (f *Fleet) Stop() error {
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop simulated machines: %w", err)
	}
	for {
		f.mu.Lock()
		changed, ended := f.changed, f.ended
		f.mu.Unlock()
		if ended != nil {
			break
		}
		<-changed
	}
	if f.socket == nil {
		return nil
	}
	return f.socket.Close()
}

// Node is how simulated machine i is enrolled, and the address of its port.
func (f *Fleet) Node(i int) (nodes.CreateOpts, string) {
	spec, port := f.series.Spec(i)
	info := map[string]any{
		"ipmi_address": f.bmc.String(), "ipmi_port": int(port),
		"ipmi_username": spec.User, "ipmi_password": spec.Password,
	}
	maps.Copy(info, f.DriverInfo)
	return nodes.CreateOpts{
		UUID: f.uuids[i], Name: spec.Name, Driver: "ipmi", DriverInfo: info, Owner: f.Owner,
		Properties: map[string]any{"capabilities": "boot_mode:bios"},
	}, spec.MAC
}

func simulateCommand() *cobra.Command {
	var o fleet.Options
	var bmc, outside string
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Run simulated machines on a network interface, until Ctrl-C",
		Long: "Machines of software alone: no firmware and no kernel runs, but the packets are real.\n" +
			"Each has a BMC on --bmc-address (user admin, password secret), boots by DHCP, executes its\n" +
			"boot script, lends its disk over iSCSI and boots what was written. The addresses that\n" +
			"DHCP gives them must be local to this host (ip route add local POOL dev lo); with --outside\n" +
			"the interface takes them as they come, which is for a network namespace that the machines\n" +
			"have to themselves (`ingot drill --running` makes one). The first line is printed when all BMCs\n" +
			"listen; then one line of JSON for every stage of a machine.",
		Example: "  ingot lab simulate --interface veth1 --machines 100",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Interface == "" {
				return cli.Usage(errors.New("--interface is required: the network interface of the machines"))
			}
			if o.Machines < 1 || o.Machines > fleet.MaxMachines {
				return cli.Usage(fmt.Errorf("--machines is %d; 1 to %d", o.Machines, fleet.MaxMachines))
			}
			if o.Series > fleet.MaxSeries {
				return cli.Usage(fmt.Errorf("--series is %d; 0 to %d", o.Series, fleet.MaxSeries))
			}
			if o.DiskSize < 0 || o.Keep < 0 {
				return cli.Usage(fmt.Errorf("--disk-size is %d, --keep is %d; neither may be negative",
					o.DiskSize, o.Keep))
			}
			var err error
			if o.BMCAddress, err = netip.ParseAddr(bmc); err != nil {
				return cli.Usage(fmt.Errorf("--bmc-address is %q; an address of this host", bmc))
			}
			if outside != "" {
				if o.Outside, err = sim.OpenNamespace(outside); err != nil {
					return cli.Usage(fmt.Errorf("--outside: %w", err))
				}
			}
			var mu sync.Mutex
			out := json.NewEncoder(cmd.OutOrStdout())
			o.Notify = func(e fleet.Event) {
				mu.Lock()
				defer mu.Unlock()
				// Nobody to tell is no reason to stop the machines.
				_ = out.Encode(e)
			}
			mu.Lock() // nothing comes before the first line
			f, err := fleet.New(o)
			if err == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d machines, BMCs at %s from port %d\n",
					o.Machines, bmc, fleet.FirstBMCPort)
			}
			mu.Unlock()
			if err != nil {
				return err
			}
			<-cmd.Context().Done()
			return f.Close()
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Interface, "interface", "", "network interface that the machines share")
	flags.IntVar(&o.Machines, "machines", 10, fmt.Sprintf("how many, 1 to %d", fleet.MaxMachines))
	flags.StringVar(&bmc, "bmc-address", "127.0.0.1", "where the BMCs listen; conductors on other "+
		"hosts need one that they reach")
	flags.StringVar(&outside, "outside", "", "network namespace of the BMCs, such as /run/netns/NAME, "+
		"where\nthat of the process is the machines' alone")
	flags.Uint32Var((*uint32)(&o.Series), "series", 0, "names the machines drill-SERIES-0001 and so on, "+
		"with MACs of\ntheir own (default sim-1 and so on)")
	flags.Int64Var(&o.DiskSize, "disk-size", 0, "bytes of each disk (default 16 MiB)")
	flags.Int64Var(&o.Keep, "keep", 0, "bytes of each disk to remember; the rest reads as zeros (default all)")
	flags.BoolVar(&o.TFTP, "tftp", false, "machines without iPXE in their network cards")
	return cmd
}

// Create makes nodes of machines first to last (from 0, last excluded). None is left half made: who is
// interrupted has to know what exists.
func (f *Fleet) Create(ctx context.Context, c *cli.Client, first, last int) error {
	return each(first, last, func(i int) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		node, mac := f.Node(i)
		_, err := c.CreateNode(ctx, node, mac)
		return err
	})
}

// Provide brings machines that have nodes to available.
func (f *Fleet) Provide(ctx context.Context, c *cli.Client, first, last int) error {
	for _, step := range [][2]string{{"manage", "manageable"}, {"provide", "available"}} {
		if err := f.provision(ctx, c, first, last, step[0]); err != nil {
			return err
		}
		if err := f.await(ctx, c, first, last, step[1]); err != nil {
			return err
		}
	}
	return nil
}

// EnrollFleet makes nodes of simulated machines first to last (from 0, last excluded), and brings
// them to available.
func (l *Lab) EnrollFleet(ctx context.Context, first, last int) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	if err := l.Fleet.Create(ctx, c, first, last); err != nil {
		return err
	}
	return l.Fleet.Provide(ctx, c, first, last)
}

// DeployFleet asks for the deployment of an image to machines, all at once, and returns when all
// are active. info is instance_info.
func (l *Lab) DeployFleet(ctx context.Context, first, last int, info map[string]string) error {
	if err := l.RequestFleet(ctx, first, last, info); err != nil {
		return err
	}
	return l.WaitFleet(ctx, first, last, "active")
}

// RequestFleet asks for the deployment of an image to machines and returns when all are promised.
func (l *Lab) RequestFleet(ctx context.Context, first, last int, info map[string]string) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	values := map[string]any{}
	for key, value := range info {
		values[key] = value
	}
	err = each(first, last, func(i int) error {
		_, err := c.SetInstance(ctx, l.Fleet.uuids[i], values)
		return err
	})
	if err != nil {
		return err
	}
	return l.Fleet.provision(ctx, c, first, last, "active")
}

// UndeployFleet frees machines, all at once, and returns when all are available.
func (l *Lab) UndeployFleet(ctx context.Context, first, last int) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	if err := l.Fleet.provision(ctx, c, first, last, "deleted"); err != nil {
		return err
	}
	return l.Fleet.await(ctx, c, first, last, "available")
}

// WaitFleet returns when all machines of a range have a provision state. A machine that fails ends
// it with its last error.
func (l *Lab) WaitFleet(ctx context.Context, first, last int, state string) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	return l.Fleet.await(ctx, c, first, last, state)
}

// provision asks for a verb on every machine of a range.
func (f *Fleet) provision(ctx context.Context, c *cli.Client, first, last int, verb string) error {
	return each(first, last, func(i int) error { return c.Provision(ctx, f.uuids[i], verb) })
}

// await is WaitFleet.
func (f *Fleet) await(ctx context.Context, c *cli.Client, first, last int, state string) error {
	wanted := make(map[string]bool, last-first)
	for _, uuid := range f.uuids[first:last] {
		wanted[uuid] = true
	}
	told := time.Now()
	for {
		count := 0
		err := c.Nodes(ctx, f.Owner, func(n cli.Node) error {
			switch {
			case !wanted[n.UUID]:
			case n.ProvisionState == state:
				count++
			case n.ProvisionState == "deploy failed", n.ProvisionState == "error",
				n.ProvisionState == "enroll" && n.LastError != "":
				return fmt.Errorf("%s is in state %s: %s", n.Name, n.ProvisionState, n.LastError)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if count == len(wanted) {
			return nil
		}
		if time.Since(told) >= 2*time.Second {
			told = time.Now()
			fmt.Fprintf(f.Progress, "  %d of %d machines are %s\n", count, len(wanted), state)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d machines are %s: %w", count, len(wanted), state, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// each calls f for a range of numbers, a few at a time, and returns the first error.
func each(first, last int, f func(int) error) error {
	var g errgroup.Group
	g.SetLimit(8)
	for i := first; i < last; i++ {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}
