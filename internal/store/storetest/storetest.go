// Package storetest gives tests an empty store in the engine under test: SQLite, or PostgreSQL in
// a second run of the same tests. Nothing but tests imports it.
package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"

	"ingot/internal/postgres"
	"ingot/internal/store"
)

// serverEnv names the PostgreSQL server of a run on that engine.
const serverEnv = "INGOT_TEST_POSTGRES"

// Main runs the tests of a package on SQLite, and again on a PostgreSQL server that it starts, in
// another process with the same arguments. It returns the exit code.
func Main(m *testing.M) int {
	defer stop()
	code := m.Run()
	if os.Getenv(serverEnv) != "" || code != 0 {
		return code
	}
	server, err := shared()
	if err != nil {
		fmt.Fprintln(os.Stderr, "start PostgreSQL:", err)
		return 1
	}
	again := exec.Command(os.Args[0], os.Args[1:]...)
	again.Env = append(os.Environ(), serverEnv+"="+server)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	fmt.Println("on PostgreSQL:")
	var exit *exec.ExitError
	switch err := again.Run(); {
	case errors.As(err, &exit):
		return exit.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Run runs the tests of a package as they are, and ends the server that Postgres has started. It
// returns the exit code.
func Run(m *testing.M) int {
	defer stop()
	return m.Run()
}

var (
	running *postgres.Server
	shared  = sync.OnceValues(func() (_ string, err error) {
		if server := os.Getenv(serverEnv); server != "" {
			return server, nil
		}
		if running, err = postgres.Start(); err != nil {
			return "", err
		}
		return running.URL, nil
	})
)

func stop() {
	if running != nil {
		running.Stop()
	}
}

// Postgres is a schema of its own in the PostgreSQL server that all tests of the package share,
// whichever the engine under test. The package's TestMain has to be Main or Run.
func Postgres(t testing.TB) string {
	t.Helper()
	server, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return Schema(t, server)
}

// Options are those of an empty store of the engine under test. With PostgreSQL it is a schema of
// its own, which ends with the server.
func Options(t testing.TB) store.Options {
	t.Helper()
	server := os.Getenv(serverEnv)
	if server == "" {
		return store.Options{Path: filepath.Join(t.TempDir(), "ingot.db")}
	}
	return store.Options{URL: Schema(t, server), Connections: 8}
}

// Schema makes a new schema of a server and returns the URL whose tables are in it.
func Schema(t testing.TB, server string) string {
	t.Helper()
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	name := "t" + strings.ToLower(strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, t.TempDir()))
	if _, err := db.ExecContext(context.Background(), "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}

// ReleaseAll ends all reservations of owner, as who finds it dead does, and returns how many there
// were.
func ReleaseAll(ctx context.Context, s *store.Store, owner string) (int, error) {
	left, err := s.Nodes(ctx, store.NodeFilter{ReservedBy: owner}, store.Page{})
	if err != nil {
		return 0, err
	}
	for _, n := range left {
		if err := s.Release(ctx, n); err != nil {
			return 0, err
		}
	}
	return len(left), nil
}
