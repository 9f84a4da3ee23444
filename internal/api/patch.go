package api

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ingot/internal/ingot"
)

// operation is one operation of a JSON patch (RFC 6902); Ironic takes add, replace and remove.
type operation struct {
	op       string
	path     string
	value    any
	hasValue bool
}

var (
	operations = []string{"add", "replace", "remove"}
	pathForm   = regexp.MustCompile(`^(/[\p{L}\p{N}_-]+)+$`)
)

// pathPattern is how Ironic's messages show pathForm.
const pathPattern = `^(/[\\w-]+)+$`

// parts returns the members that the path names, from the root. Without ~0 and ~1 (they come
// with 1.98) a path is what it looks like.
func (o operation) parts() []string { return strings.Split(o.path[1:], "/") }

// root is the field of the resource that the operation touches.
func (o operation) root() string { return o.parts()[0] }

// String is the operation as Ironic's messages show it.
func (o operation) String() string {
	s := "{'op': " + pythonQuote(o.op) + ", 'path': " + pythonQuote(o.path)
	if o.hasValue {
		s += ", 'value': " + pythonRepr(o.value)
	}
	return s + "}"
}

// patch is the patch document in the body of the request.
func (c *call) patch() ([]operation, error) {
	body, err := c.decode()
	if err != nil {
		return nil, err
	}
	return decodePatch(body)
}

// decodePatch checks the form of a patch document; an absent one is empty.
func decodePatch(body any) ([]operation, error) {
	if body == nil {
		return nil, nil
	}
	list, ok := body.([]any)
	if !ok {
		return nil, schemaError("patch", pythonRepr(body)+" is not of type 'array'")
	}
	patch := make([]operation, len(list))
	for i, item := range list {
		var err error
		if patch[i], err = decodeOperation(item); err != nil {
			return nil, err
		}
	}
	return patch, nil
}

func decodeOperation(item any) (operation, error) {
	o, ok := item.(ingot.Object)
	if !ok {
		return operation{}, schemaError("patch", pythonRepr(item)+" is not of type 'object'")
	}
	for key := range o {
		if key != "op" && key != "path" && key != "value" {
			return operation{}, schemaError("patch",
				"Additional properties are not allowed ("+pythonQuote(key)+" was unexpected)")
		}
	}
	var words [2]string
	for i, key := range []string{"op", "path"} {
		v, present := o[key]
		if !present {
			return operation{}, schemaError("patch", pythonQuote(key)+" is a required property")
		}
		if words[i], ok = v.(string); !ok {
			return operation{}, schemaError("patch", pythonRepr(v)+" is not of type 'string'")
		}
	}
	op := operation{op: words[0], path: words[1]}
	op.value, op.hasValue = o["value"]
	switch {
	case !slices.Contains(operations, op.op):
		return operation{}, schemaError("patch", pythonQuote(op.op)+" is not one of ["+
			pythonList(operations)+"]")
	case !pathForm.MatchString(op.path):
		return operation{}, schemaError("patch", pythonQuote(op.path)+" does not match '"+
			pathPattern+"'")
	case !op.hasValue && op.op != "remove":
		return operation{}, patchError(op, "The operation does not contain a 'value' member")
	}
	return op, nil
}

func patchError(op operation, reason string) error {
	return invalid("Couldn't apply patch '%s'. Reason: %s", op, reason)
}

// checkPatch refuses operations on fields that cannot be patched, or not yet at this
// microversion.
func (t fields[T]) checkPatch(c *call, patched []operation) error {
	var allowed []string
	for _, f := range t {
		if f.access&patch != 0 && f.minor <= latest {
			allowed = append(allowed, f.name)
		}
	}
	slices.Sort(allowed)
	for _, op := range patched {
		if f := t.find(op.root()); f == nil || f.access&patch == 0 {
			return invalid("Cannot patch %s. Only the following can be updated: %s", op.path,
				strings.Join(allowed, ", "))
		}
	}
	for _, op := range patched {
		if t.find(op.root()).minor > c.minor {
			return notAcceptable()
		}
	}
	return nil
}

// document returns the fields of v that can be patched, as a JSON object that shares nothing
// with v.
func (t fields[T]) document(c *call, v *T) ingot.Object {
	doc := ingot.Object{}
	for _, f := range t {
		if f.access&patch != 0 {
			doc[f.name] = clone(f.get(c, v))
		}
	}
	return doc
}

