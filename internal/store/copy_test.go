package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

// fill puts rows with something in every column into all tables, more than one batch of entries,
// and takes the last row of each table that counts away again.
func fill(t *testing.T, s *store.Store) {
	t.Helper()
	ctx := t.Context()
	n := create(t, s, fullNode())
	if _, err := s.Reserve(ctx, n.UUID, "host1"); err != nil {
		t.Fatal(err)
	}
	n, err := s.Node(ctx, n.UUID)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		err := s.ChangeNode(ctx, n, []ingot.History{{Severity: ingot.SeverityError, Type: "power",
			Event: fmt.Sprintf("event %d \x00", i), Conductor: "host1"}},
			[]ingot.Entry{{Time: s.Now(), Node: n.UUID, Text: "waits", Data: ingot.Object{"i": i}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	err = s.CreatePort(ctx, &ingot.Port{UUID: uuid(50), NodeID: n.ID, Address: "52:54:00:00:00:01",
		Name: "p", PXEEnabled: true, PhysicalNetwork: "net", IsSmartNIC: true,
		LocalLinkConnection: ingot.Object{"port_id": "é"}, Extra: ingot.Object{"a": 1},
		InternalInfo: ingot.Object{"b": nil}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SaveBIOS(ctx, n, []ingot.BIOSSetting{{Name: "a", Value: 1.0}}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveInventory(ctx, n, ingot.Inventory{Disks: []ingot.InventoryDisk{{Name: "sda", Size: 1 << 40}}}); err != nil {
		t.Fatal(err)
	}
	create(t, s, newNode(2)) // with NULLs
	var entries []ingot.Entry
	for i := range 1200 {
		entries = append(entries, ingot.Entry{Time: s.Now(), Node: n.UUID, MAC: "52:54:00:00:00:01",
			Attempt: "a", Source: "power", Level: ingot.LevelWarning, Text: fmt.Sprint("entry ", i),
			Data: ingot.Object{"i": i}})
	}
	last := create(t, s, newNode(3))
	change(t, s, last, s.Now(), "goes")
	entries = append(entries, ingot.Entry{Time: s.Now(), Node: last.UUID, Text: "goes"})
	if err := s.AppendJournal(ctx, entries); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteNode(ctx, last); err != nil {
		t.Fatal(err)
	}
	for _, err := range s.TakeLeases(ctx, []store.LeaseChange{{Lease: ingot.Lease{
		MAC: "52:54:00:00:00:01", Address: "10.0.0.9", Expires: s.Now().Add(time.Hour)}}}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.WantBootFile(ctx, "http://h/vmlinuz"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Setting(ctx, "cluster_key", "0123"); err != nil {
		t.Fatal(err)
	}
}

// dump is all that a file holds, table by table, but for who serves and locks it, and when its schema was made.
func dump(t *testing.T, path string) map[string][]string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows := map[string][]string{}
	for _, name := range cells(t, db, `SELECT name FROM sqlite_master WHERE type = 'table'
		AND name NOT IN ('conductors', 'locks', 'schema_version')`) {
		columns := cells(t, db, `SELECT name FROM pragma_table_info('`+name+`')`)
		for i, c := range columns {
			columns[i] = "quote(" + c + ")"
		}
		where := ""
		if name == "sqlite_sequence" {
			where = " WHERE name <> 'conductors'"
		}
		rows[name] = cells(t, db, "SELECT "+strings.Join(columns, "|| ' ' ||")+" FROM "+name+where+
			" ORDER BY 1")
		if len(rows[name]) == 0 {
			t.Errorf("the test has no row in table %s", name)
		}
	}
	return rows
}

func cells(t *testing.T, db *sql.DB, query string) (all []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestACopyHasAllRowsAndGoesOn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	before := filepath.Join(t.TempDir(), "before.db")
	from := openAt(t, before)
	fill(t, from)
	if err := from.Heartbeat(ctx, ingot.Conductor{Hostname: "host1"}); err != nil {
		t.Fatal(err) // a file's conductors say nothing: its lock does
	}
	o := storetest.Options(t)
	to := openWith(t, o)
	told := map[string]int64{}
	err := store.Copy(ctx, from, to, func(table string, done, total int64) {
		if done > total {
			t.Errorf("%s: %d of %d", table, done, total)
		}
		told[table] = done
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"nodes": 2, "ports": 1, "node_history": 3, "leases": 1, "journal": 1200,
		"journal_pending": 3, "boot_files": 1, "inventories": 1, "bios_settings": 1, "settings": 1}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("progress: %s", d)
	}

	after := filepath.Join(t.TempDir(), "after.db")
	back := openAt(t, after)
	if err := store.Copy(ctx, to, back, nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(dump(t, before), dump(t, after)); d != "" {
		t.Errorf("after a copy there and back: %s", d)
	}
	if list, err := to.Conductors(ctx, store.Page{}); err != nil || len(list) > 0 {
		t.Errorf("conductors were copied: %v, %v", list, err)
	}

	// What the copies give next is what the source would have given.
	for _, s := range []*store.Store{openWith(t, o), openAt(t, after)} {
		n, err := s.Node(ctx, uuid(1))
		if err != nil || n.Reservation != "host1" || n.Steps[0].Name != "deploy" {
			t.Fatalf("node %+v, %v", n, err)
		}
		n.Description = "new"
		if err := s.ChangeNode(ctx, n, []ingot.History{{Severity: ingot.SeverityInfo, Event: "e"}}, nil); err != nil {
			t.Error(err)
		}
		if n := create(t, s, newNode(4)); n.ID != 4 {
			t.Errorf("the new node has number %d, want 4: 3 was given", n.ID)
		}
		e := []ingot.Entry{{Time: s.Now(), Node: n.UUID, Text: "next"}}
		if err := s.AppendJournal(ctx, e); err != nil || e[0].Seq != 1202 {
			t.Errorf("the next entry has number %d, %v, want 1202", e[0].Seq, err)
		}
		list, err := s.History(ctx, n.ID, store.Page{})
		if err != nil || len(list) != 4 || list[3].ID != 4 {
			t.Errorf("history %v, %v", list, err)
		}
	}
}

func TestACopyGoesIntoAnEmptyStoreOnlyAndLeavesItSoWhenItFails(t *testing.T) {
	t.Parallel()
	from, to := openAt(t, filepath.Join(t.TempDir(), "from.db")), open(t)
	fill(t, from)
	ctx, cancel := context.WithCancel(t.Context())
	err := store.Copy(ctx, from, to, func(table string, _, _ int64) {
		if table == "journal" {
			cancel() // the operator has enough
		}
	})
	if err == nil {
		t.Fatal("a cancelled copy was made")
	}
	if list, err := to.Nodes(t.Context(), store.NodeFilter{}, store.Page{}); err != nil || len(list) > 0 {
		t.Errorf("a copy that failed left %d nodes, %v", len(list), err)
	}
	if err := store.Copy(t.Context(), from, to, nil); err != nil {
		t.Fatalf("again: %v", err)
	}
	wantKind(t, store.Copy(t.Context(), from, to, nil), ingot.Conflict, "the target is not empty, "+
		"nodes has 2 rows: name a new file, or a database made by createdb")
}

func TestADatabaseThatIsServedIsNotCopied(t *testing.T) {
	t.Parallel()
	s, file := open(t), openAt(t, filepath.Join(t.TempDir(), "file.db"))
	if !s.Shared() {
		return // whoever serves a file holds its lock; see the test of ingot db copy
	}
	if err := s.Heartbeat(t.Context(), ingot.Conductor{Hostname: "alive"}); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]*store.Store{{s, file}, {file, s}} {
		err := store.Copy(t.Context(), pair[0], pair[1], nil)
		wantKind(t, err, ingot.Conflict)
		if !strings.Contains(fmt.Sprint(err), "conductor alive works on the ") {
			t.Errorf("error %v", err)
		}
	}
	if err := s.RemoveConductor(t.Context(), "alive"); err != nil {
		t.Fatal(err)
	}
	// One that starts during the copy waits until it is over.
	fill(t, file)
	started := make(chan error, 1)
	err := store.Copy(t.Context(), file, s, func(table string, _, _ int64) {
		if table != "nodes" {
			return
		}
		go func() { started <- s.Heartbeat(t.Context(), ingot.Conductor{Hostname: "late"}) }()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if err := store.Copy(t.Context(), s, file, nil); ingot.KindOf(err) != ingot.Conflict {
		t.Errorf("error %v", err)
	}
}
