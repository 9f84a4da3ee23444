package network_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ingot/internal/driver"
	"ingot/internal/driver/network"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/neutron"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// world is a machine with two ports, and a Neutron without a driver for machines: all that it is asked to
// bind becomes binding_failed.
type world struct {
	*testing.T
	*openstack.Cloud
	client *neutron.Client
	task   *driver.Task
	saved  map[string]ingot.Object // internal_info by port, as on record
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testkit.Long(t)
	w := &world{T: t, saved: map[string]ingot.Object{},
		Cloud: openstack.Start(t, openstack.Want{Services: "neutron"})}
	w.client = w.at(w.Neutron)
	w.task = &driver.Task{Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Node: &ingot.Node{UUID: ingot.NewUUID(), InstanceUUID: ingot.NewUUID(), DriverInfo: ingot.Object{}}}
	for _, name := range []string{"Gi0/1", "Gi0/2"} {
		w.task.Ports = append(w.task.Ports, &ingot.Port{UUID: ingot.NewUUID(), Address: openstack.MAC(),
			PXEEnabled:          name == "Gi0/1",
			LocalLinkConnection: ingot.Object{"switch_id": "00:01", "port_id": name}})
	}
	w.task.SavePort = func(_ context.Context, p *ingot.Port) error {
		w.saved[p.UUID] = maps.Clone(p.InternalInfo)
		return nil
	}
	return w
}

// at is a client of the Neutron at a URL.
func (w *world) at(url string) *neutron.Client {
	w.Helper()
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		w.Fatal(err)
	}
	return neutron.NewOpen(s, url, 0)
}

// twice does a step, and again.
func (w *world) twice(what string, step func(context.Context, *driver.Task) error) {
	w.Helper()
	for _, time := range []string{"once", "twice"} {
		if err := step(w.Context(), w.task); err != nil {
			w.Fatalf("%s, %s: %v", what, time, err)
		}
	}
}

// attach attaches a VIF, which cannot be done twice.
func (w *world) attach(n driver.Network, vif string) {
	w.Helper()
	if err := n.AttachVIF(w.Context(), w.task, driver.VIF{ID: vif}); err != nil {
		w.Fatal(err)
	}
}

// dhcp is SetDHCP as a step.
func dhcp(n driver.Network, options ...driver.DHCPOption) func(context.Context, *driver.Task) error {
	return func(ctx context.Context, t *driver.Task) error { return n.SetDHCP(ctx, t, options) }
}

// has checks a port of Neutron: which host it is bound to, and with which MAC address ("" is any).
func (w *world) has(what, id, host, mac string) *neutron.Port {
	w.Helper()
	p, err := w.client.Port(w.Context(), id)
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
	if p.Host != host || mac != "" && p.MAC != mac {
		w.Errorf("%s: bound to %q with %s, want %q with %s", what, p.Host, p.MAC, host, mac)
	}
	return p
}

// offers checks the DHCP options of a port of Neutron, as name=value.
func (w *world) offers(what, id string, want ...string) {
	w.Helper()
	p, err := w.client.Port(w.Context(), id)
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
	var got []string
	for _, o := range p.Options {
		got = append(got, o.Name+"="+o.Value)
	}
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(strings.Compare)); diff != "" {
		w.Errorf("%s: %s", what, diff)
	}
}

// vif is what a port of the machine has on record.
func (w *world) vif(port int, key string) string {
	id, _ := w.saved[w.task.Ports[port].UUID][key].(string)
	return id
}

var bootFile = driver.DHCPOption{Name: "67", Value: "boot.0", Version: 4}

