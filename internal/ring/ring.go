// Package ring decides which of several members a key belongs to, the same one wherever it is
// asked, by rendezvous hashing (Thaler and Ravishankar, 1998): a member that comes or goes moves
// its own share of the keys and no other. It leaves who is a member to its callers.
package ring

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// Owner returns the member with the greatest weight for the key, "" if there are none. The order
// of the members does not matter, nor do repetitions.
func Owner(key string, members []string) string {
	owner, greatest := "", uint64(0)
	for _, m := range members {
		w := weight(key, m)
		if owner == "" || w > greatest || w == greatest && m < owner {
			owner, greatest = m, w
		}
	}
	return owner
}

// Rank returns the members in the order of their weight for the key, the owner first, without
// repetitions. They are sorted in place.
func Rank(key string, members []string) []string {
	slices.SortFunc(members, func(a, b string) int {
		return cmp.Or(cmp.Compare(weight(key, b), weight(key, a)), cmp.Compare(a, b))
	})
	return slices.Compact(members)
}

// weight is a hash of both. Those of FNV differ little in their upper bits for texts that differ
// in their last characters only, so they are mixed (the finalizer of MurmurHash3).
func weight(key, member string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(member))
	h.Write([]byte{0})
	h.Write([]byte(key))
	w := h.Sum64()
	w ^= w >> 33
	w *= 0xff51afd7ed558ccd
	w ^= w >> 33
	w *= 0xc4ceb9fe1a85ec53
	return w ^ w>>33
}

// Buckets is how many different results Bucket has for random UUIDs.
const Buckets = 4096

// Bucket returns what stands for a UUID as a key: its last three characters, so that who owns a
// bucket can select its rows by an index. The empty string for what is no UUID.
func Bucket(uuid string) string {
	if len(uuid) != 36 {
		return ""
	}
	return uuid[33:]
}
