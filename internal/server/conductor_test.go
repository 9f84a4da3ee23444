package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/cli"
	"ingot/internal/config"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// conductors runs `ingot conductor` and returns the exit code and what it printed.
func (s *sandbox) conductors(words ...string) (code int, out, problem string) {
	s.Helper()
	var o, p bytes.Buffer
	cmd := cli.ConductorCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(append(words, "--url", s.url))
	cmd.SetOut(&o)
	cmd.SetErr(&p)
	err := cmd.ExecuteContext(s.Context())
	if err != nil {
		p.WriteString(err.Error())
	}
	return cli.ExitCode(err), o.String(), p.String()
}

func TestAnOperatorSeesTheConductorsAndTakesOneOut(t *testing.T) {
	t.Parallel()
	database := storetest.Postgres(t)
	host := func(name string) func(*config.Config) {
		return func(c *config.Config) {
			c.Store.URL, c.Conductor.Host, c.Cluster.Listen = database, name, "127.0.0.1:0"
		}
	}
	r1, r2 := startWith(t, host("r1")), startWith(t, host("r2"))
	for _, name := range []string{"one", "two", "three"} {
		r1.done("create", name, "--driver", "fake-hardware")
	}
	list := func() map[string]cli.Conductor {
		t.Helper()
		code, out, problem := r1.conductors("list", "-o", "json")
		var all cli.Cluster
		if err := json.Unmarshal([]byte(out), &all); code != 0 || err != nil {
			t.Fatalf("exit code %d, %v: %s%s", code, err, out, problem)
		}
		hosts := map[string]cli.Conductor{}
		for _, c := range all.Conductors {
			hosts[c.Hostname] = c
		}
		return hosts
	}
	all := list()
	if all["r1"].Nodes+all["r2"].Nodes != 3 || !all["r1"].Alive || all["r2"].Address != "127.0.0.1" ||
		all["r1"].Load.Workers == 0 || all["r1"].Load.Copies == 0 || all["r2"].Lag > 60 ||
		all["r2"].Version == "" {
		t.Errorf("conductors %+v", all)
	}
	code, out, problem := r2.conductors("drain", "r2")
	if code != 0 || out != "conductor r2 is draining and owns 0 nodes\n" || problem != "" {
		t.Errorf("drain: %d, %q, %q", code, out, problem)
	}
	if c := list()["r1"]; c.Nodes != 3 {
		t.Errorf("r1 %+v", c)
	}
	code, out, problem = r2.conductors("drain", "r1")
	if code != 0 || !strings.HasPrefix(problem, "3 nodes have no conductor: ") {
		t.Errorf("drain of the last: %d, %q, %q", code, out, problem)
	}
	if code, out, _ := r2.conductors("drain", "r1", "--undo"); code != 0 ||
		out != "conductor r1 is alive and owns 3 nodes\n" {
		t.Errorf("undo: %d, %q", code, out)
	}
	_, out, _ = r1.conductors("list")
	if lines := strings.Split(out, "\n"); len(lines) != 4 || !strings.HasPrefix(lines[0], "HOST ") ||
		strings.Fields(lines[2])[1] != "draining" {
		t.Errorf("printed %s", out)
	}
	if code, _, problem := r1.conductors("drain", "r/9"); code != cli.ExitNotFound {
		t.Errorf("a conductor that is none: %d, %s", code, problem)
	}
}

// One conductor has no place for boot files and another iPXE. What is printed names both, and the
// conductor; the others are not suspected.
func TestAnOperatorSeesInWhatBootTreesDiffer(t *testing.T) {
	t.Parallel()
	database := storetest.Postgres(t)
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	kernel := "file://" + file("vmlinuz", "kernel")
	usual := filepath.Dir(file("usual/snponly.efi", "one"))
	other := filepath.Dir(file("other/snponly.efi", "two"))
	host := func(name, programs string, more ...func(*config.Config)) *sandbox {
		return startWith(t, func(c *config.Config) {
			c.Store.URL, c.Conductor.Host, c.Cluster.Listen = database, name, "127.0.0.1:0"
			c.Conductor.HeartbeatInterval = config.Duration(100 * time.Millisecond)
			c.Deploy.Kernel, c.Boot.TFTPFiles = kernel, []string{programs}
			for _, change := range more {
				change(c)
			}
		})
	}
	r1 := host("r1", usual)
	host("r2", usual)
	list := func() (all cli.Cluster) {
		t.Helper()
		_, out, problem := r1.conductors("list", "-o", "json")
		if err := json.Unmarshal([]byte(out), &all); err != nil || all.Differences == nil {
			t.Fatalf("%v: %s%s", err, out, problem)
		}
		return all
	}
	testkit.Eventually(t, "two trees are the same", func() bool {
		all := list()
		return len(all.Conductors) == 2 && all.Conductors[0].BootTree != "" &&
			all.Conductors[0].BootTree == all.Conductors[1].BootTree && len(all.Differences) == 0
	})
	host("r3", other, func(c *config.Config) { c.Boot.Cache = file("full", "no directory") + "/boot" })
	testkit.Eventually(t, "r3 is seen to differ in two files", func() bool {
		all := list()
		return len(all.Differences) == 2 && all.Differences[0].Hostname == "r3" &&
			all.Differences[0].Name == "vmlinuz" && all.Differences[0].Source == kernel &&
			all.Differences[1].Hostname == "r3" && all.Differences[1].Name == "snponly.efi"
	})
	_, out, _ := r1.conductors("list")
	if !strings.Contains(out, "The boot trees differ:\nHOST") ||
		!strings.Contains(out, "is wanted, and not here") || !strings.Contains(out, "other content") {
		t.Errorf("printed %s", out)
	}
}
