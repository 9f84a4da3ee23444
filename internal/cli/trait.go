package cli

import (
	"context"
	"fmt"
	"net/http"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/spf13/cobra"
)

func traitCommand(o *options) *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:   "trait NAME [TRAIT...]",
		Short: "Say what a machine has that instances may ask for, or show it",
		Example: "  ingot node trait rack1-07\n  ingot node trait rack1-07 CUSTOM_GPU HW_CPU_X86_VMX\n" +
			"  ingot node trait rack1-07 --remove CUSTOM_GPU",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			if remove && len(args) == 1 {
				return usage("--remove needs the traits that are to be removed")
			}
			change := c.AddTrait
			if remove {
				change = c.RemoveTrait
			}
			for _, trait := range args[1:] {
				if err := change(cmd.Context(), args[0], trait); err != nil {
					return err
				}
			}
			return o.traits(cmd, c, args[0])
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "take the traits away")
	return cmd
}

// traits prints those of a node, one a line.
func (o *options) traits(cmd *cobra.Command, c *Client, ident string) error {
	if o.output == "json" {
		return printJSON(cmd, c, ident)
	}
	n, err := c.Node(cmd.Context(), ident)
	if err != nil {
		return err
	}
	for _, trait := range n.Traits {
		fmt.Fprintln(cmd.OutOrStdout(), trait)
	}
	return nil
}

// AddTrait gives a node a trait, which it may have already.
func (c *Client) AddTrait(ctx context.Context, ident, trait string) error {
	return c.trait(ctx, http.MethodPut, ident, trait)
}

// RemoveTrait takes a trait from a node, which has to have it.
func (c *Client) RemoveTrait(ctx context.Context, ident, trait string) error {
	return c.trait(ctx, http.MethodDelete, ident, trait)
}

func (c *Client) trait(ctx context.Context, method, ident, trait string) error {
	_, err := c.service.Request(ctx, method, c.service.ServiceURL("nodes", ident, "traits", trait),
		&gophercloud.RequestOpts{OkCodes: []int{http.StatusNoContent}})
	return c.explain(err)
}
