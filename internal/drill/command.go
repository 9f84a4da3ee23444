package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ingot/internal/cli"
	"ingot/internal/ingot"
	"ingot/internal/sim/fleet"
)

// errLost makes the program end with an error after a report that says why.
var errLost = errors.New("the drill failed; the report says where")

// command is what `ingot drill` can be told.
type command struct {
	o       Options
	running bool
	json    bool

	// With running only:
	access          cli.Access
	link, bmc       string
	kernel, ramdisk string
	image, checksum string
	keep            bool
}

// Options of one kind of drill alone; all others go with both.
var (
	onlyTemporary = []string{"conductors", "kill", "pause", "partition", "random", "hold", "tftp", "once",
		"dir"}
	onlyRunning = []string{"interface", "bmc-address", "deploy-kernel", "deploy-ramdisk", "image",
		"checksum", "keep", "url", "user", "password-file"}
)

// Command is `ingot drill`.
func Command() *cobra.Command {
	var c command
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Rehearse a storm of booting machines: while servers die, or with your own servers",
		Long: "Makes a cluster of several servers and a PostgreSQL database in network namespaces of its\n" +
			"own, and deploys simulated machines with it: no firmware runs, but every packet is real.\n" +
			"It does so twice, and the second time kills, stops or cuts off servers meanwhile. Prints\n" +
			"the machines that were lost and the seconds that were added, and ends with an error if a\n" +
			"machine was lost. Everything is gone afterwards but the servers' logs below --dir. Needs\n" +
			"root, and PostgreSQL's programs on this host; touches no other installation.\n\n" +
			"With --running it asks the installation at --url instead, and does nothing to its servers:\n" +
			"simulated machines are enrolled as drill-SEED-0001 and so on, get addresses from your DHCP\n" +
			"server, boot and are deployed, all at once. They are beside --interface of this host, as if\n" +
			"plugged into its network, with MACs of their own (d6:...) that switches have to let pass.\n" +
			"Conductors have to reach --bmc-address: UDP from port 20000 up, and TCP. A conductor on this\n" +
			"same host is reached only if --interface is a bridge. In the end, after Ctrl-C too, the\n" +
			"nodes are undeployed and removed and the addresses given back. Nodes that the drill did not\n" +
			"make are not touched. Needs root.",
		Example: "  ingot drill --machines 1000 --kill 1\n" +
			"  ingot drill --machines 200 --pause 1 --partition 1 --json\n" +
			"  ingot drill --machines 60 --random 8 --seed 42\n" +
			"  ingot drill --running --interface eth1 --machines 50 --url http://10.0.0.1:6385",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	flags, o := cmd.Flags(), &c.o
	flags.SortFlags = false // those of one kind are together
	flags.IntVar(&o.Machines, "machines", 100, fmt.Sprintf("how many, 1 to %d", fleet.MaxMachines))
	flags.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "how long one storm may take")
	flags.Uint64Var(&o.Seed, "seed", 0, "decides the random faults, or with --running the names of\n"+
		"the nodes (default: another each time)")
	flags.BoolVar(&c.json, "json", false, "print the report as JSON")
	flags.IntVar(&o.Conductors, "conductors", 3, fmt.Sprintf("servers, 2 to %d", maxConductors))
	flags.IntVar(&o.Kill, "kill", 0, "servers that are killed")
	flags.IntVar(&o.Pause, "pause", 0, "servers that are stopped for a while, as a frozen VM is")
	flags.IntVar(&o.Partition, "partition", 0, "servers whose cable is pulled for a while")
	flags.IntVar(&o.Random, "random", 0, "that many faults of all kinds, at random, instead")
	flags.DurationVar(&o.Hold, "hold", 15*time.Second, "how long a pause or a partition lasts")
	flags.BoolVar(&o.TFTP, "tftp", false, "machines without iPXE in their network cards")
	flags.BoolVar(&o.Once, "once", false, "without the undisturbed storm, and so without seconds added")
	flags.StringVar(&o.Dir, "dir", "build/drill", "directory for what is made")
	flags.BoolVar(&c.running, "running", false, "ask the installation at --url instead; all below goes with this")
	flags.StringVar(&c.link, "interface", "", "interface of this host whose network machines boot from")
	flags.StringVar(&c.bmc, "bmc-address", "", "address of this host, of the BMCs and of the drill's own\n"+
		"files (default: the IPv4 address of --interface)")
	flags.StringVar(&c.kernel, "deploy-kernel", "", "URL of the deploy kernel (default: the configured;\n"+
		"random bytes if there is none)")
	flags.StringVar(&c.ramdisk, "deploy-ramdisk", "", "URL of the deploy ramdisk")
	flags.StringVar(&c.image, "image", "", "whole-disk image, http(s):// or file:// on the conductors\n"+
		"(default: a small one that the drill serves)")
	flags.StringVar(&c.checksum, "checksum", "", "sha256 or sha512 of the image file, in hex")
	flags.BoolVar(&c.keep, "keep", false, "leave the nodes; their machines are gone, though")
	c.access.Flags(cmd)
	return cmd
}

