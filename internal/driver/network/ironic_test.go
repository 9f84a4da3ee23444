package network_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/driver"
	"ingot/internal/driver/network"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// view is what somebody sees of a port of Neutron who knows nothing of this test: what differs with every
// port, and every machine, is replaced.
func (w *world) view(port ingot.Object, node, instance, mac string) ingot.Object {
	out := ingot.Object{}
	names := strings.NewReplacer(node, "NODE", instance, "INSTANCE", mac, "MAC")
	for _, key := range []string{"binding:host_id", "binding:vnic_type", "binding:vif_type", "device_id",
		"device_owner", "admin_state_up", "name"} {
		if out[key] = port[key]; out[key] != nil {
			text, err := json.Marshal(out[key])
			if err != nil {
				w.Fatal(err)
			}
			out[key] = names.Replace(string(text))
		}
	}
	out["binding:profile"] = port["binding:profile"]
	out["machine's MAC"] = port["mac_address"] == mac
	addresses, _ := port["fixed_ips"].([]any)
	out["addresses"] = len(addresses)
	options, _ := port["extra_dhcp_opts"].([]any)
	var texts []string
	for _, o := range options {
		o := o.(ingot.Object)
		texts = append(texts, fmt.Sprintf("%v=%v (%v)", o["opt_name"], o["opt_value"], o["ip_version"]))
	}
	slices.Sort(texts)
	out["options"] = texts
	return out
}

// Ironic's own code and ours take a machine each through a deployment; after each step Neutron has the
// same of both.
func TestNeutronCannotTellUsFromIronic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	provisioning := w.Network(t, "provisioning", "", "10.1.0.0/24")
	tenant := w.Network(t, "tenant", "", "10.2.0.0/24")
	options := []driver.DHCPOption{{Name: "tag:!ipxe,67", Value: "snponly.efi", Version: 4},
		{Name: "tag:ipxe,67", Value: "http://10.1.0.1:8080/boot.ipxe?mac=${mac}", Version: 4},
		{Name: "66", Value: "10.1.0.1", Version: 4}, {Name: "150", Value: "10.1.0.1", Version: 4},
		{Name: "255", Value: "10.1.0.1", Version: 4}, {Name: "59", Value: "tftp://[fd00::1]/x", Version: 6}}
	var asIronic []ingot.Object
	for _, o := range options {
		asIronic = append(asIronic, ingot.Object{"opt_name": o.Name, "opt_value": o.Value, "ip_version": o.Version})
	}
	wish, err := json.Marshal(asIronic)
	if err != nil {
		t.Fatal(err)
	}
	their := struct{ node, instance, mac, vif string }{ingot.NewUUID(), ingot.NewUUID(), openstack.MAC(),
		w.Port(t, tenant)}
	said := testkit.Run(t, "/usr/bin/python3", "testdata/ironic_port.py", w.Neutron, their.node, their.instance,
		their.mac, provisioning, their.vif, string(wish))

	n := network.NewNeutron(network.Options{Client: w.client, ProvisioningNetwork: provisioning})
	vif, admin := w.Port(t, tenant), w.Networking(t)
	p := w.task.Ports[0]
	p.LocalLinkConnection = ingot.Object{"switch_id": "00:00:00:00:00:01", "port_id": "Gi0/1"}
	steps := map[string]func(context.Context, *driver.Task) error{
		"attached": func(ctx context.Context, task *driver.Task) error {
			return n.AttachVIF(ctx, task, driver.VIF{ID: vif})
		},
		"provisioning": n.AddProvisioning, "options": dhcp(n, options...), "provisioned": n.RemoveProvisioning,
		"tenant": n.ConfigureTenant, "unbound": n.UnconfigureTenant,
	}
	lines := json.NewDecoder(strings.NewReader(said))
	for range len(steps) {
		var theirs struct {
			Step string
			Port ingot.Object
			Left int
		}
		if err := lines.Decode(&theirs); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		boot := driver.Text(p.InternalInfo, "provisioning_vif_port_id")
		if err := steps[theirs.Step](t.Context(), w.task); err != nil {
			t.Fatalf("%s: %v", theirs.Step, err)
		}
		id := vif
		switch theirs.Step {
		case "provisioned":
			if _, err := w.client.Port(t.Context(), boot); theirs.Left > 0 || ingot.KindOf(err) != ingot.NotFound {
				t.Errorf("provisioned: Ironic leaves %d ports; ours: %v", theirs.Left, err)
			}
			continue
		case "provisioning", "options":
			id = driver.Text(p.InternalInfo, "provisioning_vif_port_id")
		}
		var ours struct{ Port ingot.Object }
		if _, err := admin.Get(t.Context(), admin.ServiceURL("ports", id), &ours, nil); err != nil {
			t.Fatal(err)
		}
		got := w.view(ours.Port, w.task.Node.UUID, w.task.Node.InstanceUUID, p.Address)
		if diff := cmp.Diff(w.view(theirs.Port, their.node, their.instance, their.mac), got); diff != "" {
			t.Errorf("%s, Ironic's and ours: %s", theirs.Step, diff)
		}
	}
}
