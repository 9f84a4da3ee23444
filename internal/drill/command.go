package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ingot/internal/cli"
	"ingot/internal/ingot"
	"ingot/internal/sim/fleet"
)

// errLost makes the program end with an error after a report that says why.
var errLost = errors.New("the drill failed; the report says where")

// Command is `ingot drill`.
func Command() *cobra.Command {
	var o Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Rehearse the death of servers while machines boot",
		Long: "Makes a cluster of several servers and a PostgreSQL database in network namespaces of its\n" +
			"own, and deploys simulated machines with it: no firmware runs, but every packet is real.\n" +
			"It does so twice, and the second time kills, stops or cuts off servers meanwhile. Prints\n" +
			"the machines that were lost and the seconds that were added, and ends with an error if a\n" +
			"machine was lost. Everything is gone afterwards but the servers' logs below --dir. Needs\n" +
			"root, and PostgreSQL's programs on this host; touches no other installation.",
		Example: "  ingot drill --machines 1000 --kill 1\n" +
			"  ingot drill --machines 200 --pause 1 --partition 1 --json\n" +
			"  ingot drill --machines 60 --random 8 --seed 42",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Machines > fleet.MaxMachines {
				return cli.Usage(fmt.Errorf("--machines is %d; 1 to %d", o.Machines, fleet.MaxMachines))
			}
			if os.Geteuid() != 0 {
				return errors.New("the drill makes network namespaces and needs root: sudo ingot drill")
			}
			if o.Seed == 0 {
				o.Seed = uint64(time.Now().UnixNano()) % 1_000_000
			}
			o.Progress = cmd.OutOrStdout()
			if asJSON {
				o.Progress = cmd.ErrOrStderr()
			}
			if o.Random > 0 {
				fmt.Fprintf(o.Progress, "seed %d\n", o.Seed)
			}
			r, err := Run(cmd.Context(), o)
			if ingot.KindOf(err) == ingot.Invalid {
				return cli.Usage(err)
			}
			if err != nil {
				return err
			}
			if err := show(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !r.Passed() {
				return errLost
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Machines, "machines", 100, fmt.Sprintf("how many, 1 to %d", fleet.MaxMachines))
	flags.IntVar(&o.Conductors, "conductors", 3, fmt.Sprintf("servers, 2 to %d", maxConductors))
	flags.IntVar(&o.Kill, "kill", 0, "servers that are killed")
	flags.IntVar(&o.Pause, "pause", 0, "servers that are stopped for a while, as a frozen VM is")
	flags.IntVar(&o.Partition, "partition", 0, "servers whose cable is pulled for a while")
	flags.IntVar(&o.Random, "random", 0, "that many faults of all kinds, at random, instead")
	flags.Uint64Var(&o.Seed, "seed", 0, "decides the random faults (default: another each time)")
	flags.DurationVar(&o.Hold, "hold", 15*time.Second, "how long a pause or a partition lasts")
	flags.BoolVar(&o.TFTP, "tftp", false, "machines without iPXE in their network cards")
	flags.BoolVar(&o.Once, "once", false, "without the undisturbed storm, and so without seconds added")
	flags.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "how long one storm may take")
	flags.StringVar(&o.Dir, "dir", "build/drill", "directory for what is made")
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func show(w io.Writer, r *Report, asJSON bool) error {
	if !asJSON {
		fmt.Fprintln(w)
		return r.Print(w)
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(r)
}
