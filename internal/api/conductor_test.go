package api_test

import (
	"fmt"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// crowd adds conductors and 60 nodes: c1 and c2 share those with ipmi, c2 alone has fake-hardware,
// c3 is of another group, nobody is of group none.
func (w *world) crowd() {
	w.Helper()
	ipmi, fake := ingot.Driver{Name: "ipmi"}, ingot.Driver{Name: "fake-hardware"}
	for _, c := range []ingot.Conductor{
		{Hostname: "c2", Drivers: []ingot.Driver{ipmi, fake}, Address: "192.0.2.2", Version: "v2",
			Services: map[string]string{ingot.ServiceBoot: "http://192.0.2.2:8080"}, BootTree: "ab"},
		{Hostname: "c3", Group: "g3", Drivers: []ingot.Driver{ipmi}},
	} {
		if err := w.store.Heartbeat(w.Context(), c); err != nil {
			w.Fatal(err)
		}
	}
	for i := range 60 {
		n := &ingot.Node{UUID: fmt.Sprintf("11111111-2222-4333-8444-%012x", i*41+7), Driver: "ipmi",
			Name: fmt.Sprintf("n%02d", i), ProvisionState: "manageable"}
		switch i % 6 {
		case 0:
			n.Driver = "fake-hardware"
		case 1:
			n.ConductorGroup = "g3"
		case 2:
			n.ConductorGroup = "none"
		}
		if err := w.store.CreateNode(w.Context(), n); err != nil {
			w.Fatal(err)
		}
	}
}

// owned returns the names of the nodes whose field conductor is a host name, in their order.
func (w *world) owned(host, filter string) (names []string) {
	w.Helper()
	for _, v := range w.do("GET", "/v1/nodes?fields=name,conductor"+filter, "").want(200).list("nodes") {
		n := v.(map[string]any)
		if c, _ := n["conductor"].(string); c == host {
			names = append(names, n["name"].(string))
		}
	}
	return names
}

func TestNodesAreListedByTheirConductor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crowd()
	for _, host := range []string{"c1", "c2", "c3", "c4"} {
		want := w.owned(host, "")
		if len(want) == 0 && host != "c4" {
			t.Fatalf("no node of %s among those of the test", host)
		}
		for _, sort := range []string{"", "&sort_key=name&sort_dir=desc"} {
			var got []string
			path := "/v1/nodes?limit=3&fields=name,conductor&conductor=" + host + sort
			for pages := 0; path != ""; pages++ {
				o := w.do("GET", path, "").want(200).object()
				list := o["nodes"].([]any)
				next, more := o["next"].(string)
				if more && len(list) != 3 || pages > len(want)/3 {
					t.Fatalf("%s: page %d of %d nodes, more: %v", host, pages, len(list), more)
				}
				for _, n := range list {
					got = append(got, n.(map[string]any)["name"].(string))
				}
				path = strings.TrimPrefix(next, w.url)
			}
			if sort != "" {
				want = w.owned(host, sort)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s%s: %v, want %v", host, sort, got, want)
			}
		}
	}
	if got := w.owned("c2", "&conductor=c2&driver=fake-hardware"); len(got) != 10 {
		t.Errorf("with another filter: %v", got)
	}
	for filter, want := range map[string]int{"conductor=c3&conductor_group=g3": 10,
		"conductor=c3&conductor_group=": 0, "conductor=c1&conductor_group=g3": 0, "conductor=": 0} {
		if got := w.do("GET", "/v1/nodes/detail?"+filter, "").want(200).list("nodes"); len(got) != want {
			t.Errorf("%s: %d nodes, want %d", filter, len(got), want)
		}
	}
	w.at("1.48", "GET", "/v1/nodes?conductor=c1", "").want(406)
}

func TestADrainingConductorOwnsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crowd()
	w.do("PUT", "/v1/conductors/c2/draining", "").want(204)
	w.do("PUT", "/v1/conductors/c2/draining", "").want(204)
	w.do("PUT", "/v1/conductors/c9/draining", "").want(404)
	w.at("1.48", "PUT", "/v1/conductors/c2/draining", "").want(404)
	w.at("1.48", "GET", "/v1/cluster", "").want(404)
	if got := w.do("GET", "/v1/nodes?conductor=c2", "").want(200).list("nodes"); len(got) != 0 {
		t.Errorf("it has %d nodes", len(got))
	}
	nodes := func() (owned map[string]float64, free float64) {
		t.Helper()
		owned = map[string]float64{}
		o := w.do("GET", "/v1/cluster", "").want(200).object()
		for _, v := range o["conductors"].([]any) {
			c := v.(map[string]any)
			owned[c["hostname"].(string)] = c["nodes"].(float64)
			if c["draining"] != (c["hostname"] == "c2" && owned["c2"] == 0) {
				t.Errorf("conductor %v", c)
			}
			if c["hostname"] == "c2" && (c["version"] != "v2" || c["address"] != "192.0.2.2" ||
				c["boot_tree"] != "ab" || c["alive"] != true || c["updated_at"] == nil ||
				c["lag"].(float64) < 0 || c["lag"].(float64) > 60 || c["load"].(map[string]any)["busy"] != 0.0 ||
				c["services"].(map[string]any)["boot"] != "http://192.0.2.2:8080") {
				t.Errorf("conductor %v", c)
			}
		}
		return owned, o["nodes_without_conductor"].(float64)
	}
	if got, free := nodes(); fmt.Sprint(got) != "map[c1:30 c2:0 c3:10]" || free != 20 {
		t.Errorf("nodes %v and %v; those with fake-hardware and of group none have nobody", got, free)
	}
	w.do("DELETE", "/v1/conductors/c2/draining", "").want(204)
	got, free := nodes()
	if got["c2"] != float64(len(w.owned("c2", ""))) || got["c1"]+got["c2"] != 40 || free != 10 {
		t.Errorf("after the end of it: nodes %v and %v", got, free)
	}
	all, err := w.store.Conductors(t.Context(), store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		group, shares := ingot.Shares(all, c.Hostname)
		list, err := w.store.Nodes(t.Context(), store.NodeFilter{ConductorGroup: &group,
			Shares: shares}, store.Page{})
		if err != nil || float64(len(list)) != got[c.Hostname] {
			t.Errorf("%s: %d nodes in its shares, %v", c.Hostname, len(list), err)
		}
	}
}
