package netboot_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/netboot"
)

// How iPXE runs a script: line by line; a line whose last command failed ends the script with
// that failure, and after that comes whatever the firmware likes, a prompt at worst. So every
// path through a script has to end in one of the commands that are an end.

// mayFail are commands that fail where the machine, a server or the test they make wants it.
// echo, imgfree, set and sleep fail for bad arguments or a person's Ctrl-C only, exit never.
var mayFail = []string{"boot", "chain", "imgfetch", "inc", "initrd", "iseq", "isset", "kernel",
	"poweroff", "sanboot"}

// ends are commands after which the script does not go on, if they succeed.
var ends = []string{"boot", "chain", "exit", "poweroff", "sanboot"}

var harmless = []string{"echo", "imgfree", "set", "sleep"}

// walker follows all paths through a script.
type walker struct {
	lines  []string
	labels map[string]int
	seen   map[string]bool
	faults []string
}

// faults lists what is wrong with the paths of a script.
func faults(script string) []string {
	w := &walker{labels: map[string]int{}, seen: map[string]bool{},
		lines: strings.Split(strings.TrimSuffix(script, "\n"), "\n")}
	if w.lines[0] != "#!ipxe" {
		return []string{"the first line is not #!ipxe"}
	}
	for i, line := range w.lines {
		if strings.HasPrefix(line, ":") {
			if _, ok := w.labels[line[1:]]; ok {
				w.fault(i, "the label is there twice")
			}
			w.labels[line[1:]] = i
		}
	}
	w.walk(1, 0)
	return w.faults
}

func (w *walker) fault(line int, what string) {
	w.faults = append(w.faults, fmt.Sprintf("line %d %q: %s", line+1, w.lines[line], what))
}

// walk follows the paths from a line on. busy counts jumps since the last sleep: a loop without
// one would keep a server busy for as long as something is wrong.
func (w *walker) walk(line, busy int) {
	for ; ; line++ {
		if line >= len(w.lines) {
			w.faults = append(w.faults, "a path falls off the end")
			return
		}
		key := fmt.Sprint(line, " ", busy)
		if w.seen[key] {
			return
		}
		w.seen[key] = true
		if busy > len(w.labels) {
			w.fault(line, "a loop without sleep")
			return
		}
		if strings.HasPrefix(w.lines[line], ":") {
			continue
		}
		goesOn := false
		alternatives := strings.Split(w.lines[line], " || ")
		for i, command := range alternatives {
			name, rest, _ := strings.Cut(command, " ")
			last := i == len(alternatives)-1
			switch {
			case name == "goto":
				to, ok := w.labels[rest]
				if !ok {
					w.fault(line, "no such label")
					return
				}
				w.walk(to, busy+1)
			case slices.Contains(harmless, name):
				if name == "sleep" {
					busy = 0
				}
				goesOn = true
			case slices.Contains(ends, name):
			case slices.Contains(mayFail, name):
				goesOn = true
			default:
				w.fault(line, "a command this test does not know")
			}
			if !slices.Contains(mayFail, name) {
				break // the alternatives behind it are never reached
			}
			if last {
				w.fault(line, "its failure ends the script")
			}
		}
		if !goesOn {
			return
		}
	}
}

func TestNoPathOfAScriptEndsAtAPrompt(t *testing.T) {
	t.Parallel()
	retry, one := env(), env()
	retry.Unknown = netboot.UnknownRetry
	one.BaseURLs = one.BaseURLs[:1]
	scripts := map[string]string{
		"boot.ipxe":         netboot.BootIPXE(env()),
		"boot.ipxe on disk": netboot.CommonTree()["boot.ipxe"],
		"ISO":               netboot.Script(isoNode(ingot.ISO{File: ingot.File{SHA256: "aa", Name: "a.iso"}}), env(), ask),
		"ISO of a site":     netboot.Script(isoNode(ingot.ISO{URL: "http://site/a.iso"}), env(), ask),
		"problem":           netboot.IPXE.Problem("n", "p", ask),
		"unknown":           netboot.Script(nil, env(), ask),
		"unknown retry":     netboot.Script(nil, retry, ask),
		"no server":         netboot.Script(node(ingot.BootDeploy, "deploying"), netboot.Env{}, ask),
		"no server to ask": netboot.Script(node(ingot.BootError, "deploy failed"), netboot.Env{},
			ask),
	}
	waits, loads := ask, ask
	waits.Turn = netboot.Turn{Place: 1, Start: 1, Ask: 1}
	loads.Turn = netboot.Turn{Tag: "me"}
	for _, state := range append(lifecycle.States(), "dreaming") {
		for _, intent := range intents {
			n := node(intent, string(state))
			scripts[fmt.Sprint(state, " ", intent)] = netboot.Script(n, env(), ask)
			scripts[fmt.Sprint(state, " ", intent, " waits")] = netboot.Script(n, env(), waits)
			scripts[fmt.Sprint(state, " ", intent, " in place")] = netboot.Script(n, one, loads)
			scripts[fmt.Sprint(state, " ", intent, " one server")] = netboot.Script(n, one, ask)
			tree := netboot.NodeTree(n, []string{ask.MAC}, env())
			if page, ok := tree.Pages["pxelinux.cfg/52-54-00-12-34-56"]; ok {
				scripts[fmt.Sprint(state, " ", intent, " on disk")] = page
			}
		}
	}
	for name, script := range scripts {
		for _, fault := range faults(script) {
			t.Errorf("%s: %s", name, fault)
		}
	}
}

// The checker itself: each of these scripts leaves a machine at a prompt or busy.
func TestTheCheckerOfPathsFindsFaults(t *testing.T) {
	t.Parallel()
	for _, script := range []string{
		"kernel x\nexit 0", "echo x", "kernel x || goto y", "kernel x || echo y",
		":a\nkernel x || goto a\ngoto a", "shell", "poweroff", "iseq a b || inc c\nexit 0",
		":a\n:a\nexit 0",
	} {
		if faults("#!ipxe\n"+script+"\n") == nil {
			t.Errorf("no fault found in %q", script)
		}
	}
}
