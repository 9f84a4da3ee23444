package api_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

const provisionPath = "/v1/nodes/n1/states/provision"

func TestVerbsReachTheConductor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state, version, body string
		want                 rpc.ProvisionRequest
	}{
		{"available", "1.1", `{"target": "active"}`, rpc.ProvisionRequest{Event: "deploy"}},
		{"available", "1.82", `{"target": "deploy", "configdrive": "aGk="}`,
			rpc.ProvisionRequest{Event: "deploy", ConfigDrive: "aGk="}},
		{"available", "1.82", `{"target": "active", "configdrive": {"meta_data": {"a": "b"}}}`,
			rpc.ProvisionRequest{Event: "deploy",
				ConfigDrive: ingot.Object{"meta_data": ingot.Object{"a": "b"}}}},
		{"active", "1.82", `{"target": "rebuild", "configdrive": "http://192.0.2.1/cd"}`,
			rpc.ProvisionRequest{Event: "rebuild", ConfigDrive: "http://192.0.2.1/cd"}},
		{"active", "1.82", `{"target": "undeploy"}`, rpc.ProvisionRequest{Event: "delete"}},
		{"enroll", "1.82", `{"target": "manage"}`, rpc.ProvisionRequest{Event: "manage"}},
		{"manageable", "1.82", `{"target": "provide", "configdrive": null, "clean_steps": null}`,
			rpc.ProvisionRequest{Event: "provide"}},
		{"manageable", "1.82", `{"target": "inspect"}`, rpc.ProvisionRequest{Event: "inspect"}},
		{"manageable", "1.82", `{"target": "clean", "clean_steps": [{"interface": "deploy",
			"step": "x"}]}`, rpc.ProvisionRequest{Event: "clean"}},
		{"inspect wait", "1.82", `{"target": "abort"}`, rpc.ProvisionRequest{Event: "abort"}},
		{"wait call-back", "1.13", `{"target": "abort"}`, rpc.ProvisionRequest{Event: "abort"}},
		{"deploying", "1.1", `{"target": "deleted"}`, rpc.ProvisionRequest{Event: "delete"}},
	} {
		t.Run(c.state+" "+c.want.Event, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.addNode(func(n *ingot.Node) { n.ProvisionState = c.state })
			path := "/v1/nodes/" + nodeID + "/states/provision"
			a := w.at(c.version, "PUT", path, c.body).want(202)
			if a.header.Get("Location") != w.url+"/v1/nodes/"+nodeID+"/states" || len(a.body) != 0 {
				t.Errorf("Location %q, body %q", a.header.Get("Location"), a.body)
			}
			c.want.Ident = nodeID
			if diff := cmp.Diff(c.want, w.conductor.last()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

// TestVerbsAreRefusedInIronicsOrder: where several reasons apply, the first one is told.
func TestVerbsAreRefusedInIronicsOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, version, body string
		node                func(*ingot.Node)
		status              int
		text                string
	}{
		{"version before maintenance", "1.72", `{"target": "deploy"}`,
			func(n *ingot.Node) { n.Maintenance = true }, 406, "Request not acceptable."},
		{"maintenance before the event", "1.82", `{"target": "active"}`,
			func(n *ingot.Node) { n.Maintenance = true }, 400, "The provisioning operation can't be " +
				"performed on node " + nodeID + " because it's in maintenance mode."},
		{"event while reserved", "1.82", `{"target": "active", "configdrive": "?"}`,
			func(n *ingot.Node) { n.ProvisionState, n.Reservation = "deploying", "c1" }, 409,
			"Node " + nodeID + " is locked by host c1, please retry after the current operation is " +
				"completed."},
		{"event before the config drive", "1.82", `{"target": "active", "configdrive": "?"}`, nil,
			400, `The requested action "active" can not be performed on node "` + nodeID +
				`" while it is in state "manageable".`},
		{"unknown verb", "1.82", `{"target": "bogus"}`, nil, 400, `The requested action "bogus" can ` +
			`not be performed on node "` + nodeID + `" while it is in state "manageable".`},
		{"event of the machine itself", "1.82", `{"target": "fail"}`,
			func(n *ingot.Node) { n.ProvisionState = "wait call-back" }, 400,
			`The requested action "fail" could not be understood.`},
		{"config drive with provide", "1.82", `{"target": "provide", "configdrive": "aGk="}`, nil,
			400, "Adding a config drive is only supported when setting provision state to active, " +
				"rebuild"},
		{"config drive that is none", "1.82", `{"target": "active", "configdrive": "{x"}`,
			available, 400, "Invalid configdrive format: it is neither a JSON, nor a URL, nor a " +
				"base64 string"},
		{"config drive object too early", "1.55", `{"target": "active", "configdrive": {"a": 1}}`,
			available, 400, "Providing a JSON object for configdrive is only supported starting " +
				"with API version 1.56"},
		{"vendor_data too early", "1.58", `{"target": "active", "configdrive": {"vendor_data": {}}}`,
			available, 400, "Providing vendor_data in configdrive is only supported starting with " +
				"API version 1.59"},
		{"steps of another verb", "1.82", `{"target": "provide", "clean_steps": [{}]}`, nil, 400,
			`"clean_steps" is only valid when setting target provision state to clean`},
		{"password of another verb", "1.82", `{"target": "provide", "rescue_password": "x"}`, nil,
			400, `"rescue_password" is only valid when setting target provision state to rescue`},
		{"deploy steps nobody would run", "1.82", `{"target": "active", "deploy_steps": [{}]}`,
			available, 400, `"deploy_steps" can not be given: the steps of a deployment are fixed ` +
				`here; leave the member out`},
		{"deploy steps too early", "1.68", `{"target": "active", "deploy_steps": [{}]}`, available,
			406, "Request not acceptable."},
		{"clean without steps", "1.82", `{"target": "clean"}`, nil, 400,
			`"clean_steps" is required when setting target provision state to clean`},
		{"rescue without password", "1.82", `{"target": "rescue", "rescue_password": " "}`,
			func(n *ingot.Node) { n.ProvisionState = "active" }, 400, `A non-empty ` +
				`"rescue_password" is required when setting target provision state to rescue`},
		{"abort of inspection too early", "1.40", `{"target": "abort"}`,
			func(n *ingot.Node) { n.ProvisionState = "inspect wait" }, 406, "Request not acceptable."},
		{"protected", "1.82", `{"target": "deleted"}`,
			func(n *ingot.Node) { n.ProvisionState, n.Protected = "active", true }, 403,
			"Node " + nodeID + " is protected and cannot be undeployed, rebuilt or deleted."},
		{"retired", "1.82", `{"target": "provide"}`, func(n *ingot.Node) { n.Retired = true }, 400,
			"The provide operation can't be performed on node " + nodeID + " because it is retired."},
		{"no target", "1.82", `{}`, nil, 400, "Missing mandatory parameter: target"},
		{"unknown member", "1.82", `{"target": "provide", "x": 1}`, nil, 400,
			"Unexpected arguments: x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.addNode(c.node)
			w.at(c.version, "PUT", provisionPath, c.body).refused(c.status, c.text)
			if got := w.conductor.last(); got != nil {
				t.Errorf("the conductor was asked: %v", got)
			}
		})
	}
}

func available(n *ingot.Node) { n.ProvisionState = "available" }
