package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/nodes"
	"github.com/spf13/cobra"

	"ingot/internal/ingot"
)

// Access is where the API is, and who asks.
type Access struct {
	url, user, passwordFile string
	cloud                   string

	elsewhere func() bool // the URL was not only assumed
}

// Client prepares the client; in a cloud it signs in.
func (a *Access) Client(ctx context.Context) (*Client, error) {
	if a.user == "" && inCloud(a.cloud) {
		base := ""
		if a.elsewhere() {
			base = a.url
		}
		return DialCloud(ctx, a.cloud, base)
	}
	password := ingot.Secret(fromEnvironment("INGOT_PASSWORD", "OS_PASSWORD"))
	if a.passwordFile != "" {
		text, err := os.ReadFile(a.passwordFile)
		if err != nil {
			return nil, usage("--password-file: %v", err)
		}
		password = ingot.Secret(strings.TrimRight(string(text), "\r\n"))
	}
	return Dial(a.url, Credentials{a.user, password})
}

// Flags makes the options that say so those of a command and all below it.
func (a *Access) Flags(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	base := defaultURL
	if v := os.Getenv("INGOT_URL"); v != "" {
		base = v
	}
	flags.StringVar(&a.url, "url", base,
		"base URL of the API (environment: INGOT_URL); in a cloud the catalog has it")
	a.elsewhere = func() bool { return os.Getenv("INGOT_URL") != "" || flags.Changed("url") }
	flags.StringVar(&a.cloud, "os-cloud", os.Getenv("OS_CLOUD"),
		"cloud of clouds.yaml to sign in at (environment: OS_CLOUD, or OS_AUTH_URL and the others)")
	flags.StringVar(&a.user, "user", fromEnvironment("INGOT_USER", "OS_USERNAME"),
		"user, for an API with authentication (environment: INGOT_USER)")
	flags.StringVar(&a.passwordFile, "password-file", "",
		"file with the user's password (environment, the password itself: INGOT_PASSWORD)")
}

// options are shared by all client commands.
type options struct {
	Access
	output string
}

// client checks the common options and prepares the client.
func (o *options) client(ctx context.Context) (*Client, error) {
	if o.output != "table" && o.output != "json" {
		return nil, usage("--output %q is not known; table or json", o.output)
	}
	return o.Client(ctx)
}

// fromEnvironment returns our variable, else that of the baremetal client if it is set up for the
// same kind of authentication: what else is in it is meant for others.
func fromEnvironment(ours, theirs string) string {
	if v := os.Getenv(ours); v != "" || os.Getenv("OS_AUTH_TYPE") != "http_basic" {
		return v
	}
	return os.Getenv(theirs)
}

// progress is where live progress goes: beside the result, so that -o json stays clean.
func (o *options) progress(cmd *cobra.Command) io.Writer {
	if o.output == "json" {
		return cmd.ErrOrStderr()
	}
	return cmd.OutOrStdout()
}

// flags makes the common options those of a command and all below it.
func (o *options) flags(cmd *cobra.Command) {
	o.Flags(cmd)
	cmd.PersistentFlags().StringVarP(&o.output, "output", "o", "table", "table or json")
}

// NodeCommand is `ingot node`.
func NodeCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Enroll machines, deploy them, look at what they do",
		Long: "Works on nodes through the REST API.\n\nExit codes: 0 done, 1 other error, 2 wrong " +
			"arguments, 3 no such node,\n4 not possible in this state or node busy, 5 the " +
			"operation ran and failed,\n6 the API does not answer, 7 not allowed, " +
			"130 interrupted.",
		Example: "  ingot node create rack1-07 --mac 52:54:00:77:00:01 \\\n" +
			"      --bmc 10.0.0.7 --bmc-user admin --bmc-password-file bmc.pass\n" +
			"  ingot node deploy rack1-07 --image https://images.example/debian.qcow2 \\\n" +
			"      --checksum <sha256>\n  ingot node journal rack1-07 --follow\n" +
			"  ingot node list --os-cloud mycloud",
	}
	o.flags(cmd)
	cmd.AddCommand(createCommand(o), listCommand(o), showCommand(o), deployCommand(o),
		undeployCommand(o), deleteCommand(o), powerCommand(o), traitCommand(o), journalCommand(o))
	return cmd
}

// createFlags are what `node create` can be told.
type createFlags struct {
	driver, mac, bmc, user, password, passwordFile, bootMode string
	system, verifyCA, kernel, ramdisk, boot, deploy          string
	enrollOnly                                               bool
}

