package store_test

import (
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
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
	_, err := raw(t, path).Exec(`INSERT INTO schema_version VALUES (999, 'x', 0);
		UPDATE schema_oldest SET version = 999`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(t.Context(), store.Options{Path: path})
	wantKind(t, err, ingot.Conflict)
	if !strings.Contains(err.Error(), "version 999") || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("the error does not say what to do: %v", err)
	}
}

// additive are the statements that a program which does not know them can live with. A column that
// it leaves out has to get a value by itself; a unique index on an old table would refuse its rows.
var additive = []*regexp.Regexp{
	regexp.MustCompile(`^CREATE TABLE \w+ \(`),
	regexp.MustCompile(`^CREATE (UNIQUE )?INDEX \w+ ON \w+ \(`),
	regexp.MustCompile(`^DROP INDEX \w+$`),
	regexp.MustCompile(`^ALTER TABLE \w+ ADD COLUMN \w+ \w+( NOT NULL DEFAULT \S+)?$`),
	regexp.MustCompile(`^INSERT INTO \w+ \(`),
}

// statements are those of a migration, without comments, each on one line.
func statements(text string) (all []string) {
	text = regexp.MustCompile(`--[^\n]*`).ReplaceAllString(text, "")
	for s := range strings.SplitSeq(text, ";") {
		if s = strings.Join(strings.Fields(s), " "); s != "" {
			all = append(all, s)
		}
	}
	return all
}

// destructive returns the statements with which an older program cannot live.
func destructive(text string) (bad []string) {
	created := map[string]bool{}
	for _, s := range statements(text) {
		words := strings.Fields(strings.ReplaceAll(s, "(", " ("))
		if strings.HasPrefix(s, "CREATE TABLE ") {
			created[words[2]] = true
		}
		ok := slices.ContainsFunc(additive, func(r *regexp.Regexp) bool { return r.MatchString(s) })
		if strings.HasPrefix(s, "CREATE UNIQUE INDEX ") && !created[words[5]] {
			ok = false
		}
		if !ok {
			bad = append(bad, s)
		}
	}
	return bad
}

// An older program that runs beside a newer one, or starts after it, goes on: migrations add only, or
// say that no older program may run.
func TestMigrationsOnlyAdd(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("migrations/*.sql")
	if err != nil || len(names) < 7 {
		t.Fatal(names, err)
	}
	for i, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bad := destructive(string(text)); len(bad) > 0 && store.OldestSchema < i+1 {
			t.Errorf("%s does more than add, and oldestSchema is %d: %q", name, store.OldestSchema, bad)
		}
	}
	for _, text := range []string{"DROP TABLE nodes", "ALTER TABLE nodes DROP COLUMN x",
		"ALTER TABLE nodes RENAME COLUMN x TO y", "ALTER TABLE nodes ADD COLUMN x TEXT NOT NULL",
		"ALTER TABLE nodes ADD COLUMN x TEXT UNIQUE", "UPDATE nodes SET name = ''", "DELETE FROM nodes",
		"CREATE UNIQUE INDEX x ON nodes (owner)", "ALTER TABLE nodes ALTER COLUMN x TYPE TEXT",
		"CREATE TRIGGER x AFTER INSERT ON nodes BEGIN SELECT 1"} {
		if len(destructive(text)) == 0 {
			t.Errorf("taken for harmless: %s", text)
		}
	}
	if store.OldestSchema > len(names) {
		t.Errorf("oldestSchema is %d of %d", store.OldestSchema, len(names))
	}
}

// future is what a later version may do to the schema; this program is the older one then.
const future = `
	ALTER TABLE nodes ADD COLUMN future TEXT;
	ALTER TABLE nodes ADD COLUMN later BIGINT NOT NULL DEFAULT 7;
	ALTER TABLE ports ADD COLUMN later TEXT NOT NULL DEFAULT 'x';
	ALTER TABLE conductors ADD COLUMN later TEXT NOT NULL DEFAULT '{}';
	ALTER TABLE leases ADD COLUMN later TEXT;
	ALTER TABLE journal ADD COLUMN later TEXT;
	ALTER TABLE node_history ADD COLUMN later BIGINT NOT NULL DEFAULT 0;
	ALTER TABLE boot_files ADD COLUMN later TEXT NOT NULL DEFAULT '';
	ALTER TABLE settings ADD COLUMN later TEXT;
	CREATE TABLE futures (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
	CREATE INDEX nodes_later ON nodes (later, id);
	INSERT INTO schema_version (version, name, applied_at) VALUES (%d, 'future', 0);
	UPDATE schema_oldest SET version = %d`

