package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/spf13/cobra"
)

// Conductor is what an operator has to know of a conductor.
type Conductor struct {
	Hostname string  `json:"hostname"`
	Group    string  `json:"conductor_group"`
	Alive    bool    `json:"alive"`
	Draining bool    `json:"draining"`
	Address  string  `json:"address"`
	Version  string  `json:"version"`
	BootTree string  `json:"boot_tree"`
	Nodes    int     `json:"nodes"` // that it owns
	Lag      float64 `json:"lag"`   // seconds since its last heartbeat
	Load     Load    `json:"load"`
}

// Load is how much a conductor has to do, as of its last heartbeat.
type Load struct {
	Busy    int `json:"busy"` // workers
	Workers int `json:"workers"`
	Copying int `json:"copying"` // images
	Copies  int `json:"copies"`
	Waiting int `json:"waiting"` // nodes, in line for an image
}

// Cluster is all conductors, dead ones included, and how many nodes none of them owns.
type Cluster struct {
	Conductors []Conductor `json:"conductors"`
	Unowned    int         `json:"nodes_without_conductor"`
	// Differences tell in what the boot trees of those that live differ.
	Differences []Difference `json:"boot_tree_differences"`
}

// Difference is a boot file that a conductor lacks or has otherwise than the others.
type Difference struct {
	Hostname string `json:"hostname"`
	Name     string `json:"name"`
	SHA256   string `json:"sha256"`
	Source   string `json:"source"`
	Problem  string `json:"problem"`
}

// Cluster returns the conductors, and the JSON that came.
func (c *Client) Cluster(ctx context.Context) (all Cluster, raw json.RawMessage, err error) {
	_, err = c.service.Get(ctx, c.service.ServiceURL("cluster"), &raw, nil)
	if err != nil {
		return all, nil, c.explain(err)
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return all, nil, fmt.Errorf("read the list of conductors: %w", err)
	}
	return all, raw, nil
}

// Drain says whether a conductor shall own no node.
func (c *Client) Drain(ctx context.Context, hostname string, yes bool) error {
	method := http.MethodPut
	if !yes {
		method = http.MethodDelete
	}
	answer, err := c.service.Request(ctx, method, c.service.ServiceURL("conductors",
		url.PathEscape(hostname), "draining"), &gophercloud.RequestOpts{OkCodes: []int{http.StatusNoContent}})
	if err != nil {
		return c.explain(err)
	}
	return answer.Body.Close()
}

// ConductorCommand is `ingot conductor`.
func ConductorCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:     "conductor",
		Short:   "See which servers share the nodes, and take one out",
		Example: "  ingot conductor list\n  ingot conductor drain r2",
	}
	o.flags(cmd)
	cmd.AddCommand(listConductorsCommand(o), drainCommand(o))
	return cmd
}

func listConductorsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all conductors, dead ones too, and how many nodes each works on",
		Long: "Lists all conductors, dead ones too: how many nodes each works on by itself, how many of its\n" +
			"workers are busy, how many images are written or wait for it, and how long ago its last\n" +
			"heartbeat was. Those that live have one boot tree once they have caught up with one another;\n" +
			"until then it is shown which files are missing or different where.",
		Example: "  ingot conductor list\n  ingot conductor list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			all, raw, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			if o.output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(raw)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(tw, "HOST\tSTATE\tGROUP\tADDRESS\tVERSION\tBOOT TREE\tNODES\tWORKERS\t"+
				"IMAGES\tLAG")
			for _, h := range all.Conductors {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", h.Hostname, h.state(),
					orDash(h.Group), orDash(h.Address), orDash(h.Version),
					orDash(h.BootTree[:min(len(h.BootTree), 12)]), h.Nodes,
					of(h.Load.Busy, h.Load.Workers), of(h.Load.Copying+h.Load.Waiting, h.Load.Copies),
					time.Duration(h.Lag*float64(time.Second)).Round(time.Second/10))
			}
			if err := tw.Flush(); err != nil {
				return err
			}
			if err := all.differences(cmd.OutOrStdout()); err != nil {
				return err
			}
			return all.warn(cmd)
		},
	}
}

// of is a number and its bound, "-" where a conductor of an older version does not tell.
func of(n, bound int) string {
	if bound == 0 {
		return "-"
	}
	return fmt.Sprintf("%d/%d", n, bound)
}

// differences lists what keeps the boot trees from being the same; nothing if they are.
func (all Cluster) differences(w io.Writer) error {
	if len(all.Differences) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nThe boot trees differ:")
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "HOST\tFILE\tSHA256\tPROBLEM\tSOURCE")
	for _, d := range all.Differences {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", d.Hostname, orDash(d.Name),
			orDash(d.SHA256[:min(len(d.SHA256), 12)]), d.Problem, orDash(d.Source))
	}
	return tw.Flush()
}

func (h Conductor) state() string {
	switch {
	case !h.Alive:
		return "dead"
	case h.Draining:
		return "draining"
	}
	return "alive"
}

// warn tells of nodes that nobody works on by himself.
func (all Cluster) warn(cmd *cobra.Command) error {
	if all.Unowned == 0 {
		return nil
	}
	_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%d nodes have no conductor: none that is alive and "+
		"not draining is of their group and has their hardware type\n", all.Unowned)
	return err
}

func drainCommand(o *options) *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain HOST",
		Short: "Give the nodes of a conductor to the others, before its host is taken away",
		Long: "From its next heartbeat on the conductor owns no node: others look after its nodes, and\n" +
			"what it is at work on comes to its end there. It still answers the API and machines.\n" +
			"Draining ends with --undo, or when the server is stopped in order.",
		Example: "  ingot conductor drain r2\n  ingot conductor drain r2 --undo",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.Drain(cmd.Context(), args[0], !undo); err != nil {
				return err
			}
			all, raw, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			if err := all.warn(cmd); err != nil {
				return err
			}
			if o.output == "json" {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), string(raw))
				return err
			}
			for _, h := range all.Conductors {
				if h.Hostname == args[0] {
					fmt.Fprintf(cmd.OutOrStdout(), "conductor %s is %s and owns %d nodes\n", h.Hostname,
						h.state(), h.Nodes)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let it own nodes again")
	return cmd
}