func createCommand(o *options) *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:        "create NAME",
		SuggestFor: []string{"enroll", "add"},
		Short:      "Enroll a machine and check its BMC, until it is available",
		Example: "  ingot node create rack1-07 --mac 52:54:00:77:00:01 --boot-mode bios \\\n" +
			"      --bmc 10.0.0.7 --bmc-user admin --bmc-password-file bmc.pass\n" +
			"  ingot node create rack1-08 --mac 52:54:00:77:00:02 --driver redfish \\\n" +
			"      --boot-interface redfish-virtual-media --deploy-interface direct \\\n" +
			"      --bmc https://10.0.0.8 --bmc-user admin --bmc-password-file bmc.pass",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			opts, err := f.node(args[0])
			if err != nil {
				return err
			}
			n, err := c.CreateNode(cmd.Context(), opts, f.mac)
			if err != nil {
				return err
			}
			out := o.progress(cmd)
			fmt.Fprintf(out, "node %s enrolled as %s\n", args[0], n.UUID)
			if f.mac == "" && f.hasBMC() {
				fmt.Fprintf(cmd.ErrOrStderr(), "It has no port and cannot be deployed before "+
					"it has one: baremetal port create --node %s MAC\n", n.UUID)
			}
			if f.enrollOnly {
				return o.result(cmd, c, n.UUID)
			}
			for verb, want := range steps("manage", "manageable", "provide", "available") {
				if _, err := o.run(cmd, c, n.UUID, verb, want); err != nil {
					return fmt.Errorf("%w\nThe node stays enrolled: correct it with `baremetal "+
						"node set %s ...`, or remove it with `ingot node delete %s`",
						err, args[0], args[0])
				}
			}
			return o.result(cmd, c, n.UUID)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.driver, "driver", ipmi, "hardware type: ipmi, redfish, ilo, fake-hardware")
	fl.StringVar(&f.mac, "mac", "", "MAC address of the network card that boots")
	fl.StringVar(&f.bmc, "bmc", "", "address of the BMC, host or host:port; a URL for redfish and ilo")
	fl.StringVar(&f.user, "bmc-user", "", "user name at the BMC")
	fl.StringVar(&f.password, "bmc-password", "", "password at the BMC; a file hides it better")
	fl.StringVar(&f.passwordFile, "bmc-password-file", "", "file with the password at the BMC")
	fl.StringVar(&f.system, "bmc-system", "", "redfish: path of the machine's system, if there are several")
	fl.StringVar(&f.verifyCA, "bmc-verify-ca", "", "redfish, ilo: file, on the conductors, of the certificates that "+
		"are believed; False for any")
	fl.StringVar(&f.bootMode, "boot-mode", "", "firmware mode of the machine: bios or uefi")
	fl.StringVar(&f.boot, "boot-interface", "", "how the machine boots, if not as is usual for its hardware type: "+
		"ipxe, pxe, http, redfish-virtual-media, ilo-virtual-media...")
	fl.StringVar(&f.deploy, "deploy-interface", "", "how the image gets to its disk, likewise: direct, iscsi, ramdisk")
	fl.StringVar(&f.kernel, "deploy-kernel", "", "URL of the deploy kernel, if not the configured")
	fl.StringVar(&f.ramdisk, "deploy-ramdisk", "", "URL of the deploy ramdisk, if not the configured")
	fl.BoolVar(&f.enrollOnly, "enroll-only", false, "only enroll; do not talk to the BMC yet")
	return cmd
}

// Hardware types of machines with a BMC.
const (
	ipmi    = "ipmi"
	redfish = "redfish"
	ilo     = "ilo"
)

func (f *createFlags) hasBMC() bool {
	h := f.hardware()
	return h == ipmi || h == redfish || h == ilo
}

// hardware is the hardware type, also if the driver is a classic one.
func (f *createFlags) hardware() string {
	n := ingot.Node{Driver: f.driver}
	n.ExpandClassic(func(string) bool { return true })
	return n.Driver
}

