package store

import (
	"context"
	"database/sql"
	"errors"
)

// SharesBMC tells whether the BMC at an address, that of a node, is that of another node, too. It writes only
// if the address of the node is another one than the last time; the node's generation stays.
func (s *Store) SharesBMC(ctx context.Context, node int64, address string) (shares bool, err error) {
	var before string
	look := func(tx *tx) error {
		err := tx.QueryRowContext(ctx, `SELECT bmc,
			EXISTS (SELECT 1 FROM nodes o WHERE o.bmc = $2 AND o.bmc <> '' AND o.id <> $1)
			FROM nodes WHERE id = $1`, node, address).Scan(&before, &shares)
		if errors.Is(err, sql.ErrNoRows) {
			return nodes.notFound("of a BMC")
		}
		return err
	}
	const doing = "look whose BMC it is"
	if err := s.read(ctx, doing, look); err != nil || before == address {
		return shares, err
	}
	err = s.writeBeside(ctx, doing, func(tx *tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE nodes SET bmc = $2 WHERE id = $1`, node, address)
		return err
	})
	if err == nil {
		err = s.read(ctx, doing, look) // another one may have written its own meanwhile
	}
	return shares && err == nil, err
}
