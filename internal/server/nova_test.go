package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/testkit"
)

// TestNovaDeploysAndDestroysAnInstance makes the calls of Nova's driver with the real openstacksdk, as
// Nova's service user, and listens to what Nova is told of power states.
func TestNovaDeploysAndDestroysAnInstance(t *testing.T) {
	t.Parallel()
	const instance = "88888888-2222-4333-8444-555555555555"
	c := newCloud(t)
	var mu sync.Mutex
	var told []string
	compute := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Events []map[string]any }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range body.Events {
			told = append(told, e["server_uuid"].(string)+" "+e["tag"].(string))
			e["code"] = http.StatusOK
		}
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(compute.Close)
	s := c.serve(t, func(o *config.Config) {
		o.API.ServiceAccess, o.Nova.Endpoint = true, compute.URL
		// The lock is nobody's who lives: it is not to be found and taken away.
		o.Conductor.CheckInterval = config.Duration(time.Hour)
	})
	s.enroll(c, "n1", "", "", "52:54:00:00:00:01")
	admin := c.token(t, "admin", true)
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"PATCH", "/v1/nodes/n1", `[{"op": "add", "path": "/resource_class", "value": "gold"},
			{"op": "add", "path": "/properties/cpu_arch", "value": "x86_64"}]`, 200},
		{"PUT", "/v1/nodes/n1/traits", `{"traits": ["CUSTOM_A", "HW_CPU_X86_VMX"]}`, 204},
	} {
		if got := s.as(admin, r.method, r.path, r.body); got.status != r.status {
			t.Fatalf("%s %s: %d %s", r.method, r.path, got.status, got.body)
		}
	}
	region := c.catalog(t, s)
	for _, verb := range []string{"manage", "provide"} {
		out, err := run(t, c.environment("admin", region, true), "/usr/bin/baremetal", "node", verb,
			"--wait", "60", "n1")
		if err != nil {
			t.Fatalf("%s: %v\n%s", verb, err, out)
		}
	}
	rows, err := store.Open(t.Context(), store.Options{Path: filepath.Join(s.data, "ingot.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n, err := rows.Node(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	script(t, c.environment("nova", region, false), map[string]func(){
		"lock": func() { n, err = rows.Reserve(t.Context(), "n1", "elsewhere") },
		"free": func() { err = rows.Release(t.Context(), n) },
	}, n.UUID, instance, ingot.NewUUID(), ingot.NewUUID())
	if err != nil {
		t.Errorf("lock or free the node: %v", err)
	}
	want := []string{instance + " POWER_OFF", instance + " POWER_ON"}
	testkit.Eventually(t, "Nova is told of power states", func() bool {
		mu.Lock()
		defer mu.Unlock()
		// Of what changes twice meanwhile only the newest is told.
		return len(told) > 0 && told[len(told)-1] == want[1] && !slices.ContainsFunc(told,
			func(one string) bool { return !slices.Contains(want, one) })
	})
}

// script runs testdata/nova.py, which prints words of what is to be done for it, and done at last.
func script(t *testing.T, env []string, do map[string]func(), args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", append([]string{"testdata/nova.py"}, args...)...)
	var problem strings.Builder
	cmd.Env, cmd.Stderr = env, &problem
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var last string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		last = lines.Text()
		if act := do[last]; act != nil {
			act()
			if _, err := io.WriteString(in, "\n"); err != nil {
				t.Errorf("answer %q: %v", last, err)
			}
		}
	}
	if err := cmd.Wait(); err != nil || last != "done" {
		t.Fatalf("nova.py: %v, last said %q\n%s", err, last, &problem)
	}
}
