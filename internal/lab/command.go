package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ingot/internal/cli"
	"ingot/internal/ramdisk"
	"ingot/internal/sim"
)

// Command is `ingot lab`.
func Command() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Virtual machines with BMCs, to try things on",
		Long: "Machines with real firmware, network cards and disks in a network namespace of their own,\n" +
			"each with a BMC that speaks IPMI, or Redfish (an iLO's, too). Needs root. See `ip netns exec` for running a server there.",
		Example: "  ingot lab up --machines 2\n  ingot lab console metal-1\n  ingot lab down",
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", "build/lab", "directory of the lab")
	cmd.AddCommand(upCommand(&dir), consoleCommand(&dir), downCommand(&dir), simulateCommand())
	return cmd
}

func upCommand(dir *string) *cobra.Command {
	var count int
	var firmware, bmc string
	var bare bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make machines, and keep them until Ctrl-C or `ingot lab down`",
		Example: "  ingot lab up --machines 2\n  ingot lab up --machines 1 --firmware uefi\n" +
			"  ingot lab up --bmc redfish  # with virtual media\n" +
			"  ingot lab up --bare         # machines only, no server",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 1 || count > 50 {
				return cli.Usage(fmt.Errorf("--machines is %d; 1 to 50", count))
			}
			if firmware != string(sim.BIOS) && firmware != string(sim.UEFI) {
				return cli.Usage(fmt.Errorf("--firmware is %q; bios or uefi", firmware))
			}
			if !slices.Contains(protocols, sim.Protocol(bmc)) {
				return cli.Usage(fmt.Errorf("--bmc is %q; ipmi, redfish, ilo or ilo4", bmc))
			}
			if os.Geteuid() != 0 {
				return errors.New("a lab makes a network namespace and needs root: sudo ingot lab up")
			}
			specs := make([]sim.MachineSpec, count)
			for i := range specs {
				specs[i] = sim.MachineSpec{
					Name: fmt.Sprintf("metal-%d", i+1), Firmware: sim.Firmware(firmware),
					BMC: sim.Protocol(bmc), VirtualMedia: bmc != string(sim.IPMI),
				}
			}
			if bare {
				return upBare(cmd.Context(), *dir, specs, cmd.OutOrStdout())
			}
			return up(cmd.Context(), *dir, specs, cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&count, "machines", 1, "how many, 1 to 50; each takes 512 MiB while it is on")
	cmd.Flags().StringVar(&firmware, "firmware", "bios", "bios or uefi")
	cmd.Flags().StringVar(&bmc, "bmc", "ipmi", "what the BMCs speak: ipmi; or, with virtual media, redfish, ilo\n"+
		"(HPE's iLO 5) or ilo4")
	cmd.Flags().BoolVar(&bare, "bare", false, "only machines: no server, no ramdisk, no image")
	return cmd
}

// protocols are what the BMCs of a lab may speak.
var protocols = []sim.Protocol{sim.IPMI, sim.Redfish, sim.ILO, sim.ILO4}

// up keeps machines and a server until ctx ends.
func up(ctx context.Context, dir string, specs []sim.MachineSpec, w io.Writer) error {
	l, err := Start(ctx, Options{Dir: dir, Machines: specs, Progress: w})
	if err != nil {
		return err
	}
	describe(w, l.Lab, specs)
	in := "ip netns exec " + l.Name() + " " + l.binary
	m := l.Machine(specs[0].Name)
	fmt.Fprintf(w, "\nA server runs there, log %s. For example:\n\n%s"+
		"  %s node deploy %s --image file://%s \\\n      --checksum %s\n\n"+
		"Ctrl-C or `ingot lab down` ends it all.\n", l.Log(), enrollment(l.Name(), l.binary, m),
		in, m.Spec().Name, l.Files.Image.QCOW2Path, l.Files.Image.QCOW2SHA256)
	select {
	case <-ctx.Done():
	case <-l.done:
		fmt.Fprintf(w, "\nThe server ended (%v); the machines go on. Start it again by:\n\n"+
			"  %s serve --config %s\n", l.Server.err, in, l.config())
		<-ctx.Done()
	}
	fmt.Fprintln(w, "\nRemoving the lab.")
	return l.Close()
}

// enrollment is the command that enrolls a machine in a lab's namespace.
func enrollment(namespace, binary string, m *sim.Machine) string {
	s, driver := m.Spec(), ""
	if h := s.BMC.HardwareType(); h != "ipmi" {
		driver = " --driver " + h
	}
	return fmt.Sprintf("  ip netns exec %s %s node create %s%s --mac %s --boot-mode %s \\\n"+
		"      --bmc %s --bmc-user %s --bmc-password %s\n", namespace, binary, s.Name, driver, s.MAC,
		s.Firmware, bmcAt(m), s.User, s.Password)
}

