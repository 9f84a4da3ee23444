package api_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"ingot/internal/api"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

func TestPatchesAreApplied(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ doc, patch, want string }{
		{`{"a": {}}`, `[]`, `{"a": {}}`},
		{`{"a": {}}`, ``, `{"a": {}}`},
		{`{"a": {}}`, `[{"op": "add", "path": "/a/b", "value": 1}]`, `{"a": {"b": 1}}`},
		{`{"a": {"b": 1}}`, `[{"op": "add", "path": "/a/b", "value": 2}]`, `{"a": {"b": 2}}`},
		{`{"a": {"b": 1}}`, `[{"op": "replace", "path": "/a/b", "value": null}]`, `{"a": {"b": null}}`},
		{`{"a": {"b": 1}}`, `[{"op": "remove", "path": "/a/b"}]`, `{"a": {}}`},
		{`{"a": {"b": 1}}`, `[{"op": "remove", "path": "/a"}]`, `{}`},
		{`{"a": [1, 3]}`, `[{"op": "add", "path": "/a/1", "value": 2}]`, `{"a": [1, 2, 3]}`},
		{`{"a": [1]}`, `[{"op": "add", "path": "/a/-", "value": 2}]`, `{"a": [1, 2]}`},
		{`{"a": [1, 2]}`, `[{"op": "remove", "path": "/a/0"}]`, `{"a": [2]}`},
		{`{"a": [{"b": [1]}]}`, `[{"op": "replace", "path": "/a/0/b/0", "value": 9}]`,
			`{"a": [{"b": [9]}]}`},
		{`{"a": {}}`, `[{"op": "add", "path": "/a/b", "value": {}},
			{"op": "add", "path": "/a/b/c", "value": 1}]`, `{"a": {"b": {"c": 1}}}`},
	} {
		got, err := api.Patch([]byte(c.doc), []byte(c.patch))
		if err != nil {
			t.Errorf("%s: %v", c.patch, err)
			continue
		}
		encoded, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var have, want any
		if json.Unmarshal(encoded, &have) != nil || json.Unmarshal([]byte(c.want), &want) != nil ||
			!reflect.DeepEqual(have, want) {
			t.Errorf("%s makes %s, want %s", c.patch, encoded, c.want)
		}
	}
}

func TestBadPatchesAreRefusedInIronicsWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ patch, text string }{
		{`{}`, "Schema error for patch: {} is not of type 'array'"},
		{`[1]`, "Schema error for patch: 1 is not of type 'object'"},
		{`[{"path": "/a"}]`, "Schema error for patch: 'op' is a required property"},
		{`[{"op": "add"}]`, "Schema error for patch: 'path' is a required property"},
		{`[{"op": "test", "path": "/a", "value": 1}]`,
			"Schema error for patch: 'test' is not one of ['add', 'replace', 'remove']"},
		{`[{"op": "add", "path": "/a~1b", "value": 1}]`,
			`Schema error for patch: '/a~1b' does not match '^(/[\\w-]+)+$'`},
		{`[{"op": "add", "path": "/a", "value": 1, "from": "/b"}]`,
			"Schema error for patch: Additional properties are not allowed ('from' was unexpected)"},
		{`[{"op": "add", "path": "/a/b"}]`, "Couldn't apply patch '{'op': 'add', 'path': '/a/b'}'. " +
			"Reason: The operation does not contain a 'value' member"},
		{`[{"op": "add", "path": "/x", "value": 1}]`,
			"Adding a new attribute (/x) to the root of the resource is not allowed"},
		{`[{"op": "remove", "path": "/a/x"}]`, "Couldn't apply patch '{'op': 'remove', 'path': " +
			"'/a/x'}'. Reason: can't remove a non-existent object 'x'"},
		{`[{"op": "replace", "path": "/a/x", "value": true}]`, "Couldn't apply patch '{'op': " +
			"'replace', 'path': '/a/x', 'value': True}'. Reason: can't replace a non-existent " +
			"object 'x'"},
		{`[{"op": "add", "path": "/a/x/y", "value": 1}]`, "Couldn't apply patch '{'op': 'add', " +
			"'path': '/a/x/y', 'value': 1}'. Reason: member 'x' not found in {}"},
		{`[{"op": "add", "path": "/l/9", "value": 1}]`, "Couldn't apply patch '{'op': 'add', " +
			"'path': '/l/9', 'value': 1}'. Reason: can't insert outside of list"},
		{`[{"op": "add", "path": "/l/x", "value": 1}]`, "Couldn't apply patch '{'op': 'add', " +
			"'path': '/l/x', 'value': 1}'. Reason: 'x' is not a valid sequence index"},
		{`[{"op": "remove", "path": "/s/x"}]`, "Couldn't apply patch '{'op': 'remove', 'path': " +
			"'/s/x'}'. Reason: Unable to fully resolve json pointer /s/x, part x"},
	} {
		_, err := api.Patch([]byte(`{"a": {}, "l": [1], "s": "text"}`), []byte(c.patch))
		if err == nil || err.Error() != c.text || ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%s\n got %v\nwant %s", c.patch, err, c.text)
		}
	}
}

