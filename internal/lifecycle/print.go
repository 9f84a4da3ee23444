package lifecycle

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Format is a way to print the machine.
type Format string

// Formats.
const (
	TextFormat    Format = "table"
	MermaidFormat Format = "mermaid"
	DotFormat     Format = "dot"
)

// Formats returns all formats, the usual one first.
func Formats() []Format { return []Format{TextFormat, MermaidFormat, DotFormat} }

// Print writes the whole machine in one of the formats.
func Print(w io.Writer, f Format) error {
	switch f {
	case TextFormat:
		return printTables(w)
	case MermaidFormat, DotFormat:
		return printDiagram(w, f)
	}
	return fmt.Errorf("unknown format %q: use one of %v", f, Formats())
}

// printTables writes three tables for people: states, transitions and verbs.
func printTables(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		line := strings.Join(cells, "\t")
		fmt.Fprintln(tw, strings.TrimRight(line, "\t"))
	}
	row("STATE", "KIND", "UPDATABLE", "LOOKUP", "TARGET", "VERBS")
	for _, i := range infos {
		row(string(i.State), string(i.Kind), yes(i.Updatable), yes(i.Lookup),
			orDash(joinStates(i.Targets)), orDash(verbNames(i.State)))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write states: %w", err)
	}
	row("\nFROM", "EVENT", "TO")
	for _, t := range transitions {
		row(string(t.From), string(t.Event), string(t.To))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write transitions: %w", err)
	}
	row("\nVERB", "EVENT", "SINCE", "BODY")
	for _, v := range verbs {
		extras := make([]string, len(v.Extras))
		for i, e := range v.Extras {
			extras[i] = fmt.Sprintf("%s (1.%d)", e.Name, e.MinorVersion)
		}
		row(v.Name, string(v.Event), fmt.Sprintf("1.%d", v.MinorVersion),
			orDash(strings.Join(extras, ", ")))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write verbs: %w", err)
	}
	return nil
}

// printDiagram writes the transitions as a graph, in Mermaid's state diagrams or in Graphviz' dot.
// Events between the same two states share an edge.
func printDiagram(w io.Writer, f Format) error {
	var b strings.Builder
	if f == DotFormat {
		dot(&b)
	} else {
		mermaid(&b)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write %s diagram: %w", f, err)
	}
	return nil
}

func mermaid(b *strings.Builder) {
	b.WriteString("stateDiagram-v2\n")
	for _, i := range infos {
		fmt.Fprintf(b, "    state \"%s\" as %s\n", i.State, mermaidID(i.State))
	}
	for _, k := range []Kind{Transient, Waiting, Hold, Failed} {
		fmt.Fprintf(b, "    classDef %s %s\n", k, mermaidStyle[k])
	}
	fmt.Fprintf(b, "    [*] --> %s\n", mermaidID(Enroll))
	for _, e := range edges() {
		fmt.Fprintf(b, "    %s --> %s: %s\n", mermaidID(e.from), mermaidID(e.to), e.label)
	}
	for _, i := range infos {
		if i.Kind != Stable {
			fmt.Fprintf(b, "    class %s %s\n", mermaidID(i.State), i.Kind)
		}
	}
}

func dot(b *strings.Builder) {
	b.WriteString("digraph lifecycle {\n\trankdir=LR;\n\tnode [fontname=\"sans-serif\"];\n")
	for _, i := range infos {
		fmt.Fprintf(b, "\t%q [%s];\n", i.State, dotStyle[i.Kind])
	}
	for _, e := range edges() {
		fmt.Fprintf(b, "\t%q -> %q [label=%q];\n", e.from, e.to, e.label)
	}
	b.WriteString("}\n")
}

var mermaidStyle = map[Kind]string{
	Transient: "stroke-dasharray: 4 2",
	Waiting:   "stroke-dasharray: 1 3",
	Hold:      "stroke-width: 3px",
	Failed:    "stroke: #b00020",
}

var dotStyle = map[Kind]string{
	Stable:    "shape=box",
	Transient: "shape=ellipse, style=dashed",
	Waiting:   "shape=ellipse, style=dotted",
	Hold:      "shape=octagon",
	Failed:    "shape=box, color=\"#b00020\"",
}

type edge struct {
	from, to State
	label    string
}

// edges joins transitions between the same two states, in the order of the table.
func edges() []edge {
	var all []edge
	at := map[[2]State]int{}
	for _, t := range transitions {
		key := [2]State{t.From, t.To}
		if i, ok := at[key]; ok {
			all[i].label += ", " + string(t.Event)
			continue
		}
		at[key] = len(all)
		all = append(all, edge{t.From, t.To, string(t.Event)})
	}
	return all
}

// mermaidID makes a name that Mermaid's grammar takes: no blanks, no hyphens.
func mermaidID(s State) string {
	return strings.NewReplacer(" ", "_", "-", "_").Replace(string(s))
}

func verbNames(s State) string {
	accepted := Accepted(s)
	names := make([]string, len(accepted))
	for i, v := range accepted {
		names[i] = v.Name
	}
	return strings.Join(names, ", ")
}

func joinStates(states []State) string {
	words := make([]string, len(states))
	for i, s := range states {
		words[i] = string(s)
	}
	return strings.Join(words, " or ")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "-"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
