// Ingot provisions bare metal: server, command line client and test lab in one binary. This
// file only puts the command tree together and turns errors into exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"ingot/internal/cli"
	"ingot/internal/config"
	"ingot/internal/drill"
	"ingot/internal/lab"
	"ingot/internal/lifecycle"
	"ingot/internal/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the process at once, whatever it is busy with.
	go func() { <-ctx.Done(); stop() }()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	running := false
	root := command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	// What fails before a command runs is a matter of its arguments.
	root.PersistentPreRun = func(*cobra.Command, []string) { running = true }
	cmd, err := root.ExecuteContextC(ctx)
	wrong := err != nil && !running
	if wrong {
		err = cli.Usage(err)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "ingot:", err)
	}
	if wrong && cmd.HasParent() {
		fmt.Fprintf(stderr, "Usage: %s; see `%s --help`\n", cmd.UseLine(), cmd.CommandPath())
	}
	return cli.ExitCode(err)
}

// command builds the tree.
func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "ingot",
		Short: "Bare-metal provisioning: from powered-off to a running image by one API call",
		Long: "Ingot provisions bare metal. It speaks the REST API of OpenStack Ironic, so existing\n" +
			"clients work with it as they are.",
		Example: "  ingot serve --dev            # try the API, without machines and without root\n" +
			"  ingot demo                   # a real virtual machine, from empty disk to image\n" +
			"  ingot serve --config FILE    # for real",
		Version:       cli.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.AddCommand(server.Command(), server.DatabaseCommand(), cli.NodeCommand(),
		cli.ConductorCommand(), lab.DemoCommand(), drill.Command(), lab.Command(), lab.RamdiskCommand(),
		lifecycleCommand(), configCommand(), versionCommand())
	refuseUnknown(root)
	return root
}

// refuseUnknown makes groups of commands refuse a word that names none of them, where cobra
// would print help and call that success.
func refuseUnknown(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		refuseUnknown(sub)
	}
	if cmd.HasParent() && cmd.HasSubCommands() {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			cmd.SuggestionsMinimumDistance = 2
			hint := ""
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "did you mean " + strings.Join(near, " or ") + "? "
			}
			return cli.Usage(fmt.Errorf("unknown command %q for %q; %ssee `%[2]s --help`",
				args[0], cmd.CommandPath(), hint))
		}
	}
}

func lifecycleCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "lifecycle",
		Short:   "Print the provision states and what leads from one to the next",
		Example: "  ingot lifecycle\n  ingot lifecycle --format dot | dot -Tsvg > lifecycle.svg",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return lifecycle.Print(cmd.OutOrStdout(), lifecycle.Format(format))
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table, mermaid or dot")
	return cmd
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Show and check the server's configuration",
		Example: "  ingot config reference > ingot.toml\n  ingot config check ingot.toml",
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "reference",
		Short:   "Print every key with its default, its unit and why one would change it",
		Example: "  ingot config reference > ingot.toml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), config.Reference)
			return err
		},
	}, &cobra.Command{
		Use:     "check FILE",
		Short:   "Check a configuration file",
		Example: "  ingot config check /etc/ingot/ingot.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := config.Load(args[0], os.Environ()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), args[0], "is good")
			return nil
		},
	})
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version and the revision this binary was built from",
		Example: "  ingot version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "ingot", cli.Version())
			return err
		},
	}
}
