package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
)

// traits reads the traits of the node, as the list and as its field.
func (w *world) traits() []any {
	w.Helper()
	list := w.do("GET", "/v1/nodes/n1/traits", "").want(200).object()["traits"].([]any)
	nodes := w.at("1.46", "GET", "/v1/nodes?fields=uuid,traits", "").want(200).list("nodes")
	if field := nodes[0].(map[string]any)["traits"]; !cmp.Equal(field, any(list)) {
		w.Errorf("the field is %v, the list %v", field, list)
	}
	return list
}

func TestTraitsAreSetAddedAndRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) { n.ProvisionState = "active" })
	const at = "/v1/nodes/n1/traits"
	for _, c := range []struct {
		method, path, body string
		want               []any
	}{
		{"GET", at, "", []any{}},
		{"PUT", at, `{"traits": ["HW_CPU_X86_VMX", "CUSTOM_B", "CUSTOM_B"]}`,
			[]any{"CUSTOM_B", "HW_CPU_X86_VMX"}},
		{"PUT", at + "/CUSTOM_A_1", "", []any{"CUSTOM_A_1", "CUSTOM_B", "HW_CPU_X86_VMX"}},
		{"PUT", at + "/CUSTOM_A_1", "", []any{"CUSTOM_A_1", "CUSTOM_B", "HW_CPU_X86_VMX"}},
		{"DELETE", at + "/CUSTOM_B", "", []any{"CUSTOM_A_1", "HW_CPU_X86_VMX"}},
		{"DELETE", at, "", []any{}},
		{"PUT", at, `{"traits": []}`, []any{}},
	} {
		if c.method != "GET" {
			a := w.at("1.37", c.method, c.path, c.body).want(204)
			if c.method == "PUT" && c.path != at && a.header.Get("Location") != w.url+c.path {
				t.Errorf("Location %s", a.header.Get("Location"))
			}
		}
		if got := w.traits(); !cmp.Equal(got, c.want) {
			t.Errorf("after %s %s %s: %v, want %v", c.method, c.path, c.body, got, c.want)
		}
	}
}

func TestBadTraitsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	const (
		at   = "/v1/nodes/n1/traits"
		none = " is not valid under any of the given schemas: a trait is CUSTOM_ with letters A-Z, " +
			"digits and _, or one of os-traits (COMPUTE_, HW_, MISC_, OWNER_, STORAGE_)"
	)
	many := make([]string, 51)
	for i := range many {
		many[i] = fmt.Sprintf(`"CUSTOM_%d"`, i)
	}
	w.do("PUT", at, `{"traits": [`+strings.Join(many[:50], ",")+`]}`).want(204)
	long := "CUSTOM_" + strings.Repeat("X", 249)
	for _, c := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"PUT", at + "/custom_a", "", 400, "Schema error for trait: 'custom_a'" + none},
		{"PUT", at + "/CUSTOM_", "", 400, "Schema error for trait: 'CUSTOM_'" + none},
		{"PUT", at + "/GOLD", "", 400, "Schema error for trait: 'GOLD'" + none},
		{"PUT", at + "/" + long, "", 400, "Schema error for trait: '" + long + "' is too long"},
		{"PUT", at + "/CUSTOM_A", `{"traits": []}`, 400,
			"No body should be provided when adding a trait"},
		{"PUT", at + "/CUSTOM_50", "", 400, "Could not modify traits for node " + nodeID +
			" as it would exceed the maximum number of traits per node (51 vs. 50)"},
		{"PUT", at, `{"traits": [` + strings.Join(many, ",") + `]}`, 400, "Could not modify traits " +
			"for node " + nodeID + " as it would exceed the maximum number of traits per node (51 vs. 50)"},
		{"PUT", at, `{"traits": "CUSTOM_A"}`, 400,
			"Schema error for body: 'CUSTOM_A' is not of type 'array'"},
		{"PUT", at, `{"traits": [1]}`, 400, "Schema error for body: 1 is not of type 'string'"},
		{"PUT", at, `{"traits": ["a"]}`, 400, "Schema error for body: 'a'" + none},
		{"PUT", at, `{}`, 400, "A single node trait may be added via PUT /v1/nodes/<node " +
			"identifier>/traits/<trait> with no body, or all node traits may be replaced via PUT " +
			"/v1/nodes/<node identifier>/traits with the list of traits specified in the request body."},
		{"DELETE", at + "/CUSTOM_A", "", 404, "Node " + nodeID + " doesn't have a trait 'CUSTOM_A'"},
		{"GET", "/v1/nodes/n2/traits", "", 404, "Node n2 could not be found."},
	} {
		w.do(c.method, c.path, c.body).refused(c.status, c.text)
	}
	w.at("1.36", "GET", at, "").want(404)
	if got := w.traits(); len(got) != 50 {
		t.Errorf("%d traits, want the 50 from before", len(got))
	}
}

func TestTraitsOfALockedNodeStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	w.conductor.fail = ingot.Errorf(ingot.Locked, "Node %s is locked by host c1, please retry after "+
		"the current operation is completed.", nodeID)
	w.do("PUT", "/v1/nodes/n1/traits/CUSTOM_A", "").refused(409, w.conductor.fail.Error())
	if got := w.traits(); len(got) != 0 {
		t.Errorf("traits %v", got)
	}
}
