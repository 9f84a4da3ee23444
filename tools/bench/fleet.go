package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// mac is the address of the port of node i, 1 the first.
func mac(i int) string {
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", i>>16&0xff, i>>8&0xff, i&0xff)
}

// uuidFormat gives the UUID of node and port i, for fmt and for SQLite alike. In hex, as the owner of
// a node depends on the last three digits.
const uuidFormat = "00000000-0000-4000-8000-%012x"

// makeFleet makes the data directory of a sandbox with size nodes, each like node and with a port.
func makeFleet(ctx context.Context, dir string, size int, node ingot.Node) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of the fleet: %w", err)
	}
	path := filepath.Join(dir, "ingot.db")
	st, err := store.Open(ctx, store.Options{Path: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if size == 0 {
		return st.Close()
	}
	node.UUID, node.Name = fmt.Sprintf(uuidFormat, 1), "node-1"
	err = st.CreateNode(ctx, &node)
	if err == nil {
		err = st.CreatePort(ctx, &ingot.Port{
			UUID: node.UUID, NodeID: node.ID, NodeUUID: node.UUID, Address: mac(1),
			PXEEnabled: true,
		})
	}
	if err := errors.Join(err, st.Close()); err != nil {
		return err
	}
	return multiply(ctx, path, size)
}

// multiply copies the only node and its port, in one transaction: the store would commit, and
// flush the disk, for each of them.
func multiply(ctx context.Context, path string, size int) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)")
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	defer tx.Rollback()
	nodes, err := columns(ctx, tx, "nodes", "id", "uuid", "name")
	if err != nil {
		return err
	}
	ports, err := columns(ctx, tx, "ports", "id", "uuid", "node_id", "address")
	if err != nil {
		return err
	}
	for _, statement := range []string{
		`WITH RECURSIVE i (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM i WHERE i < $1)
			INSERT INTO nodes (id, uuid, name, ` + nodes + `)
			SELECT i, printf('` + uuidFormat + `', i), 'node-' || i, ` + nodes + ` FROM i, nodes`,
		`WITH RECURSIVE i (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM i WHERE i < $1)
			INSERT INTO ports (id, uuid, node_id, address, ` + ports + `)
			SELECT i, printf('` + uuidFormat + `', i), i, printf('52:54:00:%02x:%02x:%02x',
				i >> 16 & 255, i >> 8 & 255, i & 255), ` + ports + ` FROM i, ports`,
	} {
		if _, err := tx.ExecContext(ctx, statement, size); err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
	}
	return tx.Commit()
}

// columns lists the columns of a table but for some.
func columns(ctx context.Context, tx *sql.Tx, table string, but ...string) (string, error) {
	var list string
	err := tx.QueryRowContext(ctx, `SELECT group_concat(name, ', ') FROM pragma_table_info($1)
		WHERE name NOT IN ('`+strings.Join(but, "', '")+`')`, table).Scan(&list)
	if err != nil {
		return "", fmt.Errorf("columns of table %s: %w", table, err)
	}
	return list, nil
}