// node turns the flags into what the API wants.
func (f *createFlags) node(name string) (nodes.CreateOpts, error) {
	info := map[string]any{}
	set := func(key, value string) {
		if value != "" {
			info[key] = value
		}
	}
	if f.passwordFile != "" {
		b, err := os.ReadFile(f.passwordFile)
		if err != nil {
			return nodes.CreateOpts{}, usage("read the BMC's password: %w", err)
		}
		f.password = strings.TrimRight(string(b), "\r\n")
	}
	if f.hasBMC() && f.bmc == "" {
		return nodes.CreateOpts{}, usage("--bmc is missing: the address of the machine's BMC")
	}
	if f.bootMode != "" && f.bootMode != "bios" && f.bootMode != "uefi" {
		return nodes.CreateOpts{}, usage("--boot-mode is %q; bios or uefi", f.bootMode)
	}
	switch f.hardware() {
	case redfish:
		set("redfish_address", f.bmc)
		set("redfish_username", f.user)
		set("redfish_password", f.password)
		set("redfish_system_id", f.system)
		set("redfish_verify_ca", f.verifyCA)
	case ilo:
		set("ilo_address", f.bmc)
		set("ilo_username", f.user)
		set("ilo_password", f.password)
		set("ilo_verify_ca", f.verifyCA)
	default:
		host, port := splitPort(f.bmc)
		set("ipmi_address", host)
		set("ipmi_port", port)
		set("ipmi_username", f.user)
		set("ipmi_password", f.password)
	}
	set("deploy_kernel", f.kernel)
	set("deploy_ramdisk", f.ramdisk)
	opts := nodes.CreateOpts{Name: name, Driver: f.driver, DriverInfo: info, BootInterface: f.boot,
		DeployInterface: f.deploy}
	if f.bootMode != "" {
		opts.Properties = map[string]any{"capabilities": "boot_mode:" + f.bootMode}
	}
	return opts, nil
}

// splitPort splits "host:port" where there is one colon; an IPv6 address has more and needs
// brackets for a port.
func splitPort(s string) (host, port string) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		host, port, _ = strings.Cut(rest, "]")
		return host, strings.TrimPrefix(port, ":")
	}
	if strings.Count(s, ":") == 1 {
		host, port, _ = strings.Cut(s, ":")
		return host, port
	}
	return s, ""
}

// steps yields pairs in order.
func steps(pairs ...string) func(yield func(verb, want string) bool) {
	return func(yield func(verb, want string) bool) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if !yield(pairs[i], pairs[i+1]) {
				return
			}
		}
	}
}

// run asks for a verb and shows what happens until the node settles. accepted tells whether the
// verb was.
func (o *options) run(cmd *cobra.Command, c *Client, ident, verb, want string) (accepted bool,
	err error) {
	d := newDisplay(o.progress(cmd))
	d.start = time.Now()
	defer d.close()
	w := Watch{Client: c, Show: d.entry}
	err = w.Run(cmd.Context(), ident, verb, want)
	if errors.Is(err, context.Canceled) && w.accepted {
		d.close()
		fmt.Fprintf(cmd.ErrOrStderr(), "Watching ends here; the work goes on. See it by: "+
			"ingot node journal %s --follow\n", ident)
	}
	return w.accepted, err
}

// result prints the node at the end of a command, as JSON only when asked.
func (o *options) result(cmd *cobra.Command, c *Client, ident string) error {
	if o.output == "json" {
		return printJSON(cmd, c, ident)
	}
	n, err := c.Node(cmd.Context(), ident)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "node %s is %s\n", label(n), n.ProvisionState)
	return nil
}

func printJSON(cmd *cobra.Command, c *Client, ident string) error {
	body, err := c.Raw(cmd.Context(), ident)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(body)
}

func label(n *Node) string {
	if n.Name != "" {
		return n.Name
	}
	return n.UUID
}

func listCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List all nodes",
		Example: "  ingot node list\n  ingot node list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			if o.output == "json" {
				all, err := c.RawNodes(cmd.Context())
				if err != nil {
					return err
				}
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(all)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(tw, "NAME\tUUID\tPOWER\tSTATE\tMAINTENANCE\tLAST ERROR")
			err = c.Nodes(cmd.Context(), "", func(n Node) error {
				_, err := fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%t\t%s\n", n.Name, n.UUID,
					orDash(n.PowerState), n.ProvisionState, n.Maintenance,
					shorten(printable(n.LastError)))
				return err
			})
			if err != nil {
				return err
			}
			return tw.Flush()
		},
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// shorten cuts a text to what fits in a column.
func shorten(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return s
}

func showCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show one node, and why it is where it is",
		Example: "  ingot node show rack1-07\n  ingot node show rack1-07 -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			if o.output == "json" {
				return printJSON(cmd, c, args[0])
			}
			n, err := c.Node(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			row := func(name string, value any) {
				if value == nil || value == "" {
					return
				}
				fmt.Fprintf(tw, "%s\t%s\n", name, printable(fmt.Sprint(value)))
			}
			row("name", n.Name)
			row("uuid", n.UUID)
			row("driver", n.Driver)
			row("state", n.ProvisionState)
			row("target", n.TargetProvisionState)
			if !n.ProvisionUpdatedAt.IsZero() {
				row("since", n.ProvisionUpdatedAt.Local().Format(time.DateTime))
			}
			row("step", n.DeployStep["step"])
			row("power", orDash(n.PowerState))
			row("worked on by", n.Reservation)
			row("maintenance", n.Maintenance)
			row("maintenance reason", n.MaintenanceReason)
			row("fault", n.Fault)
			row("last error", n.LastError)
			row("image", n.InstanceInfo["image_source"])
			row("BMC", cmp.Or(n.DriverInfo["ipmi_address"], n.DriverInfo["redfish_address"]))
			return tw.Flush()
		},
	}
}

