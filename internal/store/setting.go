package store

import "context"

// Setting returns what all who share the store have under a name. Who asks first decides: value is
// stored if there is nothing yet.
func (s *Store) Setting(ctx context.Context, name, value string) (got string, err error) {
	err = s.writeBeside(ctx, "read setting "+name, func(tx *tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO NOTHING`, name, value)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&got)
	})
	return got, err
}
