package api

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"ingot/internal/ingot"
)

// field is one member of a resource's representation: since when it exists, who may write it,
// what it accepts, and where it lives. The table of a resource's fields, in the order of the
// wire, drives what is shown, what fields= and sort_key= accept, what a POST body may hold, and
// what a PATCH may touch.
type field[T any] struct {
	name string
	// minor is the x of the first microversion 1.x that has it.
	minor  int
	access access
	// listed: part of a list without fields= and detail.
	listed bool
	// mandatory in POST, and not removable.
	mandatory bool
	accept    schema
	// get returns the value.
	get func(c *call, v *T) any
	// show replaces get where what is shown differs from what a PATCH starts from: secrets.
	show func(c *call, v *T) any
	// set stores a value that accept has converted; nil is null. A nil set: read-only.
	set func(v *T, value any)
}

type access int

const (
	create access = 1 << iota
	patch
)

// schema is what a field accepts.
type schema struct {
	types []string // JSON types, in the order in which messages name them
	max   int      // greatest length of a string in characters; 0 is no limit
	// convert checks further and normalises; it never sees null.
	convert func(name string, v any) (any, error)
}

var (
	textOrNull   = schema{types: []string{"string", "null"}}
	objectOrNull = schema{types: []string{"object", "null"}}
	boolOrNull   = schema{types: []string{"string", "boolean", "null"}, convert: boolean}
	uuidOrNull   = schema{types: []string{"string", "null"}, convert: uuid}
)

// The constructors below make the usual kinds of fields of a T; the methods after them refine.

func text[T any](name string, at func(*T) *string) field[T] {
	return field[T]{name: name, minor: 1, accept: textOrNull,
		get: func(_ *call, v *T) any { return nullable(*at(v)) },
		set: func(v *T, value any) { s, _ := value.(string); *at(v) = s }}
}

func freeForm[T any](name string, at func(*T) *ingot.Object) field[T] {
	return field[T]{name: name, minor: 1, accept: objectOrNull,
		get: func(_ *call, v *T) any { return orEmpty(*at(v)) },
		set: func(v *T, value any) { o, _ := value.(ingot.Object); *at(v) = orEmpty(o) }}
}

func flag[T any](name string, at func(*T) *bool) field[T] {
	return field[T]{name: name, minor: 1, accept: boolOrNull,
		get: func(_ *call, v *T) any { return *at(v) },
		set: func(v *T, value any) { b, _ := value.(bool); *at(v) = b }}
}

func optionalFlag[T any](name string, at func(*T) **bool) field[T] {
	return field[T]{name: name, minor: 1, accept: boolOrNull,
		get: func(_ *call, v *T) any {
			if b := *at(v); b != nil {
				return *b
			}
			return nil
		},
		set: func(v *T, value any) {
			*at(v) = nil
			if b, ok := value.(bool); ok {
				*at(v) = &b
			}
		}}
}

func moment[T any](name string, at func(*T) *time.Time) field[T] {
	return field[T]{name: name, minor: 1, get: func(_ *call, v *T) any { return timestamp(at(v)) }}
}

func computed[T any](name string, get func(c *call, v *T) any) field[T] {
	return field[T]{name: name, minor: 1, get: get}
}

func (f field[T]) since(minor int) field[T] { f.minor = minor; return f }
func (f field[T]) list() field[T]           { f.listed = true; return f }
func (f field[T]) as(s schema) field[T]     { f.accept = s; return f }
func (f field[T]) limit(max int) field[T]   { f.accept.max = max; return f }
func (f field[T]) may(a access) field[T]    { f.access = a; return f }
func (f field[T]) must() field[T]           { f.mandatory = true; return f }

func (f field[T]) shown(show func(*call, *T) any) field[T] { f.show = show; return f }
func (f field[T]) stored(set func(*T, any)) field[T]       { f.set = set; return f }

func nullable[S ~string](s S) any {
	if s == "" {
		return nil
	}
	return string(s)
}

func orEmpty(o ingot.Object) ingot.Object {
	if o == nil {
		return ingot.Object{}
	}
	return o
}

// timestamp writes a time as Ironic does: +00:00 and no Z, a fraction only if there is one.
func timestamp(t *time.Time) any {
	if t == nil || t.IsZero() {
		return nil
	}
	u := t.UTC()
	if u.Nanosecond() < 1000 {
		return u.Format("2006-01-02T15:04:05") + "+00:00"
	}
	return u.Format("2006-01-02T15:04:05.000000") + "+00:00"
}

// fields is the table of a resource.
type fields[T any] []field[T]

func (t fields[T]) find(name string) *field[T] {
	if i := slices.IndexFunc(t, func(f field[T]) bool { return f.name == name }); i >= 0 {
		return &t[i]
	}
	return nil
}

