package netdata_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/netdata"
)

// example is from OpenStack's documentation, with what it can have besides.
const example = `{
 "links": [
  {"id": "eth0", "type": "phy", "ethernet_mac_address": "52:54:00:77:00:0A", "mtu": 1500},
  {"id": "eth1", "type": "phy", "ethernet_mac_address": "52-54-00-77-00-02", "mtu": null, "vif_id": "x"},
  {"id": "bond0", "type": "bond", "ethernet_mac_address": "52:54:00:77:00:03", "bond_mode": "802.1ad",
   "bond_links": ["eth2", "eth3"], "bond_xmit_hash_policy": "layer3+4"},
  {"id": "vlan5", "type": "vlan", "vlan_mac_address": "52:54:00:77:00:04", "vlan_id": 5, "vlan_link": "bond0"}],
 "networks": [
  {"id": "n0", "type": "ipv4", "link": "eth0", "network_id": "a", "ip_address": "10.0.0.5", "netmask": "255.255.254.0",
   "routes": [{"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.9"},
    {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.0.1",
     "services": [{"type": "dns", "address": "10.0.0.53"}]}]},
  {"id": "n1", "type": "ipv4_dhcp", "link": "eth1", "network_id": "b"},
  {"id": "n2", "type": "ipv6", "link": "eth0", "network_id": "c", "ip_address": "fd00::5/64", "netmask": "ffff:ffff:ffff:ffff::",
   "routes": [{"network": "::", "netmask": "::", "gateway": "fd00::1"}]},
  {"id": "n3", "type": "ipv4", "link": "vlan5", "network_id": "d", "ip_address": "10.1.0.5", "netmask": "255.255.255.0"},
  {"id": "n4", "type": "ipv4", "link": "eth1", "network_id": "e", "ip_address": "10.2.0.5", "netmask": "255.255.255.255",
   "routes": []}],
 "services": [{"type": "dns", "address": "fd00::53"}]}`

func object(t testing.TB, text string) ingot.Object {
	t.Helper()
	var o ingot.Object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAddressesOfCardsAreFound(t *testing.T) {
	t.Parallel()
	o := object(t, example)
	if err := netdata.Check(o); err != nil {
		t.Fatal(err)
	}
	want := []netdata.Static{
		{"52:54:00:77:00:0a", netip.MustParsePrefix("10.0.0.5/23"), netip.MustParseAddr("10.0.0.1")},
		{"52:54:00:77:00:02", netip.MustParsePrefix("10.2.0.5/32"), netip.Addr{}},
	}
	if got := netdata.Statics(o); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if text := netdata.Text(o); text != netdata.Text(object(t, text)) {
		t.Error("the text is another one each time")
	}
	if netdata.Text(nil) != "" || netdata.Text(ingot.Object{}) != "" || netdata.Check(ingot.Object{}) != nil {
		t.Error("no data are some")
	}
}

func TestWrongNetworkDataSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for change, want := range map[string]string{
		`"links"=>"lings"`:                         "network_data has no links",
		`"mtu": 1500=>"mtu": 0`:                    `link "eth0" has mtu 0`,
		`"mtu": 1500=>"mtu": "large"`:              "no network_data.json",
		`"id": "eth0"=>"id": ""`:                   "a link has no id",
		`"type": "phy"=>"type": "wlan"`:            `link "eth0" has type "wlan"; write phy, bond or vlan`,
		`52:54:00:77:00:0A=>5254.0077.000A`:        "ethernet_mac_address",
		`52:54:00:77:00:03=>`:                      `link "bond0" has ethernet_mac_address ""`,
		`802.1ad=>lacp`:                            `bond_mode "lacp"`,
		`"bond_links"=>"bond_linx"`:                "bond_links",
		`"vlan_id": 5, =>`:                         "vlan_id",
		`"id": "n0", =>`:                           "id, link and network_id",
		`"ipv4_dhcp"=>"dhcp"`:                      `network "n1" has type "dhcp"`,
		`10.0.0.5"=>10.0.0.500"`:                   `ip_address "10.0.0.500"`,
		`10.0.0.5"=>10.0.0.5/24"`:                  `ip_address "10.0.0.5/24"`,
		`10.0.0.5"=>fd00::9"`:                      "of the network's family",
		`255.255.254.0=>255.0.254.0`:               `netmask "255.0.254.0"`,
		`"gateway": "10.0.0.1"=>"via": "10.0.0.1"`: "a route to",
		`"type": "dns", "address": "10=>"type": "ntp", "address": "10`: `type "ntp"`,
		`fd00::53=>ns1`:                            `address "ns1"`,
		`fd00::5/64=>fd00::5/640`:                  "ip_address",
		`"ffff:ffff:ffff:ffff::"=>"ffff:0:ffff::"`: "netmask",
	} {
		old, new, _ := strings.Cut(change, "=>")
		text := strings.Replace(example, old, new, 1)
		if text == example {
			t.Fatalf("%s changes nothing", change)
		}
		err := netdata.Check(object(t, text))
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", change, err, want)
		}
	}
}

// FuzzStatics: whatever a client stores, an address is one that a kernel command line can have.
func FuzzStatics(f *testing.F) {
	f.Add(example)
	f.Add(`{"links":[{"id":"a","type":"phy","ethernet_mac_address":"52:54:00:77:00:0A"}],"services":[],` +
		`"networks":[{"id":"n","type":"ipv4","link":"a","network_id":"a","ip_address":"10.0.0.5","netmask":"0.0.0.0"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		var o ingot.Object
		if json.Unmarshal([]byte(text), &o) != nil {
			return
		}
		for _, s := range netdata.Statics(o) {
			if !s.Address.IsValid() || !s.Address.Addr().Is4() || s.Gateway.IsValid() && !s.Gateway.Is4() ||
				strings.ContainsAny(s.MAC, " \"'") {
				t.Errorf("%+v", s)
			}
		}
	})
}
