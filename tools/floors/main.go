// Floors checks the structure of the project: that packages import only packages of lower floors
// (floors.txt beside this file), and that every package has a package comment. `make lint` runs
// it from the root of the module.
package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
)

//go:embed floors.txt
var floorsText string

// pkg is the part of `go list -json` that counts here.
type pkg struct {
	ImportPath, Name, Doc string
	Imports               []string
	GoFiles               []string
}

func main() {
	floors, err := parse(floorsText)
	if err != nil {
		fmt.Fprintln(os.Stderr, "floors:", err)
		os.Exit(2)
	}
	pkgs, err := list()
	if err != nil {
		fmt.Fprintln(os.Stderr, "floors:", err)
		os.Exit(2)
	}
	complaints := check(floors, pkgs)
	for _, c := range complaints {
		fmt.Fprintln(os.Stderr, "floors:", c)
	}
	if len(complaints) > 0 {
		os.Exit(1)
	}
}

// parse reads lines "floor package"; # starts a comment.
func parse(text string) (map[string]int, error) {
	floors := map[string]int{}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("floors.txt line %d: want \"floor package\"", i+1)
		}
		n, err := strconv.Atoi(fields[0])
		if err != nil {
			return nil, fmt.Errorf("floors.txt line %d: %w", i+1, err)
		}
		floors[fields[1]] = n
	}
	return floors, nil
}

// list asks the go command for the packages of the module.
func list() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,GoFiles", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("read package list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// check returns a sentence for each rule that is broken.
func check(floors map[string]int, pkgs []pkg) []string {
	const module = "ingot/"
	var out []string
	for _, p := range pkgs {
		from := strings.TrimPrefix(p.ImportPath, module)
		if len(p.GoFiles) > 0 && p.Doc == "" {
			out = append(out, from+" has no package comment")
		}
		floor, ok := floorOf(floors, from)
		if !ok {
			out = append(out, from+" has no floor; add a line to tools/floors/floors.txt")
			continue
		}
		for _, imp := range p.Imports {
			to, local := strings.CutPrefix(imp, module)
			if !local {
				continue
			}
			below, ok := floorOf(floors, to)
			switch {
			case !ok || below < floor:
			case below == floor && strings.HasPrefix(to, from+"/"):
			default:
				out = append(out, fmt.Sprintf("%s (floor %d) imports %s (floor %d)",
					from, floor, to, below))
			}
		}
	}
	return out
}

// floorOf returns the floor of a package or of its nearest parent that has one.
func floorOf(floors map[string]int, p string) (int, bool) {
	for ; p != "."; p = path.Dir(p) {
		if n, ok := floors[p]; ok {
			return n, true
		}
	}
	return 0, false
}