// FuzzPatch checks that no patch breaks the server, and that what comes out can be stored.
func FuzzPatch(f *testing.F) {
	f.Add([]byte(`{"a": {"b": [1]}}`), []byte(`[{"op": "add", "path": "/a/b/-", "value": {}}]`))
	f.Fuzz(func(t *testing.T, doc, patch []byte) {
		got, err := api.Patch(doc, patch)
		if err != nil {
			return
		}
		if api.Nesting(got) > api.MaxDepth {
			t.Errorf("nested %d levels", api.Nesting(got))
		}
		if _, err := json.Marshal(got); err != nil {
			t.Errorf("encode %v: %v", got, err)
		}
	})
}

// op is a patch of one operation.
func op(op, path, value string) string {
	if op == "remove" {
		return `[{"op": "remove", "path": "` + path + `"}]`
	}
	return `[{"op": "` + op + `", "path": "` + path + `", "value": ` + value + `}]`
}

func TestANodeIsPatched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) {
		n.DriverInfo = ingot.Object{"ipmi_password": "hush"}
		n.Interfaces = map[string]string{"boot": "ipxe"}
	})
	w.addConductor("g1", "ipmi")
	patch := `[{"op": "add", "path": "/driver_info/ipmi_address", "value": "192.0.2.1"},
		{"op": "replace", "path": "/name", "value": "n2"},
		{"op": "add", "path": "/maintenance", "value": "true"},
		{"op": "add", "path": "/instance_info/root_gb", "value": 10},
		{"op": "remove", "path": "/boot_interface"},
		{"op": "replace", "path": "/conductor_group", "value": "G1"}]`
	o := w.do("PATCH", "/v1/nodes/n1", patch).want(200).object()
	if o["name"] != "n2" || o["maintenance"] != true || o["reservation"] != nil ||
		o["conductor_group"] != "g1" || o["boot_interface"] != nil {
		t.Errorf("answer %v", o)
	}
	n := w.node()
	want := ingot.Object{"ipmi_password": "hush", "ipmi_address": "192.0.2.1"}
	if !reflect.DeepEqual(n.DriverInfo, want) {
		t.Errorf("driver_info %v: the mask must not be stored", n.DriverInfo)
	}
	w.do("PATCH", "/v1/nodes/n2", op("remove", "/name", "")).want(200)
	if n := w.node(); n.Name != "" {
		t.Errorf("name %q after its removal", n.Name)
	}
	generation := w.node().Generation
	w.do("PATCH", "/v1/nodes/"+nodeID, `[]`).want(200)
	if got := w.node().Generation; got != generation {
		t.Errorf("an empty patch wrote the row")
	}
}

func TestNodePatchesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for _, c := range []struct {
		version, patch string
		status         int
		text           string
	}{
		{"1.20", op("add", "/resource_class", `"x"`), 406, "Request not acceptable."},
		{"1.82", op("add", "/traits", `[]`), 400, "Cannot update node traits via node patch. Node " +
			"traits should be updated via the node traits API."},
		{"1.82", op("remove", "/driver", ""), 400,
			"Schema error for patch: 'driver' is a required property"},
		{"1.82", op("replace", "/driver_info", `"x"`), 400,
			"Schema error for patch: 'x' is not of type 'object', 'null'"},
		{"1.82", op("replace", "/description", `"`+strings.Repeat("x", 4097)+`"`), 400,
			"Cannot update node with description exceeding 4096 characters"},
		{"1.82", op("replace", "/name", `"a b"`), 400,
			"Node n1: Cannot change name to invalid name 'a b'"},
		{"1.82", op("replace", "/instance_uuid", `"x"`), 400, "Expected UUID for instance_uuid: x"},
		{"1.82", op("replace", "/protected", `true`), 409, "Node " + nodeID + " can only be made " +
			"protected in provision states 'active' or 'rescue', the current state is 'manageable'"},
		{"1.82", op("replace", "/protected_reason", `"x"`), 400,
			"The protected_reason field can only be set when protected is True"},
		{"1.82", op("replace", "/retired_reason", `"x"`), 400,
			"The retired_reason field can only be set when retired is True"},
	} {
		w.at(c.version, "PATCH", "/v1/nodes/n1", c.patch).refused(c.status, c.text)
	}
	f := w.do("PATCH", "/v1/nodes/n1", op("add", "/uuid", `"x"`)).want(400).fault()
	text := f["faultstring"].(string)
	if !strings.HasPrefix(text, "Cannot patch /uuid. Only the following can be updated: "+
		"automated_clean, bios_interface, boot_interface, ") || strings.Contains(text, "parent_node") {
		t.Errorf("text %s", text)
	}
	w.do("PATCH", "/v1/nodes/n1?reset_interfaces=true", op("add", "/extra/a", "1")).refused(400,
		"The reset_interfaces parameter can only be used when changing the node's driver.")
	w.at("1.44", "PATCH", "/v1/nodes/n1?reset_interfaces=true", "[]").want(406)
	if w.conductor.last() != nil {
		t.Errorf("the conductor was asked: %v", w.conductor.last())
	}
	w.addConductor("", "ilo")
	w.do("PATCH", "/v1/nodes/n1?reset_interfaces=true", op("replace", "/driver", `"ilo"`)).want(200)
	if got := w.conductor.last(); got != (rpc.UpdateOptions{ResetInterfaces: true}) {
		t.Errorf("asked for %v", got)
	}
}

func TestTheStateOfANodeLimitsPatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		node   func(*ingot.Node)
		patch  string
		status int
		text   string
	}{
		{"in transition", func(n *ingot.Node) {
			n.ProvisionState, n.TargetProvisionState = "deploying", "active"
		}, op("add", "/extra/a", "1"), 409,
			"Node n1 can not be updated while a state transition is in progress."},
		{"instance of a node in maintenance in transition", func(n *ingot.Node) {
			n.ProvisionState, n.TargetProvisionState = "wait call-back", "active"
			n.InstanceUUID, n.Maintenance = portID, true
		}, op("remove", "/instance_uuid", ""), 200, ""},
		{"failed", func(n *ingot.Node) {
			n.ProvisionState, n.TargetProvisionState = "deploy failed", "active"
		}, op("add", "/extra/a", "1"), 200, ""},
		{"inspecting", func(n *ingot.Node) {
			n.ProvisionState, n.TargetProvisionState = "inspecting", "manageable"
		}, op("add", "/extra/a", "1"), 409, `Cannot update node "` + nodeID +
			`" while it is in state "inspecting".`},
		{"interface in use", func(n *ingot.Node) { n.ProvisionState = "active" },
			op("replace", "/boot_interface", `"ipxe"`), 409, "Node " + nodeID + " can not have " +
				"boot_interface updated unless it is in one of allowed (enroll, inspecting, inspect " +
				"wait, manageable, available) states or in maintenance mode. Current state is " +
				"'active'."},
		{"interface in maintenance", func(n *ingot.Node) {
			n.ProvisionState, n.Maintenance = "active", true
		}, op("replace", "/boot_interface", `"ipxe"`), 200, ""},
		{"resource class in use", func(n *ingot.Node) {
			n.ProvisionState, n.ResourceClass = "active", "a"
		}, op("replace", "/resource_class", `"b"`), 409, "Node " + nodeID + " can not have " +
			"resource_class updated unless it is in one of allowed (enroll, inspecting, inspect " +
			"wait, manageable, available) states. Current state is 'active'."},
		{"first resource class", func(n *ingot.Node) { n.ProvisionState = "active" },
			op("replace", "/resource_class", `"b"`), 200, ""},
		{"second instance", func(n *ingot.Node) { n.InstanceUUID = portID },
			op("replace", "/instance_uuid", `"`+nodeID+`"`), 409,
			"Node " + nodeID + " is associated with instance " + portID + "."},
		{"retire available", func(n *ingot.Node) { n.ProvisionState = "available" },
			op("replace", "/retired", "true"), 409, "Node " + nodeID + " can not have 'retired' set " +
				"in provision state 'available', the current state is 'available'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.addNode(c.node)
			a := w.do("PATCH", "/v1/nodes/n1", c.patch).want(c.status)
			if c.text != "" {
				a.refused(c.status, c.text)
			}
		})
	}
}

