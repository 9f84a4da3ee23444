package store_test

import (
	"database/sql"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// raw opens the file beside the store.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// schema returns all statements that make the schema of a database, in the order of names.
func schema(t *testing.T, db *sql.DB) string {
	t.Helper()
	rows, err := db.Query(`SELECT sql FROM sqlite_schema
		WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY tbl_name, type DESC, name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		b.WriteString(text + ";\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMigrationsMakeTheSchemaAsItIsWrittenDown(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	openAt(t, path)
	migrated := schema(t, raw(t, path))
	const golden = "testdata/schema.sql"
	if *update {
		if err := os.WriteFile(golden, []byte(migrated), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	fresh := raw(t, filepath.Join(t.TempDir(), "fresh.db"))
	if _, err := fresh.Exec(string(text)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(schema(t, fresh), migrated); diff != "" {
		t.Errorf("schema differs, renew %s with -update (-fresh +migrated):\n%s", golden, diff)
	}
}

func TestOpeningAgainChangesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	s := openAt(t, path)
	create(t, s, newNode(1))
	before, err := s.SchemaVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := openAt(t, path)
	after, err := again.SchemaVersion(t.Context())
	if err != nil || after != before || after == 0 {
		t.Errorf("version %d, %v after %d", after, err, before)
	}
	if _, err := again.Node(t.Context(), uuid(1)); err != nil {
		t.Error(err)
	}
}

func TestProcessesMayStartTogether(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			s, err := store.Open(t.Context(), store.Options{Path: path})
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	all.Wait()
}

func TestANewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	openAt(t, path)
	_, err := raw(t, path).Exec(`INSERT INTO schema_version VALUES (999, 'x', 0)`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(t.Context(), store.Options{Path: path})
	wantKind(t, err, ingot.Conflict)
	if !strings.Contains(err.Error(), "version 999") || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("the error does not say what to do: %v", err)
	}
}
