package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"ingot/internal/cli"
	"ingot/internal/ingot"
	"ingot/internal/store"
)

// DatabaseCommand is `ingot db`.
func DatabaseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "db",
		Short: "Move an installation from one database to another",
		Example: "  ingot db copy --from /var/lib/ingot/ingot.db --to postgres://ingot@db.example/" +
			"ingot",
	}
	cmd.AddCommand(copyCommand())
	return cmd
}

func copyCommand() *cobra.Command {
	var from, to, output string
	cmd := &cobra.Command{
		Use:   "copy --from DATABASE --to DATABASE",
		Short: "Copy all rows into an empty database: a file into PostgreSQL, or back",
		Long: "Copies nodes, ports, histories, leases, the journal and what the servers have in common,\n" +
			"with all numbers, from a SQLite file into an empty PostgreSQL database, or back. A DATABASE\n" +
			"is the name of a file or postgres://USER@HOST/DATABASE; the password may be in the URL,\n" +
			"in PGPASSWORD or in ~/.pgpass.\n\n" +
			"No server may use either. The copy is one transaction: after an error or Ctrl-C the target\n" +
			"is empty, and the same command can be repeated. The source keeps its rows; its schema is\n" +
			"brought to the version of this program first.\n\n" +
			"Operations that a stopped server had not finished go on with the next one that serves the\n" +
			"copy.",
		Example: "  systemctl stop ingot\n" +
			"  ingot db copy --from /var/lib/ingot/ingot.db --to postgres://ingot@db.example/ingot\n" +
			"  ingot db copy --from postgres://ingot@db.example/ingot --to ./ingot.db -o json",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case from == "" || to == "":
				return cli.Usage(errors.New("--from and --to are needed, each a file or postgres://HOST/DATABASE"))
			case output != "table" && output != "json":
				return cli.Usage(fmt.Errorf("--output %q is not known; table or json", output))
			}
			rows, err := copyDatabase(cmd.Context(), from, to, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(rows)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d nodes, %d ports, %d journal entries are in %s\n",
				rows["nodes"], rows["ports"], rows["journal"], databaseOptions(to).Place())
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "`DATABASE` to copy")
	cmd.Flags().StringVar(&to, "to", "", "empty `DATABASE`")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json: rows by table")
	return cmd
}

func databaseOptions(name string) store.Options {
	if strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://") {
		return store.Options{URL: name}
	}
	return store.Options{Path: name}
}

// copyDatabase returns how many rows of each table it copied; w is told how far it is.
func copyDatabase(ctx context.Context, from, to string, w io.Writer) (rows map[string]int64, err error) {
	source := databaseOptions(from)
	if source.URL == "" {
		if _, err := os.Stat(from); err != nil {
			return nil, ingot.Errorf(ingot.Invalid, "--from: %w; name the file of [store] path", err)
		}
	}
	var stores []*store.Store
	for _, o := range []store.Options{source, databaseOptions(to)} {
		if o.URL == "" {
			unlock, err := lock(o.Path)
			if err != nil {
				return nil, err
			}
			defer unlock()
		}
		s, err := store.Open(ctx, o)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		stores = append(stores, s)
	}
	rows = map[string]int64{}
	err = store.Copy(ctx, stores[0], stores[1], func(table string, done, total int64) {
		if tenth := max(1, total/10); done == total || done/tenth > rows[table]/tenth {
			fmt.Fprintf(w, "%-12s %d of %d rows\n", table, done, total)
		}
		rows[table] = done
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}
