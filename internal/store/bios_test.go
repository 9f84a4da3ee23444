package store_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

func TestTheSettingsOfAFirmwareAreKeptWithTheirAge(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), storetest.Options(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	n := create(t, s, newNode(1))
	if got, err := s.BIOS(t.Context(), n.ID); err != nil || len(got) > 0 {
		t.Errorf("of a machine that was never asked: %v, %v", got, err)
	}
	yes, high := true, int64(1)<<53
	var ages []string
	for _, want := range [][]ingot.BIOSSetting{
		{{Name: "a", Value: "x\x00y", Type: "String", ReadOnly: &yes}, {Name: "b", Value: 1.0, UpperBound: &high}},
		{{Name: "a", Value: "x\x00y"}, {Name: "b", Value: true, Allowed: []string{"t"}}, {Name: "c", Value: nil}},
		{{Name: "c", Value: nil, Default: 7.0}},
	} {
		if err := s.SaveBIOS(t.Context(), n, want); err != nil {
			t.Fatal(err)
		}
		got, err := s.BIOS(t.Context(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(ingot.BIOSSetting{}, "CreatedAt", "UpdatedAt")); diff != "" {
			t.Error(diff)
		}
		for _, b := range got {
			if b.CreatedAt.IsZero() {
				t.Errorf("%s has no age", b.Name)
			}
			ages = append(ages, fmt.Sprint(b.Name, " changed ", b.UpdatedAt != nil))
		}
	}
	if diff := cmp.Diff([]string{"a changed false", "b changed false", "a changed false", "b changed true",
		"c changed false", "c changed false"}, ages); diff != "" {
		t.Error(diff)
	}
	late := *n
	late.Generation--
	if err := s.SaveBIOS(t.Context(), &late, nil); ingot.KindOf(err) != ingot.Stale {
		t.Errorf("by one who has lost the node: %v", err)
	}
	if err := s.DeleteNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveBIOS(t.Context(), n, nil); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("of a node that is not there: %v", err)
	}
	if got, err := s.BIOS(t.Context(), n.ID); err != nil || len(got) > 0 {
		t.Errorf("of a node that was deleted: %v, %v", got, err)
	}
}
