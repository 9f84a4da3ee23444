package store

import (
	"fmt"
	"strings"
	"testing"
)

func TestWhatIsRememberedIsBounded(t *testing.T) {
	t.Parallel()
	var l machines
	const length = 1 << 20
	put := func(i int) bool {
		return l.put(machine{own: fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&0xff) + separator +
			strings.Repeat("x", length)})
	}
	room := true
	for i := range maxMachines / length * 2 {
		room = put(i) && room
		room = put(i) && room // it takes no more room
	}
	sum := 0
	for _, place := range l.places {
		sum += l.at(place).size()
	}
	if len(l.places)+len(l.free) != len(l.pages)*machinesAhead {
		t.Errorf("%d places are taken, %d free", len(l.places), len(l.free))
	}
	if room || l.size != sum || sum > maxMachines || sum < maxMachines-2*length {
		t.Errorf("room %t, %d bytes counted, %d remembered", room, l.size, sum)
	}
}

func TestFewLikenessesAreRemembered(t *testing.T) {
	t.Parallel()
	var l machines
	for i := range maxLikenesses * 2 {
		if _, err := l.likeness(strings.Join([]string{"1", "ipmi", fmt.Sprint(i), "none", "{}",
			"", "", ""}, separator)); err != nil {
			t.Fatal(err)
		}
		l.put(machine{own: fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&0xff)})
	}
	if len(l.likenesses) > maxLikenesses || len(l.places) > maxLikenesses {
		t.Errorf("%d likenesses of %d machines", len(l.likenesses), len(l.places))
	}
}