// upBare keeps machines until ctx ends.
func upBare(ctx context.Context, dir string, specs []sim.MachineSpec, w io.Writer) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("place of the lab: %w", err)
	}
	l, err := sim.Up(ctx, sim.LabOptions{
		Dir: filepath.Join(abs, "machines"), Machines: specs, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	describe(w, l, specs)
	<-ctx.Done()
	fmt.Fprintln(w, "\nRemoving the lab.")
	return l.Down()
}

// describe prints a table of the machines.
func describe(w io.Writer, l *sim.Lab, specs []sim.MachineSpec) {
	fmt.Fprintf(w, "\nnetwork namespace %s, bridge %s %s\n\n", l.Name(), l.Bridge(), l.Addr())
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	speaks := map[string]string{"ipmi": "IPMI", "redfish": "Redfish", "ilo": "iLO"}[specs[0].BMC.HardwareType()]
	fmt.Fprintf(tw, "MACHINE\tFIRMWARE\tMAC\tBMC (%s)\tUSER\tPASSWORD\tDISK\n", speaks)
	for _, spec := range specs {
		m := l.Machine(spec.Name)
		s := m.Spec()
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Firmware, s.MAC, bmcAt(m),
			s.User, s.Password, m.DiskPath())
	}
	tw.Flush()
}

// bmcAt is where clients find a machine's BMC.
func bmcAt(m *sim.Machine) string {
	if m.Redfish() != nil {
		return m.Redfish().URL()
	}
	return m.BMCAddr().String()
}

func consoleCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "console NAME",
		Short:   "Show the serial console of a machine, from its first start on; Ctrl-C ends",
		Example: "  ingot lab console metal-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			state, err := sim.LoadState(filepath.Join(*dir, "machines"))
			if err != nil {
				return fmt.Errorf("%w; `ingot lab up` starts some", err)
			}
			m, err := state.Machine(args[0])
			if err != nil {
				return err
			}
			return sim.OpenConsole(m.Console).Follow(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

func downCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "End the lab and remove its machines and network",
		Example: "  ingot lab down",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			machines := filepath.Join(*dir, "machines")
			_, err := sim.LoadState(machines)
			said := "the lab in " + *dir + " is gone"
			if errors.Is(err, sim.ErrNotRunning) {
				said = "no lab was running in " + *dir + "; --dir names another"
			}
			if err := sim.Stop(cmd.Context(), machines); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), said)
			return err
		},
	}
}

// RamdiskCommand is `ingot ramdisk`.
func RamdiskCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ramdisk",
		Short:   "Make the ramdisk that machines boot to be deployed",
		Example: "  ingot ramdisk build --out /var/lib/ingot/ramdisk",
	}
	var o ramdisk.Options
	var flavour string
	build := &cobra.Command{
		Use:   "build",
		Short: "Build kernel and ramdisk from Debian packages and ingot-agent",
		Long: "Downloads Debian's kernel (apt-get download; nothing is installed), takes the modules\n" +
			"that a deployment needs, adds the static ingot-agent, and writes kernel and ramdisk.\n" +
			"The cloud flavour has drivers for virtual machines, generic those for common servers.",
		Example: "  ingot ramdisk build --out /var/lib/ingot/ramdisk\n" +
			"  ingot ramdisk build --flavour generic --out ./ramdisk",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Flavour = ramdisk.Flavour(flavour)
			if o.CacheDir == "" {
				o.CacheDir = filepath.Join(o.OutDir, "packages")
			}
			o.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
			r, err := ramdisk.Build(cmd.Context(), o)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "[deploy]\nkernel = \"file://%s\"\n"+
				"ramdisk = \"file://%s\"\n", r.Kernel.Path, r.Ramdisk.Path)
			return err
		},
	}
	build.Flags().StringVar(&o.OutDir, "out", "build/ramdisk", "directory for kernel and ramdisk")
	build.Flags().StringVar(&o.CacheDir, "cache", "", "directory for packages, 400 MB that only "+
		"the next build needs (default: below --out)")
	build.Flags().StringVar(&o.AgentPath, "agent", "", "ingot-agent binary (default: beside ingot)")
	build.Flags().StringVar(&flavour, "flavour", string(ramdisk.Generic), "generic or cloud")
	cmd.AddCommand(build)
	return cmd
}
