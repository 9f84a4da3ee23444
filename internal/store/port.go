package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"ingot/internal/ingot"
)

// ports is the one list of a port's columns.
var ports = table[ingot.Port]{name: "ports", label: "Port", key: "uuid", columns: []column[port]{
	{name: "id", use: given | sortable, at: func(p *port) any { return &p.ID }},
	{name: "generation", at: func(p *port) any { return &p.Generation }},
	{name: "uuid", use: fixed | sortable, at: func(p *port) any { return &p.UUID }},
	{name: "node_id", at: func(p *port) any { return &p.NodeID }},
	{name: "node_uuid", at: func(p *port) any { return &p.NodeUUID },
		read: "(SELECT nodes.uuid FROM nodes WHERE nodes.id = ports.node_id)"},
	{name: "address", use: sortable, at: func(p *port) any { return &p.Address }},
	{name: "name", use: optional, at: func(p *port) any { return textOrNull(&p.Name) }},
	{name: "pxe_enabled", use: sortable, at: func(p *port) any { return &p.PXEEnabled }},
	{name: "physical_network", use: optional,
		at: func(p *port) any { return textOrNull(&p.PhysicalNetwork) }},
	{name: "is_smartnic", use: sortable, at: func(p *port) any { return &p.IsSmartNIC }},
	{name: "local_link_connection", at: func(p *port) any { return object(&p.LocalLinkConnection) }},
	{name: "extra", at: func(p *port) any { return object(&p.Extra) }},
	{name: "internal_info", at: func(p *port) any { return object(&p.InternalInfo) }},
	{name: "created_at", use: fixed | sortable, at: func(p *port) any { return moment{&p.CreatedAt} }},
	{name: "updated_at", use: optional, at: func(p *port) any { return maybe{&p.UpdatedAt} }},
}}

// port shortens the list of columns.
type port = ingot.Port

// PortFilter selects ports; every field that is set has to match. The zero value selects all.
type PortFilter struct {
	NodeUUID string
	NodeID   int64
	Address  string
	Project  string // owns or leases the node
	// ExtraWord selects ports whose extra has that word in quotes, as a key or anywhere.
	ExtraWord string
}

func (f PortFilter) where() where {
	var w where
	if f.NodeUUID != "" {
		w.add("node_id = (SELECT nodes.id FROM nodes WHERE nodes.uuid = ?)", f.NodeUUID)
	}
	if f.NodeID != 0 {
		w.add("node_id = ?", f.NodeID)
	}
	if f.Address != "" {
		w.add("address = ?", strings.ToLower(f.Address))
	}
	if f.Project != "" {
		w.within("node_id IN (SELECT nodes.id FROM nodes WHERE nodes.owner = ? OR nodes.lessee = ?)",
			f.Project, f.Project)
		w.rare = true
	}
	if f.ExtraWord != "" {
		w.add("extra LIKE ?", `%"`+f.ExtraWord+`"%`)
	}
	return w
}

// CreatePort stores a new port of the node that NodeUUID (or else NodeID) names, and sets ID,
// Generation, CreatedAt, and whichever of the two was missing. The address is stored in lower
// case. Conflict if the UUID, the address or the name exists; Invalid if the node does not.
func (s *Store) CreatePort(ctx context.Context, p *ingot.Port) error {
	if p.UUID == "" || p.Address == "" {
		return ingot.Errorf(ingot.Invalid, "a port needs a UUID and a MAC address")
	}
	var created ingot.Port
	err := s.write(ctx, "create port "+p.UUID, func(tx *tx) error {
		created = *p
		return createPort(ctx, tx, &created)
	})
	return s.stored(ctx, p, created, err)
}

// AddPort is CreatePort by whoever has reserved n, the port's node: Stale if that is not as it was read.
func (s *Store) AddPort(ctx context.Context, n *ingot.Node, p *ingot.Port) error {
	var created ingot.Port
	err := s.write(ctx, "create port "+p.UUID, func(tx *tx) error {
		created = *p
		if err := hold(ctx, tx, n); err != nil {
			return err
		}
		return createPort(ctx, tx, &created)
	})
	return s.stored(ctx, p, created, err)
}

func createPort(ctx context.Context, tx *tx, p *ingot.Port) (err error) {
	if err := fillPort(ctx, tx, p); err != nil {
		return err
	}
	p.Generation, p.CreatedAt, p.UpdatedAt = 1, tx.now, nil
	p.ID, err = ports.insert(ctx, tx, p)
	return err
}

// fillPort brings a port into the form in which it is read, and finds its node.
func fillPort(ctx context.Context, tx *tx, p *ingot.Port) error {
	p.Address = strings.ToLower(p.Address)
	for _, o := range []*ingot.Object{&p.LocalLinkConnection, &p.Extra, &p.InternalInfo} {
		if *o == nil {
			*o = ingot.Object{}
		}
	}
	condition, arg := "uuid = $1", any(p.NodeUUID)
	if p.NodeUUID == "" {
		condition, arg = "id = $1", p.NodeID
	}
	err := tx.QueryRowContext(ctx, "SELECT id, uuid FROM nodes WHERE "+condition, arg).
		Scan(&p.NodeID, &p.NodeUUID)
	if errors.Is(err, sql.ErrNoRows) {
		return ingot.Errorf(ingot.Invalid, "Node %v could not be found.", arg)
	}
	return err
}

// stored ends a write of p: on success it takes over what was stored.
func (s *Store) stored(ctx context.Context, p *ingot.Port, row ingot.Port, err error) error {
	switch {
	case duplicate(err):
		return s.portConflict(ctx, row, err)
	case orphan(err):
		return ingot.Errorf(ingot.Invalid, "Node %s could not be found.", row.NodeUUID)
	case err != nil:
		return err
	}
	*p = row
	return nil
}

