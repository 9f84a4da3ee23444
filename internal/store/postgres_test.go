package store_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/ingot"
	"ingot/internal/postgres"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// pair opens one store twice, as two conductors do.
func pair(t *testing.T) (a, b *store.Store) {
	t.Helper()
	o := storetest.Options(t)
	return openWith(t, o), openWith(t, o)
}

// Whatever bytes a machine sends, what it says is stored.
func TestTextOfMachinesIsStored(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := newNode(1)
	n.LastError = "BMC said \x00\xff"
	create(t, s, n)
	err := s.ChangeNode(t.Context(), n, []ingot.History{{Severity: ingot.SeverityError, Event: "\x00"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Node(t.Context(), n.UUID); err != nil || got.LastError != "BMC said \uFFFD\uFFFD" {
		t.Errorf("%v, %v", got, err)
	}
	err = s.AppendJournal(t.Context(), []ingot.Entry{{Node: n.UUID, Text: "vendor \x00\xfe",
		Data: ingot.Object{"class": "\x00\xfe"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Node(t.Context(), "no\x00name"); err == nil {
		t.Error("found a node whose name has a zero")
	} else if k := ingot.KindOf(err); k != ingot.NotFound && k != ingot.Invalid {
		t.Errorf("error %v", err)
	}
}

func TestTwoProcessesReserveOneNodeOnce(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	for i := range 20 {
		n := create(t, a, newNode(i))
		var mu sync.Mutex
		var won []string
		var all sync.WaitGroup
		for who, s := range map[string]*store.Store{"a": a, "b": b} {
			all.Go(func() {
				_, err := s.Reserve(t.Context(), n.UUID, who)
				if err != nil && ingot.KindOf(err) != ingot.Locked {
					t.Errorf("%s: %v", who, err)
				}
				if err == nil {
					mu.Lock()
					won = append(won, who)
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if len(won) != 1 {
			t.Errorf("node %d: %v won", i, won)
		}
	}
}

// Who writes a node without holding it does not make it seem held: nobody would let it go.
func TestAWriteInBetweenIsNoReservation(t *testing.T) {
	t.Parallel()
	o := store.Options{URL: storetest.Postgres(t), Connections: 4}
	s := openWith(t, o)
	n := create(t, s, newNode(1))
	db, err := sql.Open("pgx", o.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	var writer int
	if err := tx.QueryRow(`SELECT pg_backend_pid()`).Scan(&writer); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`UPDATE nodes SET generation = generation + 1`); err != nil {
		t.Fatal(err)
	}
	reserved := make(chan error, 1)
	go func() {
		got, err := s.Reserve(t.Context(), n.UUID, "host1")
		if err == nil && (got.Reservation != "host1" || got.Generation != n.Generation+2) {
			err = fmt.Errorf("got %+v", got)
		}
		reserved <- err
	}()
	testkit.Eventually(t, "it has read the row, and waits for the writer", func() bool {
		var waiting int
		err := db.QueryRow(`SELECT COUNT(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))`,
			writer).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
		return waiting == 1
	})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-reserved; err != nil {
		t.Error(err)
	}
}

// Of two processes that give addresses at the same time none gives one twice.
func TestTwoProcessesGiveAnAddressOnce(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	var all sync.WaitGroup
	gave := make([]map[string]string, 2) // address by MAC
	for i, s := range []*store.Store{a, b} {
		gave[i] = map[string]string{}
		all.Go(func() {
			for j := range 40 {
				mac := fmt.Sprintf("52:54:00:00:%02x:%02x", i, j)
				for k := 0; ; k++ { // the first that is free
					l := ingot.Lease{MAC: mac, Address: fmt.Sprintf("10.0.0.%d", k),
						Expires: s.Now().Add(time.Hour)}
					err := s.TakeLeases(t.Context(), []store.LeaseChange{{Lease: l}})[0]
					if err == nil {
						gave[i][l.Address] = mac
						break
					}
					if ingot.KindOf(err) != ingot.Conflict || k > 100 {
						t.Errorf("%s: %v", mac, err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	for address, mac := range gave[0] {
		if other := gave[1][address]; other != "" {
			t.Errorf("%s was given to %s and %s", address, mac, other)
		}
	}
	if n := len(gave[0]) + len(gave[1]); n != 80 {
		t.Errorf("%d addresses for 80 machines", n)
	}
}

// Who follows the journal by Seq misses nothing that another process appends meanwhile.
func TestAFollowerOfTheJournalMissesNothing(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	const each = 100
	var writers sync.WaitGroup
	for _, s := range []*store.Store{a, b, a, b} {
		writers.Go(func() {
			for i := range each {
				if err := s.AppendJournal(t.Context(), make([]ingot.Entry, 1+i%3)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	var seen []int64
	last := func() int64 {
		if len(seen) == 0 {
			return 0
		}
		return seen[len(seen)-1]
	}
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		entries, err := a.Journal(t.Context(), store.JournalQuery{After: last()})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			seen = append(seen, e.Seq)
		}
	}
	all, err := b.Journal(t.Context(), store.JournalQuery{})
	if err != nil || len(all) != len(seen) {
		t.Errorf("followed %d entries of %d, %v", len(seen), len(all), err)
	}
}

// What one process has written the other one's machines boot by, at once.
func TestWhatAnotherProcessWroteIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	o := storetest.Options(t)
	if o.URL == "" {
		// One process serves a file: see package server.
		o.URL, o.Path = storetest.Postgres(t), ""
	}
	a, b := openWith(t, o), openWith(t, o)
	n := create(t, a, newNode(1))
	createPort(t, a, newPort(1, n, macA))
	for i := range 50 {
		if n.LastError = fmt.Sprint(i); a.UpdateNode(t.Context(), n) != nil {
			t.Fatal("update")
		}
		got, _, err := b.Machine(t.Context(), macA)
		if err != nil || got.LastError != n.LastError {
			t.Fatalf("read %v, %v after %s was written", got, err, n.LastError)
		}
	}
}

// runningPostgres runs a server for one test, which may do with it what it likes.
func runningPostgres(t *testing.T) *postgres.Server {
	t.Helper()
	p, err := postgres.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func TestADatabaseThatCannotBeUsedIsExplained(t *testing.T) {
	t.Parallel()
	p := runningPostgres(t)
	newer := storetest.Schema(t, p.URL)
	openWith(t, store.Options{URL: newer})
	db, err := sql.Open("pgx", newer)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO schema_version VALUES (999, 'x', 0);
		UPDATE schema_oldest SET version = 999`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC`); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{`CREATE ROLE ann LOGIN PASSWORD 'right'`,
		`CREATE TABLE hba (line text)`,
		`INSERT INTO hba VALUES ('local all ann scram-sha-256'), ('local all all trust')`,
		`COPY hba TO PROGRAM 'cat > pg_hba.conf'`, `SELECT pg_reload_conf()`} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	ann := strings.Replace(p.URL, "user=postgres", "user=ann&password=secret", 1)
	testkit.Eventually(t, "ann is asked for her password", func() bool {
		s, err := store.Open(t.Context(), store.Options{URL: ann})
		if err == nil {
			s.Close()
		}
		return err != nil && !strings.Contains(err.Error(), "make it the owner")
	})
	for what, c := range map[string]struct{ url, says string }{
		"bad password":          {ann, "check user and password"},
		"no URL":                {"postgres://%", "write postgres://"},
		"no host":               {"postgres://u:secret@no.such.host.invalid/x", "this host reaches it"},
		"other scheme":          {"mysql://u:secret@db.example/x", "write postgres://"},
		"slash in the password": {"postgres://u:secret/x@127.0.0.1:1/x", "%40 for @"},
		"bad port":              {"postgres://u:secret@127.0.0.1:99999/x", "write postgres://"},
		"bad option":            {p.URL + "&sslmod=disable", "after the ? of the URL"},
		"no server":             {"postgres://u:secret@127.0.0.1:1/x", "see to it that PostgreSQL runs"},
		"no database":           {strings.Replace(p.URL, "/postgres?", "/none?", 1), "createdb"},
		"no user":               {strings.Replace(p.URL, "user=postgres", "user=nobody", 1), "pg_hba.conf"},
		"no right":              {strings.Replace(p.URL, "user=postgres", "user=guest", 1), "make it the owner"},
		"newer":                 {newer, "newer program"},
	} {
		s, err := store.Open(t.Context(), store.Options{URL: c.url})
		if err == nil {
			s.Close()
			t.Errorf("%s: opened", what)
			continue
		}
		if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %q does not say %q, or tells the password", what, err, c.says)
		}
		if k := ingot.KindOf(err); k == "" || k == ingot.Internal {
			t.Errorf("%s: kind %q", what, k)
		}
	}
}

// A server that is silent is waited for so long and no longer, and who waits is told.
func TestASilentServerIsGivenUp(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var log bytes.Buffer
	_, err = store.Open(t.Context(), store.Options{
		URL: "postgres://u:secret@" + l.Addr().String() + "/x?connect_timeout=3",
		Log: slog.New(slog.NewTextHandler(&log, nil))})
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "no answer within 3s") {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(log.String(), "PostgreSQL does not answer yet") ||
		strings.Contains(log.String()+err.Error(), "secret") {
		t.Errorf("error %v, log\n%s", err, &log)
	}
}

// A server that is restarted, or ends connections, costs nobody a call.
func TestConnectionsThatEndAreMadeAgain(t *testing.T) {
	t.Parallel()
	p := runningPostgres(t)
	s := openWith(t, store.Options{URL: p.URL})
	n := create(t, s, newNode(1))
	port := &ingot.Port{UUID: uuid(50), NodeID: n.ID, Address: macA}
	if err := s.CreatePort(t.Context(), port); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var calls errgroup.Group // so that there are some connections
		for range 20 {
			calls.Go(func() error {
				_, err := s.Node(t.Context(), n.UUID)
				return err
			})
		}
		if err := errors.Join(calls.Wait(), p.Restart()); err != nil {
			t.Fatal(err)
		}
		n.LastError += "x"
		if err := s.UpdateNode(t.Context(), n); err != nil {
			t.Error(err)
		}
		if got, _, err := s.Machine(t.Context(), macA); err != nil || got.LastError != n.LastError {
			t.Errorf("%+v, %v", got, err)
		}
	}
	p.Stop()
	err := s.Ping(t.Context())
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "try again") ||
		!store.Unreachable(err) {
		t.Errorf("without a server: %v", err)
	}
}

// A read whose connection ends in the middle is done again on another one, but not for ever.
func TestAReadSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	s := openWith(t, store.Options{URL: storetest.Postgres(t), Connections: 4})
	for _, loses := range []int{1, 3, 100} {
		times := 0
		err := store.Ask(t.Context(), s, func(time int) string {
			if times = time; time <= loses {
				return "SELECT pg_terminate_backend(pg_backend_pid())"
			}
			return "SELECT 1"
		})
		if loses < 4 && (err != nil || times != loses+1) ||
			loses == 100 && (ingot.KindOf(err) != ingot.Unavailable || times > 10) {
			t.Errorf("%d connections lost: asked %d times, error %v", loses, times, err)
		}
	}
}

// A host that dies, or stands still, in the middle of a transaction keeps nobody from the journal.
func TestLocksOfTheDeadAreGivenUp(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	o := store.Options{URL: storetest.Postgres(t), ConductorLease: time.Second}
	a, b := openWith(t, o), openWith(t, o)
	held, still, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() { ended <- store.HoldJournal(t.Context(), a, held, still) }()
	<-held
	testkit.Eventually(t, "the journal is held, and given up", func() bool {
		return b.AppendJournal(t.Context(), []ingot.Entry{{Node: "n", Text: "x"}}) == nil
	})
	close(still)
	if err := <-ended; err != nil && ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("who held it: %v", err) // if nothing was committed it is done again
	}
}

// The time is that of the database, not of this host.
func TestTheClockIsThatOfTheDatabase(t *testing.T) {
	t.Parallel()
	server := storetest.Postgres(t)
	s := openWith(t, store.Options{URL: server})
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var before, after time.Time
	if err := db.QueryRow(`SELECT clock_timestamp()`).Scan(&before); err != nil {
		t.Fatal(err)
	}
	now := s.Now()
	if err := db.QueryRow(`SELECT clock_timestamp()`).Scan(&after); err != nil {
		t.Fatal(err)
	}
	// The clock was read by asking, so it is as exact as the answer was quick.
	const quick = 5 * time.Second
	if now.Before(before.Add(-quick)) || now.After(after.Add(quick)) {
		t.Errorf("the store has %s, the database %s to %s", now, before, after)
	}
}