func TestFlatDeploysOnTheNetworkOfTheVIF(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := network.NewFlat(network.Options{Client: w.client, FailOnBindingFailure: true})
	vif := w.Port(t, w.Network(t, "tenant", "", "10.2.0.0/24"))
	node, mac := w.task.Node.UUID, w.task.Ports[0].Address
	if err := n.Validate(t.Context(), w.task); err != nil {
		t.Error(err)
	}
	if err := n.AddProvisioning(t.Context(), w.task); err == nil || !strings.Contains(err.Error(), "vif attach") {
		t.Errorf("without VIFs: %v", err)
	}
	w.attach(n, vif)
	w.has("attached", vif, "", mac)
	if w.vif(0, "tenant_vif_port_id") != vif || !cmp.Equal(n.VIFs(w.task), []string{vif}) {
		t.Errorf("on record: %v, %v", w.saved, n.VIFs(w.task))
	}
	w.twice("prepare", n.UnconfigureTenant)
	w.twice("provisioning", n.AddProvisioning)
	w.has("provisioning", vif, node, mac)
	w.twice("options", dhcp(n, bootFile))
	w.offers("provisioning", vif, "67=boot.0")
	w.twice("provisioned", n.RemoveProvisioning)
	w.has("provisioned", vif, "", "")
	w.twice("tenant", n.ConfigureTenant)
	w.has("tenant", vif, node, mac)
	w.twice("no options", dhcp(n))
	w.offers("tenant", vif)
	w.twice("tear down", n.UnconfigureTenant)
	if p := w.has("torn down", vif, "", ""); p.MAC == mac {
		t.Error("the tenant's port has kept the machine's address")
	}
	if err := n.DetachVIF(t.Context(), w.task, vif); err != nil {
		t.Error(err)
	}
	if len(n.VIFs(w.task)) > 0 || w.vif(0, "tenant_vif_port_id") != "" {
		t.Errorf("detached: %v, %v", n.VIFs(w.task), w.saved)
	}
}

func TestNeutronDeploysOnANetworkOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	provisioning := w.Network(t, "provisioning", "", "10.1.0.0/24")
	n := network.NewNeutron(network.Options{Client: w.client, ProvisioningNetwork: provisioning})
	vif := w.Port(t, w.Network(t, "tenant", "", "10.2.0.0/24"))
	node, mac := w.task.Node, w.task.Ports[0].Address
	if err := n.ConfigureTenant(t.Context(), w.task); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "vif attach") {
		t.Errorf("without VIFs: %v", err)
	}
	w.attach(n, vif)
	for _, round := range []string{"first", "second"} {
		w.twice("prepare", n.UnconfigureTenant)
		w.twice("provisioning", n.AddProvisioning)
		boot := w.vif(0, "provisioning_vif_port_id")
		p := w.has("provisioning", boot, node.UUID, mac)
		if p.Network != provisioning || p.Device != node.InstanceUUID || p.Owner != "baremetal:none" ||
			w.vif(1, "provisioning_vif_port_id") != "" {
			t.Errorf("%s: %+v, %v", round, p, w.saved)
		}
		if want := (ingot.Object{"local_link_information": []any{w.task.Ports[0].LocalLinkConnection}}); !cmp.Equal(
			p.Profile, want) {
			t.Errorf("%s: profile %v", round, p.Profile)
		}
		w.twice("options", dhcp(n, bootFile))
		w.offers("provisioning", boot, "67=boot.0")
		w.offers("tenant", vif)
		w.twice("provisioned", n.RemoveProvisioning)
		if _, err := w.client.Port(t.Context(), boot); ingot.KindOf(err) != ingot.NotFound {
			t.Errorf("%s: the port for provisioning: %v", round, err)
		}
		if w.vif(0, "provisioning_vif_port_id") != "" {
			t.Errorf("%s: on record: %v", round, w.saved)
		}
		w.twice("tenant", n.ConfigureTenant)
		if p := w.has("tenant", vif, node.UUID, mac); len(p.Profile) == 0 {
			t.Errorf("%s: no profile", round)
		}
		w.twice("tear down", n.UnconfigureTenant)
		w.has("torn down", vif, "", "")
	}
}

