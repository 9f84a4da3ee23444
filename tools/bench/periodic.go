package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/postgres"
	"ingot/internal/store"
)

const (
	// periodicSettle is until all jobs have run once and wait, periodicWindow what is measured then:
	// one pass of power sync.
	periodicSettle = 15 * time.Second
	periodicWindow = 30 * time.Second
)

var periodicSizes = []int{100, 10_000, 100_000}

// measurePeriodic measures what a conductor does without being asked.
func measurePeriodic(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: "Periodic work of one conductor",
		How: fmt.Sprintf(`%s of bin/ingot serve, %s after its start, with all nodes active on fake hardware. With
PostgreSQL of Debian (fsync on) it is one of three; the two others are rows that this program
renews, so a third of the nodes is its own. With SQLite it is alone and all are. Checks: deadlines,
boots that are due again, abandoned work, what the dead left, the line, power that shall be off,
boot files, heartbeats, each as often as by default. Power sync: what the same takes in addition
with one pass over the power states; its default is a minute. CPU is that of ingot, user and
system, and of all PostgreSQL; rows are those of the table of nodes that PostgreSQL read, by any
plan, and scans those of the whole table. Yardstick: the same with %d nodes.
`, periodicWindow, periodicSettle, periodicSizes[0]),
	}
	var base []figure
	for _, size := range periodicSizes {
		fmt.Fprintf(b.progress, "  %d nodes\n", size)
		figures, err := b.periodic(ctx, size)
		if err != nil {
			return s, fmt.Errorf("%d nodes: %w", size, err)
		}
		if base == nil {
			base = figures
		}
		for i, f := range figures {
			f.What, f.N = fmt.Sprintf("%d nodes, %s", size, f.What), 1
			if base[i].Value > 0 && size != periodicSizes[0] {
				f.Yardstick, f.Beside = base[i].Value, fmt.Sprintf("%d nodes", periodicSizes[0])
			}
			s.Figures = append(s.Figures, f)
		}
	}
	return s, nil
}

// spent is what was taken so far.
type spent struct {
	alone, one, database time.Duration // processor time with SQLite, with PostgreSQL, of that
	rows, scans          int64
}

func (s spent) less(t spent) spent {
	return spent{s.alone - t.alone, s.one - t.one, s.database - t.database, s.rows - t.rows,
		s.scans - t.scans}
}

// periodic measures with a fleet of a size.
func (b *bench) periodic(ctx context.Context, size int) (figures []figure, err error) {
	dir := filepath.Join(b.temp, fmt.Sprintf("periodic-%d", size))
	if err := makeFleet(ctx, dir, size, activeNode()); err != nil {
		return nil, err
	}
	p, err := postgres.Start("fsync=on")
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	if err := copyFleet(ctx, filepath.Join(dir, "ingot.db"), p.URL); err != nil {
		return nil, err
	}
	db, err := sql.Open("pgx", p.URL)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "ANALYZE"); err != nil {
		return nil, err
	}
	var checks, all spent
	if checks, err = b.window(ctx, dir, p.URL, db, "0s"); err != nil {
		return nil, err
	}
	if all, err = b.window(ctx, dir, p.URL, db, periodicWindow.String()); err != nil {
		return nil, err
	}
	power := all.less(checks)
	for _, part := range []struct {
		name string
		took spent
	}{{"checks", checks}, {"power sync", power}} {
		figures = append(figures,
			figure{What: part.name + ", one of three", Unit: "ms", Value: ms(part.took.one)},
			figure{What: part.name + ", its PostgreSQL", Unit: "ms", Value: ms(part.took.database)},
			figure{What: part.name + ", rows", Value: float64(part.took.rows)},
			figure{What: part.name + ", scans", Value: float64(part.took.scans)},
			figure{What: part.name + ", alone, SQLite", Unit: "ms", Value: ms(part.took.alone)})
	}
	return figures, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// window runs both servers and returns what they take.
func (b *bench) window(ctx context.Context, dir, url string, db *sql.DB, sync string) (took spent,
	err error) {
	others, err := renew(ctx, url)
	if err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, others()) }()
	power := "INGOT_CONDUCTOR_SYNC_POWER_STATE_INTERVAL=" + sync
	alone, err := b.startIngot(ctx, dir, power)
	if err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, alone.stop()) }()
	one, err := b.startIngot(ctx, dir, power, "INGOT_STORE_URL="+url,
		"INGOT_CLUSTER_LISTEN=127.0.0.1:0", "INGOT_CONDUCTOR_HOST=one",
		"INGOT_CONDUCTOR_ENABLED_HARDWARE_TYPES=fake-hardware")
	if err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, one.stop()) }()
	var at [2]spent
	for i, wait := range []time.Duration{periodicSettle, periodicWindow} {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return took, ctx.Err()
		}
		if at[i], err = look(ctx, alone.pid, one.pid, db); err != nil {
			return took, err
		}
	}
	return at[1].less(at[0]), nil
}

// look reads the clocks.
func look(ctx context.Context, alone, one int, db *sql.DB) (s spent, err error) {
	if s.alone, err = cpuClock(alone); err != nil {
		return s, err
	}
	if s.one, err = cpuClock(one); err != nil {
		return s, err
	}
	rows, err := db.QueryContext(ctx, "SELECT pid FROM pg_stat_activity")
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return s, err
		}
		if took, err := cpuClock(pid); err == nil { // it may have ended
			s.database += took
		}
	}
	if err := rows.Err(); err != nil {
		return s, err
	}
	return s, db.QueryRowContext(ctx, `SELECT seq_tup_read + idx_tup_fetch, seq_scan
		FROM pg_stat_user_tables WHERE relname = 'nodes'`).Scan(&s.rows, &s.scans)
}

// renew keeps two more conductors alive until stop is called.
func renew(ctx context.Context, url string) (stop func() error, err error) {
	st, err := store.Open(ctx, store.Options{URL: url, Connections: 2})
	if err != nil {
		return nil, err
	}
	beat := func() error {
		var errs error
		for _, name := range []string{"two", "three"} {
			errs = errors.Join(errs, st.Heartbeat(ctx, ingot.Conductor{Hostname: name, Incarnation: name,
				Drivers: []ingot.Driver{{Name: "fake-hardware"}}}))
		}
		return errs
	}
	if err := beat(); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(3 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				ended <- nil
				return
			case <-tick.C:
				if err := beat(); err != nil {
					ended <- err
					return
				}
			}
		}
	}()
	return func() error {
		close(done)
		return errors.Join(<-ended, st.Close())
	}, nil
}