// run checks what belongs together and runs the drill.
func (c *command) run(cmd *cobra.Command) error {
	wrong, why := onlyRunning, "goes with --running only"
	if c.running {
		wrong, why = onlyTemporary, "does not go with --running: nothing is done to an installation in use"
	}
	for _, name := range wrong {
		if cmd.Flags().Changed(name) {
			return cli.Usage(fmt.Errorf("--%s %s", name, why))
		}
	}
	if c.o.Machines > fleet.MaxMachines {
		return cli.Usage(fmt.Errorf("--machines is %d; 1 to %d", c.o.Machines, fleet.MaxMachines))
	}
	if c.running && c.link == "" {
		return cli.Usage(errors.New("--interface is missing: the one of this host whose network " +
			"machines boot from"))
	}
	if os.Geteuid() != 0 {
		return errors.New("the drill makes network namespaces and needs root: sudo ingot drill")
	}
	if c.o.Seed == 0 {
		c.o.Seed = 1 + uint64(time.Now().UnixNano())%1_000_000
	}
	c.o.Progress = cmd.OutOrStdout()
	if c.json {
		c.o.Progress = cmd.ErrOrStderr()
	}
	if c.running {
		return c.visit(cmd)
	}
	if c.o.Random > 0 {
		fmt.Fprintf(c.o.Progress, "seed %d\n", c.o.Seed)
	}
	r, err := Run(cmd.Context(), c.o)
	if err != nil {
		return asUsage(err)
	}
	return c.show(cmd.OutOrStdout(), r)
}

// visit runs the drill against an installation in use.
func (c *command) visit(cmd *cobra.Command) error {
	o := RunningOptions{Interface: c.link, Machines: c.o.Machines, Seed: c.o.Seed, Kernel: c.kernel,
		Ramdisk: c.ramdisk, Timeout: c.o.Timeout, Keep: c.keep, Progress: c.o.Progress}
	var err error
	if o.API, err = c.access.Client(cmd.Context()); err != nil {
		return err
	}
	if c.image == "" && c.checksum != "" {
		return cli.Usage(errors.New("--checksum goes with --image"))
	}
	if c.image != "" {
		if o.Image, err = cli.Image(c.image, c.checksum); err != nil {
			return err
		}
	}
	if c.bmc != "" {
		if o.BMCAddress, err = netip.ParseAddr(c.bmc); err != nil {
			return cli.Usage(fmt.Errorf("--bmc-address is %q; an address of this host", c.bmc))
		}
	}
	r, err := RunOn(cmd.Context(), o)
	if r == nil {
		return asUsage(err)
	}
	// Nodes that could not be removed do not hide what was found.
	return errors.Join(c.show(cmd.OutOrStdout(), r), err)
}

// asUsage marks an error of the options.
func asUsage(err error) error {
	if ingot.KindOf(err) == ingot.Invalid {
		return cli.Usage(err)
	}
	return err
}

// report is what either kind of drill has found.
type report interface {
	Print(w io.Writer) error
	Passed() bool
}

// show prints a report; the error is errLost if the drill was not passed.
func (c *command) show(w io.Writer, r report) error {
	var err error
	if c.json {
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		err = out.Encode(r)
	} else {
		fmt.Fprintln(w)
		err = r.Print(w)
	}
	if err == nil && !r.Passed() {
		return errLost
	}
	return err
}
