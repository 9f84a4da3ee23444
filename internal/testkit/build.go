package testkit

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Build compiles ./cmd/ingot of this module with some source files replaced or added, path to content,
// and returns the path of the program. Paths are absolute, or relative to the root of the module.
// nil is the program as it is.
func Build(t testing.TB, replace map[string]string) string {
	t.Helper()
	root := strings.TrimSpace(Run(t, "go", "list", "-m", "-f", "{{.Dir}}"))
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for path, content := range replace {
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, path)
		}
		name := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = name
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "ingot")
	build := exec.Command("go", "build", "-trimpath", "-overlay", list, "-o", program, "./cmd/ingot")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// SkewVariable is how many seconds the clock of a program made with Skewed is ahead.
const SkewVariable = "TEST_CLOCK_SKEW"

// Skewed is for Build: package time of Go with a clock that is wrong by SkewVariable. What is
// measured between two moments is right, as on a host whose clock was set wrong. All of the program
// is compiled anew, which takes minutes the first time.
func Skewed(t testing.TB) map[string]string {
	t.Helper()
	dir := filepath.Join(strings.TrimSpace(Run(t, "go", "env", "GOROOT")), "src", "time")
	text, err := os.ReadFile(filepath.Join(dir, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(text), now) != 1 {
		t.Fatalf("time.Now of %s reads otherwise than expected", runtime.Version())
	}
	return map[string]string{
		filepath.Join(dir, "time.go"):    strings.Replace(string(text), now, now+"\tsec += skew\n", 1),
		filepath.Join(dir, "zz_skew.go"): skew,
	}
}

// skew is read by means that package time may use.
const skew = `package time

import "syscall"

// skew is how many seconds the clock is wrong: the variable TEST_CLOCK_SKEW.
var skew = func() (s int64) {
	text, _ := syscall.Getenv("` + SkewVariable + `")
	minus := text != "" && text[0] == '-'
	if minus {
		text = text[1:]
	}
	for i := 0; i < len(text); i++ {
		s = s*10 + int64(text[i]-'0')
	}
	if minus {
		return -s
	}
	return s
}()
`
