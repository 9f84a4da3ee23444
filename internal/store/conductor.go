package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
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
		{name: "incarnation", at: func(c *conductor) any { return &c.Incarnation }},
		{name: "address", at: func(c *conductor) any { return &c.Address }},
		{name: "services", at: func(c *conductor) any {
			return document[map[string]string]{&c.Services, "{}"}
		}},
		{name: "version", at: func(c *conductor) any { return &c.Version }},
		{name: "boot_tree", at: func(c *conductor) any { return &c.BootTree }},
		{name: "load", at: func(c *conductor) any { return document[ingot.Load]{&c.Load, "{}"} }},
		{name: "draining", at: func(c *conductor) any { return &c.Draining }},
		{name: "created_at", use: sortable, at: func(c *conductor) any {
			return moment{&c.CreatedAt}
		}},
		{name: "updated_at", use: optional, at: func(c *conductor) any {
			return maybe{&c.UpdatedAt}
		}},
	}}

// conductor shortens the list of columns.
type conductor = ingot.Conductor

// Heartbeat records that the conductor lives, where it is and what it can do; the host name is its
// key. ID, Alive, Draining and the times of c are ignored. Conflict if a conductor of that name is
// alive in another incarnation: two of one name would take each other's nodes for their own; and if
// this incarnation was buried.
func (s *Store) Heartbeat(ctx context.Context, c ingot.Conductor) error {
	if c.Hostname == "" {
		return ingot.Errorf(ingot.Invalid, "a conductor needs a host name")
	}
	if err := s.readClock(ctx); err != nil {
		return err
	}
	return s.writeBeside(ctx, "record heartbeat of "+c.Hostname, func(tx *tx) error {
		count, err := changed(tx.ExecContext(ctx, `
			INSERT INTO conductors (hostname, conductor_group, drivers, incarnation, address,
				services, version, boot_tree, load, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $11, $9, $9)
			ON CONFLICT (hostname) DO UPDATE SET conductor_group = excluded.conductor_group,
				drivers = excluded.drivers, incarnation = excluded.incarnation,
				address = excluded.address, services = excluded.services,
				version = excluded.version, boot_tree = excluded.boot_tree,
				load = excluded.load, updated_at = excluded.updated_at, lease_of = ''
			WHERE conductors.incarnation = excluded.incarnation OR conductors.updated_at <= $10
				AND conductors.incarnation <> $12`,
			c.Hostname, c.Group, document[[]ingot.Driver]{&c.Drivers, "[]"}, c.Incarnation,
			c.Address, document[map[string]string]{&c.Services, "{}"}, c.Version, c.BootTree,
			tx.now.UnixMicro(), tx.now.Add(-s.lease).UnixMicro(),
			document[ingot.Load]{&c.Load, "{}"}, buried+c.Incarnation))
		if err == nil && count == 0 {
			return s.nameTaken(ctx, tx, c.Hostname)
		}
		return err
	})
}

func (s *Store) nameTaken(ctx context.Context, tx *tx, hostname string) error {
	other, err := conductors.scan(tx.QueryRowContext(ctx,
		conductors.selectFrom()+" WHERE hostname = $1", hostname))
	if err != nil {
		return err
	}
	if by, was := strings.CutPrefix(other.Incarnation, buried); was && !s.alive(other, tx.now) {
		return ingot.Errorf(ingot.Conflict, "others found conductor %s dead (its port refused "+
			"connections, and its heartbeat was late) and have its nodes; incarnation %s may not go on",
			hostname, by)
	}
	return ingot.Errorf(ingot.Conflict, "a conductor named %s is alive at %q, its last heartbeat was "+
		"at %s: give this one another name by [conductor] host, stop that one, or start this one with "+
		"`ingot serve --force`, which ends that one",
		hostname, other.Address, other.UpdatedAt.Format(time.RFC3339))
}

// buried marks the incarnation of a conductor that was found dead before its lease ended.
const buried = "dead "

// Bury ends the lease of a conductor at once, for who knows that its process is no more. It is false
// if that has renewed its lease since c was read, or another process has the name. The incarnation
// gets Conflict if it beats again after all.
func (s *Store) Bury(ctx context.Context, c *ingot.Conductor) (done bool, err error) {
	if c.UpdatedAt == nil || c.Incarnation == "" {
		return false, nil
	}
	err = s.writeBeside(ctx, "end the lease of conductor "+c.Hostname, func(tx *tx) error {
		count, err := changed(tx.ExecContext(ctx, `UPDATE conductors SET updated_at = $1,
			incarnation = $2 WHERE hostname = $3 AND incarnation = $4 AND updated_at = $5`,
			tx.now.Add(-s.lease).UnixMicro(), buried+c.Incarnation, c.Hostname, c.Incarnation,
			c.UpdatedAt.UnixMicro()))
		done = count > 0
		return err
	})
	return done && err == nil, err
}

// TakeName gives the name of a conductor to another process, whose heartbeats are the ones that count
// from then on. The row's last heartbeat stays that of the one before, so that others take the name for
// dead when the lease of that one has ended; its services go, for when that one has ended nobody
// listens there, which says nothing of the new one. Locks of the one before are its own for as long, and the new
// one gets none. NotFound if there is none of that name.
func (s *Store) TakeName(ctx context.Context, hostname, incarnation, address string) error {
	return s.writeBeside(ctx, "take the name "+hostname, func(tx *tx) error {
		count, err := changed(tx.ExecContext(ctx, `UPDATE conductors SET
			lease_of = CASE lease_of WHEN '' THEN incarnation ELSE lease_of END,
			incarnation = $1, address = $2, services = '{}' WHERE hostname = $3`, incarnation, address, hostname))
		if err == nil && count == 0 {
			return conductors.notFound(hostname)
		}
		return err
	})
}

// Drain says whether a conductor shall own no node any more. NotFound if there is none.
func (s *Store) Drain(ctx context.Context, hostname string, yes bool) error {
	return s.writeBeside(ctx, "drain conductor "+hostname, func(tx *tx) error {
		count, err := changed(tx.ExecContext(ctx,
			`UPDATE conductors SET draining = $1 WHERE hostname = $2`, yes, hostname))
		if err == nil && count == 0 {
			return conductors.notFound(hostname)
		}
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

// Leave forgets a conductor that stops in order. The row of another incarnation, which has taken the
// name since, stays.
func (s *Store) Leave(ctx context.Context, hostname, incarnation string) error {
	return s.writeBeside(ctx, "remove conductor "+hostname, func(tx *tx) error {
		_, err := tx.ExecContext(ctx,
			`DELETE FROM conductors WHERE hostname = $1 AND incarnation = $2`, hostname, incarnation)
		return err
	})
}

// RemoveConductor forgets a conductor: a host that will not come back. Its reservations stay. NotFound
// if there is none.
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