// A crash between a change of Neutron and its record leaves nothing that is not found again.
func TestWhatIsNotOnRecordIsFoundAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	provisioning := w.Network(t, "provisioning", "", "10.1.0.0/24")
	n := network.NewNeutron(network.Options{Client: w.client, ProvisioningNetwork: provisioning})
	vif := w.Port(t, w.Network(t, "tenant", "", "10.2.0.0/24"))
	save, crash := w.task.SavePort, errors.New("crash")
	// crashes has a step fail when it writes, and forgets what it had in memory.
	crashes := func(what string, step func(context.Context, *driver.Task) error) {
		t.Helper()
		w.task.SavePort = func(context.Context, *ingot.Port) error { return crash }
		if err := step(t.Context(), w.task); !errors.Is(err, crash) {
			t.Errorf("%s: %v", what, err)
		}
		w.task.SavePort = save
		for _, p := range w.task.Ports {
			p.InternalInfo = maps.Clone(w.saved[p.UUID])
		}
	}
	there := func(what string, want int) {
		t.Helper()
		found, err := w.client.Find(t.Context(), provisioning, w.task.Ports[0].Address)
		if err != nil || len(found) != want {
			t.Errorf("%s: %d ports, want %d, %v", what, len(found), want, err)
		}
	}
	attach := func(ctx context.Context, task *driver.Task) error {
		return n.AttachVIF(ctx, task, driver.VIF{ID: vif})
	}
	detach := func(ctx context.Context, task *driver.Task) error { return n.DetachVIF(ctx, task, vif) }
	crashes("attach", attach)
	w.attach(n, vif)
	crashes("provisioning", n.AddProvisioning)
	there("not on record", 1)
	w.twice("provisioning", n.AddProvisioning)
	there("on record", 1)
	crashes("provisioned", n.RemoveProvisioning)
	w.twice("provisioned", n.RemoveProvisioning)
	there("removed", 0)
	crashes("provisioning", n.AddProvisioning)
	w.twice("given up", n.RemoveProvisioning)
	there("given up", 0)
	crashes("detach", detach)
	if err := detach(t.Context(), w.task); err != nil || len(n.VIFs(w.task)) > 0 {
		t.Errorf("detach: %v", err)
	}
}

// lossy is a Neutron of which the answer to each change is lost once, after it was made.
func (w *world) lossy() *neutron.Client {
	w.Helper()
	front := openstack.NewFront(w.T, w.Neutron)
	var mu sync.Mutex // guards lost
	lost := map[string]bool{}
	front.Change(func(r *http.Response) error {
		mu.Lock()
		defer mu.Unlock()
		key := r.Request.Method + r.Request.URL.Path
		if r.Request.Method == http.MethodGet || lost[key] {
			delete(lost, key) // the next change of this port is lost again
			return nil
		}
		lost[key] = true
		return io.ErrUnexpectedEOF
	})
	return w.at(front.URL)
}

func TestAnswersThatAreLostChangeNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"flat", "neutron"} {
		w := newWorld(t)
		o := network.Options{Client: w.lossy(), ProvisioningNetwork: w.Network(t, "provisioning", "", "10.1.0.0/24")}
		n := driver.Network(network.NewFlat(o))
		if kind == "neutron" {
			n = network.NewNeutron(o)
		}
		vif := w.Port(t, w.Network(t, "tenant", "", "10.2.0.0/24"))
		lost := 0
		for _, step := range []func(context.Context, *driver.Task) error{
			func(ctx context.Context, task *driver.Task) error { return n.AttachVIF(ctx, task, driver.VIF{ID: vif}) },
			n.AddProvisioning, dhcp(n, bootFile), n.RemoveProvisioning, n.ConfigureTenant, dhcp(n),
		} {
			for err := step(t.Context(), w.task); err != nil; err = step(t.Context(), w.task) {
				if lost++; ingot.KindOf(err) != ingot.Unavailable || lost > 50 {
					t.Fatal(err)
				}
			}
		}
		w.has("tenant", vif, w.task.Node.UUID, w.task.Ports[0].Address)
		w.offers("tenant", vif)
		found, err := w.client.Find(t.Context(), o.ProvisioningNetwork, w.task.Ports[0].Address)
		if err != nil || len(found) > 0 || w.vif(0, "provisioning_vif_port_id") != "" || lost < 4 {
			t.Errorf("%s: %d answers were lost, %d ports are left, %v", kind, lost, len(found), err)
		}
	}
}

