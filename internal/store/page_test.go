package store_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// sortKeys are those of Ironic that are columns here, with the order of the values of two nodes.
// Values that are missing are the smallest.
var sortKeys = map[string]func(a, b *ingot.Node) int{
	"id":              func(a, b *ingot.Node) int { return cmp.Compare(a.ID, b.ID) },
	"uuid":            func(a, b *ingot.Node) int { return cmp.Compare(a.UUID, b.UUID) },
	"name":            func(a, b *ingot.Node) int { return cmp.Compare(a.Name, b.Name) },
	"driver":          func(a, b *ingot.Node) int { return cmp.Compare(a.Driver, b.Driver) },
	"owner":           func(a, b *ingot.Node) int { return cmp.Compare(a.Owner, b.Owner) },
	"provision_state": func(a, b *ingot.Node) int { return cmp.Compare(a.ProvisionState, b.ProvisionState) },
	"maintenance":     func(a, b *ingot.Node) int { return cmp.Compare(rank(&a.Maintenance), rank(&b.Maintenance)) },
	"automated_clean": func(a, b *ingot.Node) int { return cmp.Compare(rank(a.AutomatedClean), rank(b.AutomatedClean)) },
	"updated_at": func(a, b *ingot.Node) int {
		return unixMicro(a.UpdatedAt).Compare(unixMicro(b.UpdatedAt))
	},
	"provision_updated_at": func(a, b *ingot.Node) int {
		return unixMicro(a.ProvisionUpdatedAt).Compare(unixMicro(b.ProvisionUpdatedAt))
	},
}

func rank(b *bool) int {
	switch {
	case b == nil:
		return 0
	case !*b:
		return 1
	}
	return 2
}

func unixMicro(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// fleet fills a store with nodes that share many values and miss some.
func fleet(t *testing.T, size int) (*store.Store, []*ingot.Node) {
	t.Helper()
	s := open(t)
	var all []*ingot.Node
	for i := range size {
		n := newNode(size - i) // UUIDs do not follow the order of creation
		n.Driver = []string{"ipmi", "redfish", "fake"}[i%3]
		n.Owner = []string{"", "a", "b", "", "ü"}[i%5]
		n.Maintenance = i%4 == 0
		n.AutomatedClean = []*bool{nil, ptr(true), ptr(false)}[i%3]
		if i%3 != 1 {
			n.WaitUntil = ptr(time.Unix(int64(i%20), 0).UTC())
		}
		if i%2 == 0 {
			n.Name = fmt.Sprintf("n%d", i*i%1009)
			n.ProvisionUpdatedAt = ptr(time.Unix(int64(i/4), 0).UTC())
		}
		create(t, s, n)
		if i%6 == 0 {
			if err := s.UpdateNode(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, n)
	}
	return s, all
}

func TestAllPagesTogetherAreTheListOnce(t *testing.T) {
	t.Parallel()
	const size = 20
	s, all := fleet(t, size)
	keys := make([]string, 0, len(sortKeys))
	for key := range sortKeys {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	rapid.Check(t, func(r *rapid.T) {
		page := store.Page{
			SortKey: rapid.SampledFrom(keys).Draw(r, "key"),
			Desc:    rapid.Bool().Draw(r, "desc"),
			Limit:   rapid.IntRange(1, size+3).Draw(r, "limit"),
		}
		filter := store.NodeFilter{Driver: rapid.SampledFrom([]string{"", "fake"}).Draw(r, "driver")}
		if rapid.Bool().Draw(r, "late") {
			filter.WaitBefore = ptr(time.Unix(10, 0))
		}

		var want []string
		sorted := slices.Clone(all)
		slices.SortStableFunc(sorted, func(a, b *ingot.Node) int {
			c := cmp.Or(sortKeys[page.SortKey](a, b), cmp.Compare(a.ID, b.ID))
			if page.Desc {
				return -c
			}
			return c
		})
		for _, n := range sorted {
			late := n.WaitUntil != nil && n.WaitUntil.Unix() < 10
			if (filter.Driver == "" || filter.Driver == n.Driver) &&
				(filter.WaitBefore == nil || late) {
				want = append(want, n.UUID)
			}
		}

		var got []string
		for range size + 2 {
			list, err := s.Nodes(t.Context(), filter, page)
			if err != nil {
				r.Fatal(err)
			}
			if len(list) > page.Limit {
				r.Fatalf("%d rows on a page of %d", len(list), page.Limit)
			}
			for _, n := range list {
				got = append(got, n.UUID)
				page.Marker = n.UUID
			}
			if len(list) < page.Limit {
				break
			}
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			r.Fatalf("rows (-want +got):\n%s", diff)
		}
	})
}

func TestEverySortKeyOfIronicIsKnown(t *testing.T) {
	t.Parallel()
	s := open(t)
	create(t, s, newNode(1))
	for _, key := range []string{"", "id", "uuid", "name", "chassis_uuid", "instance_uuid", "driver",
		"power_state", "target_power_state", "provision_state", "target_provision_state",
		"provision_updated_at", "last_error", "reservation", "maintenance", "maintenance_reason",
		"fault", "console_enabled", "resource_class", "conductor_group", "automated_clean",
		"protected", "protected_reason", "owner", "lessee", "description", "retired",
		"retired_reason", "boot_mode", "secure_boot", "shard", "parent_node", "instance_name",
		"created_at", "updated_at"} {
		for _, desc := range []bool{false, true} {
			list, err := s.Nodes(t.Context(), store.NodeFilter{},
				store.Page{SortKey: key, Desc: desc, Limit: 10})
			if err != nil || len(list) != 1 {
				t.Errorf("sort by %q: %d nodes, %v", key, len(list), err)
			}
		}
	}
}

func TestOtherSortKeysAndMarkersAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, key := range []string{"extra", "driver_info", "steps", "attempt", "interfaces", "generation",
		"no such", "id; DROP TABLE nodes", "uuid, id"} {
		_, err := s.Nodes(t.Context(), store.NodeFilter{}, store.Page{SortKey: key})
		wantKind(t, err, ingot.Invalid,
			`The sort_key value "`+key+`" is an invalid field for sorting`)
	}
	_, err := s.Nodes(t.Context(), store.NodeFilter{}, store.Page{Marker: uuid(9)})
	wantKind(t, err, ingot.NotFound, "Node "+uuid(9)+" could not be found.")
	_, err = s.Ports(t.Context(), store.PortFilter{}, store.Page{Marker: uuid(9)})
	wantKind(t, err, ingot.NotFound, "Port "+uuid(9)+" could not be found.")
	_, err = s.Conductors(t.Context(), store.Page{Marker: "c9"})
	wantKind(t, err, ingot.NotFound, "Conductor c9 could not be found.")
}

func TestAPageIsNotDisturbedByRowsThatGo(t *testing.T) {
	t.Parallel()
	s, all := fleet(t, 9)
	first, err := s.Nodes(t.Context(), store.NodeFilter{}, store.Page{Limit: 4})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all[:2] {
		if err := s.DeleteNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	second, err := s.Nodes(t.Context(), store.NodeFilter{},
		store.Page{Limit: 4, Marker: first[3].UUID})
	if err != nil {
		t.Fatal(err)
	}
	if len(second) != 4 || second[0].UUID != all[4].UUID {
		t.Errorf("the second page begins with %s, want %s", second[0].UUID, all[4].UUID)
	}
}
