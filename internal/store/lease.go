package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

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
		all = nil
		for _, l := range rows {
			all = append(all, *l)
		}
		return err
	})
	return all, err
}

// A LeaseChange gives an address to a MAC until its lease expires, in place of the address it
// Had when that was decided; "" is none. From is the MAC whose lease of the address ends with it, ""
// if the address is nobody's.
type LeaseChange struct {
	ingot.Lease
	Had, From string
}

const putLease = `INSERT INTO leases (mac, address, expires_at) VALUES ($1, $2, $3)
	ON CONFLICT (mac) DO UPDATE SET address = excluded.address, expires_at = excluded.expires_at`

// TakeLeases makes changes, in their order and with one commit for all of them, and returns an
// error or nil for each. Conflict if another MAC holds the address and has not expired, if From
// does not hold it, or if the MAC's own address is not Had any more, or is kept for longer already:
// of two who decide for one machine the second one learns what the first one gave, and takes
// nothing of it back.
func (s *Store) TakeLeases(ctx context.Context, changes []LeaseChange) []error {
	errs := make([]error, len(changes))
	doing := fmt.Sprintf("write %d leases", len(changes))
	err := s.writeLeases(ctx, doing, func(tx *tx, changed map[string]ingot.Lease) error {
		if err := s.lock(ctx, tx, lockLeases); err != nil {
			return err
		}
		look, put := tx.StmtContext(ctx, s.findLeases), tx.StmtContext(ctx, s.putLease)
		for i, c := range changes {
			var expired string
			var err error
			if expired, errs[i], err = refusal(ctx, tx, look, c); err != nil {
				return err
			}
			if errs[i] != nil {
				continue
			}
			if expired != "" {
				changed[expired] = ingot.Lease{}
			}
			lease := ingot.Lease{MAC: strings.ToLower(c.MAC), Address: c.Address,
				Expires: c.Expires.UTC().Truncate(time.Microsecond)}
			_, err = put.ExecContext(ctx, lease.MAC, lease.Address, lease.Expires.UnixMicro())
			if err != nil {
				return err
			}
			changed[lease.MAC] = lease
		}
		return nil
	})
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// refusal tells why a change cannot be made, and removes the lease that is in its way, of the MAC
// expired. An error is not about the change but about the rows.
func refusal(ctx context.Context, tx *tx, look *sql.Stmt, c LeaseChange) (expired string,
	refusal, err error) {
	if c.MAC == "" || c.Address == "" || c.Expires.IsZero() {
		return "", ingot.Errorf(ingot.Invalid, "a lease needs a MAC, an address and an end"), nil
	}
	mac := strings.ToLower(c.MAC)
	rows, err := look.QueryContext(ctx, mac, c.Address)
	if err != nil {
		return "", nil, err
	}
	defer rows.Close()
	had, from := "", strings.ToLower(c.From)
	for rows.Next() {
		l, err := leases.scan(rows)
		switch {
		case err != nil:
			return "", nil, err
		case l.MAC == mac:
			had = l.Address
			if l.Address == c.Address && l.Expires.After(c.Expires) {
				return "", ingot.Errorf(ingot.Conflict, "address %s is leased to %s for longer; look again",
					c.Address, mac), nil
			}
		case l.Expires.After(tx.now) && l.MAC != from:
			return "", ingot.Errorf(ingot.Conflict, "address %s is leased to another machine; offer "+
				"another one", c.Address), nil
		default:
			expired = l.MAC
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return "", nil, err
	}
	if had != c.Had {
		return "", ingot.Errorf(ingot.Conflict, "the address of %s became %q in the meantime, it was "+
			"%q; look again", mac, had, c.Had), nil
	}
	if from != "" && expired != from {
		return "", ingot.Errorf(ingot.Conflict, "address %s is not leased to %s any more", c.Address,
			from), nil
	}
	if expired == "" {
		return expired, nil, nil
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM leases WHERE mac = $1", expired); err != nil {
		return "", nil, fmt.Errorf("remove the lease of %s: %w", c.Address, err)
	}
	return expired, nil, nil
}

// FreeLease ends the lease that a MAC has of an address, and tells whether there was one: the MAC
// may have got another address meanwhile, from another server.
func (s *Store) FreeLease(ctx context.Context, mac, address string) (ended bool, err error) {
	mac = strings.ToLower(mac)
	doing := "free lease of " + mac
	err = s.writeLeases(ctx, doing, func(tx *tx, known map[string]ingot.Lease) error {
		count, err := changed(tx.ExecContext(ctx,
			`DELETE FROM leases WHERE mac = $1 AND address = $2`, mac, address))
		if ended = count > 0; ended {
			known[mac] = ingot.Lease{}
		}
		return err
	})
	return ended && err == nil, err
}
