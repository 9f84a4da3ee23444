// Package statements checks that doc/statements.md is complete and true: every statement of the
// seeds and every fault has its row, every row names tests that exist or says in words what is
// not built. A statement's test says in its name which one it shows.
package statements

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	root     = "../.."
	document = root + "/doc/statements.md"
)

// counts are the numbers of rows: S0.1 to S0.12, S1.1 to S1.11, S2.1 to S2.9, S3.1 to S3.7, S4.1 to S4.7, F.1 to F.41 for the
// faults, C.1 to C.19 for those of a cluster, B.1 to B.16 for those of BMCs, media and agents.
var counts = map[string]int{"S0": 12, "S1": 11, "S2": 9, "S3": 7, "S4": 7, "F": 41, "C": 19, "B": 16}

// row is a line of a table: id, what is stated, tests, what is not built.
type row struct{ id, stated, tests, missing string }

func rows(t *testing.T) []row {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var out []row
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if !regexp.MustCompile(`^(S\d+|F|C|B)\.\d+$`).MatchString(cells[0]) {
			continue
		}
		if len(cells) != 4 {
			t.Fatalf("row %s has %d cells, want 4", cells[0], len(cells))
		}
		out = append(out, row{cells[0], cells[1], cells[2], cells[3]})
	}
	return out
}

func TestEveryStatementHasOneRow(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for _, r := range rows(t) {
		seen[r.id]++
		if r.stated == "" {
			t.Errorf("%s says nothing", r.id)
		}
		if r.tests == "" && r.missing == "" {
			t.Errorf("%s has neither a test nor a word about what is not built", r.id)
		}
	}
	for seed, n := range counts {
		for i := 1; i <= n; i++ {
			id := fmt.Sprintf("%s.%d", seed, i)
			if seen[id] != 1 {
				t.Errorf("%s has %d rows, want 1", id, seen[id])
			}
			delete(seen, id)
		}
	}
	for id := range seen {
		t.Errorf("%s is no statement of the seeds", id)
	}
}

// reference is a test as the document names it: `directory.TestName` or
// `directory.TestName/subtest`. Fuzz targets are named like tests.
var reference = regexp.MustCompile("`([\\w/]+)\\.((?:Test|Fuzz)\\w+)(?:/(\\w+))?`")

func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	for _, r := range rows(t) {
		refs := reference.FindAllStringSubmatch(r.tests, -1)
		if rest := strings.Trim(reference.ReplaceAllString(r.tests, ""), ", "); rest != "" {
			t.Errorf("%s: %q is no list of tests", r.id, rest)
		}
		for _, ref := range refs {
			source := testSource(t, ref[1])
			if !strings.Contains(source, "\nfunc "+ref[2]+"(t *testing.T) {") &&
				!strings.Contains(source, "\nfunc "+ref[2]+"(f *testing.F) {") {
				t.Errorf("%s: %s has no test %s", r.id, ref[1], ref[2])
			}
			if ref[3] != "" && !strings.Contains(source, `"`+ref[3]+`"`) {
				t.Errorf("%s: %s has no subtest %s", r.id, ref[1], ref[3])
			}
		}
	}
}

// TestStatementsAreInTheNamesOfTests: who reads that a test failed reads what is broken.
func TestStatementsAreInTheNamesOfTests(t *testing.T) {
	t.Parallel()
	for _, r := range rows(t) {
		prefix := strings.ReplaceAll(r.id, ".", "_") + "_"
		if !strings.HasPrefix(r.id, "S") {
			continue
		}
		if !strings.Contains(r.tests, ".Test"+prefix) && !strings.Contains(r.tests, "/"+prefix) {
			t.Errorf("%s: no test or subtest is named %s...", r.id, prefix)
		}
	}
}

// testSource is the text of all tests in a directory of the project.
func testSource(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
