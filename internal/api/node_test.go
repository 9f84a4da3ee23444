package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ingot/internal/api"
	"ingot/internal/ingot"
	"ingot/internal/journal"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

func TestANodeIsCreatedWithWhatTheBodySays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := `{"driver": "ipmi", "name": "rack1~n1", "driver_info": {"ipmi_password": "hush"},
		"properties": {"memory_mb": 123456789012345678}, "automated_clean": "false",
		"conductor_group": "", "boot_interface": "http-ipxe", "extra": null}`
	a := w.do("POST", "/v1/nodes", body).want(201)
	n := a.object()
	if want := w.url + "/v1/nodes/" + n["uuid"].(string); a.header.Get("Location") != want {
		t.Errorf("Location %q, want %q", a.header.Get("Location"), want)
	}
	for key, want := range map[string]any{"provision_state": "enroll", "automated_clean": false,
		"boot_interface": "http-ipxe", "power_interface": "ipmitool", "conductor": "c1"} {
		if n[key] != want {
			t.Errorf("%s is %v, want %v", key, n[key], want)
		}
	}
	if !strings.Contains(string(a.body), "123456789012345678") {
		t.Error("a large number lost digits")
	}
	stored, err := w.store.Node(t.Context(), "rack1~n1")
	if err != nil || stored.DriverInfo["ipmi_password"] != "hush" {
		t.Errorf("stored %v, %v", stored, err)
	}
}

func TestNodesAreBornAvailableBefore1_11(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.at("1.10", "POST", "/v1/nodes", `{"driver": "ipmi"}`).want(201)
	if s := a.object()["provision_state"]; s != "available" {
		t.Errorf("provision_state %v", s)
	}
	a = w.at("1.1", "POST", "/v1/nodes", `{"driver": "ipmi"}`).want(201)
	if s := a.object()["provision_state"]; s != nil {
		t.Errorf("1.1 shows provision_state %v", s)
	}
}

func TestBadNodesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for _, c := range []struct {
		version, body string
		status        int
		text          string
	}{
		{"1.82", `{}`, 400, "Schema error for node: 'driver' is a required property"},
		{"1.82", ``, 400, "Schema error for node: 'driver' is a required property"},
		{"1.82", `[]`, 400, "Schema error for node: [] is not of type 'object'"},
		{"1.82", `{"driver": "ipmi", "foo": 1}`, 400, "Schema error for node: Additional " +
			"properties are not allowed ('foo' was unexpected)"},
		{"1.82", `{"driver": "ipmi", "traits": [], "power_state": "x"}`, 400, "Schema error for " +
			"node: Additional properties are not allowed ('power_state', 'traits' were unexpected)"},
		{"1.82", `{"driver": 1}`, 400, "Schema error for node: 1 is not of type 'string'"},
		{"1.82", `{"driver": "ipmi", "name": true}`, 400,
			"Schema error for node: True is not of type 'string', 'null'"},
		{"1.82", `{"driver": "ipmi", "resource_class": "` + strings.Repeat("x", 81) + `"}`, 400,
			"Schema error for node: '" + strings.Repeat("x", 81) + "' is too long"},
		{"1.82", `{"driver": "ipmi", "uuid": "x"}`, 400, "Expected UUID for uuid: x"},
		{"1.20", `{"driver": "ipmi", "resource_class": "x"}`, 406, "Request not acceptable."},
		{"1.82", `{"driver": "ipmi", "parent_node": "` + nodeID + `"}`, 406, "Request not acceptable."},
		{"1.4", `{"driver": "ipmi", "name": "x"}`, 406, "Request not acceptable."},
		{"1.82", `{"driver": "ipmi", "name": "a b"}`, 400,
			"Cannot create node with invalid name 'a b'"},
		{"1.9", `{"driver": "ipmi", "name": "A_b"}`, 400,
			"Cannot create node with invalid name 'A_b'"},
		{"1.82", `{"driver": "ipmi", "name": "` + nodeID + `"}`, 400,
			"Cannot create node with invalid name '" + nodeID + "'"},
		{"1.82", `{"driver": "ipmi", "uuid": "` + nodeID + `"}`, 409,
			"A node with UUID " + nodeID + " already exists."},
		{"1.82", `{"driver": "ipmi", "name": "n1"}`, 409, "A node with name n1 already exists."},
		{"1.82", `{"driver": "ilo"}`, 400, "No valid host was found. Reason: No conductor service " +
			"registered which supports driver ilo for conductor group \"\"."},
		{"1.82", `{"driver": "ipmi", "chassis_uuid": "` + nodeID + `"}`, 400,
			"Chassis " + nodeID + " could not be found."},
	} {
		w.at(c.version, "POST", "/v1/nodes", c.body).refused(c.status, c.text)
	}
	reserved := w.do("POST", "/v1/nodes", `{"driver": "ipmi", "name": "maintenance"}`).want(400)
	if text := reserved.fault()["faultstring"].(string); !strings.Contains(text, "is reserved") {
		t.Errorf("a word of paths as a name: %s", text)
	}
}

