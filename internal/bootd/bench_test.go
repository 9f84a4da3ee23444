package bootd

import (
	"fmt"
	"net"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/dhcp"
	"ingot/internal/ingot"
)

// What a machine costs that starts over and over, without the sockets.
func BenchmarkDHCPExchange(b *testing.B) {
	r := newRig(b, serverMode())
	var packets [][2][]byte
	for i := range 50 {
		hw := fmt.Sprintf("52:54:00:88:00:%02x", i)
		p := &ingot.Port{UUID: fmt.Sprintf("00000000-0000-4000-8000-0000000001%02d", i),
			NodeUUID: r.node.UUID, Address: hw, PXEEnabled: true, Extra: ingot.Object{}}
		if err := r.Store.CreatePort(b.Context(), p); err != nil {
			b.Fatal(err)
		}
		q := firmware(b, dhcpv4.MessageTypeDiscover, hw, "PXEClient:Arch:00007", "", iana.EFI_BC)
		offer := r.ask(b, q)
		address := net.IP(offer.YourIPAddr)
		ask := firmware(b, dhcpv4.MessageTypeRequest, hw, "PXEClient:Arch:00007", "", iana.EFI_BC)
		ask.UpdateOption(dhcpv4.OptRequestedIPAddress(address))
		packets = append(packets, [2][]byte{q.ToBytes(), ask.ToBytes()})
	}
	for i := 0; b.Loop(); i++ {
		for _, data := range packets[i%len(packets)] {
			q, err := dhcp.Parse(data)
			if err != nil {
				b.Fatal(err)
			}
			if a := r.ask(b, q); a == nil || len(a.ToBytes()) == 0 {
				b.Fatal("no answer")
			}
		}
	}
}

// BenchmarkTurn is what the line costs a machine that need not wait: script, kernel and ramdisk.
func BenchmarkTurn(b *testing.B) {
	var door transfers
	nodes := make([]string, 1000)
	for i := range nodes {
		nodes[i] = fmt.Sprintf("1be26c0b-03f2-4d2e-ae87-%012d", i)
	}
	for i := 0; b.Loop(); i++ {
		node := nodes[i%len(nodes)]
		door.turn(node)
		for _, last := range []bool{false, true} {
			if !door.begin(node) {
				b.Fatal("a machine that was let in may not load")
			}
			door.finish(node, last)
		}
	}
}
