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

// nodes is the one list of a node's columns. Names are those of the wire where both have it.
var nodes = table[ingot.Node]{name: "nodes", label: "Node", key: "uuid", columns: []column[node]{
	{name: "id", use: given | sortable, at: func(n *node) any { return &n.ID }},
	{name: "generation", at: func(n *node) any { return &n.Generation }},
	{name: "uuid", use: fixed | sortable, at: func(n *node) any { return &n.UUID }},
	{name: "name", use: optional, at: func(n *node) any { return textOrNull(&n.Name) }},
	{name: "chassis_uuid", use: optional,
		at: func(n *node) any { return textOrNull(&n.ChassisUUID) }},
	{name: "instance_uuid", use: optional,
		at: func(n *node) any { return textOrNull(&n.InstanceUUID) }},
	{name: "driver", use: sortable, at: func(n *node) any { return &n.Driver }},
	{name: "owner", use: optional, at: func(n *node) any { return textOrNull(&n.Owner) }},
	{name: "lessee", use: optional, at: func(n *node) any { return textOrNull(&n.Lessee) }},
	{name: "description", use: optional,
		at: func(n *node) any { return textOrNull(&n.Description) }},
	{name: "resource_class", use: optional,
		at: func(n *node) any { return textOrNull(&n.ResourceClass) }},
	{name: "conductor_group", use: sortable, at: func(n *node) any { return &n.ConductorGroup }},
	{name: "shard", use: optional, at: func(n *node) any { return textOrNull(&n.Shard) }},
	{name: "parent_node", use: optional,
		at: func(n *node) any { return textOrNull(&n.ParentNode) }},
	{name: "instance_name", use: optional,
		at: func(n *node) any { return textOrNull(&n.InstanceName) }},
	{name: "driver_info", at: func(n *node) any { return object(&n.DriverInfo) }},
	{name: "driver_internal_info", at: func(n *node) any { return object(&n.DriverInternalInfo) }},
	{name: "instance_info", at: func(n *node) any { return object(&n.InstanceInfo) }},
	{name: "properties", at: func(n *node) any { return object(&n.Properties) }},
	{name: "extra", at: func(n *node) any { return object(&n.Extra) }},
	{name: "network_data", at: func(n *node) any { return object(&n.NetworkData) }},
	{name: "interfaces",
		at: func(n *node) any { return document[map[string]string]{&n.Interfaces, "{}"} }},
	{name: "power_state", use: optional,
		at: func(n *node) any { return textOrNull(&n.PowerState) }},
	{name: "target_power_state", use: optional,
		at: func(n *node) any { return textOrNull(&n.TargetPowerState) }},
	{name: "provision_state", use: sortable, at: func(n *node) any { return &n.ProvisionState }},
	{name: "target_provision_state", use: optional,
		at: func(n *node) any { return textOrNull(&n.TargetProvisionState) }},
	{name: "provision_updated_at", use: optional,
		at: func(n *node) any { return maybe{&n.ProvisionUpdatedAt} }},
	{name: "last_error", use: optional, at: func(n *node) any { return textOrNull(&n.LastError) }},
	// The reservation changes by Reserve and Release only.
	{name: "reservation", use: fixed | optional,
		at: func(n *node) any { return textOrNull(&n.Reservation) }},
	{name: "maintenance", use: sortable, at: func(n *node) any { return &n.Maintenance }},
	{name: "maintenance_reason", use: optional,
		at: func(n *node) any { return textOrNull(&n.MaintenanceReason) }},
	{name: "fault", use: optional, at: func(n *node) any { return textOrNull(&n.Fault) }},
	{name: "protected", use: sortable, at: func(n *node) any { return &n.Protected }},
	{name: "protected_reason", use: optional,
		at: func(n *node) any { return textOrNull(&n.ProtectedReason) }},
	{name: "retired", use: sortable, at: func(n *node) any { return &n.Retired }},
	{name: "retired_reason", use: optional,
		at: func(n *node) any { return textOrNull(&n.RetiredReason) }},
	{name: "automated_clean", use: optional, at: func(n *node) any { return &n.AutomatedClean }},
	{name: "console_enabled", use: sortable, at: func(n *node) any { return &n.ConsoleEnabled }},
	{name: "boot_mode", use: optional, at: func(n *node) any { return textOrNull(&n.BootMode) }},
	{name: "secure_boot", use: optional, at: func(n *node) any { return &n.SecureBoot }},
	{name: "boot_intent", at: func(n *node) any { return (*string)(&n.BootIntent) }},
	{name: "steps", at: func(n *node) any { return document[[]ingot.Step]{&n.Steps, "[]"} }},
	{name: "step", at: func(n *node) any { return &n.Step }},
	{name: "wait_until", use: nullable, at: func(n *node) any { return maybe{&n.WaitUntil} }},
	{name: "attempt", at: func(n *node) any { return attempt{&n.Attempt} }},
	{name: "instance", at: func(n *node) any { return instance{&n.Instance} }},
	{name: "traits", at: func(n *node) any { return document[[]string]{&n.Traits, "[]"} }},
	{name: "created_at", use: fixed | sortable, at: func(n *node) any { return moment{&n.CreatedAt} }},
	{name: "updated_at", use: optional, at: func(n *node) any { return maybe{&n.UpdatedAt} }},
}}

