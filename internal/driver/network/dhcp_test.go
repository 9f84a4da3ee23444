package network_test

import (
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/network"
	"ingot/internal/ingot"
	"ingot/internal/neutron"
)

func TestDHCPOptionsAreOnlyForAddressesThatThePortHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := network.NewFlat(network.Options{Client: w.client})
	port := w.task.Ports[0]
	four, six := bootFile, driver.DHCPOption{Name: "59", Value: "http://[fd00::1]/boot", Version: 6}
	for name, e := range map[string]struct {
		subnets []string
		options []driver.DHCPOption
		want    []string
		words   string
	}{
		"IPv4": {[]string{"10.2.0.0/24"}, []driver.DHCPOption{four, six}, []string{"67=boot.0"}, ""},
		"IPv6": {[]string{"fd00:2::/64"}, []driver.DHCPOption{four, six}, []string{"59=" + six.Value}, ""},
		"both": {[]string{"10.2.0.0/24", "fd00:2::/64"}, []driver.DHCPOption{four, six},
			[]string{"67=boot.0", "59=" + six.Value}, ""},
		"no":       {nil, []driver.DHCPOption{four}, nil, "has no IP address"},
		"IPv6 too": {[]string{"fd00:2::/64"}, []driver.DHCPOption{four}, nil, "one of IPv4"},
	} {
		vif := w.Port(t, w.Network(t, "tenant", "", e.subnets...))
		stranger := []neutron.Option{{Name: "26", Value: "9000", Version: 4}}
		if err := w.client.SetOptions(t.Context(), &neutron.Port{ID: vif}, []string{"26"}, stranger); err != nil {
			t.Fatal(err)
		}
		port.InternalInfo = ingot.Object{"tenant_vif_port_id": vif}
		for range 2 {
			err := n.SetDHCP(t.Context(), w.task, e.options)
			if (err == nil) != (e.words == "") || err != nil && (ingot.KindOf(err) != ingot.Invalid ||
				!strings.Contains(err.Error(), e.words) || !strings.Contains(err.Error(), vif)) {
				t.Errorf("%s: %v", name, err)
			}
			w.offers(name, vif, append(e.want, "26=9000")...)
		}
		w.twice("taken back", dhcp(n))
		w.offers(name+", taken back", vif, "26=9000")
		if err := w.client.Delete(t.Context(), vif); err != nil {
			t.Fatal(err)
		}
		w.twice("deleted meanwhile", dhcp(n))
		if err := n.SetDHCP(t.Context(), w.task, e.options); ingot.KindOf(err) != ingot.NotFound {
			t.Errorf("%s, deleted: %v", name, err)
		}
	}
}

func TestDHCPOptionsGoToThePortsFromWhichTheMachineBoots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := network.NewFlat(network.Options{Client: w.client})
	net := w.Network(t, "tenant", "", "10.2.0.0/24")
	boots, other, later := w.Port(t, net), w.Port(t, net), w.Port(t, net)
	if err := n.SetDHCP(t.Context(), w.task, []driver.DHCPOption{bootFile}); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "vif attach") {
		t.Errorf("no VIF: %v", err)
	}
	w.twice("no VIF", dhcp(n))
	w.task.Ports[1].InternalInfo = ingot.Object{"tenant_vif_port_id": other}
	if err := n.SetDHCP(t.Context(), w.task, []driver.DHCPOption{bootFile}); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("only a port that does not boot has a VIF: %v", err)
	}
	w.task.Ports[0].InternalInfo = ingot.Object{"tenant_vif_port_id": later, "provisioning_vif_port_id": boots}
	w.twice("set", dhcp(n, bootFile))
	w.offers("boots", boots, "67=boot.0")
	w.offers("does not boot", other)
	w.offers("later", later)
	if err := n.SetDHCP(t.Context(), w.task, []driver.DHCPOption{bootFile, {Name: "67", Value: "another"}}); ingot.
		KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "has two values") {
		t.Errorf("two values: %v", err)
	}
	w.offers("after two values", boots, "67=boot.0")
}
