package api_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestAPortIsCreatedShownAndDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	a := w.do("POST", "/v1/ports", `{"node_uuid": "`+nodeID+`", "address": "52-54-00-AB-cd-01",
		"local_link_connection": {"port_id": "e1", "switch_id": "aa:bb:cc:dd:ee:ff"}}`).want(201)
	o := a.object()
	id := o["uuid"].(string)
	if o["address"] != "52:54:00:ab:cd:01" || o["pxe_enabled"] != true || o["node_uuid"] != nodeID ||
		a.header.Get("Location") != w.url+"/v1/ports/"+id {
		t.Errorf("answer %v, Location %s", o, a.header.Get("Location"))
	}
	for path, want := range map[string]int{"/v1/ports": 1, "/v1/ports/detail": 1,
		"/v1/nodes/n1/ports": 1, "/v1/nodes/n1/ports/detail": 1, "/v1/ports?node=n1": 1,
		"/v1/ports?node_uuid=" + nodeID: 1, "/v1/ports?address=5254.00AB.CD01": 1,
		"/v1/ports?address=52:54:00:00:00:99": 0} {
		if got := len(w.do("GET", path, "").want(200).list("ports")); got != want {
			t.Errorf("%s: %d ports, want %d", path, got, want)
		}
	}
	w.do("DELETE", "/v1/ports/"+id, "").want(204)
	w.do("GET", "/v1/ports/"+id, "").refused(404, "Port "+id+" could not be found.")
}

func TestBadPortsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.addNode(nil)
	w.mustCreatePort(&ingot.Port{UUID: portID, NodeID: n.ID, Address: "52:54:00:00:00:01"})
	owner := `"node_uuid": "` + nodeID + `"`
	for _, c := range []struct {
		version, body string
		status        int
		text          string
	}{
		{"1.82", `{` + owner + `}`, 400, "Schema error for port: 'address' is a required property"},
		{"1.82", `{"address": "52:54:00:00:00:02"}`, 400,
			"Schema error for port: 'node_uuid' is a required property"},
		{"1.82", `{` + owner + `, "address": "x"}`, 400, "Expected valid MAC address for address: x"},
		{"1.82", `{` + owner + `, "address": "52:54:00:00:00:01"}`, 409,
			"A port with MAC address 52:54:00:00:00:01 already exists."},
		{"1.82", `{"node_uuid": "` + portID + `", "address": "52:54:00:00:00:02"}`, 400,
			"Node " + portID + " could not be found."},
		{"1.18", `{` + owner + `, "address": "52:54:00:00:00:02", "pxe_enabled": true}`, 406,
			"Request not acceptable."},
		{"1.82", `{` + owner + `, "address": "52:54:00:00:00:02", "internal_info": {}}`, 400,
			"Schema error for port: Additional properties are not allowed ('internal_info' was " +
				"unexpected)"},
		{"1.82", `{` + owner + `, "address": "52:54:00:00:00:02", "portgroup_uuid": "x"}`, 400,
			"Portgroup x could not be found."},
		{"1.82", `{` + owner + `, "address": "52:54:00:00:00:02",
			"local_link_connection": {"bogus": "x"}}`, 400, "Schema error for " +
			"local_link_connection: Additional properties are not allowed ('bogus' was unexpected)"},
	} {
		w.at(c.version, "POST", "/v1/ports", c.body).refused(c.status, c.text)
	}
}

func TestTheNodeOfAPortLimitsItsChanges(t *testing.T) {
	t.Parallel()
	const address, pxe = "/address", "/pxe_enabled"
	mac := op("replace", address, `"52:54:00:00:00:0A"`)
	for _, c := range []struct {
		name   string
		node   func(*ingot.Node)
		patch  string
		status int
		text   string
	}{
		{"address", nil, mac, 200, ""},
		{"address of an active node", func(n *ingot.Node) { n.ProvisionState = "active" }, mac, 409,
			"Cannot update hardware address for port " + portID + " as node " + nodeID +
				" is active or has instance UUID assigned"},
		{"address of an active node in maintenance", func(n *ingot.Node) {
			n.ProvisionState, n.Maintenance = "active", true
		}, mac, 200, ""},
		{"connection of an available node", func(n *ingot.Node) { n.ProvisionState = "available" },
			op("replace", pxe, "false"), 409, "Port " + portID + " can not have any connectivity " +
				"attributes (local_link_connection, physical_network, portgroup_uuid, pxe_enabled) " +
				"updated unless node " + nodeID + " is in a enroll, inspecting, inspect wait, " +
				"manageable state or in maintenance mode. The current state is available."},
		{"connection of a manageable node", nil, op("replace", pxe, "false"), 200, ""},
		{"back to the default, which it has", nil, op("remove", pxe, ""), 200, ""},
		{"extra of an active node", func(n *ingot.Node) { n.ProvisionState = "active" },
			op("add", "/extra/a", "1"), 200, ""},
		{"mandatory", nil, op("remove", address, ""), 400,
			"Schema error for patch: 'address' is a required property"},
		{"locked", func(n *ingot.Node) { n.Reservation = "c1" }, mac, 409, "Node " + nodeID +
			" is locked by host c1, please retry after the current operation is completed."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := w.addNode(c.node)
			w.mustCreatePort(&ingot.Port{UUID: portID, NodeID: n.ID, Address: "52:54:00:00:00:01",
				PXEEnabled: true})
			a := w.do("PATCH", "/v1/ports/"+portID, c.patch).want(c.status)
			if c.text != "" {
				a.refused(c.status, c.text)
				return
			}
			if a.object()["updated_at"] == nil {
				t.Error("the answer does not tell of the update")
			}
		})
	}
}
