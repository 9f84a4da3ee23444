package dhcp

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestFloodOfOneClientIsLimitedAndForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l limit[int]
		passed := func(client int) int {
			n := 0
			for range 10 * perSecond {
				if l.pass(client) {
					n++
				}
			}
			return n
		}
		if n := passed(1); n != perSecond {
			t.Errorf("%d packets passed", n)
		}
		if !l.pass(2) {
			t.Error("another client pays for it")
		}
		time.Sleep(time.Second)
		if n := passed(1); n != perSecond {
			t.Errorf("%d packets passed a second later", n)
		}
		for client := range 2 * maxClients {
			l.pass(client)
		}
		if len(l.count) > maxClients {
			t.Errorf("%d clients are remembered", len(l.count))
		}
	})
}
