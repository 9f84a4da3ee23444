package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/sim"
	"ingot/internal/sim/guest"
)

const deployRuns = 3

// whose tells what a phase of a deployment is spent on.
type whose string

const (
	ours    whose = "ingot"   // the machine, or whoever waits for it, waits for ingot
	power   whose = "power"   // the BMC switches, ingot asks whether it is done
	machine whose = "machine" // firmware, kernels, and the files they load
	content whose = "image"   // bytes of the image
)

// phase is a stretch of a deployment. It ends with the next entry of the journal that has the
// source and holds the text.
type phase struct {
	name         string
	whose        whose
	source, text string
}

// phases of a deployment in their order. The first begins with the verb; after the last one
// comes the boot of the image, which ends on the console.
var phases = []phase{
	{"verb until power on", ours, "bmc", "told the BMC: power up"},
	{"firmware and iPXE until script", machine, "script", "asked for its boot script: deploy"},
	{"download of kernel and ramdisk", machine, "http", ".initramfs sent"},
	{"deploy kernel until its call", machine, "agent", "the ramdisk exports its disk"},
	{"call until disk is connected", ours, "iscsi", "connected to the machine's disk"},
	{"image written and verified", content, "image", "image written and verified"},
	{"disk as boot device, ramdisk told", ours, "agent", "told the ramdisk"},
	{"ramdisk lets go of the disk", machine, "agent", "Completed"},
	{"restart command", ours, "bmc", "told the BMC: power down"},
	{"power off until power on", power, "bmc", "told the BMC: power up"},
}

const (
	deployBegins = "available → deploying" // entries of source state
	deployEnds   = "deploying → active"
)

// timeline is one deployment.
type timeline struct {
	ends   []time.Duration // of phases, since the verb
	booted time.Duration   // the image said so on the console, since the verb
	alone  time.Duration   // the same boot without ingot, since the machine was switched on
}

// measureDeploy measures whole deployments of machines under QEMU.
func measureDeploy(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: "Deployment of a machine under QEMU, from the verb to the booted image",
		How: fmt.Sprintf(`Median of %d machines for each firmware, deployed one after the other, each
once and from an empty disk: bin/ingot serve, IPMI, stock iPXE in the network card, deploy ramdisk,
qcow2 image of %d MiB, mostly empty, over iSCSI. Times are those of the node's journal, the
last one is the console's. Phases are medians of their own and need not add up to the total.
In phases [ingot] and [power] the machine waits for ingot and its BMC; "ingot's own share" is
their sum. DHCP and HTTP answers are not in it: they are within phases [machine].
Yardstick of the total: the phases [machine] with the boot of the image, which stay whoever
installs; that of the boot: the same machine switched on once more without ingot.
From another day, not measured here: the same chain of firmware, kernels and iSCSI, driven by
hand without a service, took 10 to 13 s under BIOS and 19 to 21 s under UEFI (2 cores, emulated).
`, deployRuns, guest.DefaultSize/mebi),
	}
	if os.Geteuid() != 0 {
		return s, errors.New("machines need a network namespace: run as root")
	}
	firmwares := []sim.Firmware{sim.BIOS, sim.UEFI}
	var specs []sim.MachineSpec
	for _, f := range firmwares {
		for i := range deployRuns {
			specs = append(specs, sim.MachineSpec{Name: fmt.Sprintf("%s-%d", f, i+1), Firmware: f})
		}
	}
	l, err := lab.Start(ctx, lab.Options{
		// Not a directory of this run: what a killed run has left is found and removed there.
		Dir: filepath.Join(b.dir, "lab"), Machines: specs, Binary: b.binary, Progress: b.progress,
	})
	if err != nil {
		return s, err
	}
	defer func() {
		if err := l.Close(); err != nil {
			fmt.Fprintln(b.progress, "remove the lab:", err)
		}
	}()
	times := map[sim.Firmware][]timeline{}
	for _, spec := range specs {
		fmt.Fprintf(b.progress, "  deploying %s\n", spec.Name)
		t, err := deployOnce(ctx, l, l.Machine(spec.Name))
		if err != nil {
			return s, fmt.Errorf("machine %s: %w", spec.Name, err)
		}
		times[spec.Firmware] = append(times[spec.Firmware], t)
	}
	for _, f := range firmwares {
		s.Figures = append(s.Figures, deployFigures(string(f), times[f])...)
	}
	return s, nil
}

