package dhcp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
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

func TestARelayIsNotTakenForOneClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := Server6{Log: slog.New(slog.DiscardHandler), Handler: func(context.Context, *Request6) (
			*dhcpv6.Message, error) {
			return &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply}, nil
		}}
		answered := func(from, client string) bool {
			var m dhcpv6.DHCPv6 = &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit}
			if from != client {
				m = &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward,
					LinkAddr: net.ParseIP("fd78::1"), PeerAddr: net.ParseIP(client),
					Options: dhcpv6.RelayOptions{Options: dhcpv6.Options{dhcpv6.OptRelayMessage(m)}}}
			}
			return s.answer(t.Context(), m.ToBytes(), netip.MustParseAddr(from), true) != nil
		}
		for i := range 10 * perSecond {
			if !answered("fd77::2", fmt.Sprintf("fe80::%x", i+1)) {
				t.Fatalf("machine %d behind the relay is not answered", i+1)
			}
		}
		for _, from := range []string{"fd77::2", "fe80::ffff:1"} { // relayed or not
			n := 0
			for range 10 * perSecond {
				if answered(from, "fe80::ffff:1") {
					n++
				}
			}
			if n > perSecond {
				t.Errorf("%d messages of one client passed", n)
			}
		}
	})
}
