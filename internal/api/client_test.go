package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/noauth"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/nodes"
	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/ports"

	"ingot/internal/ingot"
)

// baremetal runs the real command line client and returns what it printed. Each line is a
// command: one process runs all of them, since Python takes most of a second to start.
func (w *world) baremetal(lines ...string) *json.Decoder {
	w.Helper()
	const program = "/usr/bin/baremetal"
	if _, err := os.Stat(program); err != nil {
		w.Fatalf("%v: apt-get install python3-ironicclient", err)
	}
	cmd := exec.CommandContext(w.Context(), program)
	cmd.Env = append(os.Environ(), "OS_AUTH_TYPE=none", "OS_ENDPOINT="+w.url)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	// It goes on after a command that failed, and tells on stderr only.
	if err := cmd.Run(); err != nil || problem.Len() > 0 {
		w.Fatalf("baremetal: %v: %s%s", err, &out, &problem)
	}
	return json.NewDecoder(&out)
}

// next reads the next document that the client printed.
func next[T any](t *testing.T, d *json.Decoder) T {
	t.Helper()
	var v T
	if err := d.Decode(&v); err != nil {
		t.Fatalf("the client's output: %v", err)
	}
	return v
}

func TestTheBaremetalClientWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	type row = map[string]any
	out := w.baremetal(
		"node create --driver ipmi --name n1 --uuid "+nodeID+
			" --driver-info ipmi_password=hush --property cpus=4 -f json",
		"node list -f json",
		"node set n1 --resource-class big --extra a=b --boot-interface ipxe",
		"node unset n1 --extra a --property cpus",
		"node show n1 --fields resource_class extra properties boot_interface -f json",
		"port create 52:54:00:00:00:01 --node "+nodeID+" -f json",
		"port list --node n1 -f json",
		"node maintenance set n1 --reason test",
		"node manage "+nodeID,
		"node power on n1",
		"driver list -f json",
		"node validate n1 -f json",
		"conductor list -f json",
		"conductor show c1 -f json",
		"node list --conductor c1 -f json",
		"node list --conductor c2 -f json",
		"node list --long -f json")
	n := next[row](t, out)
	if n["name"] != "n1" || n["driver_info"].(row)["ipmi_password"] != "******" {
		t.Errorf("created %v", n)
	}
	if list := next[[]row](t, out); len(list) != 1 || list[0]["Name"] != "n1" {
		t.Errorf("list %v", list)
	}
	n = next[row](t, out)
	for key, want := range map[string]string{"resource_class": "big", "extra": "map[]",
		"properties": "map[]", "boot_interface": "ipxe"} {
		if got := fmt.Sprint(n[key]); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
	p := next[row](t, out)
	if p["address"] != "52:54:00:00:00:01" || p["node_uuid"] != nodeID {
		t.Errorf("port %v", p)
	}
	if list := next[[]row](t, out); len(list) != 1 {
		t.Errorf("ports %v", list)
	}
	if list := next[[]row](t, out); len(list) != 1 || list[0]["Supported driver(s)"] != "ipmi" {
		t.Errorf("drivers %v", list)
	}
	if list := next[[]row](t, out); len(list) != 4 {
		t.Errorf("validate %v", list)
	}
	if list := next[[]row](t, out); len(list) != 1 || list[0]["Alive"] != true {
		t.Errorf("conductors %v", list)
	}
	if c := next[row](t, out); c["hostname"] != "c1" || c["alive"] != true {
		t.Errorf("conductor %v", c)
	}
	for _, want := range []int{1, 0} {
		if list := next[[]row](t, out); len(list) != want {
			t.Errorf("nodes of a conductor %v, want %d", list, want)
		}
	}
	if list := next[[]row](t, out); len(list) != 1 || list[0]["Maintenance Reason"] != "test" {
		t.Errorf("long list %v", list)
	}
	w.baremetal("node add trait n1 CUSTOM_A HW_CPU_X86_VMX", "node remove trait n1 CUSTOM_A",
		"node vif attach n1 "+portID, "node vif list n1", "node vif detach n1 "+portID)
	out = w.baremetal("node trait list n1 -f json", "node show n1 --fields traits -f json",
		"node remove trait n1 --all", "node delete n1")
	if list := next[[]row](t, out); len(list) != 1 || list[0]["Traits"] != "HW_CPU_X86_VMX" {
		t.Errorf("traits %v", list)
	}
	if n := next[row](t, out); fmt.Sprint(n["traits"]) != "[HW_CPU_X86_VMX]" {
		t.Errorf("field traits %v", n)
	}
	if _, err := w.store.Node(w.Context(), nodeID); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("after the deletion: %v", err)
	}
}