// deployOnce deploys a machine, boots it once more on its own, and switches it off.
func deployOnce(ctx context.Context, l *lab.Lab, m *sim.Machine) (timeline, error) {
	var booted time.Time
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := l.Booted(gctx, m)
		booted = time.Now()
		return err
	})
	group.Go(func() error { return l.Deploy(gctx, m, func(string, string) {}) })
	if err := group.Wait(); err != nil {
		return timeline{}, err
	}
	entries, err := journalOf(ctx, l, m.Spec().Name)
	if err != nil {
		return timeline{}, err
	}
	t, err := split(entries, booted)
	if err != nil {
		return t, err
	}
	m.PowerOff()
	start := time.Now()
	if err := errors.Join(m.PowerOn(ctx), l.Booted(ctx, m)); err != nil {
		return t, fmt.Errorf("boot without ingot: %w", err)
	}
	t.alone = time.Since(start)
	return t, switchOff(ctx, l, m)
}

// switchOff goes through the API, or the server would switch the machine on again.
func switchOff(ctx context.Context, l *lab.Lab, m *sim.Machine) error {
	c, err := l.Client()
	if err != nil {
		return err
	}
	return c.Power(ctx, m.Spec().Name, string(ingot.PowerOff))
}

// journalOf returns the journal until the node was active.
func journalOf(ctx context.Context, l *lab.Lab, node string) ([]ingot.Entry, error) {
	c, err := l.Client()
	if err != nil {
		return nil, err
	}
	var all []ingot.Entry
	for after := int64(0); ; after = all[len(all)-1].Seq {
		page, err := c.Journal(ctx, node, after, 5*time.Second)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return nil, fmt.Errorf("the journal does not say %q", deployEnds)
		}
		all = append(all, page...)
		for _, e := range page {
			if e.Source == "state" && strings.Contains(e.Text, deployEnds) {
				return all, nil
			}
		}
	}
}

// split finds the ends of the phases.
func split(entries []ingot.Entry, booted time.Time) (timeline, error) {
	marks := append([]phase{{"the verb", ours, "state", deployBegins}}, phases...)
	var times []time.Time
	for _, e := range entries {
		if len(times) == len(marks) {
			break
		}
		want := marks[len(times)]
		if e.Source == want.source && strings.Contains(e.Text, want.text) {
			times = append(times, e.Time)
		}
	}
	if len(times) < len(marks) {
		want := marks[len(times)]
		return timeline{}, fmt.Errorf("the journal has no entry %s %q that ends %q; if the texts "+
			"of the journal changed, change them in tools/bench too", want.source, want.text,
			want.name)
	}
	t := timeline{booted: booted.Sub(times[0])}
	for _, end := range times[1:] {
		t.ends = append(t.ends, end.Sub(times[0]))
	}
	return t, nil
}

// length of a phase.
func (t timeline) length(i int) time.Duration {
	if i == 0 {
		return t.ends[0]
	}
	return t.ends[i] - t.ends[i-1]
}

// boot is how long the machine took from power on until the image ran.
func (t timeline) boot() time.Duration { return t.booted - t.ends[len(t.ends)-1] }

// sum of the phases that are spent on one of several things.
func (t timeline) sum(on ...whose) time.Duration {
	var total time.Duration
	for i, p := range phases {
		for _, w := range on {
			if p.whose == w {
				total += t.length(i)
			}
		}
	}
	return total
}

// deployFigures are medians over the deployments of one firmware.
func deployFigures(firmware string, times []timeline) []figure {
	over := func(of func(timeline) time.Duration) float64 {
		var values []float64
		for _, t := range times {
			values = append(values, of(t).Seconds())
		}
		return median(values)
	}
	var figures []figure
	add := func(what string, of func(timeline) time.Duration) *figure {
		figures = append(figures, figure{
			What: firmware + ", " + what, Value: over(of), Unit: "s", N: len(times),
		})
		return &figures[len(figures)-1]
	}
	for i, p := range phases {
		add(fmt.Sprintf("%s [%s]", p.name, p.whose), func(t timeline) time.Duration {
			return t.length(i)
		})
	}
	boot := add(fmt.Sprintf("boot of the image [%s]", machine), timeline.boot)
	boot.Beside = "the same without ingot"
	boot.Yardstick = over(func(t timeline) time.Duration { return t.alone })
	add("ingot's own share", func(t timeline) time.Duration { return t.sum(ours, power) })
	total := add("total", func(t timeline) time.Duration { return t.booted })
	total.Beside = "the machine's own part"
	total.Yardstick = over(func(t timeline) time.Duration { return t.sum(machine) + t.boot() })
	return figures
}
