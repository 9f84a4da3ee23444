package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

func TestVIFsAreListedAttachedAndDetached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	w.conductor.vifs = []string{"vif-1"}
	const at = "/v1/nodes/n1/vifs"
	got := w.at("1.28", "GET", at, "").want(200).object()
	if want := map[string]any{"vifs": []any{map[string]any{"id": "vif-1"}}}; !cmp.Equal(got, want) {
		t.Errorf("list %v", got)
	}
	for _, c := range []struct {
		method, path, body string
		want               any
	}{
		{"POST", at, `{"id": "` + portID + `"}`, rpc.VIF{ID: portID}},
		{"POST", at, `{"id": "a", "port_uuid": "` + portID + `", "more": 1}`,
			rpc.VIF{ID: "a", PortUUID: portID}},
		{"DELETE", at + "/" + portID, "", portID},
	} {
		w.do(c.method, c.path, c.body).want(204)
		if got := w.conductor.last(); got != c.want {
			t.Errorf("%s %s: the conductor was asked for %+v", c.method, c.body, got)
		}
	}
	w.at("1.27", "GET", at, "").want(404)
	w.conductor.fail = ingot.Errorf(ingot.Conflict, "Unable to attach VIF because VIF %s is already "+
		"attached to Ironic Port %s", "a", portID)
	w.do("POST", at, `{"id": "a"}`).refused(409, w.conductor.fail.Error())
}

func TestBadVIFsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for _, c := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"POST", "", ``, 400, "Schema error for vif: None is not of type 'object'"},
		{"POST", "", `{"port_uuid": "x"}`, 400, "Schema error for vif: 'id' is a required property"},
		{"POST", "", `{"id": "a b"}`, 400, "Expected UUID or name for id: a b"},
		{"POST", "", `{"id": "a", "port_uuid": "p"}`, 400, "Expected UUID for port_uuid: p"},
		{"POST", "", `{"id": "a", "portgroup_uuid": "p"}`, 400, "Portgroup p could not be found."},
		{"POST", "", `{"id": "a", "port_uuid": "p", "portgroup_uuid": "p"}`, 400,
			"Cannot specify both port_uuid and portgroup_uuid"},
		{"DELETE", "/a%20b", "", 400, "Expected UUID or name for vif_id: a b"},
	} {
		w.do(c.method, "/v1/nodes/n1/vifs"+c.path, c.body).refused(c.status, c.text)
	}
	w.do("GET", "/v1/nodes/n2/vifs", "").refused(404, "Node n2 could not be found.")
}
