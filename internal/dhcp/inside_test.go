package dhcp

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestAnswersGoWhereTheRFCsSay(t *testing.T) {
	t.Parallel()
	mac := net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 1}
	type packet = *dhcpv4.DHCPv4
	for name, c := range map[string]struct {
		change func(request, reply packet)
		peer   string
		local  int
		want   string
	}{
		"client without address": {func(q, r packet) {}, "0.0.0.0:68", 67, "255.255.255.255:68"},
		"renewing client": {func(q, r packet) { q.ClientIPAddr = net.IPv4(10, 0, 0, 5) },
			"10.0.0.5:68", 67, "10.0.0.5:68"},
		"refused renewal": {func(q, r packet) {
			q.ClientIPAddr = net.IPv4(10, 0, 0, 5)
			r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
		}, "10.0.0.5:68", 67, "255.255.255.255:68"},
		"behind a relay": {func(q, r packet) {
			q.GatewayIPAddr = net.IPv4(10, 9, 0, 1)
			q.ClientIPAddr = net.IPv4(10, 0, 0, 5)
		}, "10.9.0.1:67", 67, "10.9.0.1:67"},
		"relay with its own port": {func(q, r packet) {
			q.GatewayIPAddr = net.IPv4(10, 9, 0, 1)
			q.UpdateOption(dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(relaySourcePort, []byte{})))
		}, "10.9.0.1:4444", 67, "10.9.0.1:4444"},
		"boot server request": {func(q, r packet) { q.ClientIPAddr = net.IPv4(10, 0, 0, 5) },
			"10.0.0.5:4011", 4011, "10.0.0.5:4011"},
		"boot server request from nowhere": {func(q, r packet) {}, "0.0.0.0:68", 4011,
			"255.255.255.255:68"},
	} {
		request, err := dhcpv4.NewDiscovery(mac)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := dhcpv4.NewReplyFromRequest(request,
			dhcpv4.WithMessageType(dhcpv4.MessageTypeAck))
		if err != nil {
			t.Fatal(err)
		}
		c.change(request, reply)
		got := destination(request, reply, netip.MustParseAddrPort(c.peer), c.local)
		if got.String() != c.want {
			t.Errorf("%s: answer goes to %s, want %s", name, got, c.want)
		}
	}
}
