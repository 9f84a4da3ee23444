package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"ingot/internal/ingot"
)

var leases = table[ingot.Lease]{name: "leases", label: "Lease", key: "mac",
	columns: []column[ingot.Lease]{
		{name: "mac", at: func(l *ingot.Lease) any { return &l.MAC }},
		{name: "address", at: func(l *ingot.Lease) any { return &l.Address }},
		{name: "expires_at", at: func(l *ingot.Lease) any { return moment{&l.Expires} }},
	}}

// Lease returns the lease of a MAC, also when it has expired: a machine that comes back gets
// the address it had. NotFound if there is none.
func (s *Store) Lease(ctx context.Context, mac string) (ingot.Lease, error) {
	var found ingot.Lease
	err := s.read(ctx, "read lease of "+mac, func(tx *tx) error {
		l, err := leases.scan(tx.QueryRowContext(ctx,
			leases.selectFrom()+" WHERE mac = $1", strings.ToLower(mac)))
		if errors.Is(err, sql.ErrNoRows) {
			return leases.notFound(mac)
		}
		if err == nil {
			found = *l
		}
		return err
	})
	return found, err
}

// Leases returns all leases, expired ones included, by MAC.
func (s *Store) Leases(ctx context.Context) ([]ingot.Lease, error) {
	var all []ingot.Lease
	err := s.read(ctx, "list leases", func(tx *tx) error {
		rows, err := leases.collect(ctx, tx, nil, where{}, "mac", 0)
		for _, l := range rows {
			all = append(all, *l)
		}
		return err
	})
	return all, err
}

// TakeLease gives l.Address to l.MAC until l.Expires, in place of any other address it had.
// Conflict if another MAC holds the address and has not expired.
func (s *Store) TakeLease(ctx context.Context, l ingot.Lease) error {
	if l.MAC == "" || l.Address == "" || l.Expires.IsZero() {
		return ingot.Errorf(ingot.Invalid, "a lease needs a MAC, an address and an end")
	}
	l.MAC = strings.ToLower(l.MAC)
	err := s.write(ctx, "lease "+l.Address+" to "+l.MAC, func(tx *tx) error {
		return takeLease(ctx, tx, l)
	})
	if duplicate(err) { // somebody took it between our look and our write
		return ingot.Errorf(ingot.Conflict, "address %s is leased to another machine; offer "+
			"another one", l.Address)
	}
	return err
}

func takeLease(ctx context.Context, tx *tx, l ingot.Lease) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM leases
		WHERE address = $1 AND mac <> $2 AND expires_at <= $3`,
		l.Address, l.MAC, tx.now.UnixMicro())
	if err != nil {
		return fmt.Errorf("remove the expired lease of %s: %w", l.Address, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO leases (mac, address, expires_at)
		VALUES ($1, $2, $3)
		ON CONFLICT (mac) DO UPDATE SET address = excluded.address,
			expires_at = excluded.expires_at`, l.MAC, l.Address, l.Expires.UnixMicro())
	return err
}

// FreeLease ends the lease of a MAC; that there is none is no error.
func (s *Store) FreeLease(ctx context.Context, mac string) error {
	return s.write(ctx, "free lease of "+mac, func(tx *tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM leases WHERE mac = $1`, strings.ToLower(mac))
		return err
	})
}
