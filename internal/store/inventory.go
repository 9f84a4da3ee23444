package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"ingot/internal/ingot"
)

// SaveInventory puts on record what was found in a node's machine, in place of what was found before. It
// names the node by its row number.
func (s *Store) SaveInventory(ctx context.Context, node int64, found ingot.Inventory) error {
	text, err := json.Marshal(found)
	if err != nil {
		return ingot.Errorf(ingot.Internal, "encode an inventory: %w", err)
	}
	return s.write(ctx, "save an inventory", func(tx *tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO inventories (node_id, inventory, updated_at) VALUES ($1, $2, $3)
			ON CONFLICT (node_id) DO UPDATE SET inventory = excluded.inventory, updated_at = excluded.updated_at`,
			node, storable(string(text)), moment{&tx.now})
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
