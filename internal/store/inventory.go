package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"ingot/internal/ingot"
)

// SaveInventory puts on record what was found in a node's machine, in place of what was found before, by whoever
// has reserved the node: Stale if that is not as it was read.
func (s *Store) SaveInventory(ctx context.Context, n *ingot.Node, found ingot.Inventory) error {
	text, err := json.Marshal(found)
	if err != nil {
		return ingot.Errorf(ingot.Internal, "encode an inventory: %w", err)
	}
	return s.write(ctx, "save an inventory", func(tx *tx) error {
		if err := hold(ctx, tx, n); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO inventories (node_id, inventory, updated_at) VALUES ($1, $2, $3)
			ON CONFLICT (node_id) DO UPDATE SET inventory = excluded.inventory, updated_at = excluded.updated_at`,
			n.ID, storable(string(text)), moment{&tx.now})
		return err
	})
}

// Inventory is what was found in a node's machine last; NotFound if it was never looked at.
func (s *Store) Inventory(ctx context.Context, node int64) (found ingot.Inventory, err error) {
	var text string
	err = s.read(ctx, "read an inventory", func(tx *tx) error {
		err := tx.QueryRowContext(ctx, `SELECT inventory FROM inventories WHERE node_id = $1`, node).Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return ingot.Errorf(ingot.NotFound, "this node has not been inspected yet")
		}
		return err
	})
	if err == nil {
		err = json.Unmarshal([]byte(text), &found)
	}
	return found, err
}