// patched applies a patch to v's document and returns the fields that it changes, checked.
func (t fields[T]) patched(c *call, v *T, patched []operation) (ingot.Object, error) {
	before := t.document(c, v)
	after, err := applyPatch(t.document(c, v), patched)
	if err != nil {
		return nil, err
	}
	delta := ingot.Object{}
	checked, err := t.check("patch", after, patch)
	if err != nil {
		return nil, err
	}
	for name, old := range before {
		now, present := checked[name]
		if !present {
			now = nil // removed at the root: back to nothing
		}
		if !reflect.DeepEqual(old, now) {
			delta[name] = now
		}
	}
	return delta, nil
}

func clone(v any) any {
	switch v := v.(type) {
	case ingot.Object:
		o := make(ingot.Object, len(v))
		for k := range v {
			o[k] = clone(v[k])
		}
		return o
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = clone(v[i])
		}
		return list
	}
	return v
}

// applyPatch applies the operations in order to doc, which it changes, and returns it. An error
// names the operation that could not be applied.
func applyPatch(doc ingot.Object, patched []operation) (ingot.Object, error) {
	for _, op := range patched {
		if _, known := doc[op.root()]; op.op == "add" && len(op.parts()) == 1 && !known {
			return nil, invalid("Adding a new attribute (%s) to the root of the resource is not "+
				"allowed", op.path)
		}
	}
	for _, op := range patched {
		if _, reason := edit(doc, op.parts(), op); reason != "" {
			return nil, patchError(op, reason)
		}
	}
	for _, v := range doc {
		if nesting(v) >= maxDepth {
			return nil, invalid("The result of the patch is nested deeper than %d levels; make "+
				"it flatter.", maxDepth)
		}
	}
	return doc, nil
}

// edit applies op below container and returns the container, which is another one when an array
// grew or shrank. A reason says why it could not.
func edit(container any, parts []string, op operation) (edited any, reason string) {
	switch c := container.(type) {
	case ingot.Object:
		return editObject(c, parts, op)
	case []any:
		return editArray(c, parts, op)
	}
	return nil, "Unable to fully resolve json pointer " + op.path + ", part " + parts[0]
}

func editObject(o ingot.Object, parts []string, op operation) (any, string) {
	key := parts[0]
	child, present := o[key]
	if len(parts) > 1 {
		if !present {
			return nil, "member " + pythonQuote(key) + " not found in " + pythonRepr(o)
		}
		edited, reason := edit(child, parts[1:], op)
		if reason == "" {
			o[key] = edited
		}
		return o, reason
	}
	switch {
	case op.op != "add" && !present:
		return nil, "can't " + op.op + " a non-existent object " + pythonQuote(key)
	case op.op == "remove":
		delete(o, key)
	default:
		o[key] = clone(op.value)
	}
	return o, ""
}

func editArray(list []any, parts []string, op operation) (any, string) {
	if parts[0] == "-" && len(parts) == 1 && op.op == "add" {
		return append(list, clone(op.value)), ""
	}
	i, err := strconv.Atoi(parts[0])
	if err != nil || i < 0 || parts[0] != strconv.Itoa(i) {
		return nil, pythonQuote(parts[0]) + " is not a valid sequence index"
	}
	if len(parts) > 1 {
		if i >= len(list) {
			return nil, "list index out of range"
		}
		edited, reason := edit(list[i], parts[1:], op)
		if reason == "" {
			list[i] = edited
		}
		return list, reason
	}
	switch {
	case op.op == "add" && i > len(list):
		return nil, "can't insert outside of list"
	case op.op == "add":
		return slices.Insert(list, i, clone(op.value)), ""
	case i >= len(list):
		return nil, "can't " + op.op + " outside of list"
	case op.op == "replace":
		list[i] = clone(op.value)
		return list, ""
	}
	return slices.Delete(list, i, i+1), ""
}

// nesting returns how deep a value is nested; 0 for what is neither array nor object.
func nesting(v any) int {
	deepest := 0
	switch v := v.(type) {
	case ingot.Object:
		for _, child := range v {
			deepest = max(deepest, nesting(child))
		}
		return deepest + 1
	case []any:
		for _, child := range v {
			deepest = max(deepest, nesting(child))
		}
		return deepest + 1
	}
	return 0
}
