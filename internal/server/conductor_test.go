package server_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"ingot/internal/cli"
	"ingot/internal/config"
	"ingot/internal/store/storetest"
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
