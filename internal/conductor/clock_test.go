package conductor_test

import (
	"database/sql"
	"fmt"
	"net/url"
	"regexp"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

// ahead makes a database whose clock is ahead of that of this host.
func ahead(t *testing.T, by time.Duration) string {
	t.Helper()
	schema := storetest.Postgres(t)
	db, err := sql.Open("pgx", schema)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), fmt.Sprintf(`CREATE FUNCTION clock_timestamp()
		RETURNS timestamptz LANGUAGE sql
		AS $$ SELECT pg_catalog.clock_timestamp() + interval '%d seconds' $$`,
		int(by.Seconds()))); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(schema)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	// Named, the catalog is searched where it stands and not first.
	q.Set("search_path", q.Get("search_path")+",pg_catalog")
	u.RawQuery = q.Encode()
	return u.String()
}

// secondsAgo is not hours.
var secondsAgo = regexp.MustCompile(`The machine was last seen \d{1,2}s ago`)

// What several conductors compare is by the clock of the database. A host whose own is hours behind
// it, or ahead, boots machines again in time, fails those that are silent in time and no others, and
// says when things happened.
func TestAHostWithAWrongClockKeepsTheTimesOfAll(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{5 * time.Hour, -5 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var err error
			w.store, err = store.Open(t.Context(), store.Options{URL: ahead(t, by)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { w.store.Close() })
			off := time.Until(w.store.Now())
			if (off - by).Abs() > 10*time.Minute {
				t.Fatalf("the store is ahead by %s", off)
			}
			w.o.Store = w.store
			x := w.metal()
			x.o.BootRetryTimeout, x.o.CheckInterval = 50*time.Millisecond, 20*time.Millisecond
			x.o.CallbackTimeout = time.Hour
			x.silent()
			c, _ := x.start()
			x.provision(c, "n1", "deploy")
			n := x.until("n1", "third boot", func(n *ingot.Node) bool {
				return n.ProvisionState == "wait call-back" && n.Reservation == "" &&
					n.Attempt.Boots == 3
			})
			for what, at := range map[string]time.Time{"the boot": n.Attempt.BootedAt,
				"the state": *n.ProvisionUpdatedAt, "the deadline": n.WaitUntil.Add(-time.Hour)} {
				if age := w.store.Now().Sub(at); age < 0 || age > 10*time.Minute {
					t.Errorf("%s is of %s ago", what, age)
				}
			}
			if j := x.journal("n1"); !secondsAgo.MatchString(j) {
				t.Error(j)
			}
			soon := w.store.Now().Add(100 * time.Millisecond)
			w.change("n1", func(n *ingot.Node) { n.WaitUntil = &soon })
			x.failed("Timeout reached while waiting for callback")
		})
	}
}