// node shortens the list of columns.
type node = ingot.Node

const optional = sortable | nullable

// NodeFilter selects nodes; every field that is set has to match. The zero value selects all.
type NodeFilter struct {
	InstanceUUID        string
	ProvisionState      string
	Driver              string
	ResourceClass       string
	Owner               string
	Lessee              string
	Project             string // owns or leases it
	Shard               string
	ParentNode          string // UUID
	Fault               string
	DescriptionContains string
	// ConductorGroup is a pointer, since "" is a group: the one of nodes that name none.
	ConductorGroup *string
	// ReservedBy is a conductor's host name.
	ReservedBy string

	Associated  *bool // has an instance
	Maintenance *bool
	Retired     *bool
	Reserved    *bool

	// ProvisionStates: in one of them.
	ProvisionStates []string
	// Buckets: in one of them, see ring.Bucket; nil is any.
	Buckets []string
	// Shares: in one of them; nil is any.
	Shares []ingot.Share
	// Netboots: boots something from the network.
	Netboots bool
	// WaitBefore: waits, with a deadline before it.
	WaitBefore *time.Time
	// StateBefore: in its provision state since before it.
	StateBefore *time.Time
}

func (f NodeFilter) where() where {
	var w where
	for _, c := range []struct{ column, value string }{
		{"instance_uuid", f.InstanceUUID},
		{"provision_state", f.ProvisionState},
		{"driver", f.Driver},
		{"resource_class", f.ResourceClass},
		{"owner", f.Owner},
		{"lessee", f.Lessee},
		{"shard", f.Shard},
		{"parent_node", f.ParentNode},
		{"fault", f.Fault},
		{"reservation", f.ReservedBy},
	} {
		if c.value != "" {
			w.add(c.column+" = ?", c.value)
		}
	}
	if f.ConductorGroup != nil {
		w.add("conductor_group = ?", *f.ConductorGroup)
	}
	w.flag("maintenance", f.Maintenance)
	w.flag("retired", f.Retired)
	w.present("instance_uuid", f.Associated)
	w.present("reservation", f.Reserved)
	if f.Reserved != nil && *f.Reserved {
		w.add("reservation > ''") // the same again: SQLite takes no index for IS NOT NULL
	}
	w.oneOf("provision_state", f.ProvisionStates)
	w.oneOf("substr(uuid, 34)", f.Buckets)
	w.shares(f.Shares)
	if f.DescriptionContains != "" {
		escaped := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).
			Replace(f.DescriptionContains)
		w.add(`lower(description) LIKE lower(?) ESCAPE '\'`, "%"+escaped+"%")
	}
	if f.Netboots {
		w.add(netboots)
	}
	if f.WaitBefore != nil {
		w.add("wait_until < ?", f.WaitBefore.UnixMicro())
	}
	if f.StateBefore != nil {
		w.add("provision_updated_at < ?", f.StateBefore.UnixMicro())
	}
	if f.Project != "" {
		w.within("owner = ? OR lessee = ?", f.Project, f.Project)
	}
	w.rare = f.WaitBefore != nil || f.Netboots || f.Buckets != nil || f.Reserved != nil && *f.Reserved ||
		f.Project != ""
	return w
}

