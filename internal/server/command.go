package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ingot/internal/cli"
	"ingot/internal/config"
	"ingot/internal/ingot"
)

// Command is `ingot serve`.
func Command() *cobra.Command {
	var file, data, listen, database string
	var dev, force bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server: API, conductor and boot sockets in one process",
		Long: "Runs the server until it gets SIGTERM or Ctrl-C; it then takes no more work, lets running\n" +
			"steps come to an end, and stops. What it could not finish goes on at the next start.\n\n" +
			"--dev is the sandbox: loopback only, unprivileged ports, no authentication, no DHCP,\n" +
			"no root needed, hardware types fake-hardware, ipmi, redfish.",
		Example: "  ingot serve --dev\n  ingot serve --dev --data ./sandbox --listen 127.0.0.1:6385\n" +
			"  ingot serve --config /etc/ingot/ingot.toml\n" +
			"  ingot serve --config /etc/ingot/ingot.toml --database postgres://ingot@db.example/ingot",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dev && file != "" {
				return cli.Usage(errors.New("--dev is the sandbox, which has no configuration " +
					"file; give one or the other"))
			}
			if !dev && file == "" {
				return cli.Usage(errors.New(
					"say what to serve: --dev for the sandbox, or --config FILE"))
			}
			cfg, err := configuration(cmd, file, data, listen)
			if err == nil && database != "" {
				cfg.Store.URL = database
				err = cfg.Check()
			}
			if err != nil {
				return err
			}
			if cfg.TakeName = force; force && cfg.Store.URL == "" {
				return cli.Usage(errors.New("--force takes the name of another server in a shared " +
					"database; this one has a file, which one server opens at a time: stop the other"))
			}
			if cfg.Dev {
				fmt.Fprintf(cmd.ErrOrStderr(), "Sandbox: no authentication, loopback only, "+
					"data in %s.\nTry:  ingot node create one --driver fake-hardware "+
					"--url http://%[2]s\n"+
					"or:   OS_AUTH_TYPE=none OS_ENDPOINT=http://%[2]s baremetal driver list\n",
					filepath.Dir(cfg.Store.Path), cfg.API.Listen)
			}
			return Run(cmd.Context(), cfg, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `FILE`; ingot config reference prints "+
		"one")
	cmd.Flags().BoolVar(&dev, "dev", false, "the sandbox, without a configuration file")
	cmd.Flags().StringVar(&data, "data", "", "directory of the sandbox (default: one in the "+
		"user's cache directory)")
	cmd.Flags().StringVar(&database, "database", "", "PostgreSQL database in place of the file: "+
		"[store] url")
	cmd.Flags().BoolVar(&force, "force", false, "if another server that is alive has this name, end it "+
		"and take the name")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:6385", "API address of the sandbox")
	return cmd
}

// configuration loads the file, or makes the sandbox's.
func configuration(cmd *cobra.Command, file, data, listen string) (config.Config, error) {
	if file != "" {
		if cmd.Flags().Changed("data") || cmd.Flags().Changed("listen") {
			return config.Config{}, ingot.Errorf(ingot.Invalid,
				"--data and --listen go with --dev; with --config set [store] path and [api] listen")
		}
		return config.Load(file, os.Environ())
	}
	if data == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return config.Config{}, ingot.Errorf(ingot.Invalid,
				"no place for the sandbox's data: %w; name one with --data", err)
		}
		data = filepath.Join(cache, "ingot")
	}
	if err := os.MkdirAll(filepath.Join(data, "images"), 0o700); err != nil {
		return config.Config{}, ingot.Errorf(ingot.Invalid,
			"make the sandbox's directory: %w; name another with --data", err)
	}
	cfg, err := config.Dev(data, listen).WithEnvironment(os.Environ())
	if err != nil {
		return config.Config{}, err
	}
	return cfg, loopback(cfg)
}
