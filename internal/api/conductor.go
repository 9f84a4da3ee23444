package api

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

type conductor = ingot.Conductor

// conductorFields is the representation of a conductor, in the order of the wire.
var conductorFields = fields[conductor]{
	moment("created_at", func(c *conductor) *time.Time { return &c.CreatedAt }),
	moment("updated_at", func(c *conductor) *time.Time { return c.UpdatedAt }),
	text("hostname", func(c *conductor) *string { return &c.Hostname }).list(),
	computed("conductor_group", func(_ *call, h *conductor) any { return h.Group }).list(),
	computed("drivers", func(_ *call, h *conductor) any {
		names := []string{}
		for _, d := range h.Drivers {
			names = append(names, d.Name)
		}
		slices.Sort(names)
		return names
	}),
	computed("links", func(c *call, h *conductor) any {
		return c.links("conductors", h.Hostname)
	}).list(),
	computed("alive", func(_ *call, h *conductor) any { return h.Alive }).list(),
	// An extension of ours: equal digests are equal trees of boot files (S0).
	computed("boot_tree", func(_ *call, h *conductor) any { return h.BootTree }),
}

func listConductors(c *call) (reply, error) {
	want, err := conductorFields.selected(c)
	if err != nil {
		return reply{}, err
	}
	page, err := c.page()
	if err != nil {
		return reply{}, err
	}
	list, err := c.api.o.Store.Conductors(c.Context(), page)
	if err != nil {
		return reply{}, err
	}
	return collection[conductor]{name: "conductors", path: "/v1/conductors",
		fields: conductorFields, want: want, page: page,
		key: func(h *conductor) string { return h.Hostname }}.reply(c, list), nil
}

func showConductor(c *call) (reply, error) {
	want, err := conductorFields.named(c)
	if err != nil {
		return reply{}, err
	}
	h, err := c.api.o.Store.Conductor(c.Context(), c.PathValue("hostname"))
	if err != nil {
		return reply{}, err
	}
	return reply{body: conductorFields.project(c, h, want)}, nil
}

// aliveConductors returns the conductors that work.
func (c *call) aliveConductors() ([]*conductor, error) {
	all, err := c.api.o.Store.Conductors(c.Context(), store.Page{})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(h *conductor) bool { return !h.Alive }), nil
}

// conductorMinor is the first microversion that shows conductors.
const conductorMinor = 49

// loadConductors reads, once for a request, what the field "conductor" of nodes needs.
func (c *call) loadConductors(want selection) error {
	if c.minor < conductorMinor || want != nil && !want["conductor"] {
		return nil
	}
	var err error
	c.alive, err = c.aliveConductors()
	return err
}

// needConductor refuses a node for which there would be nobody to work: such a node could only
// be looked at.
func (c *call) needConductor(n *node) error {
	var err error
	if c.alive, err = c.aliveConductors(); err != nil {
		return err
	}
	if c.conductorOf(n) == "" {
		return invalid("No valid host was found. Reason: No conductor service registered which "+
			`supports driver %s for conductor group "%s".`, n.Driver, n.ConductorGroup)
	}
	return nil
}

// conductorOf returns the host name of the conductor that works on a node, "" if there is none.
func (c *call) conductorOf(n *node) string { return ingot.Owner(c.alive, n) }

// filterConductor limits a list of nodes to those of one conductor. As in Ironic one that does not
// exist, or does not work, has none.
func filterConductor(c *call, f *store.NodeFilter) error {
	if !c.query.Has("conductor") {
		return nil
	}
	all, err := c.aliveConductors()
	if err != nil {
		return err
	}
	group, shares := ingot.Shares(all, c.query.Get("conductor"))
	if f.ConductorGroup != nil && *f.ConductorGroup != group {
		shares = nil
	}
	f.ConductorGroup, f.Shares = &group, append([]ingot.Share{}, shares...)
	return nil
}

func drainConductor(c *call) (reply, error)   { return c.drain(true) }
func undrainConductor(c *call) (reply, error) { return c.drain(false) }

// drain is an extension of ours: a conductor that drains gives its nodes to others.
func (c *call) drain(yes bool) (reply, error) {
	err := c.api.o.Store.Drain(c.Context(), c.PathValue("hostname"), yes)
	return reply{status: http.StatusNoContent}, err
}

// showCluster is an extension of ours: what an operator has to know of all conductors, which
// Ironic's representation has no room for, and how many nodes each owns.
func showCluster(c *call) (reply, error) {
	all, err := c.api.o.Store.Conductors(c.Context(), store.Page{})
	if err != nil {
		return reply{}, err
	}
	counts, err := c.api.o.Store.CountBuckets(c.Context())
	if err != nil {
		return reply{}, err
	}
	owned := map[string]int{}
	for _, b := range counts {
		// Any UUID that ends so.
		n := &node{ConductorGroup: b.Group, Driver: b.Driver, UUID: fmt.Sprintf("%36s", b.Bucket)}
		owned[ingot.Owner(all, n)] += b.Nodes
	}
	shown, now := make([]object, len(all)), c.api.o.Store.Now()
	for i, h := range all {
		var lag float64 // seconds
		if h.UpdatedAt != nil {
			lag = max(0, now.Sub(*h.UpdatedAt).Seconds())
		}
		shown[i] = append(conductorFields.project(c, h, full), object{
			{"draining", h.Draining}, {"address", h.Address}, {"services", h.Services},
			{"version", h.Version}, {"boot_tree", h.BootTree}, {"nodes", owned[h.Hostname]},
			{"lag", lag}, {"load", h.Load}}...)
	}
	return reply{body: object{{"conductors", shown}, {"nodes_without_conductor", owned[""]},
		{"boot_tree_differences", c.differences(all)}}}, nil
}

// differences tells in what the boot trees of the conductors that work differ. As long as their
// digests are the same nobody is asked.
func (c *call) differences(all []*conductor) []object {
	shown, hosts, trees := []object{}, []string{}, map[string]bool{}
	for _, h := range all {
		if h.Alive {
			hosts, trees[h.BootTree] = append(hosts, h.Hostname), true
		}
	}
	if len(trees) < 2 || c.api.o.Differences == nil {
		return shown
	}
	for _, d := range c.api.o.Differences(c.Context(), hosts) {
		shown = append(shown, object{{"hostname", d.Host}, {"name", d.Name}, {"sha256", d.SHA256},
			{"source", d.Source}, {"problem", d.Problem}})
	}
	return shown
}
