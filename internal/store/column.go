package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"ingot/internal/ingot"
)

// column ties a column to a field of T. All that SQL says about the columns of a table is made
// from its list of columns, so a new field needs one line there and one in a migration.
type column[T any] struct {
	name string
	use  use
	// at returns what stands for the field both as an argument and as a destination.
	at func(*T) any
	// read is an expression to select in place of name, for what is kept in another table; such
	// a column is never written.
	read string
}

// use is what a column may be used for beyond being read.
type use uint

const (
	given    use = 1 << iota // by the engine: never written
	fixed                    // written when the row is made, not afterwards
	sortable                 // a sort key of lists
	nullable                 // matters to sort keys only
)

func (u use) has(v use) bool { return u&v != 0 }

// table is a table and its columns.
type table[T any] struct {
	name    string
	label   string // wire name of one row, for errors: "Node"
	key     string // column that names a row on the wire
	columns []column[T]
}

// selectFrom returns "SELECT every column FROM table".
func (t *table[T]) selectFrom() string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
		if c.read != "" {
			// Its own name, or PostgreSQL takes that of the column in the other table, and does not know
			// which of two to sort by.
			names[i] = c.read + " AS " + c.name
		}
	}
	return "SELECT " + strings.Join(names, ", ") + " FROM " + t.name
}

// scan reads a row of selectFrom.
func (t *table[T]) scan(row interface{ Scan(...any) error }) (*T, error) {
	v := new(T)
	into := make([]any, len(t.columns))
	for i, c := range t.columns {
		into[i] = c.at(v)
	}
	if err := row.Scan(into...); err != nil {
		return nil, err
	}
	return v, nil
}

// insert makes a row and returns its id.
func (t *table[T]) insert(ctx context.Context, tx *tx, v *T) (id int64, err error) {
	var names, places []string
	var args []any
	for _, c := range t.columns {
		if c.use.has(given) || c.read != "" {
			continue
		}
		args = append(args, c.at(v))
		names = append(names, c.name)
		places = append(places, "$"+strconv.Itoa(len(args)))
	}
	err = tx.QueryRowContext(ctx, "INSERT INTO "+t.name+" ("+strings.Join(names, ", ")+
		") VALUES ("+strings.Join(places, ", ")+") RETURNING id", args...).Scan(&id)
	return id, err
}

// update writes every column that may change in the rows that match, and returns how many did.
func (t *table[T]) update(ctx context.Context, tx *tx, v *T, match where) (int64, error) {
	var sets []string
	var args []any
	for _, c := range t.columns {
		if c.use.has(given|fixed) || c.read != "" {
			continue
		}
		args = append(args, c.at(v))
		sets = append(sets, c.name+" = $"+strconv.Itoa(len(args)))
	}
	cond, args := match.clause(args)
	return changed(tx.ExecContext(ctx,
		"UPDATE "+t.name+" SET "+strings.Join(sets, ", ")+cond, args...))
}

// sortKey returns the column to sort by; "" is id.
func (t *table[T]) sortKey(name string) (column[T], error) {
	if name == "" {
		name = "id"
	}
	i := slices.IndexFunc(t.columns, func(c column[T]) bool {
		return c.name == name && c.use.has(sortable)
	})
	if i < 0 {
		return column[T]{}, ingot.Errorf(ingot.Invalid,
			`The sort_key value "%s" is an invalid field for sorting`, name)
	}
	return t.columns[i], nil
}

func (t *table[T]) notFound(ident string) error {
	return ingot.Errorf(ingot.NotFound, "%s %s could not be found.", t.label, ident)
}

// changed returns the number of rows that a statement changed.
func changed(r sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// where is a conjunction of conditions; each has a ? for each of its arguments.
type where struct {
	conditions []string
	args       []any
	// rare says that few rows match a range. An engine that does not know would rather walk all
	// rows in the order of id than look up those few and sort them.
	rare bool
	// scope are those of the conditions, with their arguments, that markers have to match, too: of rows
	// beyond it nobody may learn that they exist.
	scope     []string
	scopeArgs []any
}

// within adds a condition that is part of the scope.
func (w *where) within(condition string, args ...any) {
	w.add(condition, args...)
	w.scope, w.scopeArgs = append(w.scope, condition), append(w.scopeArgs, args...)
}

func (w *where) add(condition string, args ...any) {
	w.conditions = append(w.conditions, condition)
	w.args = append(w.args, args...)
}

// clause returns " WHERE ..." with numbered places, and all arguments: those before it in the
// statement, then its own.
func (w where) clause(before []any) (string, []any) {
	if len(w.conditions) == 0 {
		return "", before
	}
	text := " WHERE (" + strings.Join(w.conditions, ") AND (") + ")"
	var b strings.Builder
	n := len(before)
	for part := range strings.SplitSeq(text, "?") {
		if b.Len() > 0 {
			n++
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
	}
	return b.String(), slices.Concat(before, w.args)
}

// text stands for a string that is NULL when it is empty.
type text[S ~string] struct{ s *S }

func textOrNull[S ~string](s *S) text[S] { return text[S]{s} }

func (t text[S]) Value() (driver.Value, error) {
	if *t.s == "" {
		return nil, nil
	}
	return storable(string(*t.s)), nil
}

// storable is a text as every engine takes it. What a machine or its BMC said may be anything, and
// PostgreSQL refuses bytes that are not UTF-8, and zero.
func storable(s string) string {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	}
	return s
}

func (t text[S]) Scan(src any) error {
	var s sql.NullString
	if err := s.Scan(src); err != nil {
		return err
	}
	*t.s = S(s.String)
	return nil
}

// moment stands for a time; zero is NULL.
type moment struct{ t *time.Time }

func (m moment) Value() (driver.Value, error) {
	if m.t.IsZero() {
		return nil, nil
	}
	return m.t.UnixMicro(), nil
}

func (m moment) Scan(src any) error {
	var micros sql.NullInt64
	if err := micros.Scan(src); err != nil {
		return err
	}
	*m.t = time.Time{}
	if micros.Valid {
		*m.t = time.UnixMicro(micros.Int64).UTC()
	}
	return nil
}

// maybe stands for a time that may be missing.
type maybe struct{ t **time.Time }

func (m maybe) Value() (driver.Value, error) {
	if *m.t == nil {
		return nil, nil
	}
	return (*m.t).UnixMicro(), nil
}

func (m maybe) Scan(src any) error {
	var t time.Time
	if err := (moment{&t}).Scan(src); err != nil {
		return err
	}
	*m.t = nil
	if !t.IsZero() {
		*m.t = &t
	}
	return nil
}

// document stands for a value kept as JSON; empty is what is written for nil, "" is NULL.
type document[V any] struct {
	v     *V
	empty string
}

func (d document[V]) Value() (driver.Value, error) {
	text, err := json.Marshal(*d.v)
	if err != nil {
		return nil, fmt.Errorf("encode for the store: %w", err)
	}
	switch {
	case string(text) != "null":
		return string(text), nil
	case d.empty != "":
		return d.empty, nil
	}
	return nil, nil
}

func (d document[V]) Scan(src any) error {
	var s sql.NullString
	if err := s.Scan(src); err != nil || !s.Valid {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(s.String))
	dec.UseNumber() // 1 stays 1, and a serial number of 20 digits keeps all of them
	if err := dec.Decode(d.v); err != nil {
		return fmt.Errorf("decode from the store: %w", err)
	}
	return nil
}

func object(o *ingot.Object) document[ingot.Object] { return document[ingot.Object]{o, "{}"} }
