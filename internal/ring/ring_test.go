package ring_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"ingot/internal/ring"
)

func members(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("conductor-%d", i)
	}
	return list
}

func TestNobodyOwnsWithoutMembers(t *testing.T) {
	if got := ring.Owner("abc", nil); got != "" {
		t.Errorf("owner %q", got)
	}
}

// Every process has to come to the same result, also one of another version: a change of the
// weights would have two conductors own one node while the cluster is upgraded.
func TestOwnersAreTheSameInEveryVersion(t *testing.T) {
	for key, want := range map[string]string{"001": "conductor-0", "abc": "conductor-0",
		"fff": "conductor-2"} {
		if got := ring.Owner(key, members(3)); got != want {
			t.Errorf("owner of %s is %s, want %s", key, got, want)
		}
	}
}

// The order of members does not matter, the owner is one of them, and a member that goes moves
// only what it owned.
func TestOnlyTheShareOfWhoGoesMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfNDistinct(rapid.StringN(1, 20, -1), 1, 12, rapid.ID).Draw(t, "members")
		key := rapid.String().Draw(t, "key")
		owner := ring.Owner(key, all)
		if got := ring.Owner(key, rapid.Permutation(all).Draw(t, "order")); got != owner {
			t.Fatalf("owner %q, in another order %q", owner, got)
		}
		rank := ring.Rank(key, slices.Clone(all))
		if rank[0] != owner || len(rank) != len(all) {
			t.Fatalf("rank %q of %q, owner %q", rank, all, owner)
		}
		var left []string
		gone := rapid.SampledFrom(all).Draw(t, "gone")
		for _, m := range all {
			if m != gone {
				left = append(left, m)
			}
		}
		now := ring.Owner(key, left)
		if gone != owner && now != owner {
			t.Fatalf("%q went and the key moved from %q to %q", gone, owner, now)
		}
		if gone == owner && len(rank) > 1 && now != rank[1] {
			t.Fatalf("the owner went and %q took over, not the second, %q", now, rank[1])
		}
	})
}

// A share is between two thirds and one and a half of what it would be if all were equal, with
// the buckets there are, for any number of conductors that one has.
func TestSharesAreAlike(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10, 50} {
		shares := map[string]int{}
		for i := range ring.Buckets {
			shares[ring.Owner(fmt.Sprintf("%03x", i), members(n))]++
		}
		even := ring.Buckets / n
		for _, m := range members(n) {
			if s := shares[m]; s < even*2/3 || s > even*3/2 {
				t.Errorf("%s of %d has %d buckets, an even share is %d", m, n, s, even)
			}
		}
	}
}

func TestBucketIsTheEndOfAUUID(t *testing.T) {
	for uuid, want := range map[string]string{
		"00000000-0000-4000-8000-0000000abcde": "cde", "short": "", "": "",
	} {
		if got := ring.Bucket(uuid); got != want {
			t.Errorf("bucket of %q is %q, want %q", uuid, got, want)
		}
	}
}