func TestANodeIsFoundByUUIDAndByNameSince1_5(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	w.at("1.5", "GET", "/v1/nodes/n1", "").want(200)
	w.at("1.4", "GET", "/v1/nodes/n1", "").refused(404, "Node n1 could not be found.")
	w.at("1.4", "GET", "/v1/nodes/"+nodeID, "").want(200)
	w.do("GET", "/v1/nodes/n2", "").refused(404, "Node n2 could not be found.")
	w.do("GET", "/v1/nodes/a%20b", "").refused(400, "Expected UUID or name for node_ident: a b")
}

func TestFieldsSelectWhatIsShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	a := w.do("GET", "/v1/nodes/n1?fields=name,uuid,conductor", "").want(200)
	if want := `{"uuid":"` + nodeID + `","name":"n1","conductor":"c1"}`; string(a.body) != want {
		t.Errorf("body %s, want %s", a.body, want)
	}
	l := w.do("GET", "/v1/nodes?fields=name", "").want(200).list("nodes")
	if len(l[0].(map[string]any)) != 1 {
		t.Errorf("list of one field: %v", l)
	}
	detail := w.do("GET", "/v1/nodes?detail=True", "").want(200).list("nodes")[0].(map[string]any)
	if _, ok := detail["driver_info"]; !ok {
		t.Errorf("detail lacks driver_info: %v", detail)
	}
	w.do("GET", "/v1/nodes/n1?fields=firmware_interface", "").refused(406, "Request not acceptable.")
}

func TestNodesAreFiltered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) {
		n.InstanceUUID, n.Maintenance, n.ResourceClass = portID, true, "big"
		n.Description, n.Owner, n.ConductorGroup = "the one", "me", "g1"
	})
	other := &ingot.Node{UUID: "22222222-2222-4333-8444-555555555555", Driver: "ipmi",
		ProvisionState: "available"}
	if err := w.store.CreateNode(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]int{"": 2, "maintenance=true": 1, "maintenance=false": 1,
		"associated=True": 1, "instance_uuid=" + portID: 1, "provision_state=available": 1,
		"provision_state=active": 0, "driver=ipmi": 2, "resource_class=big": 1, "owner=me": 1,
		"conductor_group=G1": 1, "conductor_group=": 1, "description_contains=one": 1, "retired=true": 0,
		"fault=power+failure": 0, "lessee=x": 0, "shard=x": 0} {
		if got := len(w.do("GET", "/v1/nodes?"+filter, "").want(200).list("nodes")); got != want {
			t.Errorf("%s: %d nodes, want %d", filter, got, want)
		}
	}
}

func TestPagesAreLinkedTwiceAndEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 4 {
		w.do("POST", "/v1/nodes", fmt.Sprintf(`{"driver": "ipmi", "name": "n%d"}`, i)).want(201)
	}
	path := "/v1/nodes?limit=2&fields=uuid,name&sort_key=name&sort_dir=desc&driver=ipmi"
	var names []string
	for pages := 0; path != ""; pages++ {
		if pages > 3 {
			t.Fatal("paging does not end")
		}
		o := w.do("GET", path, "").want(200).object()
		for _, n := range o["nodes"].([]any) {
			names = append(names, n.(map[string]any)["name"].(string))
		}
		path = ""
		if next, more := o["next"].(string); more {
			links := o["nodes_links"].([]any)[0].(map[string]any)
			if links["rel"] != "next" || links["href"] != next {
				t.Errorf("nodes_links %v, next %s", links, next)
			}
			start := w.url + "/v1/nodes?sort_key=name&sort_dir=desc&driver=ipmi&fields=uuid,name" +
				"&limit=2&marker="
			if !strings.HasPrefix(next, start) {
				t.Errorf("next %s\nwant %s...", next, start)
			}
			path = strings.TrimPrefix(next, w.url)
		}
	}
	if got := strings.Join(names, " "); got != "n3 n2 n1 n0" {
		t.Errorf("names %s", got)
	}
}

func TestANodeIsDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	if a := w.do("DELETE", "/v1/nodes/n1", "").want(204); len(a.body) != 0 {
		t.Errorf("204 has the body %s", a.body)
	}
	w.do("DELETE", "/v1/nodes/n1", "").refused(404, "Node n1 could not be found.")
}

func TestMaintenanceIsSetAndClearedWithItsReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) { n.Fault = ingot.FaultPower })
	w.do("PUT", "/v1/nodes/n1/maintenance", `{"reason": "broken fan"}`).want(202)
	if n := w.node(); !n.Maintenance || n.MaintenanceReason != "broken fan" {
		t.Errorf("after PUT: %v %q", n.Maintenance, n.MaintenanceReason)
	}
	w.do("DELETE", "/v1/nodes/n1/maintenance", "").want(202)
	if n := w.node(); n.Maintenance || n.MaintenanceReason != "" || n.Fault != "" {
		t.Errorf("after DELETE: %v %q %q", n.Maintenance, n.MaintenanceReason, n.Fault)
	}
	w.do("PUT", "/v1/nodes/n1/maintenance", "").want(202)
	w.do("PUT", "/v1/nodes/n1/maintenance", `{"x": 1}`).refused(400, "Unexpected arguments: x")
}

func TestPowerActionsReachTheConductor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) { n.PowerState = ingot.PowerOff })
	const path = "/v1/nodes/n1/states/power"
	a := w.do("PUT", path, `{"target": "soft rebooting", "timeout": 30}`).want(202)
	want := rpc.PowerRequest{Target: ingot.SoftReboot, Timeout: 30 * time.Second}
	if got := w.conductor.last(); got != want {
		t.Errorf("asked for %v, want %v", got, want)
	}
	if l := a.header.Get("Location"); l != w.url+"/v1/nodes/"+nodeID+"/states" || len(a.body) != 0 {
		t.Errorf("Location %q, body %q", l, a.body)
	}
	w.at("1.26", "PUT", path, `{"target": "soft power off"}`).refused(406, "Request not acceptable.")
	w.at("1.26", "PUT", path, `{"target": "power on", "timeout": 3}`).refused(406,
		"Request not acceptable.")
	w.do("PUT", path, `{"target": "power on", "timeout": 0}`).refused(400,
		"timeout has to be positive integer")
	w.do("PUT", path, `{"target": "levitate"}`).refused(400, `The requested action "levitate" can `+
		`not be performed on node "n1" while it is in state "power off".`)
	w.do("PUT", path, `{}`).refused(400, "Missing mandatory parameter: target")
}

func TestPowerIsLeftAloneWhileCleaning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(func(n *ingot.Node) { n.ProvisionState = "clean wait" })
	w.do("PUT", "/v1/nodes/n1/states/power", `{"target": "power off"}`).refused(400, `The requested `+
		`action "power off" can not be performed on node "n1" while it is in state "clean wait".`)
	if got := w.conductor.last(); got != nil {
		t.Errorf("the conductor was asked: %v", got)
	}
}

func TestValidationHasBothForms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	want := `{"boot":{"result":true},"power":{"result":true},"bios":{"result":false,"reason":` +
		`"Driver ipmi does not support bios (disabled or not implemented)."},"firmware":` +
		`{"result":false,"reason":"no"}}`
	for _, path := range []string{"/v1/nodes/n1/validate", "/v1/nodes/validate?node=n1",
		"/v1/nodes/validate?node_uuid=" + nodeID} {
		if a := w.do("GET", path, "").want(200); string(a.body) != want {
			t.Errorf("%s\n got %s\nwant %s", path, a.body, want)
		}
	}
}

func TestBootDevicesAreAskedAndSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	const path = "/v1/nodes/n1/management/boot_device"
	a := w.do("GET", path, "").want(200)
	if string(a.body) != `{"boot_device":"pxe","persistent":true}` {
		t.Errorf("body %s", a.body)
	}
	w.do("PUT", path, `{"boot_device": "disk", "persistent": true}`).want(204)
	want := rpc.BootDevice{Device: "disk", Persistent: true}
	if got := w.conductor.last(); got != want {
		t.Errorf("asked for %v, want %v", got, want)
	}
	w.do("PUT", path, `{}`).refused(400, "Missing mandatory parameter: boot_device")
}

func TestTheJournalIsServedAndCanBeWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	entry := []ingot.Entry{{Node: nodeID, Source: "dhcp", Level: "info", Text: "offer"}}
	if err := w.store.AppendJournal(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	l := w.do("GET", "/v1/nodes/n1/journal", "").want(200).list("journal")
	if len(l) != 1 || l[0].(map[string]any)["text"] != "offer" {
		t.Errorf("journal %v", l)
	}
	after := fmt.Sprintf("/v1/nodes/n1/journal?after=%d", entry[0].Seq)
	if l := w.do("GET", after, "").want(200).list("journal"); len(l) != 0 {
		t.Errorf("after the last entry: %v", l)
	}
	// The entry comes from a writer that may be earlier or later than the request: without the
	// wait the later one would be missed.
	running := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { running <- w.journal.Run(ctx) }()
	go w.journal.Add(ingot.Entry{Node: nodeID, Source: "tftp", Level: "info", Text: "sent"})
	l = w.do("GET", after+"&wait=60", "").want(200).list("journal")
	if len(l) != 1 || l[0].(map[string]any)["text"] != "sent" {
		t.Errorf("waited for %v", l)
	}
	stop()
	if err := <-running; err != nil {
		t.Errorf("journal: %v", err)
	}
}

// cut is a store without entries whose reader loses patience while it waits.
type cut struct {
	*store.Store
	looks  int
	cancel context.CancelFunc
}

func (c *cut) Journal(context.Context, journal.Query) ([]ingot.Entry, error) {
	if c.looks++; c.looks == 2 { // the first look is before the wait
		c.cancel()
	}
	return nil, nil
}

func TestAWaitForTheJournalThatIsBrokenOffIsAnEmptyAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	ctx, cancel := context.WithCancel(t.Context())
	a := api.New(api.Options{Store: w.store, Conductor: w.conductor,
		Journal: journal.New(&cut{Store: w.store, cancel: cancel}, slog.New(slog.DiscardHandler))})
	r := httptest.NewRequestWithContext(ctx, "GET", "/v1/nodes/"+nodeID+"/journal?wait=60", nil)
	answer := httptest.NewRecorder()
	a.Handler().ServeHTTP(answer, r)
	if answer.Code != 200 || answer.Body.String() != `{"journal":[]}` {
		t.Errorf("%d %s, want an empty journal", answer.Code, answer.Body)
	}
}

// TestUpdatesThatMeetAnotherWriterAreMadeAgain: a client does not say which version of the node
// it means.
func TestUpdatesThatMeetAnotherWriterAreMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	errs := make(chan int, 16)
	for i := range 16 {
		go func() {
			body, _ := json.Marshal([]map[string]any{{"op": "add",
				"path": fmt.Sprintf("/extra/k%d", i), "value": i}})
			errs <- w.do("PATCH", "/v1/nodes/n1", string(body)).status
		}()
	}
	won := 0
	for range 16 {
		switch s := <-errs; s {
		case 200:
			won++
		case 409:
		default:
			t.Errorf("status %d", s)
		}
	}
	if got := len(w.node().Extra); got != won || won == 0 {
		t.Errorf("%d updates were accepted and %d are stored", won, got)
	}
}
