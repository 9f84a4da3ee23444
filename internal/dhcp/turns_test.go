package dhcp

import (
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestPacketsOfOneClientTakeTurnsInOrder(t *testing.T) {
	t.Parallel()
	var turns turns
	one, two := [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
	if !turns.begin(datagram{mac: one}) {
		t.Fatal("the first packet has to wait")
	}
	for i := range byte(maxWaiting + 3) { // the last ones are dropped
		if turns.begin(datagram{mac: one, request: &dhcpv4.DHCPv4{HopCount: i}}) {
			t.Fatalf("packet %d does not wait", i)
		}
	}
	if !turns.begin(datagram{mac: two}) {
		t.Error("another client waits, too")
	}
	for i := range byte(maxWaiting) {
		if p, ok := turns.next(one); !ok || p.request.HopCount != i {
			t.Fatalf("turn %d is of %v, %v", i, p.request, ok)
		}
	}
	if _, ok := turns.next(one); ok {
		t.Error("more packets than may wait")
	}
	if !turns.begin(datagram{mac: one}) {
		t.Error("a new packet waits for nothing")
	}
	if len(turns.waiting) != 2 {
		t.Errorf("%d clients are remembered", len(turns.waiting))
	}
}
