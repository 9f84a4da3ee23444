package store

import (
	"context"

	"ingot/internal/ingot"
)

// Reserve gives the node (UUID or name) to owner, a conductor's host name, and returns it as it
// is now. Of several that ask at once exactly one gets it. Locked if anybody holds it, also the
// owner itself: two tasks of one conductor exclude each other too. Stale if it is written again and
// again meanwhile. NotFound if there is none.
func (s *Store) Reserve(ctx context.Context, ident, owner string) (n *ingot.Node, err error) {
	if owner == "" {
		return nil, ingot.Errorf(ingot.Invalid, "a reservation of node %s needs an owner", ident)
	}
	err = s.write(ctx, "reserve node "+ident, func(tx *tx) error {
		n, err = reserve(ctx, tx, ident, owner)
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// reserveTries is how often a node is read that others write without holding it.
const reserveTries = 10

func reserve(ctx context.Context, tx *tx, ident, owner string) (*ingot.Node, error) {
	for try := 1; ; try++ {
		n, err := findNode(ctx, tx, ident)
		if err != nil {
			return nil, err
		}
		tx.node = n.ID
		// The condition decides, not what was just read: PostgreSQL lets somebody write in between, and
		// shows it to the next statement (READ COMMITTED).
		count, err := changed(tx.ExecContext(ctx, `UPDATE nodes
			SET reservation = $1, generation = generation + 1
			WHERE id = $2 AND generation = $3 AND reservation IS NULL`, owner, n.ID, n.Generation))
		switch {
		case err != nil:
			return nil, err
		case count > 0:
			n.Reservation = owner
			n.Generation++
			return n, nil
		case n.Reservation != "":
			return nil, locked(n)
		case try == reserveTries:
			return nil, lostNode(ctx, tx, n)
		}
	}
}

// locked says who holds a node, in Ironic's words: clients match on them.
func locked(n *ingot.Node) error {
	return ingot.Errorf(ingot.Locked, "Node %s is locked by host %s, please retry after the "+
		"current operation is completed.", n.UUID, n.Reservation)
}

// Release ends the reservation that Reserve gave with n. If the row was taken from its owner
// since, it is left alone; that is no error, so Release may be repeated. It does not store
// other changes to n.
func (s *Store) Release(ctx context.Context, n *ingot.Node) error {
	if n.Reservation == "" {
		return nil
	}
	var count int64
	err := s.write(ctx, "release node "+n.UUID, func(tx *tx) (err error) {
		tx.node = n.ID
		count, err = changed(tx.ExecContext(ctx, `UPDATE nodes
			SET reservation = NULL, generation = generation + 1
			WHERE id = $1 AND generation = $2 AND reservation = $3`,
			n.ID, n.Generation, n.Reservation))
		return err
	})
	if err != nil || count == 0 {
		return err
	}
	n.Reservation = ""
	n.Generation++
	return nil
}
