package api

import (
	"fmt"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/policy"
)

// RouteTable is the table of routes as text.
func RouteTable() string {
	var b strings.Builder
	for _, rt := range routes {
		var args []string
		for _, a := range rt.args {
			args = append(args, fmt.Sprintf("%s(%d)", a.name, a.minor))
		}
		if rt.anyArg {
			args = []string{"*"}
		}
		audience := "clients"
		switch {
		case rt.machine:
			audience = "machines"
		case rt.public:
			audience = "all"
		}
		fmt.Fprintf(&b, "%-6s %-55s 1.%-2d %-8s %s [%s]\n", rt.method, rt.pattern, max(rt.minor, 1),
			audience, rt.policy, strings.Join(args, " "))
	}
	return b.String()
}

// Routes lists method and pattern of every route.
func Routes() []string {
	rows := make([]string, len(routes))
	for i, rt := range routes {
		rows[i] = rt.method + " " + rt.pattern
	}
	return rows
}

// Patch decodes a patch document and applies it to a JSON object.
func Patch(doc, patch []byte) (ingot.Object, error) {
	d, err := parseJSON(doc)
	if err != nil {
		return nil, err
	}
	o, ok := d.(ingot.Object)
	if !ok {
		return nil, invalid("the document is no object")
	}
	p, err := parseJSON(patch)
	if err != nil {
		return nil, err
	}
	ops, err := decodePatch(p)
	if err != nil {
		return nil, err
	}
	return applyPatch(o, ops)
}

// Nesting is how deep a value is nested.
func Nesting(v any) int { return nesting(v) }

// Mask is what a reader sees of a free-form object.
func Mask(o ingot.Object) ingot.Object { return mask(o) }

// MaxDepth is how deep bodies may be nested.
const MaxDepth = maxDepth

// Rules are the rules of the routes.
func Rules() map[string]policy.Rule {
	rules := map[string]policy.Rule{}
	for _, rt := range routes {
		rules[rt.method+" "+rt.pattern] = rt.policy
	}
	return rules
}
