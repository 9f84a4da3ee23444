package store_test

import (
	"reflect"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"ingot/internal/ingot"
	"ingot/internal/store/storetest"
)

// model is what a store with one node should be: which write was last, and who holds it.
type model struct {
	exists     bool
	generation int64
	owner      string
	text       string
}

// writable tells whether a writer that read n may write now.
func (m *model) writable(n *ingot.Node) bool {
	return m.exists && n.Generation == m.generation && n.Reservation == m.owner
}

// refused is the kind of error that a writer gets who may not.
func (m *model) refused() ingot.Kind {
	if !m.exists {
		return ingot.NotFound
	}
	return ingot.Stale
}

// TestNoOrderOfEventsLetsAStaleWriterIn plays tasks that read at some time and write at some
// other, with starts of conductors in between.
func TestNoOrderOfEventsLetsAStaleWriterIn(t *testing.T) {
	t.Parallel()
	s := open(t)
	const enough = 40 // of the hundred that rapid wants: a play is some thirty commits
	plays, failed := 0, false
	rapid.Check(t, func(r *rapid.T) {
		if plays++; plays > enough && !failed {
			return
		}
		passed := false
		defer func() { failed = failed || !passed }() // then rapid looks for a shorter play
		first := newNode(1)
		if err := s.CreateNode(t.Context(), first); err != nil {
			r.Fatal(err)
		}
		defer func() { // for the next play
			if n, err := s.Node(t.Context(), uuid(1)); err == nil {
				if err := s.DeleteNode(t.Context(), n); err != nil {
					t.Error(err)
				}
			}
		}()
		m := &model{exists: true, generation: 1}
		copies := []*ingot.Node{first} // what the tasks have in memory
		one := func() *ingot.Node { return rapid.SampledFrom(copies).Draw(r, "task") }
		owner := rapid.SampledFrom([]string{"c1", "c2"})
		expect := func(err error, ok bool, otherwise ingot.Kind) {
			if want := map[bool]ingot.Kind{false: otherwise}[ok]; ingot.KindOf(err) != want {
				r.Fatalf("%v (%q), want %q", err, ingot.KindOf(err), want)
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"read": func(r *rapid.T) {
				n, err := s.Node(t.Context(), uuid(1))
				expect(err, m.exists, ingot.NotFound)
				if err == nil {
					copies = append(copies, n)
				}
			},
			"reserve": func(r *rapid.T) {
				who, want := owner.Draw(r, "owner"), ingot.Locked
				if !m.exists {
					want = ingot.NotFound
				}
				n, err := s.Reserve(t.Context(), uuid(1), who)
				expect(err, m.exists && m.owner == "", want)
				if err == nil {
					m.owner, m.generation = who, m.generation+1
					copies = append(copies, n)
				}
			},
			"release": func(r *rapid.T) {
				n := one()
				held := m.writable(n) && n.Reservation != ""
				expect(s.Release(t.Context(), n), true, "")
				if held {
					m.owner, m.generation = "", m.generation+1
				}
			},
			"start a conductor": func(r *rapid.T) {
				who := owner.Draw(r, "owner")
				count, err := storetest.ReleaseAll(t.Context(), s, who)
				expect(err, true, "")
				if held := m.exists && m.owner == who; held {
					m.owner, m.generation = "", m.generation+1
					count--
				}
				if count != 0 {
					r.Fatalf("%d reservations more or less than expected", count)
				}
			},
			"update": func(r *rapid.T) {
				n, text := one(), rapid.StringOfN(rapid.RuneFrom(nil, unicode.Letter), 1, 5, 20).Draw(r, "text")
				ok := m.writable(n)
				n.LastError = text
				expect(s.UpdateNode(t.Context(), n), ok, m.refused())
				if ok {
					m.text, m.generation = text, m.generation+1
				}
			},
			"delete, seldom": func(r *rapid.T) {
				if rapid.IntRange(0, 9).Draw(r, "dice") > 0 {
					r.SkipNow()
				}
				n := one()
				ok := m.writable(n)
				expect(s.DeleteNode(t.Context(), n), ok, m.refused())
				if ok {
					m.exists = false
				}
			},
			"": func(r *rapid.T) {
				n, err := s.Node(t.Context(), uuid(1))
				expect(err, m.exists, ingot.NotFound)
				if err == nil && (n.Generation != m.generation || n.Reservation != m.owner ||
					n.LastError != m.text) {
					r.Fatalf("row has generation %d, owner %q, text %q; want %+v",
						n.Generation, n.Reservation, n.LastError, *m)
				}
			},
		})
		passed = true
	})
}

// TestTheFullNodeIsFull keeps the tests honest that store and read it: a field that is added
// to the vocabulary has to be added to the columns too.
func TestTheFullNodeIsFull(t *testing.T) {
	t.Parallel()
	byStore := map[string]bool{"ID": true, "Generation": true, "CreatedAt": true, "UpdatedAt": true,
		"Reservation": true}
	n := reflect.ValueOf(*fullNode())
	for i := range n.NumField() {
		name := n.Type().Field(i).Name
		if !byStore[name] && n.Field(i).IsZero() {
			t.Errorf("field %s is not set", name)
		}
	}
	a := reflect.ValueOf(*fullNode().Attempt)
	for i := range a.NumField() {
		if a.Field(i).IsZero() {
			t.Errorf("field %s of the attempt is not set", a.Type().Field(i).Name)
		}
	}
	instance := reflect.ValueOf(*fullNode().Instance)
	for i := range instance.NumField() {
		if instance.Field(i).IsZero() {
			t.Errorf("field %s of the instance is not set", instance.Type().Field(i).Name)
		}
	}
	target := reflect.ValueOf(*fullNode().Attempt.Target)
	for i := range target.NumField() {
		if target.Field(i).IsZero() {
			t.Errorf("field %s of the target is not set", target.Type().Field(i).Name)
		}
	}
}
