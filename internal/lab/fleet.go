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

	cmd *exec.Cmd

	mu      sync.Mutex
	stages  map[string]fleet.Event // the last of each machine
	traces  map[string][]Arrival   // all of them
	changed chan struct{}          // closed at the next event
	ended   error                  // set when the process has ended

	bmc netip.Addr // of all BMCs
}

// startFleet starts the process and returns when its BMCs listen, at the bridge's address so that
// conductors on hosts of their own reach them.
func startFleet(ctx context.Context, n *sim.Network, binary string, o FleetOptions) (*Fleet, error) {
	if err := n.AddFleet(ctx, fleetPool); err != nil {
		return nil, err
	}
	args := []string{"lab", "simulate", "--interface", sim.FleetInterface,
		"--bmc-address", n.Addr().String(),
		"--machines", strconv.Itoa(o.Machines), "--disk-size", strconv.FormatInt(o.DiskSize, 10),
		"--keep", strconv.FormatInt(o.Keep, 10), "--tftp=" + strconv.FormatBool(o.TFTP)}
	cmd := n.Command(context.WithoutCancel(ctx), binary, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start simulated machines: %w", err)
	}
	var complaints tail
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start simulated machines: %w", err)
	}
	f := &Fleet{cmd: cmd, stages: make(map[string]fleet.Event), traces: make(map[string][]Arrival), changed: make(chan struct{}),
		bmc: n.Addr()}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("start simulated machines: %s", complaints.text()),
			cmd.Wait())
	}
	go f.follow(lines, &complaints)
	return f, nil
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
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop simulated machines: %w", err)
	}
	for {
		f.mu.Lock()
		changed, ended := f.changed, f.ended
		f.mu.Unlock()
		if ended != nil {
			return nil
		}
		<-changed
	}
}

// FleetNode is how simulated machine i is enrolled, and the address of its port.
func (l *Lab) FleetNode(i int) (nodes.CreateOpts, string) {
	spec, port := fleet.Spec(i)
	info := map[string]any{
		"ipmi_address": l.Fleet.bmc.String(), "ipmi_port": int(port),
		"ipmi_username": spec.User, "ipmi_password": spec.Password,
	}
	maps.Copy(info, l.Fleet.DriverInfo)
	return nodes.CreateOpts{
		Name: spec.Name, Driver: "ipmi", DriverInfo: info,
		Properties: map[string]any{"capabilities": "boot_mode:bios"},
	}, spec.MAC
}

func simulateCommand() *cobra.Command {
	var o fleet.Options
	var bmc string
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Run simulated machines on a network interface, until Ctrl-C",
		Long: "Machines of software alone: no firmware and no kernel runs, but the packets are real.\n" +
			"Each has a BMC on --bmc-address (user admin, password secret), boots by DHCP, executes its\n" +
			"boot script, lends its disk over iSCSI and boots what was written. The addresses that\n" +
			"DHCP gives them must be local to this host (ip route add local POOL dev lo). The first\n" +
			"line is printed when all BMCs listen; then one line of JSON for every stage of a machine.",
		Example: "  ingot lab simulate --interface veth1 --machines 100",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Interface == "" {
				return cli.Usage(errors.New("--interface is required: the network interface of the machines"))
			}
			if o.Machines < 1 || o.Machines > fleet.MaxMachines {
				return cli.Usage(fmt.Errorf("--machines is %d; 1 to %d", o.Machines, fleet.MaxMachines))
			}
			if o.DiskSize < 0 || o.Keep < 0 {
				return cli.Usage(fmt.Errorf("--disk-size is %d, --keep is %d; neither may be negative",
					o.DiskSize, o.Keep))
			}
			var err error
			if o.BMCAddress, err = netip.ParseAddr(bmc); err != nil {
				return cli.Usage(fmt.Errorf("--bmc-address is %q; an address of this host", bmc))
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
	flags.Int64Var(&o.DiskSize, "disk-size", 0, "bytes of each disk (default 16 MiB)")
	flags.Int64Var(&o.Keep, "keep", 0, "bytes of each disk to remember; the rest reads as zeros (default all)")
	flags.BoolVar(&o.TFTP, "tftp", false, "machines without iPXE in their network cards")
	return cmd
}

// EnrollFleet makes nodes of simulated machines first to last (from 0, last excluded), and brings
// them to available.
func (l *Lab) EnrollFleet(ctx context.Context, first, last int) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	err = each(first, last, func(i int) error {
		node, mac := l.FleetNode(i)
		n, err := c.CreateNode(ctx, node, mac)
		if err != nil {
			return err
		}
		return c.Provision(ctx, n.UUID, "manage")
	})
	if err != nil {
		return err
	}
	if err := l.WaitFleet(ctx, first, last, "manageable"); err != nil {
		return err
	}
	if err := l.provision(ctx, first, last, "provide"); err != nil {
		return err
	}
	return l.WaitFleet(ctx, first, last, "available")
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
		node, _ := l.FleetNode(i)
		_, err := c.SetInstance(ctx, node.Name, values)
		return err
	})
	if err != nil {
		return err
	}
	return l.provision(ctx, first, last, "active")
}

// UndeployFleet frees machines, all at once, and returns when all are available.
func (l *Lab) UndeployFleet(ctx context.Context, first, last int) error {
	if err := l.provision(ctx, first, last, "deleted"); err != nil {
		return err
	}
	return l.WaitFleet(ctx, first, last, "available")
}

// provision asks for a verb on every machine of a range.
func (l *Lab) provision(ctx context.Context, first, last int, verb string) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	return each(first, last, func(i int) error {
		node, _ := l.FleetNode(i)
		return c.Provision(ctx, node.Name, verb)
	})
}

// WaitFleet returns when all machines of a range have a provision state. A machine that fails ends
// it with its last error.
func (l *Lab) WaitFleet(ctx context.Context, first, last int, state string) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	wanted := make(map[string]bool, last-first)
	for i := first; i < last; i++ {
		node, _ := l.FleetNode(i)
		wanted[node.Name] = true
	}
	for {
		count := 0
		err := c.Nodes(ctx, func(n cli.Node) error {
			switch {
			case !wanted[n.Name]:
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