// oneOf adds that a column has one of some values; none adds nothing.
func (w *where) oneOf(column string, values []string) {
	if len(values) == 0 {
		return
	}
	args := make([]any, len(values))
	for i, v := range values {
		args[i] = v
	}
	w.add(column+" IN (?"+strings.Repeat(", ?", len(args)-1)+")", args...)
}

// shares adds that a node is in one of the shares; nil adds nothing.
func (w *where) shares(shares []ingot.Share) {
	if shares == nil {
		return
	}
	parts, args := []string{"1 = 0"}, []any(nil)
	for _, s := range shares {
		if s.Buckets != nil && len(s.Buckets) == 0 {
			continue
		}
		var one where
		one.oneOf("driver", s.Drivers)
		one.oneOf("substr(uuid, 34)", s.Buckets)
		parts = append(parts, strings.Join(one.conditions, " AND "))
		args = append(args, one.args...)
	}
	w.add(strings.Join(parts, " OR "), args...)
}

// flag adds that a column is true or false; nil adds nothing. Flags are false in nearly every
// row, so false is written in a way for which no engine takes an index.
func (w *where) flag(column string, want *bool) {
	switch {
	case want == nil:
	case *want:
		w.add(column+" = ?", true)
	default:
		w.add("NOT " + column)
	}
}

// present adds that a column has a value or has none; nil adds nothing. As with flags, "none" takes
// no index in SQLite, or it would be preferred to one that excludes more. PostgreSQL has to know how
// many rows there are without a value, which of an expression it does not.
func (w *where) present(column string, want *bool) {
	switch {
	case want == nil:
	case *want:
		w.add(column + " IS NOT NULL")
	default:
		w.add("NOT (" + column + " IS NOT NULL)")
	}
}

// CreateNode stores a new node and sets its ID, Generation and CreatedAt. n.UUID is needed;
// Conflict if the UUID, the name or the instance exists.
func (s *Store) CreateNode(ctx context.Context, n *ingot.Node) error {
	if n.UUID == "" {
		return ingot.Errorf(ingot.Invalid, "a node needs a UUID")
	}
	var created ingot.Node
	err := s.write(ctx, "create node "+n.UUID, func(tx *tx) error {
		created = *n
		return createNode(ctx, tx, &created)
	})
	if duplicate(err) {
		return s.nodeConflict(ctx, n, err)
	}
	if err != nil {
		return err
	}
	*n = created
	return nil
}

func createNode(ctx context.Context, tx *tx, n *ingot.Node) (err error) {
	fillNode(n)
	n.Generation, n.CreatedAt, n.UpdatedAt, n.Reservation = 1, tx.now, nil, ""
	n.ID, err = nodes.insert(ctx, tx, n)
	tx.node = n.ID
	if err != nil {
		return err
	}
	return wantOf(ctx, tx, n)
}

// fillNode makes nil objects and lists empty ones, as they are after reading.
func fillNode(n *ingot.Node) {
	for _, o := range []*ingot.Object{&n.DriverInfo, &n.DriverInternalInfo, &n.InstanceInfo,
		&n.Properties, &n.Extra, &n.NetworkData} {
		if *o == nil {
			*o = ingot.Object{}
		}
	}
	if n.Interfaces == nil {
		n.Interfaces = map[string]string{}
	}
	if n.Traits == nil {
		n.Traits = []string{}
	}
}

