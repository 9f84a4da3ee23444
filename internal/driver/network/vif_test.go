package network_test

import (
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/network"
	"ingot/internal/ingot"
)

func TestAVIFIsAttachedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := network.NewFlat(network.Options{Client: w.client})
	net := w.Network(t, "tenant", "", "10.2.0.0/24")
	vifs := []string{w.Port(t, net), w.Port(t, net), w.Port(t, net)}
	attach := func(id, port string) error {
		return n.AttachVIF(t.Context(), w.task, driver.VIF{ID: id, PortUUID: port})
	}
	refused := func(what string, err error, kind ingot.Kind, words string) {
		t.Helper()
		if ingot.KindOf(err) != kind || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v (%s)", what, err, ingot.KindOf(err))
		}
	}
	for _, id := range []string{ingot.NewUUID(), "a name", "../networks"} {
		refused("unknown to Neutron", attach(id, ""), ingot.Invalid, "no such port")
	}
	refused("no such port of the node", attach(vifs[0], ingot.NewUUID()), ingot.Invalid,
		"not enough free physical ports")
	if err := attach(strings.ToUpper(vifs[0]), w.task.Ports[1].UUID); err != nil {
		t.Fatal(err)
	}
	w.has("to the port that was named", vifs[0], "", w.task.Ports[1].Address)
	refused("again", attach(vifs[0], w.task.Ports[0].UUID), ingot.Conflict,
		"Unable to attach VIF because VIF "+vifs[0]+" is already attached to Ironic Port "+w.task.Ports[1].UUID)
	w.attach(n, vifs[1])
	refused("no port is left", attach(vifs[2], ""), ingot.Invalid, "not enough free physical ports")
	refused("not attached", n.DetachVIF(t.Context(), w.task, vifs[2]), ingot.Invalid,
		"Unable to detach VIF "+vifs[2]+" from node "+w.task.Node.UUID+" because it is not attached to it.")
	refused("nothing", n.DetachVIF(t.Context(), w.task, ""), ingot.Invalid, "not attached")
	if err := w.client.Delete(t.Context(), vifs[1]); err != nil {
		t.Fatal(err)
	}
	for _, id := range vifs[:2] { // also of one that its tenant has deleted
		if err := n.DetachVIF(t.Context(), w.task, id); err != nil {
			t.Error(err)
		}
	}
	if w.has("detached", vifs[0], "", "").MAC == w.task.Ports[1].Address {
		t.Error("the tenant's port has kept the machine's address")
	}
	w.attach(n, vifs[2])
	w.has("to one that is free again", vifs[2], "", w.task.Ports[0].Address)
}

func TestAVIFOfAnActiveNodeIsConnectedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := network.NewNeutron(network.Options{Client: w.client})
	vif := w.Port(t, w.Network(t, "tenant", "", "10.2.0.0/24"))
	w.task.Node.ProvisionState = "active"
	w.attach(n, vif)
	w.has("attached", vif, w.task.Node.UUID, w.task.Ports[0].Address)

	other := newWorld(t)
	for _, state := range []string{"active", "available"} {
		other.task.Node.ProvisionState = state
		err := n.AttachVIF(t.Context(), other.task, driver.VIF{ID: vif})
		if ingot.KindOf(err) != ingot.Conflict || !strings.Contains(err.Error(), w.task.Node.UUID) {
			t.Errorf("to another node that is %s: %v", state, err)
		}
	}
	if err := n.DetachVIF(t.Context(), w.task, vif); err != nil {
		t.Error(err)
	}
	w.has("detached", vif, "", "")
	strict := network.NewNeutron(network.Options{Client: w.client, FailOnBindingFailure: true})
	if err := strict.AttachVIF(t.Context(), w.task, driver.VIF{ID: vif}); ingot.KindOf(err) != ingot.Conflict ||
		len(strict.VIFs(w.task)) > 0 {
		t.Errorf("Neutron cannot bind it: %v, %v", err, strict.VIFs(w.task))
	}
	w.has("after it was not bound", vif, "", "")
}

func TestAVIFGoesToThePortThatSuitsItsNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := network.NewNeutron(network.Options{Client: w.client})
	left, right := "left-"+ingot.NewUUID()[:8], "right-"+ingot.NewUUID()[:8]
	networks := map[string]string{}
	for _, physical := range []string{left, right, ""} {
		networks[physical] = w.Network(t, "tenant", physical)
	}
	a, b := w.task.Ports[0], w.task.Ports[1]
	a.PXEEnabled, b.PXEEnabled = false, true
	for name, e := range map[string]struct {
		a, b, vif string // physical networks
		want      *ingot.Port
	}{
		"none has any":             {"", "", left, b},
		"one suits":                {left, "", left, a},
		"one does not":             {"", right, left, a},
		"both suit":                {left, left, left, b},
		"none suits":               {right, right, left, nil},
		"the network has none":     {left, right, "", b},
		"it may be on all of them": {left, "", right, b},
	} {
		a.PhysicalNetwork, b.PhysicalNetwork = e.a, e.b
		a.InternalInfo, b.InternalInfo = nil, nil
		id := w.Port(t, networks[e.vif])
		err := n.AttachVIF(t.Context(), w.task, driver.VIF{ID: id})
		switch {
		case e.want == nil && ingot.KindOf(err) == ingot.Invalid:
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case e.want == nil || driver.Text(e.want.InternalInfo, "tenant_vif_port_id") != id:
			t.Errorf("%s: %v, %v", name, a.InternalInfo, b.InternalInfo)
		}
		if err := w.client.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	a.InternalInfo, b.InternalInfo, b.LocalLinkConnection = nil, nil, nil
	a.PhysicalNetwork, b.PhysicalNetwork = "", ""
	id := w.Port(t, networks[""])
	if w.attach(n, id); driver.Text(a.InternalInfo, "tenant_vif_port_id") != id {
		t.Error("a port without local_link_connection is taken")
	}
}

// ingot sees all ports of the cloud; a tenant who deploys a node must not get another one's through it.
func TestAVIFOfAnotherProjectIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := network.NewFlat(network.Options{Client: w.client})
	vif := w.Port(t, w.Network(t, "tenant", ""))
	project := w.has("new", vif, "", "").Project
	for who, ok := range map[string]bool{"": true, project: true, "another": false} {
		w.task.Ports[0].InternalInfo, w.task.Ports[1].InternalInfo = nil, nil
		err := n.AttachVIF(t.Context(), w.task, driver.VIF{ID: vif, Project: who})
		if (err == nil) != ok || !ok && ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("asked by %q: %v", who, err)
		}
	}
}
