package drill

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report is what a drill has found.
type Report struct {
	Machines   int    `json:"machines"`
	Conductors int    `json:"conductors"`
	Seed       uint64 `json:"seed"`
	// Undisturbed is nil if there was no such storm.
	Undisturbed *Storm `json:"undisturbed,omitempty"`
	Disturbed   *Storm `json:"disturbed"`
	// OriginSent is how often the source of the boot files sent each of them.
	OriginSent map[string]int `json:"origin_sent"`
	// Writes counts the changes of nodes, Faults are those that nobody had the right to make.
	Writes int      `json:"writes"`
	Faults []string `json:"faults"`
	// Holes are machines whose journal does not tell each change of state once and in order.
	Holes []string `json:"holes"`
}

// Passed tells whether no machine was lost, no conductor did what it must not, and every journal tells
// what happened.
func (r *Report) Passed() bool {
	return len(r.Disturbed.Lost)+len(r.Faults)+len(r.Holes) == 0
}

// Added compares the storms: how many seconds later than in the undisturbed one the first machine
// arrived, the second one, and so on; median and worst of them, and of the last.
func (r *Report) Added() (median, worst, last float64) {
	a, b := r.Undisturbed.Arrivals, r.Disturbed.Arrivals
	n := min(len(a), len(b))
	if n == 0 {
		return 0, 0, 0
	}
	late := make([]float64, n)
	for i := range late {
		late[i] = b[i] - a[i]
	}
	last = late[n-1]
	slices.Sort(late)
	return late[n/2], late[n-1], last
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(what, format string, args ...any) {
		fmt.Fprintf(tw, what+"\t"+format+"\n", args...)
	}
	d := r.Disturbed
	line("machines lost", "%d of %d", len(d.Lost), r.Machines)
	if u := r.Undisturbed; u != nil {
		median, worst, last := r.Added()
		line("seconds added", "median %.1f, worst %.1f, last machine %.1f", median, worst, last)
		line("undisturbed", "%s", u.times())
		line("disturbed", "%s", d.times())
		line("bytes sent again", "%.1f MB of boot files (of %.1f), %.1f MB of images (of %.1f)",
			mega(d.Received-u.Received), mega(u.Received), mega(d.Written-u.Written), mega(u.Written))
	} else {
		line("storm", "%s", d.times())
	}
	line("boots that failed", "%d of %d, %d of them begun %d s after the last fault or later",
		len(d.FailedBoots), d.Boots, d.failedLater(), detection)
	line("origin sent", "%s", timesSent(r.OriginSent))
	line("changes of nodes", "%d, %d of them by who had no right to", r.Writes, len(r.Faults))
	line("journals", "%d incomplete", len(r.Holes))
	if err := tw.Flush(); err != nil {
		return err
	}
	return printLists(w, []list{{"Done to servers", d.Faults}, {"Not even promised", d.refusal()},
		{"Lost", d.Lost}, {"Written without a right", r.Faults}, {"Incomplete journals", r.Holes}})
}

// RunningReport is what a drill against an installation in use has found.
type RunningReport struct {
	Machines   int    `json:"machines"`
	Conductors int    `json:"conductors"` // that lived at the end
	Seed       uint64 `json:"seed"`
	Storm      *Storm `json:"storm"`
	// OriginSent is how often the drill's own web server sent each of its files.
	OriginSent map[string]int `json:"origin_sent"`
	// Holes are machines whose journal does not tell each change of state once and in order.
	Holes []string `json:"holes"`
}

// Passed tells whether no machine was lost, and every journal tells what happened.
func (r *RunningReport) Passed() bool { return len(r.Storm.Lost)+len(r.Holes) == 0 }

// Print writes the report for people.
func (r *RunningReport) Print(w io.Writer) error {
	s := r.Storm
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(tw, "machines lost\t%d of %d, by %d conductors\n", len(s.Lost), r.Machines, r.Conductors)
	fmt.Fprintf(tw, "arrivals\t%s\n", s.times())
	fmt.Fprintf(tw, "bytes\t%.1f MB of boot files fetched, %.1f MB of images written\n", mega(s.Received),
		mega(s.Written))
	fmt.Fprintf(tw, "drill's files\t%s\n", timesSent(r.OriginSent))
	fmt.Fprintf(tw, "journals\t%d incomplete\n", len(r.Holes))
	if err := tw.Flush(); err != nil {
		return err
	}
	return printLists(w, []list{{"Not even promised", s.refusal()}, {"Lost", s.Lost},
		{"Incomplete journals", r.Holes}})
}

// list is lines below a word.
type list struct {
	what  string
	lines []string
}

// printLists prints those that are not empty.
func printLists(w io.Writer, all []list) error {
	var b strings.Builder
	for _, l := range all {
		if len(l.lines) == 0 {
			continue
		}
		const most = 20
		fmt.Fprintf(&b, "\n%s:\n", l.what)
		for _, line := range l.lines[:min(len(l.lines), most)] {
			fmt.Fprintln(&b, "  "+line)
		}
		if more := len(l.lines) - most; more > 0 {
			fmt.Fprintf(&b, "  and %d more\n", more)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// timesSent says how often files were sent.
func timesSent(counts map[string]int) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%s %d times", name, counts[name]))
	}
	return cmp.Or(strings.Join(all, ", "), "not asked for")
}

// refusal is Refused as a list.
func (s *Storm) refusal() []string {
	if s.Refused == "" {
		return nil
	}
	return []string{s.Refused}
}

// times says when machines arrived.
func (s *Storm) times() string {
	n := len(s.Arrivals)
	if n == 0 {
		return "no machine arrived"
	}
	return fmt.Sprintf("first after %.1f s, median %.1f, last %.1f", s.Arrivals[0],
		s.Arrivals[n/2], s.Arrivals[n-1])
}

func mega(n int64) float64 { return float64(n) / 1e6 }
