package store

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
)

// Page selects one page of a list. The zero value is everything, in the order of creation.
//
// Paging is by key: the database continues after the marker through an index, so a page costs
// the same wherever it lies and rows that come or go meanwhile are neither repeated nor make
// others be skipped. Only a filter together with a sort key other than id costs as much as all
// the rows that match.
type Page struct {
	// Limit is the greatest number of rows; 0 is no limit.
	Limit int
	// Marker is the UUID of the row before the page (host name for conductors); "" is the start.
	Marker string
	// SortKey is a column, named as on the wire; "" is "id". Rows with equal keys are in the
	// order of creation, rows without one count as the smallest.
	SortKey string
	Desc    bool
}

// cursor is a Page that was looked up.
type cursor struct {
	key      string
	id       string // how to name the column id
	nullable bool
	desc     bool
	after    *position // nil is the start
}

// position is where a row stands in the order of a cursor.
type position struct {
	value any // nil is NULL
	id    int64
}

// list returns a page of the rows that match.
func (t *table[T]) list(ctx context.Context, tx *tx, match where, p Page) ([]*T, error) {
	c, err := t.cursor(ctx, tx, match, p)
	if err != nil {
		return nil, err
	}
	var rows []*T
	for _, part := range c.parts() {
		limit := 0
		if p.Limit > 0 {
			if limit = p.Limit - len(rows); limit <= 0 {
				break
			}
		}
		rows, err = t.collect(ctx, tx, rows, part.of(match), part.order, limit)
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// cursor looks up a page.
func (t *table[T]) cursor(ctx context.Context, tx *tx, match where, p Page) (cursor, error) {
	key, err := t.sortKey(p.SortKey)
	if err != nil {
		return cursor{}, err
	}
	c := cursor{key: key.name, id: "id", nullable: key.use.has(nullable), desc: p.Desc}
	if match.rare {
		c.id = "+id" // an expression: the engine can not use the index of id for it
	}
	if p.Marker != "" {
		c.after, err = t.position(ctx, tx, match, c.key, p.Marker)
	}
	return c, err
}

// position looks up a marker in the scope of what is listed. That the marker still matches the rest is
// not asked for: it may have changed since.
func (t *table[T]) position(ctx context.Context, tx *tx, match where, key, marker string) (*position,
	error) {
	m := where{conditions: slices.Clone(match.scope), args: slices.Clone(match.scopeArgs)}
	m.add(t.key+" = ?", marker)
	cond, args := m.clause(nil)
	var p position
	err := tx.QueryRowContext(ctx, "SELECT "+key+", id FROM "+t.name+cond, args...).
		Scan(&p.value, &p.id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, t.notFound(marker)
	}
	return &p, err
}

// collect appends the rows that match to rows.
func (t *table[T]) collect(ctx context.Context, tx *tx, rows []*T, match where,
	order string, limit int) ([]*T, error) {
	query, args := t.query(match, order, limit)
	found, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		v, err := t.scan(found)
		if err != nil {
			return nil, err
		}
		rows = append(rows, v)
	}
	return rows, found.Err()
}

// query is the statement of collect, and its arguments.
func (t *table[T]) query(match where, order string, limit int) (string, []any) {
	cond, args := match.clause(nil)
	text := t.selectFrom() + cond + " ORDER BY " + order
	if limit > 0 {
		text += " LIMIT " + strconv.Itoa(limit)
	}
	return text, args
}

// part is a range of the rows that one scan of one index yields in order.
type part struct {
	condition string // "" is all
	args      []any
	order     string
}

// of is those rows of the part that match.
func (p part) of(match where) where {
	m := where{conditions: slices.Clone(match.conditions), args: slices.Clone(match.args)}
	if p.condition != "" {
		m.add(p.condition, p.args...)
	}
	return m
}

// parts cuts what follows the cursor into ranges. A nullable key needs two, because no single
// comparison spans NULLs and values and still uses the index.
func (c cursor) parts() []part {
	dir, cmp := "", " > "
	if c.desc {
		dir, cmp = " DESC", " < "
	}
	if c.key == "id" {
		p := part{order: c.id + dir}
		if c.after != nil {
			p.condition, p.args = c.id+cmp+"?", []any{c.after.id}
		}
		return []part{p}
	}
	values := part{order: c.key + dir + ", id" + dir}
	nulls := part{condition: c.key + " IS NULL", order: "id" + dir}
	if c.nullable {
		values.condition = c.key + " IS NOT NULL"
	}
	if c.after != nil && c.after.value != nil {
		values.condition = "(" + c.key + ", id)" + cmp + "(?, ?)"
		values.args = []any{c.after.value, c.after.id}
	}
	if c.after != nil && c.after.value == nil {
		nulls.condition += " AND id" + cmp + "?"
		nulls.args = []any{c.after.id}
	}
	switch {
	case !c.nullable:
		return []part{values}
	case c.desc && len(nulls.args) > 0:
		return []part{nulls}
	case c.desc:
		return []part{values, nulls}
	case len(values.args) > 0:
		return []part{values}
	}
	return []part{nulls, values}
}