// nodeConflict finds out which unique value of n another node has. It runs after the failed
// transaction; if the other node is gone by then, the caller may simply try again.
func (s *Store) nodeConflict(ctx context.Context, n *ingot.Node, cause error) error {
	return s.read(ctx, "find the duplicate of node "+n.UUID, func(tx *tx) error {
		for _, c := range []struct {
			column, value string
			err           error
		}{
			{"uuid", n.UUID, ingot.Errorf(ingot.Conflict,
				"A node with UUID %s already exists.", n.UUID)},
			{"name", n.Name, ingot.Errorf(ingot.Conflict,
				"A node with name %s already exists.", n.Name)},
			{"instance_uuid", n.InstanceUUID, ingot.Errorf(ingot.Conflict,
				"Instance %s is already associated with a node, it cannot be associated with "+
					"this other node %s.", n.InstanceUUID, n.UUID)},
		} {
			if found, err := other(ctx, tx, "nodes", c.column, c.value, n.ID); err != nil {
				return err
			} else if found {
				return c.err
			}
		}
		return ingot.Errorf(ingot.Unavailable, "%w; try again", cause)
	})
}

// other tells whether a row besides id has the value; an empty value is nobody's.
func other(ctx context.Context, tx *tx, table, column, value string, id int64) (bool, error) {
	if value == "" {
		return false, nil
	}
	var count int
	err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+table+" WHERE "+column+
		" = $1 AND id <> $2", value, id).Scan(&count)
	return count > 0, err
}

// Node returns the node with that UUID or name, NotFound if there is none.
func (s *Store) Node(ctx context.Context, ident string) (n *ingot.Node, err error) {
	err = s.read(ctx, "read node "+ident, func(tx *tx) error {
		n, err = findNode(ctx, tx, ident)
		return err
	})
	return n, err
}

// findNode looks for a UUID first: a name must not look like one.
func findNode(ctx context.Context, tx *tx, ident string) (*ingot.Node, error) {
	for _, key := range []string{"uuid", "name"} {
		n, err := oneNode(ctx, tx, key+" = $1", ident)
		if !errors.Is(err, sql.ErrNoRows) {
			return n, err
		}
	}
	return nil, nodes.notFound(ident)
}

func oneNode(ctx context.Context, tx *tx, condition string, args ...any) (*ingot.Node, error) {
	return nodes.scan(tx.QueryRowContext(ctx, nodes.selectFrom()+" WHERE "+condition, args...))
}

// Nodes returns a page of the nodes that match. Invalid for a sort key that is none, NotFound
// for a marker that is none.
func (s *Store) Nodes(ctx context.Context, f NodeFilter, p Page) (list []*ingot.Node, err error) {
	err = s.read(ctx, "list nodes", func(tx *tx) error {
		list, err = nodes.list(ctx, tx, f.where(), p)
		return err
	})
	return list, err
}

// CountNodes returns how many nodes there are in each provision state that has any.
func (s *Store) CountNodes(ctx context.Context) (counts map[string]int, err error) {
	err = s.read(ctx, "count nodes", func(tx *tx) error {
		rows, err := tx.QueryContext(ctx,
			`SELECT provision_state, count(*) FROM nodes GROUP BY provision_state`)
		if err != nil {
			return err
		}
		defer rows.Close()
		counts = map[string]int{}
		for rows.Next() {
			var state string
			var n int
			if err := rows.Scan(&state, &n); err != nil {
				return err
			}
			counts[state] = n
		}
		return rows.Err()
	})
	return counts, err
}

// BucketCount is how many nodes of a conductor group have a driver and are in a bucket.
type BucketCount struct {
	Group, Driver, Bucket string
	Nodes                 int
}

