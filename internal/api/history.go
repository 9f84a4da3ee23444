package api

import (
	"time"

	"ingot/internal/ingot"
)

// historyMinor is the first microversion with the history of nodes.
const historyMinor = 78

// maxEvent is how many characters of an event the list shows.
const maxEvent = 255

// past is an entry of the history of a node.
type past struct {
	*ingot.History
	node string // UUID
}

// historyFields is the representation of an entry, in the order of the wire.
var historyFields = fields[past]{
	text("uuid", func(p *past) *string { return &p.UUID }).list(),
	moment("created_at", func(p *past) *time.Time { return &p.CreatedAt }).list(),
	computed("severity", func(_ *call, p *past) any { return p.Severity }).list(),
	text("event", func(p *past) *string { return &p.Event }).list(),
	text("event_type", func(p *past) *string { return &p.Type }),
	text("conductor", func(p *past) *string { return &p.Conductor }),
	computed("user", func(*call, *past) any { return nil }), // who asked is not recorded
	computed("links", func(c *call, p *past) any {
		return c.links("nodes", p.node, "history", p.UUID)[:1] // no bookmark
	}).list(),
}

func listHistory(c *call) (reply, error) {
	want, err := historyFields.selected(c)
	if err != nil {
		return reply{}, err
	}
	return pageOfHistory(c, want)
}

// listHistoryDetails is what python-ironicclient asks for with --long.
func listHistoryDetails(c *call) (reply, error) { return pageOfHistory(c, full) }

func pageOfHistory(c *call, want selection) (reply, error) {
	page, err := c.page()
	if err != nil {
		return reply{}, err
	}
	if page.SortKey == "" {
		page.SortKey = "created_at"
	}
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	list, err := c.api.o.Store.History(c.Context(), n.ID, page)
	if err != nil {
		return reply{}, err
	}
	shown := make([]*past, len(list))
	for i, h := range list {
		if r := []rune(h.Event); want != nil && len(r) > maxEvent {
			h.Event = string(r[:maxEvent])
		}
		shown[i] = &past{h, n.UUID}
	}
	return collection[past]{name: "history", path: c.URL.Path, fields: historyFields, want: want,
		page: page, key: func(p *past) string { return p.UUID }}.reply(c, shown), nil
}

func showHistory(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	h, err := c.api.o.Store.HistoryEntry(c.Context(), n.ID, c.PathValue("entry"))
	if err != nil {
		return reply{}, err
	}
	return reply{body: historyFields.project(c, &past{h, n.UUID}, full)}, nil
}
