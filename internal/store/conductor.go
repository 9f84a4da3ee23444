package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"ingot/internal/ingot"
)

var conductors = table[ingot.Conductor]{name: "conductors", label: "Conductor", key: "hostname",
	columns: []column[conductor]{
		{name: "id", use: given | sortable, at: func(c *conductor) any { return &c.ID }},
		{name: "hostname", use: sortable, at: func(c *conductor) any { return &c.Hostname }},
		{name: "conductor_group", use: sortable, at: func(c *conductor) any { return &c.Group }},
		{name: "drivers", at: func(c *conductor) any {
			return document[[]ingot.Driver]{&c.Drivers, "[]"}
		}},
		{name: "created_at", use: sortable, at: func(c *conductor) any {
			return moment{&c.CreatedAt}
		}},
		{name: "updated_at", use: optional, at: func(c *conductor) any {
			return maybe{&c.UpdatedAt}
		}},
	}}

// conductor shortens the list of columns.
type conductor = ingot.Conductor

// Heartbeat records that the conductor lives and what it can do; the host name is its key. ID,
// Alive and the times of c are ignored: the store has its own clock.
func (s *Store) Heartbeat(ctx context.Context, c ingot.Conductor) error {
	if c.Hostname == "" {
		return ingot.Errorf(ingot.Invalid, "a conductor needs a host name")
	}
	if err := s.readClock(ctx); err != nil {
		return err
	}
	return s.writeBeside(ctx, "record heartbeat of "+c.Hostname, func(tx *tx) error {
		_, err := tx.ExecContext(ctx, `
			INSERT INTO conductors (hostname, conductor_group, drivers, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $4)
			ON CONFLICT (hostname) DO UPDATE SET conductor_group = excluded.conductor_group,
				drivers = excluded.drivers, updated_at = excluded.updated_at`,
			c.Hostname, c.Group, document[[]ingot.Driver]{&c.Drivers, "[]"}, tx.now.UnixMicro())
		return err
	})
}

// Conductors returns a page of the conductors, dead ones included; the marker is a host name.
func (s *Store) Conductors(ctx context.Context, p Page) (list []*ingot.Conductor, err error) {
	err = s.read(ctx, "list conductors", func(tx *tx) error {
		list, err = conductors.list(ctx, tx, where{}, p)
		for _, c := range list {
			c.Alive = s.alive(c, tx.now)
		}
		return err
	})
	return list, err
}

// Conductor returns the conductor on that host, NotFound if there never was one.
func (s *Store) Conductor(ctx context.Context, hostname string) (c *ingot.Conductor, err error) {
	err = s.read(ctx, "read conductor "+hostname, func(tx *tx) error {
		c, err = conductors.scan(tx.QueryRowContext(ctx,
			conductors.selectFrom()+" WHERE hostname = $1", hostname))
		if errors.Is(err, sql.ErrNoRows) {
			return conductors.notFound(hostname)
		}
		if err == nil {
			c.Alive = s.alive(c, tx.now)
		}
		return err
	})
	return c, err
}

func (s *Store) alive(c *ingot.Conductor, now time.Time) bool {
	return c.UpdatedAt != nil && now.Sub(*c.UpdatedAt) < s.lease
}

// RemoveConductor forgets a conductor: one that stops in order, or a host that will not come
// back. Its reservations stay; see ReleaseAll. NotFound if there is none.
func (s *Store) RemoveConductor(ctx context.Context, hostname string) error {
	return s.writeBeside(ctx, "remove conductor "+hostname, func(tx *tx) error {
		count, err := changed(tx.ExecContext(ctx,
			`DELETE FROM conductors WHERE hostname = $1`, hostname))
		if err == nil && count == 0 {
			return conductors.notFound(hostname)
		}
		return err
	})
}
