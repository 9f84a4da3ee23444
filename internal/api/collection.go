package api

import (
	"net/url"
	"strconv"
	"strings"

	"ingot/internal/store"
)

// page reads the paging arguments. The Limit is one more than what is asked for, so that the
// answer knows whether anything follows.
func (c *call) page() (store.Page, error) {
	limit, err := c.limit()
	if err != nil {
		return store.Page{}, err
	}
	dir := c.query.Get("sort_dir")
	if dir != "" && dir != "asc" && dir != "desc" {
		return store.Page{}, invalid("Invalid sort direction: %s. Acceptable values are 'asc' "+
			"or 'desc'", dir)
	}
	return store.Page{Limit: limit + 1, Marker: c.query.Get("marker"),
		SortKey: c.query.Get("sort_key"), Desc: dir == "desc"}, nil
}

// collection is a page of a list, ready to be answered.
type collection[T any] struct {
	name   string // of the list: "nodes"
	path   string // below the base URL
	fields fields[T]
	want   selection
	page   store.Page
	key    func(*T) string // what a marker names
}

// reply shows the items. When more follow it says where twice: in "next" as Ironic does, and in
// "<name>_links" where gophercloud looks.
func (l collection[T]) reply(c *call, items []*T) reply {
	more := len(items) >= l.page.Limit
	if more {
		items = items[:l.page.Limit-1]
	}
	shown := make([]object, len(items))
	for i, item := range items {
		shown[i] = l.fields.project(c, item, l.want)
	}
	body := object{{l.name, shown}}
	if more {
		next := l.next(c, l.key(items[len(items)-1]))
		body = append(body, member{"next", next},
			member{l.name + "_links", []object{{{"rel", "next"}, {"href", next}}}})
	}
	return reply{body: body}
}

// next is the URL of the page after the marker: the same question, in Ironic's order.
func (l collection[T]) next(c *call, marker string) string {
	q := []string{"sort_key=" + or(l.page.SortKey, "id"), "sort_dir=" + direction(l.page.Desc)}
	for _, a := range c.route.args {
		switch a.name {
		case "sort_key", "sort_dir", "marker", "limit":
			continue
		}
		if c.query.Has(a.name) {
			value := strings.ReplaceAll(url.QueryEscape(c.query.Get(a.name)), "%2C", ",")
			q = append(q, a.name+"="+value)
		}
	}
	q = append(q, "limit="+strconv.Itoa(l.page.Limit-1), "marker="+url.QueryEscape(marker))
	return c.base + l.path + "?" + strings.Join(q, "&")
}

func direction(desc bool) string {
	if desc {
		return "desc"
	}
	return "asc"
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// links are the two links of a resource: in this version of the API, and without a version.
func (c *call) links(path ...string) []object {
	p := strings.Join(path, "/")
	return []object{
		{{"href", c.base + "/v1/" + p}, {"rel", "self"}},
		{{"href", c.base + "/" + p}, {"rel", "bookmark"}},
	}
}
