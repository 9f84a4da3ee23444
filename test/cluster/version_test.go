package cluster

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/ring"
	"ingot/internal/testkit"
)

// newer is this program with one more migration, as the next version may have.
func newer(t *testing.T) string {
	t.Helper()
	known, err := filepath.Glob("../../internal/store/migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("internal/store/migrations/%04d_future.sql", len(known)+1)
	return testkit.Build(t, map[string]string{name: `
		ALTER TABLE nodes ADD COLUMN future BIGINT NOT NULL DEFAULT 7;
		ALTER TABLE conductors ADD COLUMN future TEXT NOT NULL DEFAULT '{}';
		ALTER TABLE journal ADD COLUMN future TEXT;
		CREATE TABLE futures (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);`})
}

// A cluster is brought to a newer version one server after the other: the older one runs on while the
// newer one migrates the database, may be started again, and takes over from the newer one.
func TestAnOlderConductorWorksBesideANewerOne(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	old, fresh := testkit.Build(t, nil), newer(t)
	r1 := s.serve(old, "r1")
	names := []string{"one", "two", "three", "four"}
	for _, name := range names {
		r1.ingot("node", "create", name, "--driver", "fake-hardware")
	}
	// Whose a node is going to be is by its UUID, which is by chance: each shall have one.
	owner := func(name string) string {
		return ring.Owner(ring.Bucket(r1.node(name).UUID), []string{"r1", "r2"})
	}
	for i, want := range []string{"r1", "r2"} {
		for owner(names[i]) != want {
			r1.ingot("node", "delete", names[i])
			r1.ingot("node", "create", names[i], "--driver", "fake-hardware")
		}
	}
	r2 := s.serve(fresh, "r2")
	if !strings.Contains(r2.log.String(), "schema migrated") {
		t.Fatalf("the newer one has nothing to migrate:\n%s", r2.log)
	}
	testkit.Eventually(t, "both share the nodes", func() bool {
		owners := map[string]bool{}
		for _, name := range names {
			owners[r1.node(name).Conductor] = true
		}
		return len(owners) == 2
	})
	for i, name := range names { // each at each other's door
		asked := []*process{r1, r2}[i%2]
		asked.ingot("node", "deploy", name)
		if n := r2.node(name); n.State != "active" {
			t.Errorf("%+v", n)
		}
		asked.ingot("node", "power", name, "reboot")
	}
	r1.restart(old)
	if !strings.Contains(r1.log.String(), "the schema is newer than this program, and allows it") {
		t.Errorf("it does not say so:\n%s", r1.log)
	}
	r2.kill()
	testkit.Eventually(t, "the older one owns all", func() bool {
		for _, name := range names {
			if r1.node(name).Conductor != "r1" {
				return false
			}
		}
		return true
	})
	for _, name := range names {
		r1.ingot("node", "undeploy", name)
	}
	r1.restart(fresh) // and now it is its turn
	for _, name := range names {
		if n := r1.node(name); n.State != "available" || n.LastError != "" {
			t.Errorf("%+v", n)
		}
	}
	if strings.Contains(r1.log.String()+r2.log.String(), "level=ERROR") {
		t.Errorf("errors:\n%s\n%s", r1.log, r2.log)
	}
}
