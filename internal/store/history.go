package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"ingot/internal/ingot"
)

// entry shortens the list of columns.
type entry = ingot.History

// histories is the one list of the columns of a node's history.
var histories = table[entry]{name: "node_history", label: "Node history record", key: "uuid",
	columns: []column[entry]{
		{name: "id", use: given | sortable, at: func(h *entry) any { return &h.ID }},
		{name: "uuid", use: fixed | sortable, at: func(h *entry) any { return &h.UUID }},
		{name: "node_id", use: fixed, at: func(h *entry) any { return &h.NodeID }},
		{name: "created_at", use: fixed | sortable,
			at: func(h *entry) any { return moment{&h.CreatedAt} }},
		{name: "severity", use: fixed | sortable,
			at: func(h *entry) any { return (*string)(&h.Severity) }},
		{name: "event_type", use: fixed | sortable, at: func(h *entry) any { return &h.Type }},
		{name: "event", use: fixed, at: func(h *entry) any { return &h.Event }},
		{name: "conductor", use: fixed | sortable, at: func(h *entry) any { return &h.Conductor }},
	}}

// appendHistory adds to the history of a node and drops what is too old to be kept.
func appendHistory(ctx context.Context, tx *tx, node int64, keep int, added []entry) error {
	if len(added) == 0 {
		return nil
	}
	for _, h := range added {
		h.UUID, h.NodeID, h.CreatedAt, h.Event = ingot.NewUUID(), node, tx.now, storable(h.Event)
		if _, err := histories.insert(ctx, tx, &h); err != nil {
			return fmt.Errorf("append to its history: %w", err)
		}
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM node_history WHERE node_id = $1 AND id <=
		(SELECT id FROM node_history WHERE node_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)`,
		node, keep)
	if err != nil {
		return fmt.Errorf("trim its history: %w", err)
	}
	return nil
}

// History returns a page of a node's history, by the row number of the node. Invalid for a sort
// key that is none, NotFound for a marker that is none.
func (s *Store) History(ctx context.Context, node int64, p Page) (list []*ingot.History, err error) {
	var w where
	w.within("node_id = ?", node)
	err = s.read(ctx, "list the history of a node", func(tx *tx) error {
		list, err = histories.list(ctx, tx, w, p)
		return err
	})
	return list, err
}

// HistoryEntry returns one entry of a node's history, NotFound if that node has no such.
func (s *Store) HistoryEntry(ctx context.Context, node int64, uuid string) (h *ingot.History,
	err error) {
	err = s.read(ctx, "read the history of a node", func(tx *tx) error {
		h, err = histories.scan(tx.QueryRowContext(ctx, histories.selectFrom()+
			" WHERE uuid = $1 AND node_id = $2", uuid, node))
		if errors.Is(err, sql.ErrNoRows) {
			return histories.notFound(uuid)
		}
		return err
	})
	return h, err
}
