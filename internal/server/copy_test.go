package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/cli"
	"ingot/internal/config"
	"ingot/internal/server"
	"ingot/internal/store/storetest"
)

// db runs `ingot db`.
func db(ctx context.Context, words ...string) (out, problem string, err error) {
	cmd := server.DatabaseCommand()
	var o, p bytes.Buffer
	cmd.SetArgs(words)
	cmd.SetOut(&o)
	cmd.SetErr(&p)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(ctx)
	return o.String(), p.String(), err
}

// end stops a server, in order.
func end(s *sandbox) {
	s.Helper()
	s.stop()
	err := <-s.ended
	s.ended <- nil
	if err != nil {
		s.Fatalf("the server ended with %v", err)
	}
}

// From one host to PostgreSQL and back: the nodes are there, and the servers work on them.
func TestAnInstallationMovesToPostgreSQLAndBack(t *testing.T) {
	t.Parallel()
	database := storetest.Postgres(t)
	s := start(t)
	s.done("create", "one", "--driver", "fake-hardware")
	s.done("create", "two", "--driver", "fake-hardware", "--enroll-only")
	file := filepath.Join(s.data, "ingot.db")

	_, _, err := db(t.Context(), "copy", "--from", file, "--to", database)
	if err == nil || !strings.Contains(err.Error(), "another ingot serves the store") {
		t.Errorf("the file of a running server: %v", err)
	}
	end(s)

	out, told, err := db(t.Context(), "copy", "--from", file, "--to", database, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var rows map[string]int
	if err := json.Unmarshal([]byte(out), &rows); err != nil || rows["nodes"] != 2 {
		t.Errorf("printed %q, %v", out, err)
	}
	if !strings.Contains(told, "nodes        2 of 2 rows\n") {
		t.Errorf("told %q", told)
	}

	shared := startWith(t, func(c *config.Config) { c.Store.URL = database })
	if n := decoded[[]map[string]any](shared, "list"); len(n) != 2 {
		t.Errorf("nodes %v", n)
	}
	shared.done("deploy", "one")
	back := filepath.Join(t.TempDir(), "back.db")
	_, _, err = db(t.Context(), "copy", "--from", database, "--to", back)
	if err == nil || !strings.Contains(err.Error(), "works on the source") {
		t.Errorf("the database of a running server: %v", err)
	}
	end(shared)
	if out, _, err := db(t.Context(), "copy", "--from", database, "--to", back); err != nil ||
		!strings.HasPrefix(out, "2 nodes, 0 ports, ") {
		t.Fatalf("back: %q, %v", out, err)
	}
	alone := startWith(t, func(c *config.Config) { c.Store.Path = back })
	if n := decoded[map[string]any](alone, "show", "one"); n["provision_state"] != "active" {
		t.Errorf("node %v", n)
	}
	alone.done("undeploy", "one")
}

func TestACopySaysWhatIsWrongWithItsArguments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing, text := filepath.Join(dir, "none.db"), filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("no database, but a text that is long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		words []string
		code  int
		want  string
	}{
		{[]string{"--from", missing}, 2, "--from and --to are needed"},
		{[]string{"--from", missing, "--to", "x", "-o", "xml"}, 2, "table or json"},
		{[]string{"--from", missing, "--to", filepath.Join(dir, "to.db")}, 1, "name the file of [store] path"},
		{[]string{"--from", text, "--to", filepath.Join(dir, "to.db")}, 1, "no database of ours"},
		{[]string{"--from", text, "--to", text}, 1, ""},
	} {
		_, _, err := db(t.Context(), append([]string{"copy"}, c.words...)...)
		if err == nil || cli.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: exit code %d, %v", c.words, cli.ExitCode(err), err)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a source that was missing was made")
	}
}