// gopher returns gophercloud's client of the API.
func (w *world) gopher() *gophercloud.ServiceClient {
	w.Helper()
	c, err := noauth.NewBareMetalNoAuth(noauth.EndpointOpts{IronicEndpoint: w.url + "/v1"})
	if err != nil {
		w.Fatal(err)
	}
	c.Microversion = "1.82"
	return c
}

func TestGophercloudWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.gopher()
	n, err := nodes.Create(t.Context(), c, nodes.CreateOpts{Driver: "ipmi", Name: "n1",
		DriverInfo: map[string]any{"ipmi_address": "192.0.2.1"}}).Extract()
	if err != nil || n.Name != "n1" || n.CreatedAt.IsZero() || n.ProvisionState != "enroll" {
		t.Fatalf("created %+v, %v", n, err)
	}
	n, err = nodes.Update(t.Context(), c, n.UUID, nodes.UpdateOpts{nodes.UpdateOperation{
		Op: nodes.AddOp, Path: "/maintenance", Value: "true"}}).Extract()
	if err != nil || !n.Maintenance {
		t.Errorf("updated %+v, %v", n, err)
	}
	if err := nodes.UnsetMaintenance(t.Context(), c, n.UUID).ExtractErr(); err != nil {
		t.Error(err)
	}
	p, err := ports.Create(t.Context(), c, ports.CreateOpts{NodeUUID: n.UUID,
		Address: "52:54:00:00:00:01"}).Extract()
	if err != nil || !p.PXEEnabled {
		t.Errorf("port %+v, %v", p, err)
	}
	err = nodes.ChangeProvisionState(t.Context(), c, n.UUID,
		nodes.ProvisionStateOpts{Target: nodes.TargetManage}).ExtractErr()
	if err != nil {
		t.Error(err)
	}
	err = nodes.ChangePowerState(t.Context(), c, n.UUID,
		nodes.PowerStateOpts{Target: nodes.PowerOn}).ExtractErr()
	if err != nil {
		t.Error(err)
	}
	err = nodes.SetBootDevice(t.Context(), c, n.UUID,
		nodes.BootDeviceOpts{BootDevice: "pxe"}).ExtractErr()
	if err != nil {
		t.Error(err)
	}
	if _, err := nodes.Validate(t.Context(), c, n.UUID).Extract(); err != nil {
		t.Error(err)
	}
	if err := nodes.Delete(t.Context(), c, n.UUID).ExtractErr(); err != nil {
		t.Error(err)
	}
	_, err = nodes.Get(t.Context(), c, n.UUID).Extract()
	if !gophercloud.ResponseCodeIs(err, 404) {
		t.Errorf("after the deletion: %v", err)
	}
}

// TestGophercloudSeesEveryNode: it looks for nodes_links, which Ironic does not send, so it sees
// at most one page there.
func TestGophercloudSeesEveryNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const size, count = 10, 25
	for i := range count {
		err := w.store.CreateNode(t.Context(), &ingot.Node{Driver: "ipmi",
			UUID: fmt.Sprintf("11111111-2222-4333-8444-%012d", i), ProvisionState: "available"})
		if err != nil {
			t.Fatal(err)
		}
	}
	pages, err := nodes.List(w.gopher(), nodes.ListOpts{Limit: size}).AllPages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all, err := nodes.ExtractNodes(pages)
	if err != nil || len(all) != count {
		t.Errorf("%d nodes, %v; want %d", len(all), err, count)
	}
}
