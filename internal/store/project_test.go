package store_test

import (
	"fmt"
	"slices"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// TestAListOfAProjectHasWhatItOwnsOrLeases looks at every page, in both orders, and at markers: one
// that the project does not see is as one that does not exist.
func TestAListOfAProjectHasWhatItOwnsOrLeases(t *testing.T) {
	t.Parallel()
	s := open(t)
	type owners struct{ owner, lessee string }
	var mine []string
	var foreign, foreignPort string
	for i, o := range []owners{{"p", ""}, {"q", "p"}, {"q", ""}, {"", ""}, {"p", "p"}, {"p", "q"},
		{"q", "q"}, {"", "p"}} {
		n := newNode(i + 1)
		n.Owner, n.Lessee = o.owner, o.lessee
		create(t, s, n)
		p := createPort(t, s, newPort(i, n, fmt.Sprintf("52:54:00:00:00:%02x", i)))
		if o.owner == "p" || o.lessee == "p" {
			mine = append(mine, n.UUID)
		} else {
			foreign, foreignPort = n.UUID, p.UUID
		}
	}
	for _, page := range []store.Page{{Limit: 2}, {Limit: 2, SortKey: "uuid", Desc: true},
		{Limit: 1, SortKey: "updated_at"}} {
		nodes := pages(t, page, func(p store.Page) ([]*ingot.Node, error) {
			return s.Nodes(t.Context(), store.NodeFilter{Project: "p"}, p)
		}, func(n *ingot.Node) string { return n.UUID })
		owners := map[string]string{}
		ports := pages(t, page, func(p store.Page) ([]*ingot.Port, error) {
			return s.Ports(t.Context(), store.PortFilter{Project: "p"}, p)
		}, func(p *ingot.Port) string { owners[p.UUID] = p.NodeUUID; return p.UUID })
		for i := range ports {
			ports[i] = owners[ports[i]]
		}
		for what, got := range map[string][]string{"nodes": nodes, "ports": ports} {
			slices.Sort(got)
			if !slices.Equal(got, mine) {
				t.Errorf("%s by %q: %v, want %v", what, page.SortKey, got, mine)
			}
		}
	}
	_, err := s.Nodes(t.Context(), store.NodeFilter{Project: "p"}, store.Page{Marker: foreign})
	_, none := s.Nodes(t.Context(), store.NodeFilter{Project: "p"}, store.Page{Marker: "x"})
	if ingot.KindOf(err) != ingot.NotFound || ingot.KindOf(none) != ingot.NotFound {
		t.Errorf("a marker of others: %v, one that is none: %v", err, none)
	}
	_, err = s.Ports(t.Context(), store.PortFilter{Project: "p"}, store.Page{Marker: foreignPort})
	if ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("the port of others as a marker: %v", err)
	}
	list, err := s.Nodes(t.Context(), store.NodeFilter{Project: "p", Owner: "q"}, store.Page{})
	if err != nil || len(list) != 1 || list[0].UUID != mine[1] {
		t.Errorf("leased from q: %v, %v", list, err)
	}
}

func TestTheHistoryOfANodeKnowsNoMarkersOfOthers(t *testing.T) {
	t.Parallel()
	s := open(t)
	var first [2]string // entry of each node
	var ids [2]int64
	for i := range first {
		n := create(t, s, newNode(i+1))
		if err := s.ChangeNode(t.Context(), n, []ingot.History{{Event: "one"}, {Event: "two"}},
			nil); err != nil {
			t.Fatal(err)
		}
		list, err := s.History(t.Context(), n.ID, store.Page{})
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		first[i], ids[i] = list[0].UUID, n.ID
	}
	if list, err := s.History(t.Context(), ids[0], store.Page{Marker: first[0]}); err != nil ||
		len(list) != 1 {
		t.Errorf("its own marker: %v, %v", list, err)
	}
	if _, err := s.History(t.Context(), ids[0], store.Page{Marker: first[1]}); ingot.KindOf(err) !=
		ingot.NotFound {
		t.Errorf("a marker of another node: %v", err)
	}
}

// pages returns the keys of all items, page by page.
func pages[T any](t *testing.T, p store.Page, read func(store.Page) ([]*T, error),
	key func(*T) string) []string {
	t.Helper()
	var keys []string
	for {
		list, err := read(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return keys
		}
		for _, item := range list {
			keys = append(keys, key(item))
		}
		p.Marker = keys[len(keys)-1]
	}
}
