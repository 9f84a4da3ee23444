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
		return l.put(&machine{own: fmt.Sprintf("%04d%s%s", i, separator,
			strings.Repeat("x", length))}, 1)
	}
	room := true
	for i := range maxMachines / length * 2 {
		room = put(i) && room
		room = put(i) && room // it takes no more room
	}
	sum := 0
	for _, m := range l.known {
		sum += machineSize + len(m.own)
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
			"", ""}, separator)); err != nil {
			t.Fatal(err)
		}
		l.put(&machine{own: fmt.Sprint(i) + separator}, 1)
	}
	if len(l.likenesses) > maxLikenesses || len(l.known) > maxLikenesses {
		t.Errorf("%d likenesses of %d machines", len(l.likenesses), len(l.known))
	}
}
