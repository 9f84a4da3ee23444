package cli

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/spf13/cobra"
)

func journalCommand(o *options) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:        "journal NAME",
		Short:      "Show everything a machine did and was told, in order",
		Example:    "  ingot node journal rack1-07\n  ingot node journal rack1-07 --follow",
		SuggestFor: []string{"history", "log", "logs", "events"},
		Args:       cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			err = o.journal(cmd, c, args[0], follow)
			if follow && errors.Is(err, context.Canceled) {
				return nil // Ctrl-C is how following ends
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens next")
	return cmd
}

// journal prints all entries, and with follow those that come.
func (o *options) journal(cmd *cobra.Command, c *Client, ident string, follow bool) error {
	d := newDisplay(cmd.OutOrStdout())
	defer d.close()
	enc := json.NewEncoder(cmd.OutOrStdout())
	var after int64
	var wait time.Duration
	for {
		entries, err := c.Journal(cmd.Context(), ident, after, wait)
		if err != nil {
			return err
		}
		for _, e := range entries {
			after = e.Seq
			if o.output == "json" {
				if err := enc.Encode(e); err != nil {
					return err
				}
				continue
			}
			d.entry(e)
		}
		switch {
		case len(entries) > 0:
		case follow:
			wait = 30 * time.Second
		default:
			return nil
		}
	}
}
