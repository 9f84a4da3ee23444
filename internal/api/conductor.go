package api

import (
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
