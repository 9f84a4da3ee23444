package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// targets maps what people type to the wire names of power targets, and to the state that is
// there in the end.
var targets = map[string]struct{ wire, state string }{
	"on":       {"power on", "power on"},
	"off":      {"power off", "power off"},
	"reboot":   {"rebooting", "power on"},
	"soft-off": {"soft power off", "power off"},
}

func powerCommand(o *options) *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:     "power NAME [on|off|reboot|soft-off|status]",
		Short:   "Switch a machine, or show whether it is on",
		Example: "  ingot node power rack1-07\n  ingot node power rack1-07 reboot",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 || args[1] == "status" {
				return o.power(cmd, c, args[0])
			}
			target, ok := targets[args[1]]
			if !ok {
				return usage("%q is no power action; on, off, reboot, soft-off or status", args[1])
			}
			if err := c.Power(cmd.Context(), args[0], target.wire); err != nil {
				return err
			}
			if !noWait {
				if err := waitPower(cmd.Context(), c, args[0], target.state); err != nil {
					return err
				}
			}
			return o.power(cmd, c, args[0])
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return when the request is accepted")
	return cmd
}

// power prints the power state on record.
func (o *options) power(cmd *cobra.Command, c *Client, ident string) error {
	if o.output == "json" {
		return printJSON(cmd, c, ident)
	}
	n, err := c.Node(cmd.Context(), ident)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "node %s: %s\n", label(n), orDash(n.PowerState))
	return nil
}

// waitPower returns when the action is over: an error unless the machine is in the state.
func waitPower(ctx context.Context, c *Client, ident, state string) error {
	for {
		n, err := c.Node(ctx, ident)
		if err != nil {
			return err
		}
		if n.TargetPowerState == "" && n.Reservation == "" {
			// The request cleared the last error. A machine that could not be reset is on, too.
			if n.PowerState == state && n.LastError == "" {
				return nil
			}
			reason := n.LastError
			if reason == "" {
				reason = "no reason on record"
			}
			return &exitError{ExitFailed, fmt.Errorf("node %s is %s: %w", label(n),
				orDash(n.PowerState), errors.New(printable(reason)))}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
