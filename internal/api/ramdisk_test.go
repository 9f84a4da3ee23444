package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

const (
	unknownRamdisk = "Resource could not be found."
	ramdiskMAC     = "52:54:00:12:34:56"
)

// ramdisk is a world with a node whose ramdisk is awaited, and its port.
func ramdisk(t *testing.T, state string) *world {
	t.Helper()
	w := newWorld(t)
	w.conductor.token = "a-token"
	n := w.addNode(func(n *ingot.Node) {
		n.ProvisionState = state
		n.Attempt = &ingot.Attempt{ID: "5f3a9c01", Agent: &ingot.Agent{}}
		n.InstanceInfo = ingot.Object{"image_url": "http://secret", "root_device": ingot.Object{"name": "/dev/sda"}}
		n.DriverInternalInfo = ingot.Object{"agent_secret_token": "s3cret", "agent_version": "1"}
	})
	err := w.store.CreatePort(t.Context(), &ingot.Port{NodeID: n.ID, UUID: portID, Address: ramdiskMAC,
		PXEEnabled: true})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestAnAgentLooksUpItsNode(t *testing.T) {
	t.Parallel()
	w := ramdisk(t, "wait call-back")
	for _, base := range []string{w.url, w.machine} {
		for _, query := range []string{"node_uuid=" + nodeID, "node_uuid=" + strings.ToUpper(nodeID),
			"addresses=" + ramdiskMAC, "addresses=x,52:54:00:00:00:99," + strings.ToUpper(ramdiskMAC),
			"node_uuid=" + nodeID + "&addresses=nonsense"} {
			o := w.send(base, "GET", "/v1/lookup?"+query, "").want(200).object()
			n, c := o["node"].(map[string]any), o["config"].(map[string]any)
			info := n["instance_info"].(map[string]any)
			if n["uuid"] != nodeID || info["image_url"] != ingot.Masked || info["root_device"] == nil ||
				n["driver_internal_info"].(map[string]any)["agent_secret_token"] != ingot.Masked ||
				len(n["links"].([]any)) != 2 || len(n) != 5 {
				t.Errorf("%s: node %v", query, n)
			}
			if c["agent_token"] != "a-token" || c["agent_token_required"] != true ||
				c["heartbeat_timeout"] != 300.0 || c["metrics"] == nil || c["metrics_statsd"] == nil {
				t.Errorf("%s: config %v", query, c)
			}
		}
	}
	old := w.at("1.61", "GET", "/v1/lookup?node_uuid="+nodeID, "").want(200).object()
	if token := old["config"].(map[string]any)["agent_token"]; token != nil {
		t.Errorf("an agent that knows of no token got %v", token)
	}
}

func TestALookUpTellsNothingOfNodesThatAwaitNoAgent(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"available", "active", "deploy failed", "enroll", "deploy hold"} {
		w := ramdisk(t, state)
		w.send(w.machine, "GET", "/v1/lookup?node_uuid="+nodeID, "").refused(404, unknownRamdisk)
		w.send(w.machine, "GET", "/v1/lookup?addresses="+ramdiskMAC, "").refused(404, unknownRamdisk)
		if call := w.conductor.last(); call != nil {
			t.Errorf("%s: a conductor was asked %v", state, call)
		}
	}
	w := ramdisk(t, "wait call-back")
	n, err := w.store.Node(t.Context(), nodeID)
	if err != nil {
		t.Fatal(err)
	}
	awaited := n.Attempt
	for _, attempt := range []*ingot.Attempt{nil, {ID: "5f3a9c01"}, awaited} { // of others than agents, first
		n.Attempt = attempt
		if err := w.store.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		for _, version := range []string{"1.22", "1.61", "1.82"} {
			want := 404
			if attempt == awaited {
				want = 200
			}
			w.at(version, "GET", "/v1/lookup?node_uuid="+nodeID, "").want(want)
		}
	}
	for _, query := range []string{"node_uuid=99999999-2222-4333-8444-555555555555",
		"addresses=52:54:00:00:00:99"} {
		w.send(w.machine, "GET", "/v1/lookup?"+query, "").refused(404, unknownRamdisk)
	}
	w.conductor.fail = ingot.Errorf(ingot.NotFound, "node such and such awaits nobody")
	w.send(w.machine, "GET", "/v1/lookup?node_uuid="+nodeID, "").refused(404, unknownRamdisk)
	w.conductor.fail = ingot.Errorf(ingot.Locked, "Node is locked")
	w.send(w.machine, "GET", "/v1/lookup?node_uuid="+nodeID, "").want(409)
	for query, text := range map[string]string{
		"":                     "At least one of 'addresses' and 'node_uuid' parameters is required",
		"addresses=x,y":        "At least one of 'addresses' and 'node_uuid' parameters is required",
		"node_uuid=n1":         "Expected UUID for node_uuid: n1",
		"node_uuid=n1&other=1": "Unexpected arguments: other",
	} {
		a := w.send(w.machine, "GET", "/v1/lookup?"+query, "").want(400)
		if got := a.fault()["faultstring"].(string); !strings.Contains(got, text) {
			t.Errorf("%q: %s", query, got)
		}
	}
	w.at("1.21", "GET", "/v1/lookup?node_uuid="+nodeID, "").want(404)
	// Two nodes are not one machine.
	other := &ingot.Node{UUID: "99999999-2222-4333-8444-555555555555", Driver: "ipmi", ProvisionState: "wait call-back"}
	if err := w.store.CreateNode(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	err = w.store.CreatePort(t.Context(), &ingot.Port{NodeID: other.ID, Address: "52:54:00:00:00:42",
		UUID: "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee"})
	if err != nil {
		t.Fatal(err)
	}
	w.send(w.machine, "GET", "/v1/lookup?addresses=52:54:00:00:00:42,"+ramdiskMAC, "").
		refused(404, unknownRamdisk)
}

func TestAHeartbeatIsHandedOn(t *testing.T) {
	t.Parallel()
	w := ramdisk(t, "wait call-back")
	const body = `{"callback_url": "https://192.0.2.7:9999", "agent_token": "t", "agent_version": "9",
		"agent_verify_ca": "PEM"}`
	for _, base := range []string{w.url, w.machine} {
		a := w.send(base, "POST", "/v1/heartbeat/"+nodeID, body).want(http.StatusAccepted)
		if len(a.body) != 0 {
			t.Errorf("body %s", a.body)
		}
		want := rpc.Heartbeat{Token: "t", URL: "https://192.0.2.7:9999", Version: "9", CA: "PEM"}
		if got := w.conductor.last(); got != want {
			t.Errorf("%+v", got)
		}
	}
	w.conductor.fail = ingot.Errorf(ingot.Unavailable, "no worker")
	w.send(w.machine, "POST", "/v1/heartbeat/"+nodeID, body).want(503)
	// Who guesses names learns nothing.
	w.send(w.machine, "POST", "/v1/heartbeat/n1", body).refused(404, "Node n1 could not be found.")
}

func TestAHeartbeatThatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	w := ramdisk(t, "wait call-back")
	const url = `"callback_url": "https://192.0.2.7:9999"`
	for _, c := range []struct{ version, node, body, text string }{
		{"1.82", nodeID, `{}`, "Missing mandatory parameter: callback_url"},
		{"1.82", nodeID, `{` + url + `, "agent_version": "1"}`,
			"Agent token is required for heartbeat processing."},
		{"1.82", nodeID, `{` + url + `, "agent_token": "t"}`, "Agent did not transmit a version, and a " +
			"version is required. Please update the agent being used."},
		{"1.35", nodeID, `{` + url + `, "agent_token": "t", "agent_version": "1"}`,
			`Field "agent_version" not recognised`},
		{"1.67", nodeID, `{` + url + `, "agent_token": "t", "agent_version": "1", "agent_verify_ca": "x"}`,
			`Field "agent_verify_ca" not recognised in this version`},
		{"1.71", nodeID, `{` + url + `, "agent_token": "t", "agent_status": "end"}`,
			`Fields "agent_status" and "agent_status_message" not recognised.`},
		{"1.82", nodeID, `{` + url + `, "agent_token": "t", "agent_status": "lost"}`,
			"Agent status is invalid. Valid states are start,end,error."},
		{"1.82", nodeID, `{` + url + `, "agent_token": 5}`, "Expected string for agent_token: 5"},
	} {
		a := w.send(w.machine, "POST", "/v1/heartbeat/"+c.node, c.body, version(c.version)...)
		a.refused(400, c.text)
	}
	w.send(w.machine, "POST", "/v1/heartbeat/n2", `{`+url+`}`).refused(404, "Node n2 could not be found.")
	w.at("1.21", "POST", "/v1/heartbeat/"+nodeID, `{}`).want(404)
	w.send(w.machine, "GET", "/v1/heartbeat/"+nodeID, "").want(405)
	if call := w.conductor.last(); call != nil {
		t.Errorf("a conductor was asked %v", call)
	}
	root := w.do("GET", "/v1", "").want(200).object()
	if !slices.ContainsFunc(root["heartbeat"].([]any), func(l any) bool {
		return strings.HasSuffix(l.(map[string]any)["href"].(string), "/v1/heartbeat/")
	}) || root["lookup"] == nil {
		t.Errorf("%v", root)
	}
}