// only returns some of the fields, in that order.
func (t fields[T]) only(names ...string) fields[T] {
	some := make(fields[T], len(names))
	for i, name := range names {
		some[i] = *t.find(name)
	}
	return some
}

// selection says which fields to show; nil is all.
type selection map[string]bool

// full is all fields that the microversion has.
var full selection

// selected turns ?fields= and ?detail= into a selection; neither is the fields of a list.
func (t fields[T]) selected(c *call) (selection, error) {
	detail, err := c.detail()
	if err != nil || detail {
		return full, err
	}
	if c.query.Has("fields") {
		return t.named(c)
	}
	s := selection{}
	for _, f := range t {
		if f.listed {
			s[f.name] = true
		}
	}
	return s, nil
}

// named turns ?fields= into a selection; without it, all.
func (t fields[T]) named(c *call) (selection, error) {
	if !c.query.Has("fields") {
		return full, nil
	}
	s := selection{}
	var unknown []string
	for _, name := range c.fields() {
		f := t.find(name)
		switch {
		case f == nil:
			unknown = append(unknown, name)
		case f.minor > c.minor:
			return nil, notAcceptable()
		}
		s[name] = true
	}
	if len(unknown) == 1 {
		return nil, invalid("Field %s is not a valid field.", unknown[0])
	}
	if len(unknown) > 0 {
		return nil, invalid(`Field(s) "%s" are not valid`, strings.Join(unknown, ", "))
	}
	return s, nil
}

// project returns the representation of v at the request's microversion.
func (t fields[T]) project(c *call, v *T, s selection) object {
	size := len(t)
	if s != nil {
		size = len(s)
	}
	o := make(object, 0, size)
	for i := range t {
		f := &t[i]
		if f.minor > c.minor || s != nil && !s[f.name] {
			continue
		}
		show := f.show
		if show == nil {
			show = f.get
		}
		o = append(o, member{f.name, show(c, v)})
	}
	return o
}

// checkSortKey refuses a sort key that the microversion does not have; the store knows which
// columns can be sorted by.
func (t fields[T]) checkSortKey(c *call) error {
	if f := t.find(c.query.Get("sort_key")); f != nil && f.minor > c.minor {
		return notAcceptable()
	}
	return nil
}

// check validates values as a POST body (access create) or as the result of a PATCH (access
// patch) and returns them converted. Label names the resource in messages.
func (t fields[T]) check(label string, body any, a access) (ingot.Object, error) {
	o, ok := body.(ingot.Object)
	if !ok {
		return nil, schemaError(label, pythonRepr(body)+" is not of type 'object'")
	}
	var unknown []string
	for name := range o {
		if f := t.find(name); f == nil || f.access&a == 0 {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		verb := "was"
		if len(unknown) > 1 {
			verb = "were"
		}
		return nil, schemaError(label, "Additional properties are not allowed ("+
			pythonList(unknown)+" "+verb+" unexpected)")
	}
	checked := ingot.Object{}
	for _, f := range t {
		v, present := o[f.name]
		if !present && f.mandatory && f.access&a != 0 {
			return nil, schemaError(label, pythonQuote(f.name)+" is a required property")
		}
		if !present {
			continue
		}
		v, err := f.accept.check(label, f.name, v)
		if err != nil {
			return nil, err
		}
		checked[f.name] = v
	}
	return checked, nil
}

func schemaError(label, text string) error {
	return invalid("Schema error for %s: %s", label, text)
}

// check validates and converts one value.
func (s schema) check(label, name string, v any) (any, error) {
	if !slices.Contains(s.types, jsonType(v)) {
		return nil, schemaError(label, pythonRepr(v)+" is not of type "+pythonList(s.types))
	}
	if text, ok := v.(string); ok && s.max > 0 && utf8.RuneCountInString(text) > s.max {
		return nil, schemaError(label, pythonRepr(v)+" is too long")
	}
	if v == nil || s.convert == nil {
		return v, nil
	}
	return s.convert(name, v)
}

// refuseNewer refuses values of fields that the microversion does not have; saying nothing about
// them, in so many words, is allowed.
func (t fields[T]) refuseNewer(c *call, values ingot.Object) error {
	for name, v := range values {
		if v == nil || v == "" {
			continue
		}
		if f := t.find(name); f != nil && f.minor > c.minor {
			return notAcceptable()
		}
	}
	return nil
}

// apply stores checked values.
func (t fields[T]) apply(v *T, values ingot.Object) {
	for _, f := range t {
		if value, ok := values[f.name]; ok && f.set != nil {
			f.set(v, value)
		}
	}
}