// deployFlags are what `node deploy` can be told.
type deployFlags struct {
	image, checksum, format string
	rebuild, noWait         bool
}

func deployCommand(o *options) *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use:   "deploy NAME --image URL --checksum HEX",
		Short: "Write an image to the machine's disk and boot it",
		Long: "Writes an image to the machine's disk and boots it. What is on the disk is lost.\n\n" +
			"Shows what happens until the node is active. Ctrl-C stops watching only; the\n" +
			"deployment goes on, and `ingot node journal NAME --follow` shows it again.",
		Example: "  ingot node deploy rack1-07 --image https://images.example/debian.qcow2 \\\n" +
			"      --checksum 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			verb := "active"
			if f.rebuild {
				verb = "rebuild"
			}
			before, err := f.prepare(cmd, c, args[0], verb)
			if err != nil {
				return err
			}
			var accepted bool
			if f.noWait {
				err = c.Provision(cmd.Context(), args[0], verb)
				accepted = err == nil
			} else {
				accepted, err = o.run(cmd, c, args[0], verb, "active")
			}
			if !accepted && len(before) > 0 {
				// The record is that of what the node runs, or ran.
				if _, undo := c.SetInstance(cmd.Context(), args[0], before); undo != nil {
					err = fmt.Errorf("%w (instance_info keeps the image: %w)", err, undo)
				}
			}
			if err != nil || f.noWait {
				return err
			}
			return o.result(cmd, c, args[0])
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.image, "image", "", "image: http(s):// or file:// on the server; raw, qcow2, gzip")
	fl.StringVar(&f.checksum, "checksum", "", "sha256 or sha512 of the image file, in hex")
	fl.StringVar(&f.format, "format", "", "raw or qcow2; found out if not given")
	fl.BoolVar(&f.rebuild, "rebuild", false, "deploy again a node that is active")
	fl.BoolVar(&f.noWait, "no-wait", false, "return when the request is accepted")
	return cmd
}

// prepare records the image on the node. Without --image what is on record counts. A node that
// cannot be deployed in its state keeps the record of what it runs. before is what was on record
// of an image, if that has changed.
func (f *deployFlags) prepare(cmd *cobra.Command, c *Client, ident, verb string) (
	before map[string]any, err error) {
	if f.image == "" {
		if f.checksum != "" || f.format != "" {
			return nil, usage("--checksum and --format go with --image")
		}
		return nil, nil
	}
	info, err := Image(f.image, f.checksum)
	if err != nil {
		return nil, err
	}
	// What belonged to an earlier image goes.
	info["image_disk_format"], info["image_checksum"] = nil, nil
	if f.format != "" {
		info["image_disk_format"] = f.format
	}
	if c.TooEarly(cmd.Context(), ident, verb) {
		return nil, nil
	}
	return c.SetInstance(cmd.Context(), ident, info)
}

// Image is what instance_info says of an image. The checksum is in hex, of sha256 or sha512.
func Image(source, checksum string) (map[string]any, error) {
	sum := strings.ToLower(checksum)
	if algo, hex, ok := strings.Cut(sum, ":"); ok && (algo == "sha256" || algo == "sha512") {
		sum = hex
	}
	algo, ok := map[int]string{64: "sha256", 128: "sha512"}[len(sum)]
	if !ok {
		return nil, usage("--checksum has %d digits; give the sha256 (64) or sha512 (128) of the "+
			"image file, for example from `sha256sum`", len(sum))
	}
	return map[string]any{"image_source": source, "image_os_hash_algo": algo,
		"image_os_hash_value": sum}, nil
}

func undeployCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "undeploy NAME",
		Short:   "Take the machine out of use: power off, available again",
		Example: "  ingot node undeploy rack1-07",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := o.run(cmd, c, args[0], "deleted", "available"); err != nil {
				return err
			}
			return o.result(cmd, c, args[0])
		},
	}
}

func deleteCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Forget a machine and its ports; the machine itself is not touched",
		Example: "  ingot node delete rack1-07",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.DeleteNode(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(o.progress(cmd), "node %s deleted\n", args[0])
			return nil
		},
	}
}