// CountBuckets returns how many nodes there are in each bucket that has any, by group and driver.
func (s *Store) CountBuckets(ctx context.Context) (counts []BucketCount, err error) {
	err = s.read(ctx, "count the nodes of the buckets", func(tx *tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT conductor_group, driver, substr(uuid, 34), count(*)
			FROM nodes GROUP BY conductor_group, driver, substr(uuid, 34)`)
		if err != nil {
			return err
		}
		defer rows.Close()
		counts = nil
		for rows.Next() {
			var c BucketCount
			if err := rows.Scan(&c.Group, &c.Driver, &c.Bucket, &c.Nodes); err != nil {
				return err
			}
			counts = append(counts, c)
		}
		return rows.Err()
	})
	return counts, err
}

// UpdateNode stores n as the caller changed it, except ID, UUID, CreatedAt and Reservation, and
// sets its Generation and UpdatedAt. The row must be as it was read: same Generation, same
// Reservation. Stale if it is not; NotFound if it is gone; Conflict as in CreateNode.
func (s *Store) UpdateNode(ctx context.Context, n *ingot.Node) error {
	return s.ChangeNode(ctx, n, nil, nil)
}

// ChangeNode is UpdateNode with what is to be told of the change. What is added to the node's history
// is given UUID and time. The entries are pending then: AppendJournal gives them their place in the
// journal.
func (s *Store) ChangeNode(ctx context.Context, n *ingot.Node, added []ingot.History,
	entries []ingot.Entry) error {
	var updated ingot.Node
	err := s.write(ctx, "update node "+n.UUID, func(tx *tx) error {
		updated = *n
		if err := updateNode(ctx, tx, &updated); err != nil {
			return err
		}
		if err := keepPending(ctx, tx, entries); err != nil {
			return err
		}
		return appendHistory(ctx, tx, n.ID, s.keepHistory, added)
	})
	if duplicate(err) {
		return s.nodeConflict(ctx, n, err)
	}
	if err != nil {
		return err
	}
	*n = updated
	return nil
}

func updateNode(ctx context.Context, tx *tx, n *ingot.Node) error {
	fillNode(n)
	read := asRead(n)
	now := tx.now
	tx.node = n.ID
	n.Generation, n.UpdatedAt = n.Generation+1, &now
	count, err := nodes.update(ctx, tx, n, read)
	if err == nil && count == 0 {
		err = lostNode(ctx, tx, n)
	}
	if err != nil {
		return err
	}
	return wantOf(ctx, tx, n)
}

// asRead matches the row of n if nobody wrote it since it was read.
func asRead(n *ingot.Node) where {
	var w where
	w.add("id = ?", n.ID)
	w.add("generation = ?", n.Generation)
	w.add("COALESCE(reservation, '') = ?", n.Reservation)
	return w
}

// lostNode says why asRead did not match.
func lostNode(ctx context.Context, tx *tx, n *ingot.Node) error {
	var exists int
	err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM nodes WHERE id = $1`, n.ID).
		Scan(&exists)
	switch {
	case err != nil:
		return err
	case exists == 0:
		return nodes.notFound(n.UUID)
	}
	return ingot.Errorf(ingot.Stale, "Node %s was changed by somebody else in the meantime, "+
		"please read it again and retry.", n.UUID)
}

// DeleteNode removes a node with its ports, its history and its journal. Guard and errors as in UpdateNode.
func (s *Store) DeleteNode(ctx context.Context, n *ingot.Node) error {
	return s.write(ctx, "delete node "+n.UUID, func(tx *tx) error {
		return deleteNode(ctx, tx, n)
	})
}

func deleteNode(ctx context.Context, tx *tx, n *ingot.Node) error {
	tx.node = n.ID
	cond, args := asRead(n).clause(nil)
	count, err := changed(tx.ExecContext(ctx, `DELETE FROM nodes`+cond, args...))
	if err != nil {
		return err
	}
	if count == 0 {
		return lostNode(ctx, tx, n)
	}
	for _, table := range []string{"journal", "journal_pending"} {
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE node = $1", n.UUID); err != nil {
			return fmt.Errorf("delete its journal: %w", err)
		}
	}
	return nil
}
