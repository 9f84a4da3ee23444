// Bench prints the figures that say whether ingot is fast and small, each beside a yardstick that
// is taken in the same run on the same host. `make bench` runs it, as root, from the root of the
// module. What a figure means and how it was taken is printed with it; nothing is compared with
// figures of other days.
//
// Every section starts real programs: bin/ingot, tgtd, dnsmasq, qemu-img, machines under QEMU. All of them
// end with it, on Ctrl-C too.
//
// Read bench.run first, then one section, the smallest being idle.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// sections are what can be measured, in the order in which it is.
var sections = []struct {
	name string
	run  func(context.Context, *bench) (section, error)
}{
	{"script", measureScript},
	{"http", measureHTTP},
	{"iscsi", measureISCSI},
	{"tftp", measureTFTP},
	{"deploy", measureDeploy},
	{"dhcp", measureDHCP},
	{"many", measureMany},
	{"idle", measureIdle},
	{"api", measureAPI},
	{"newcomer", measureNewcomer},
	{"broadcast", measureBroadcast},
	{"takeover", measureTakeover},
	{"periodic", measurePeriodic},
	{"token", measureToken},
	{"glance", measureGlance},
	{"swift", measureSwift},
	{"medium", measureMedium},
	{"direct", measureDirect},
	{"kexec", measureKexec},
}

// bench is one run.
type bench struct {
	dir      string // for what is kept over runs, absolute
	temp     string // for everything else; removed in the end
	binary   string // bin/ingot, absolute
	progress io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the process at once.
	go func() { <-ctx.Done(); stop() }()
	var err error
	if len(os.Args) == 3 && os.Args[1] == writeCommand {
		err = writeImage(ctx, os.Args[2], os.Stdout)
	} else {
		err = command(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command is the program as people call it.
func command(ctx context.Context) error {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	all := strings.Join(names, ",")
	only := flag.String("only", all, "sections to measure")
	file := flag.String("json", "", "file to write the figures to, as JSON")
	dir := flag.String("dir", "build/bench", "directory for what is kept over runs")
	flag.Parse()
	wanted := map[string]bool{}
	for name := range strings.SplitSeq(*only, ",") {
		if !strings.Contains(","+all+",", ","+name+",") {
			return fmt.Errorf("-only names section %q; there are %s", name, all)
		}
		wanted[name] = true
	}
	b, err := newBench(*dir)
	if err != nil {
		return err
	}
	r, err := b.run(ctx, wanted)
	err = errors.Join(err, os.RemoveAll(b.temp))
	if *file != "" {
		err = errors.Join(err, r.save(*file))
	}
	return err
}

// newBench makes the directories and looks whether ingot was built.
func newBench(dir string) (*bench, error) {
	binary, err := filepath.Abs("bin/ingot")
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(binary); err != nil {
		return nil, fmt.Errorf("%w; run `make bench`, or `make build` first, from the root of "+
			"the module", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for the benchmarks: %w", err)
	}
	temp, err := os.MkdirTemp(dir, "run-")
	if err != nil {
		return nil, fmt.Errorf("make directory for the benchmarks: %w", err)
	}
	return &bench{dir: dir, temp: temp, binary: binary, progress: os.Stderr}, nil
}

// run measures the wanted sections and prints each as soon as it is known. A section that cannot
// be measured does not keep the others from it.
func (b *bench) run(ctx context.Context, wanted map[string]bool) (report, error) {
	r := report{Host: describeHost(ctx)}
	r.Host.print(os.Stdout)
	var errs error
	for _, s := range sections {
		if !wanted[s.name] || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(b.progress, "measuring %s...\n", s.name)
		start := time.Now()
		measured, err := s.run(ctx, b)
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("section %s: %w", s.name, err))
			continue
		}
		measured.Name, measured.Seconds = s.name, time.Since(start).Seconds()
		measured.print(os.Stdout)
		r.Sections = append(r.Sections, measured)
	}
	if ctx.Err() != nil {
		return r, errors.New("interrupted")
	}
	return r, errs
}
