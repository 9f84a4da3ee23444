package bootfile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"ingot/internal/store"
)

// Inventory is what a conductor can serve.
type Inventory struct {
	// Tree is the digest of it, see Keeper.Tree; "" is one that has not looked yet.
	Tree string
	// Missing are the files that are wanted and not held.
	Missing []Missing
	// Programs are the digests of boot programs by name.
	Programs map[string]string
}

// Missing is a file that a conductor lacks.
type Missing struct {
	SHA256, Name string
	Source       string // without its password
}

// inventory computes an inventory: rows are what is wanted, held tells which digests are here.
func inventory(programs map[string]string, rows []*store.BootFile, held map[string]bool) Inventory {
	i := Inventory{Programs: programs}
	var list []string
	for name, digest := range programs {
		list = append(list, name+" "+digest)
	}
	for digest, here := range held {
		if here {
			list = append(list, digest)
		}
	}
	slices.Sort(list)
	sum := sha256.Sum256([]byte(strings.Join(list, "\n")))
	i.Tree = hex.EncodeToString(sum[:])
	for _, f := range rows {
		if f.SHA256 != "" && !held[f.SHA256] {
			i.Missing = append(i.Missing, Missing{SHA256: f.SHA256, Name: f.Name, Source: redact(f.Source)})
		}
	}
	return i
}

// Difference is one thing in which the boot tree of a conductor is not that of the others.
type Difference struct {
	// Host is the conductor.
	Host string
	// Name is that of a boot program, or of a kernel or ramdisk; "" is the conductor as a whole.
	Name string
	// SHA256 is the digest of what it lacks, or of the boot program that it has.
	SHA256 string
	// Source is where what it lacks comes from.
	Source string
	// Problem is what is wrong, as one sentence.
	Problem string
}

// Compare tells in what the trees of conductors differ, by host name. A boot program is held against
// the one that most of them have. None if they are the same.
func Compare(all map[string]Inventory) (list []Difference) {
	hosts := slices.Sorted(maps.Keys(all))
	names := map[string]bool{}
	for _, host := range hosts {
		if all[host].Tree == "" {
			list = append(list, Difference{Host: host, Problem: "has not looked at its boot files yet"})
		}
		for _, f := range all[host].Missing {
			list = append(list, Difference{Host: host, Name: f.Name, SHA256: f.SHA256, Source: f.Source,
				Problem: "is wanted, and not here"})
		}
		for name := range all[host].Programs {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		count := map[string]int{}
		for _, i := range all {
			if i.Tree != "" {
				count[i.Programs[name]]++
			}
		}
		usual := slices.MaxFunc(slices.Sorted(maps.Keys(count)), func(a, b string) int {
			return cmp.Compare(count[a], count[b])
		})
		for _, host := range hosts {
			if digest := all[host].Programs[name]; digest != usual && all[host].Tree != "" {
				list = append(list, Difference{Host: host, Name: name, SHA256: digest,
					Problem: programProblem(digest, usual)})
			}
		}
	}
	return list
}

// programProblem says how a boot program differs from the one that most conductors have; "" is none.
func programProblem(digest, usual string) string {
	switch {
	case digest == "":
		return "boot program is not here; others have " + usual[:min(12, len(usual))]
	case usual == "":
		return "boot program is not on the others"
	}
	return "boot program has other content than on the others, " + usual[:min(12, len(usual))]
}
