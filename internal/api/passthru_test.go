package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

const script = "#!ipxe\necho hello\n"

// TestS1_2_ipxe_config_is_asked_by_node_uuid: the query argument reaches the driver's method.
func TestS1_2_ipxe_config_is_asked_by_node_uuid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.conductor.reply = rpc.Reply{Attach: true, Body: []byte(script)}
	for _, path := range []string{
		"/v1/drivers/ipmi/vendor_passthru/ipxe_config?node_uuid=" + nodeID,
		"/v1/drivers/ipmi/vendor_passthru?method=ipxe_config&node_uuid=" + nodeID,
	} {
		a := w.do("GET", path, "").want(200)
		if string(a.body) != script {
			t.Errorf("%s: %q", path, a.body)
		}
		want := rpc.Call{Method: "ipxe_config", HTTPMethod: "GET",
			Args: ingot.Object{"node_uuid": nodeID}}
		if diff := cmp.Diff(want, w.conductor.last()); diff != "" {
			t.Errorf("%s: call (-want +got):\n%s", path, diff)
		}
	}
}

// TestS1_3_ipxe_config_is_asked_by_port_address as iPXE spells it.
func TestS1_3_ipxe_config_is_asked_by_port_address(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.conductor.reply = rpc.Reply{Attach: true, Body: []byte(script)}
	w.send(w.machine, "GET", "/v1/drivers/ipmi/vendor_passthru/ipxe_config"+
		"?port_address=52:54:00:00:00:01", "", version("")...).want(200)
	want := rpc.Call{Method: "ipxe_config", HTTPMethod: "GET", PublicOnly: true,
		Args: ingot.Object{"port_address": "52:54:00:00:00:01"}}
	if diff := cmp.Diff(want, w.conductor.last()); diff != "" {
		t.Errorf("call (-want +got):\n%s", diff)
	}
}

// TestS1_7_the_reply_says_how_it_is_served: raw, as JSON, or not at all.
func TestS1_7_the_reply_says_how_it_is_served(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for _, path := range []string{"/v1/drivers/ipmi/vendor_passthru/m",
		"/v1/nodes/n1/vendor_passthru/m"} {
		for _, c := range []struct {
			reply             rpc.Reply
			status            int
			kind, body, bytes string
		}{
			{rpc.Reply{Attach: true, Body: []byte(script)}, 200, "text/plain", script, "18"},
			{rpc.Reply{Attach: true}, 200, "text/plain", "", "0"},
			{rpc.Reply{Value: map[string]any{"a": 1}}, 200, "application/json", `{"a":1}`, "7"},
			{rpc.Reply{}, 200, "application/json", `null`, "4"},
			{rpc.Reply{Async: true, Value: "lost"}, 202, "", "", "0"},
		} {
			w.conductor.reply = c.reply
			a := w.do("GET", path, "").want(c.status)
			if a.header.Get("Content-Type") != c.kind || string(a.body) != c.body ||
				a.header.Get("Content-Length") != c.bytes {
				t.Errorf("%s: %+v is served as %q %q, %s bytes", path, c.reply,
					a.header.Get("Content-Type"), a.body, a.header.Get("Content-Length"))
			}
			h := w.do("HEAD", path, "").want(c.status)
			if len(h.body) != 0 || h.header.Get("Content-Length") != c.bytes {
				t.Errorf("HEAD %s: %q, %s bytes", path, h.body, h.header.Get("Content-Length"))
			}
			if got := w.conductor.last().(rpc.Call).HTTPMethod; got != "GET" {
				t.Errorf("the method sees %s", got)
			}
		}
	}
}

// TestS1_8_the_machines_socket_is_public_and_narrow: no credentials, public methods only, and
// nothing but what machines call.
func TestS1_8_the_machines_socket_is_public_and_narrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/v1/drivers/ipmi/vendor_passthru/ipxe_config", 200},
		{"HEAD", "/v1/drivers/ipmi/vendor_passthru?method=ipxe_config", 200},
		{"POST", "/v1/nodes/" + nodeID + "/vendor_passthru/pass_deploy_info", 200},
		{"POST", "/v1/nodes/" + nodeID + "/vendor_passthru?method=pass_deploy_status", 200},
		{"POST", "/v1/drivers/ipmi/vendor_passthru/x", 405},
		{"GET", "/v1/nodes/" + nodeID + "/vendor_passthru/x", 405},
		{"DELETE", "/v1/nodes/" + nodeID + "/vendor_passthru/x", 405},
		{"GET", "/v1/nodes", 404},
		{"GET", "/v1/nodes/" + nodeID, 404},
		{"GET", "/v1/nodes/" + nodeID + "/journal", 404},
		{"PUT", "/v1/nodes/" + nodeID + "/states/provision", 404},
		{"GET", "/", 200}, // the versions, which agents ask for
	} {
		before := len(w.conductor.calls)
		w.send(w.machine, c.method, c.path, "", version("")...).want(c.status)
		if calls := w.conductor.calls; len(calls) > before {
			if call, ok := calls[before].(rpc.Call); !ok || !call.PublicOnly {
				t.Errorf("%s %s: call %+v is not marked public", c.method, c.path, calls[before])
			}
		}
	}
	w.do("GET", "/v1/drivers/ipmi/vendor_passthru/ipxe_config", "").want(200)
	if w.conductor.last().(rpc.Call).PublicOnly {
		t.Error("a call on the API's socket is marked public")
	}
}

// TestS1_11_the_data_model_of_clients_is_unchanged: nothing that this feature needs is on the
// wire; appendix A's keys are all there is (the golden files hold the lists).
func TestS1_11_the_data_model_of_clients_is_unchanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) {
		n.BootIntent, n.Attempt = ingot.BootDeploy, &ingot.Attempt{ID: "0123abcd", Key: "hush"}
	})
	o := w.do("GET", "/v1/nodes/n1", "").want(200).object()
	for _, key := range []string{"boot_intent", "attempt", "steps", "step", "generation", "id"} {
		if v, shown := o[key]; shown {
			t.Errorf("%s is shown: %v", key, v)
		}
	}
}

func TestPassthruArgumentsAreMergedAndTheBodyWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	w.do("POST", "/v1/nodes/n1/vendor_passthru?method=m&a=query&b=query", `{"a": "body", "c": {}}`).
		want(200)
	want := rpc.Call{Method: "m", HTTPMethod: "POST",
		Args: ingot.Object{"a": "body", "b": "query", "c": ingot.Object{}}}
	if diff := cmp.Diff(want, w.conductor.last()); diff != "" {
		t.Errorf("call (-want +got):\n%s", diff)
	}
	w.do("POST", "/v1/nodes/n1/vendor_passthru", `{}`).refused(400, "Method not specified")
	w.do("POST", "/v1/nodes/n1/vendor_passthru/m", `[]`).want(400)
	w.do("POST", "/v1/nodes/none/vendor_passthru/m", `{}`).refused(404,
		"Node none could not be found.")
}

func TestPassthruMethodsAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	w.conductor.methods = map[string]rpc.Method{"ipxe_config": {HTTPMethods: []string{"GET"},
		Description: "script", Attach: true}}
	want := `{"ipxe_config":{"http_methods":["GET"],"async":false,"description":"script",` +
		`"attach":true,"require_exclusive_lock":false}}`
	for _, path := range []string{"/v1/drivers/ipmi/vendor_passthru/methods",
		"/v1/nodes/n1/vendor_passthru/methods"} {
		if a := w.do("GET", path, "").want(200); string(a.body) != want {
			t.Errorf("%s: %s", path, a.body)
		}
	}
}
