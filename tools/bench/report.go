package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// report is everything that was measured.
type report struct {
	Host     host      `json:"host"`
	Sections []section `json:"sections"`
}

// host is what a figure depends on besides the code.
type host struct {
	Cores    int    `json:"cores"`
	CPU      string `json:"cpu"`
	Memory   int64  `json:"memory_bytes"`
	Kernel   string `json:"kernel"`
	Load     string `json:"load"` // of the last 1, 5 and 15 minutes, before anything was measured
	Go       string `json:"go"`
	Revision string `json:"revision"`
}

// section is a group of figures that were taken together.
type section struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	How     string   `json:"how"` // lines for people: what was done and what the yardstick is
	Figures []figure `json:"figures"`
	Seconds float64  `json:"seconds"` // that measuring took
}

// figure is one measured value, the median of N.
type figure struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Yardstick is the same quantity of what Beside names; no yardstick where Beside is empty.
	Yardstick float64 `json:"yardstick,omitempty"`
	Beside    string  `json:"beside,omitempty"`
	N         int     `json:"n"`
}

func describeHost(ctx context.Context) host {
	h := host{Cores: runtime.NumCPU(), CPU: "unknown", Go: runtime.Version(), Revision: "unknown"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(text), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			h.CPU = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
		}
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		h.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		h.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		h.Load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err == nil {
		h.Revision = strings.TrimSpace(string(out))
	}
	return h
}

func (h host) print(w io.Writer) {
	fmt.Fprintf(w, "%d cores (%s), %.1f GiB, Linux %s, machines emulated\n"+
		"load at start %s, %s, revision %s\n",
		h.Cores, h.CPU, float64(h.Memory)/(1<<30), h.Kernel, h.Load, h.Go, h.Revision)
}

func (s section) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s (measured in %.0f s)\n\n", s.Title, s.Seconds)
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "  FIGURE\tINGOT\tYARDSTICK\tRATIO\tN\tBESIDE")
	for _, f := range s.Figures {
		yardstick, ratio := "", ""
		if f.Beside != "" {
			yardstick = amount(f.Yardstick, f.Unit)
			ratio = fmt.Sprintf("%.2f", f.Value/f.Yardstick)
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%d\t%s\n", f.What, amount(f.Value, f.Unit), yardstick,
			ratio, f.N, f.Beside)
	}
	tw.Flush()
	fmt.Fprintln(w)
	for line := range strings.Lines(s.How) {
		fmt.Fprint(w, "  "+line)
	}
	fmt.Fprintln(w)
}

// amount prints a value with three significant digits.
func amount(v float64, unit string) string {
	digits := 0
	for limit := 100.0; digits < 3 && v < limit && v != 0; limit /= 10 {
		digits++
	}
	return fmt.Sprintf("%.*f %s", digits, v, unit)
}

func (r report) save(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// median of at least one value; of an even number the lower of the two in the middle, so that it
// is always one that occurred.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}