// portConflict finds out which unique value another port has, as nodeConflict does for nodes.
func (s *Store) portConflict(ctx context.Context, p ingot.Port, cause error) error {
	return s.read(ctx, "find the duplicate of port "+p.UUID, func(tx *tx) error {
		for _, c := range []struct{ column, value, what string }{
			{"uuid", p.UUID, "UUID"},
			{"address", p.Address, "MAC address"},
			{"name", p.Name, "name"},
		} {
			if found, err := other(ctx, tx, "ports", c.column, c.value, p.ID); err != nil {
				return err
			} else if found {
				return ingot.Errorf(ingot.Conflict, "A port with %s %s already exists.",
					c.what, c.value)
			}
		}
		return ingot.Errorf(ingot.Unavailable, "%w; try again", cause)
	})
}

// Port returns the port with that UUID or name, NotFound if there is none.
func (s *Store) Port(ctx context.Context, ident string) (p *ingot.Port, err error) {
	err = s.read(ctx, "read port "+ident, func(tx *tx) error {
		p, err = findPort(ctx, tx, ident, "uuid", "name")
		return err
	})
	return p, err
}

// findPort returns the port that has ident in the first of the columns where any port has it.
func findPort(ctx context.Context, tx *tx, ident string, columns ...string) (*ingot.Port, error) {
	for _, key := range columns {
		p, err := ports.scan(tx.QueryRowContext(ctx,
			ports.selectFrom()+" WHERE "+key+" = $1", ident))
		if !errors.Is(err, sql.ErrNoRows) {
			return p, err
		}
	}
	return nil, ports.notFound(ident)
}

// Ports returns a page of the ports that match. Errors as in Nodes.
func (s *Store) Ports(ctx context.Context, f PortFilter, p Page) (list []*ingot.Port, err error) {
	err = s.read(ctx, "list ports", func(tx *tx) error {
		list, err = ports.list(ctx, tx, f.where(), p)
		return err
	})
	return list, err
}

// UpdatePort stores p as the caller changed it, except ID, UUID and CreatedAt, and sets its
// Generation and UpdatedAt. NodeUUID decides to which node it belongs. Stale if the row changed
// since it was read, NotFound if it is gone, Locked while a conductor is at work on its node,
// Conflict and Invalid as in CreatePort.
func (s *Store) UpdatePort(ctx context.Context, p *ingot.Port) error {
	var updated ingot.Port
	err := s.write(ctx, "update port "+p.UUID, func(tx *tx) error {
		updated = *p
		return updatePort(ctx, tx, &updated)
	})
	return s.stored(ctx, p, updated, err)
}

// hold has a transaction begin only if a node is as it was read, Stale if not; its row is locked until the end.
func hold(ctx context.Context, tx *tx, n *ingot.Node) error {
	read := asRead(n)
	cond, args := read.clause(nil)
	tx.node = n.ID
	count, err := changed(tx.ExecContext(ctx, `UPDATE nodes SET reservation = reservation`+cond, args...))
	if err == nil && count == 0 {
		err = lostNode(ctx, tx, n)
	}
	return err
}

// SavePort is UpdatePort by whoever has reserved n, the port's node: Stale if that is not as it was read.
func (s *Store) SavePort(ctx context.Context, n *ingot.Node, p *ingot.Port) error {
	var updated ingot.Port
	err := s.write(ctx, "update port "+p.UUID, func(tx *tx) error {
		updated = *p
		if err := hold(ctx, tx, n); err != nil {
			return err
		}
		var mine where
		mine.add("id = ?", p.ID)
		mine.add("generation = ?", p.Generation)
		return writePort(ctx, tx, &updated, mine)
	})
	return s.stored(ctx, p, updated, err)
}

func updatePort(ctx context.Context, tx *tx, p *ingot.Port) error {
	return writePort(ctx, tx, p, portAsRead(p))
}

func writePort(ctx context.Context, tx *tx, p *ingot.Port, read where) error {
	was := *p
	if err := fillPort(ctx, tx, p); err != nil {
		return err
	}
	now := tx.now
	p.Generation, p.UpdatedAt = p.Generation+1, &now
	count, err := ports.update(ctx, tx, p, read)
	if err != nil || count == 1 {
		return err
	}
	return lostPort(ctx, tx, &was)
}

// portAsRead matches the row of p if nobody wrote it since it was read and its node is free.
func portAsRead(p *ingot.Port) where {
	var w where
	w.add("id = ?", p.ID)
	w.add("generation = ?", p.Generation)
	w.add("NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.id = ports.node_id " +
		"AND nodes.reservation IS NOT NULL)")
	return w
}

// lostPort says why portAsRead did not match.
func lostPort(ctx context.Context, tx *tx, p *ingot.Port) error {
	now, err := findPort(ctx, tx, p.UUID, "uuid")
	if err != nil {
		return err
	}
	if now.Generation == p.Generation {
		n, err := findNode(ctx, tx, now.NodeUUID)
		if err != nil {
			return err
		}
		return locked(n)
	}
	return ingot.Errorf(ingot.Stale, "Port %s was changed by somebody else in the meantime, "+
		"please read it again and retry.", p.UUID)
}

// DeletePort removes a port. Stale, NotFound and Locked as in UpdatePort.
func (s *Store) DeletePort(ctx context.Context, p *ingot.Port) error {
	return s.write(ctx, "delete port "+p.UUID, func(tx *tx) error {
		cond, args := portAsRead(p).clause(nil)
		count, err := changed(tx.ExecContext(ctx, `DELETE FROM ports`+cond, args...))
		if err != nil || count == 1 {
			return err
		}
		return lostPort(ctx, tx, p)
	})
}
