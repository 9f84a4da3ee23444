package api_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"ingot/internal/api"
	"ingot/internal/ingot"
)

func TestRoutesAreThoseOfTheGoldenFile(t *testing.T) {
	t.Parallel()
	golden(t, "routes.txt", []byte(api.RouteTable()))
}

var timeForm = regexp.MustCompile(`"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00"`)

// TestRepresentationsHaveTheKeysOfTheirMicroversion also shows the order of keys, masked
// secrets, empty values and the form of links.
func TestRepresentationsHaveTheKeysOfTheirMicroversion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	then := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	n := w.addNode(func(n *ingot.Node) {
		n.ProvisionState, n.TargetProvisionState = "wait call-back", "active"
		n.ProvisionUpdatedAt = &then
		n.Interfaces = map[string]string{"power": "ipmitool", "boot": "ipxe", "deploy": "iscsi"}
		n.PowerState = ingot.PowerOn
		n.DriverInfo = ingot.Object{"ipmi_address": "192.0.2.1", "ipmi_password": "hush",
			"deploy_kernel": "file:///k"}
		n.InstanceInfo = ingot.Object{"image_source": "http://192.0.2.9/i.qcow2",
			"configdrive": ingot.Object{"meta_data": ingot.Object{}}, "image_url": "http://x/?sig=1"}
		n.DriverInternalInfo = ingot.Object{"agent_secret_token": "hush"}
		n.Properties = ingot.Object{"cpus": json.Number("4")}
		n.Steps = []ingot.Step{{Interface: "deploy", Name: "deploy", Priority: 100}}
	})
	w.mustCreatePort(&ingot.Port{UUID: portID, NodeID: n.ID, Address: "52:54:00:00:00:01",
		PXEEnabled: true})
	for _, v := range []string{"1.1", "1.31", "1.82"} {
		var all bytes.Buffer
		for _, path := range []string{"/", "/v1", "/v1/nodes", "/v1/nodes/" + nodeID,
			"/v1/nodes/" + nodeID + "/states", "/v1/ports", "/v1/ports/" + portID, "/v1/drivers",
			"/v1/drivers?detail=True", "/v1/drivers/ipmi/properties", "/v1/conductors",
			"/v1/conductors/c1", "/v1/nodes/" + nodeID + "/validate",
			"/v1/nodes/" + nodeID + "/management/boot_device",
			"/v1/nodes/" + nodeID + "/management/boot_device/supported"} {
			a := w.at(v, "GET", path, "")
			all.WriteString("GET " + path + "\n")
			if err := json.Indent(&all, a.body, "", "  "); err != nil {
				t.Fatalf("%s: %v: %s", path, err, a.body)
			}
			all.WriteString("\n\n")
		}
		text := strings.ReplaceAll(all.String(), w.url, "http://api")
		text = timeForm.ReplaceAllString(text, `"TIME"`)
		golden(t, "representations-"+v+".txt", []byte(text))
		for _, secret := range []string{"hush", "sig=1"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows the secret %q", v, secret)
			}
		}
	}
}

func (w *world) mustCreatePort(p *ingot.Port) {
	w.Helper()
	if err := w.store.CreatePort(w.Context(), p); err != nil {
		w.Fatal(err)
	}
}

// TestTimesHaveAFractionOnlyIfTheyNeedOne keeps to Ironic's form, which has no Z.
func TestTimesHaveAFractionOnlyIfTheyNeedOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	whole := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w.addNode(func(n *ingot.Node) { n.ProvisionUpdatedAt = &whole })
	got := w.do("GET", "/v1/nodes/"+nodeID, "").want(200).object()["provision_updated_at"]
	if got != "2026-01-02T03:04:05+00:00" {
		t.Errorf("provision_updated_at %v", got)
	}
}