// beside opens the database of a store by SQL.
func beside(t *testing.T, o store.Options) *sql.DB {
	t.Helper()
	if o.URL == "" {
		return raw(t, o.Path)
	}
	db, err := sql.Open("pgx", o.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// A program goes on when a newer one migrates the schema beside it, and starts on that schema if it
// allows that; if it does not it is refused with words, while one that runs goes on.
func TestAnOlderProgramWorksWithANewerSchema(t *testing.T) {
	t.Parallel()
	o := storetest.Options(t)
	s := openWith(t, o)
	known, err := s.SchemaVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := create(t, s, newNode(1))
	work := func(s *store.Store, i int) {
		t.Helper()
		n, err := s.Node(t.Context(), n.UUID)
		if err == nil {
			n.LastError = fmt.Sprint(i)
			err = s.ChangeNode(t.Context(), n, []ingot.History{{Severity: ingot.SeverityError, Event: "x"}}, nil)
		}
		if err == nil {
			n, err = s.Reserve(t.Context(), n.UUID, "old")
		}
		if err == nil {
			err = s.Release(t.Context(), n)
		}
		if err == nil {
			mac := fmt.Sprintf("52:54:00:00:00:%02x", i)
			m := create(t, s, newNode(i))
			createPort(t, s, newPort(i, m, mac))
			_, err = s.Client(t.Context(), mac)
		}
		if err == nil {
			err = s.Heartbeat(t.Context(), ingot.Conductor{Hostname: fmt.Sprint("old", i)})
		}
		if err == nil {
			err = s.AppendJournal(t.Context(), []ingot.Entry{{Node: n.UUID, Text: "x"}})
		}
		if err == nil {
			err = s.TakeLeases(t.Context(), []store.LeaseChange{{Lease: ingot.Lease{Address: fmt.Sprint(i),
				MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), Expires: s.Now()}}})[0]
		}
		if err == nil {
			_, err = s.KeepBootFile(t.Context(), store.BootFile{Source: fmt.Sprint("http://x/", i),
				File: ingot.File{SHA256: strings.Repeat("a", 64), Name: "x", Size: 1}})
		}
		if err == nil {
			_, err = s.Setting(t.Context(), fmt.Sprint("s", i), "v")
		}
		if err != nil {
			t.Errorf("work %d: %v", i, err)
		}
	}
	work(s, 10)
	db := beside(t, o)
	if _, err := db.Exec(fmt.Sprintf(future, known+1, known)); err != nil {
		t.Fatal(err)
	}
	var later int
	if err := db.QueryRow(`SELECT later FROM nodes WHERE uuid = '` + n.UUID + `'`).Scan(&later); err != nil ||
		later != 7 {
		t.Fatal(later, err)
	}
	work(s, 11) // it has run before
	again := openWith(t, o)
	work(again, 12)
	target := openWith(t, storetest.Options(t))
	for _, err := range []error{store.Copy(t.Context(), again, target, nil),
		store.Copy(t.Context(), target, again, nil)} {
		if ingot.KindOf(err) != ingot.Conflict || !strings.Contains(err.Error(), "the newer program") {
			t.Errorf("a copy that leaves out columns: %v", err)
		}
	}

	if _, err := db.Exec(fmt.Sprint(`UPDATE schema_oldest SET version = `, known+1)); err != nil {
		t.Fatal(err)
	}
	work(s, 13)
	late, err := store.Open(t.Context(), o)
	if err == nil {
		late.Close()
	}
	if ingot.KindOf(err) != ingot.Conflict || !strings.Contains(err.Error(), "run the newer program") {
		t.Errorf("where no older program may start: %v", err)
	}
}