func TestValidateSaysWhatToConfigure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.Network(t, t.Name(), "")
	for name, e := range map[string]struct {
		n     driver.Network
		info  ingot.Object
		words string
	}{
		"no Neutron":       {network.NewNeutron(network.Options{}), nil, "[keystone_authtoken]"},
		"no Neutron, flat": {network.NewFlat(network.Options{}), nil, "[keystone_authtoken]"},
		"no network": {network.NewNeutron(network.Options{Client: w.client}), nil,
			"set [neutron] provisioning_network"},
		"unknown": {network.NewNeutron(network.Options{Client: w.client, ProvisioningNetwork: "nope"}), nil,
			"nope"},
		"by name": {network.NewNeutron(network.Options{Client: w.client, ProvisioningNetwork: t.Name()}), nil, ""},
		"by the node": {network.NewNeutron(network.Options{Client: w.client, ProvisioningNetwork: "nope"}),
			ingot.Object{"provisioning_network": id}, ""},
		"unknown to the node": {network.NewNeutron(network.Options{Client: w.client, ProvisioningNetwork: id}),
			ingot.Object{"provisioning_network": "nope"}, "nope"},
	} {
		err := e.n.Validate(t.Context(), &driver.Task{Node: &ingot.Node{DriverInfo: e.info}})
		if (err == nil) != (e.words == "") || err != nil && (ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), e.words)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPortsThatCannotBeProvisioned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := network.NewNeutron(network.Options{Client: w.client,
		ProvisioningNetwork: w.Network(t, "provisioning", "", "10.1.0.0/24")})
	w.task.Ports[0].LocalLinkConnection = nil
	refused := func(what, word string) {
		t.Helper()
		if err := n.AddProvisioning(t.Context(), w.task); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("no VIF", "vif attach")
	w.attach(n, w.Port(t, w.Network(t, "tenant", "", "10.2.0.0/24")))
	refused("none is left", "local_link_connection")
	w.task.Ports[1].PXEEnabled = true
	w.twice("one is left", n.AddProvisioning)
	first := w.vif(1, "provisioning_vif_port_id")
	// Another network, by the node: the port on the old one goes.
	w.task.Node.DriverInfo["provisioning_network"] = w.Network(t, "another", "", "10.3.0.0/24")
	w.twice("on another network", n.AddProvisioning)
	if _, err := w.client.Port(t.Context(), first); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("the port on the old network: %v", err)
	}
	second := w.vif(1, "provisioning_vif_port_id")
	w.task.Node.Owner = "a project"
	refused("a network of others", "neither of the project that owns the node nor shared")
	w.task.Node.Owner = ""
	w.task.Node.DriverInfo["provisioning_network"] = "deleted meanwhile"
	w.twice("without the network", n.RemoveProvisioning)
	if _, err := w.client.Port(t.Context(), second); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("the port on a network that nobody finds: %v", err)
	}
}

func TestABindingThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := network.Options{Client: w.client, FailOnBindingFailure: true,
		ProvisioningNetwork: w.Network(t, "provisioning", "", "10.1.0.0/24")}
	n := network.NewNeutron(o)
	vif := w.Port(t, w.Network(t, "tenant", "", "10.2.0.0/24"))
	w.attach(n, vif)
	for name, step := range map[string]func(context.Context, *driver.Task) error{
		"provisioning": n.AddProvisioning, "tenant": n.ConfigureTenant,
	} {
		for range 2 {
			if err := step(t.Context(), w.task); ingot.KindOf(err) != ingot.Conflict ||
				!strings.Contains(err.Error(), "mechanism_drivers") {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.task.Node.DriverInfo["fail_on_binding_failure"] = "false"
		w.twice(name, step)
		delete(w.task.Node.DriverInfo, "fail_on_binding_failure")
	}
	w.twice("removed", n.RemoveProvisioning)
	w.twice("flat does not look", network.NewFlat(o).ConfigureTenant)
	n = network.NewNeutron(network.Options{Client: w.client})
	w.task.Node.DriverInfo["fail_on_binding_failure"] = true
	if err := n.ConfigureTenant(t.Context(), w.task); ingot.KindOf(err) != ingot.Conflict {
		t.Errorf("the node's own wish: %v", err)
	}
}
