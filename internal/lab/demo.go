package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ingot/internal/cli"
	"ingot/internal/sim"
)

// DemoCommand is `ingot demo`.
func DemoCommand() *cobra.Command {
	var dir, firmware string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Deploy a real virtual machine, from an empty disk to a booted image, shown live",
		Long: "Makes a virtual machine with firmware, network card, empty disk and a BMC, starts a server,\n" +
			"enrolls the machine through the API, and deploys an image to it: network boot, deploy\n" +
			"ramdisk, image over iSCSI, restart from disk. Everything runs in a network namespace of\n" +
			"its own and ends with the demo, by Ctrl-C too; what stays, below --dir, is the server's\n" +
			"log and the cache for the next run. Needs root.",
		Example: "  ingot demo\n  ingot demo --firmware uefi",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if firmware != string(sim.BIOS) && firmware != string(sim.UEFI) {
				return cli.Usage(fmt.Errorf("--firmware is %q; bios or uefi", firmware))
			}
			if os.Geteuid() != 0 {
				return errors.New("the demo makes a network namespace and needs root: sudo ingot demo")
			}
			return demo(cmd.Context(), dir, sim.Firmware(firmware), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "build/demo", "directory for what is made")
	cmd.Flags().StringVar(&firmware, "firmware", "bios", "bios or uefi")
	return cmd
}

// machineName is the machine of the demo.
const machineName = "metal-1"

// demo runs the main job once. Whatever happens, what was started is ended.
func demo(ctx context.Context, dir string, firmware sim.Firmware, w io.Writer) (err error) {
	fmt.Fprintln(w, "Preparing (packages and images are kept for the next run):")
	l, err := Start(ctx, Options{
		Dir: dir, Progress: w,
		Machines: []sim.MachineSpec{{Name: machineName, Firmware: firmware}},
	})
	if err != nil {
		return err
	}
	defer func() {
		fmt.Fprintln(w, "\nRemoving the machine, the server and their network.")
		err = errors.Join(err, l.Close())
	}()
	m := l.Machine(machineName)
	fmt.Fprintf(w, "machine %s: %s firmware, empty disk, MAC %s, BMC at %s (IPMI)\n",
		machineName, m.Spec().Firmware, m.Spec().MAC, m.BMCAddr())
	fmt.Fprintf(w, "server: ingot serve, pid %d, log %s\n\n", l.PID(), l.Log())

	s := &screen{w: w, start: time.Now()}
	booted, stop := follow(ctx, s, m, l.Files.Image.Marker)
	defer stop()
	if err := l.Deploy(ctx, m, func(source, text string) { s.line(source, text) }); err != nil {
		return err
	}
	active := time.Since(s.start)
	select {
	case <-booted:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(bootTime):
		return fmt.Errorf("the node is active, but its console (%s) does not show %q",
			m.Console().Path(), l.Files.Image.Marker)
	}
	s.line("demo", "the machine runs the image")
	stop()
	fmt.Fprintf(w, "\nFrom nothing known to active in %.1f s, image running after %.1f s.\n",
		active.Seconds(), time.Since(s.start).Seconds())
	return nil
}

// bootTime is how long a written image may take to show itself.
const bootTime = 3 * time.Minute

// follow shows the machine's console until stop is called; seen is closed when the marker was
// shown.
func follow(ctx context.Context, s *screen, m *sim.Machine, marker string) (
	seen <-chan struct{}, stop func(),
) {
	ctx, cancel := context.WithCancel(ctx)
	done, marked := make(chan struct{}), make(chan struct{})
	w := s.console(marker, func() { close(marked) })
	go func() {
		defer close(done)
		if err := sim.OpenConsole(m.Console().Path()).Follow(ctx, w); err != nil {
			s.line("console", "cannot be read: "+err.Error())
		}
	}()
	return marked, func() { cancel(); <-done }
}

// Booted waits until the machine's console shows that the written image runs.
func (l *Lab) Booted(ctx context.Context, m *sim.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	return m.Console().Wait(ctx, l.Files.Image.Marker)
}

// keepConsole copies a machine's console to a place where Close leaves it, and returns its path.
func (l *Lab) keepConsole(m *sim.Machine) string {
	text, err := os.ReadFile(m.Console().Path())
	if err != nil {
		return err.Error()
	}
	path := filepath.Join(l.dir, m.Spec().Name+".console")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err.Error()
	}
	return path
}

// Deploy enrolls a machine and deploys the lab's image to it, through the API; show gets every
// entry of the node's journal as it comes.
func (l *Lab) Deploy(ctx context.Context, m *sim.Machine, show func(source, text string)) error {
	if err := l.Enroll(ctx, m, show); err != nil {
		return err
	}
	return l.reach(ctx, m, show, "active", "active")
}

// Enroll makes a machine's node, with the lab's image as its instance, and brings it to available.
func (l *Lab) Enroll(ctx context.Context, m *sim.Machine, show func(source, text string)) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	n, err := c.CreateNode(ctx, nodeOptions(m), m.Spec().MAC)
	if err != nil {
		return err
	}
	show("api", "node "+m.Spec().Name+" enrolled as "+n.UUID)
	info := map[string]any{
		"image_source":        "file://" + l.Files.Image.QCOW2Path,
		"image_os_hash_algo":  "sha256",
		"image_os_hash_value": l.Files.Image.QCOW2SHA256,
	}
	if _, err := c.SetInstance(ctx, n.UUID, info); err != nil {
		return err
	}
	if err := l.reach(ctx, m, show, "manage", "manageable"); err != nil {
		return err
	}
	return l.reach(ctx, m, show, "provide", "available")
}

// reach asks for a verb and waits for the state that it ends in.
func (l *Lab) reach(ctx context.Context, m *sim.Machine, show func(source, text string),
	verb, state string) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	w := cli.Watch{Client: c, Show: func(e cli.Entry) { show(e.Source, e.Text) }}
	if err := w.Run(ctx, m.Spec().Name, verb, state); err != nil {
		return fmt.Errorf("%w\nServer log: %s\nConsole: %s", err, l.Log(), l.keepConsole(m))
	}
	return nil
}