func TestLeavingMaintenanceByPatchClearsReasonAndFault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) {
		n.Maintenance, n.MaintenanceReason, n.Fault = true, "why", ingot.FaultClean
	})
	w.do("PATCH", "/v1/nodes/n1", op("replace", "/maintenance", `"False"`)).want(200)
	if n := w.node(); n.Maintenance || n.MaintenanceReason != "" || n.Fault != "" {
		t.Errorf("%v %q %q", n.Maintenance, n.MaintenanceReason, n.Fault)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	for key, hidden := range map[string]bool{"ipmi_password": true, "IPMI_Password": true,
		"redfish_secret": true, "ipmi_hex_kg_key": true, "snmp_auth_key": true, "auth_token": true,
		"configdrive": true, "ssh_key_contents": true, "deploy_kernel": false,
		"ssh_key_filename": false, "ipmi_address": false, "keyboard": false,
		"snmp_community": true} {
		for _, value := range []any{"value", []any{"value"}, ingot.Object{"inner": "value"}} {
			o := api.Mask(ingot.Object{"outer": []any{ingot.Object{key: value}}})
			got := o["outer"].([]any)[0].(ingot.Object)[key]
			if (got == "******") != hidden {
				t.Errorf("%s with %v is shown as %v", key, value, got)
			}
		}
	}
}

// What no ramdisk could use is refused, as Ironic does; what is kept comes back as it was.
func TestNetworkDataAreChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	const data = `{"links":[{"id":"e0","type":"phy","ethernet_mac_address":"52:54:00:77:00:01","mtu":1500}],` +
		`"networks":[{"id":"n0","type":"ipv4","link":"e0","network_id":"x","ip_address":"10.0.0.5",` +
		`"netmask":"255.255.255.0"}],"services":[]}`
	o := w.do("PATCH", "/v1/nodes/n1", op("add", "/network_data", data)).want(200).object()
	var want any
	if err := json.Unmarshal([]byte(data), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(o["network_data"], want) {
		t.Errorf("answer %v", o["network_data"])
	}
	for patch, text := range map[string]string{
		op("add", "/network_data", `{"links":[]}`): "Invalid network_data: network_data has no networks; give links, " +
			"networks and services, each a list",
		op("replace", "/network_data/networks/0/ip_address", `"10.0.0"`): `Invalid network_data: network_data: network ` +
			`"n0" has ip_address "10.0.0"; write an address of the network's family`,
	} {
		w.do("PATCH", "/v1/nodes/n1", patch).refused(400, text)
	}
	w.do("PATCH", "/v1/nodes/n1", op("replace", "/network_data", `{}`)).want(200)
	w.do("POST", "/v1/nodes", `{"driver":"ipmi","network_data":{"links":7}}`).want(400)
}
