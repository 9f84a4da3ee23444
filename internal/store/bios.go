package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"reflect"
	"slices"

	"ingot/internal/ingot"
)

// SaveBIOS puts on record the settings of the firmware of a node's machine, in place of those before, by
// whoever has reserved the node: Stale if that is not as it was read. It gives the settings their times.
func (s *Store) SaveBIOS(ctx context.Context, n *ingot.Node, settings []ingot.BIOSSetting) error {
	return s.write(ctx, "save BIOS settings", func(tx *tx) error {
		if err := hold(ctx, tx, n); err != nil {
			return err
		}
		before, err := biosSettings(ctx, tx, n.ID)
		if err != nil {
			return err
		}
		text, err := json.Marshal(aged(before, settings, tx))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO bios_settings (node_id, settings, updated_at) VALUES ($1, $2, $3)
			ON CONFLICT (node_id) DO UPDATE SET settings = excluded.settings, updated_at = excluded.updated_at`,
			n.ID, storable(string(text)), moment{&tx.now})
		return err
	})
}

// aged are settings in the order of their names, each with the time since when it is there, and that of its last
// change.
func aged(before, now []ingot.BIOSSetting, tx *tx) []ingot.BIOSSetting {
	known := map[string]ingot.BIOSSetting{}
	for _, b := range before {
		known[b.Name] = b
	}
	out := slices.Clone(now)
	for i := range out {
		b, there := known[out[i].Name]
		switch {
		case !there:
			out[i].CreatedAt, out[i].UpdatedAt = tx.now, nil
		case reflect.DeepEqual(b.Value, out[i].Value):
			out[i].CreatedAt, out[i].UpdatedAt = b.CreatedAt, b.UpdatedAt
		default:
			at := tx.now
			out[i].CreatedAt, out[i].UpdatedAt = b.CreatedAt, &at
		}
	}
	slices.SortFunc(out, func(a, b ingot.BIOSSetting) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// BIOS are the settings of the firmware of a node's machine as they were read last, by name; none if they never
// were.
func (s *Store) BIOS(ctx context.Context, node int64) (settings []ingot.BIOSSetting, err error) {
	err = s.read(ctx, "read BIOS settings", func(tx *tx) error {
		settings, err = biosSettings(ctx, tx, node)
		return err
	})
	return settings, err
}

func biosSettings(ctx context.Context, tx *tx, node int64) (settings []ingot.BIOSSetting, err error) {
	var text string
	err = tx.QueryRowContext(ctx, `SELECT settings FROM bios_settings WHERE node_id = $1`, node).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &settings)
	}
	return settings, err
}
