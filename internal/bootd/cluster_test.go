package bootd_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/bootd"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

// conductor is a server in a namespace of its own on the network of a site.
type conductor struct {
	address netip.Addr
	process *exec.Cmd
}

// conductors starts servers that share a PostgreSQL database and know one another for ever: that
// the lease of one ends they never hear.
func (s *site) conductors(t *testing.T, n int) map[netip.Addr]*conductor {
	t.Helper()
	o := order{Store: store.Options{URL: storetest.Postgres(t), Connections: 4}, Files: s.dir,
		Digest: s.digest, Config: s.config}
	s.store = enrolled(t, o.Store)
	o.Config.Interface, o.Config.Mode = "v1", bootd.ModeServer
	all := map[netip.Addr]*conductor{}
	for i := range n {
		c := &conductor{address: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 11)})}
		all[c.address] = c
		o.Living = append(o.Living, "http://"+c.address.String()+":8080")
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for a, c := range all {
		ns := s.host(t, fmt.Sprintf("s%d", a.As4()[3]), "")
		hostIP(t)("-n", ns, "addr", "add", a.String()+"/24", "dev", "v1")
		c.process = exec.Command("ip", "netns", "exec", ns, os.Args[0])
		c.process.Env = append(os.Environ(), serverProcess+"="+string(text))
		c.process.Stderr = os.Stderr
		in, err := c.process.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.process.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.process.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			c.process.Process.Kill()
			c.process.Wait()
		})
		lines := json.NewDecoder(out)
		for {
			var e ingot.Entry
			if err := lines.Decode(&e); err != nil {
				t.Fatalf("the server at %s ended: %v", a, err)
			}
			if e.Source == "test" {
				break // "ready"
			}
		}
		go func() { // ends with the process
			for lines.Decode(&ingot.Entry{}) == nil {
			}
		}()
	}
	return all
}

// Three servers answer real packets. The one that the machine took is killed between OFFER and
// ACK, then the next one: the machine keeps its address.
func TestS0_1_AnyConductorAnswersDHCP(t *testing.T) {
	t.Parallel()
	s := newSite(t, bootd.ModeOff)
	all := s.conductors(t, 3)
	c := s.client(t, mac)
	by := func(a *dhcpv4.DHCPv4) *conductor {
		t.Helper()
		id, _ := netip.AddrFromSlice(a.ServerIdentifier().To4())
		if all[id] == nil {
			t.Fatalf("an answer of nobody that lives: %s", a.Summary())
		}
		return all[id]
	}
	kill := func(k *conductor) {
		t.Helper()
		if err := k.process.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		k.process.Wait()
		delete(all, k.address)
	}
	is := func(a *dhcpv4.DHCPv4, kind dhcpv4.MessageType, address net.IP) {
		t.Helper()
		if a.MessageType() != kind || !a.YourIPAddr.Equal(address) {
			t.Fatalf("answer is not %s of %s: %s", kind, address, a.Summary())
		}
	}
	offer := c.ask(everyone, dhcpv4.MessageTypeDiscover)
	address, first := offer.YourIPAddr, by(offer)
	kill(first)
	mine := dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(address))
	c.send(everyone, dhcpv4.MessageTypeRequest, mine,
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(first.address.AsSlice())))

	offer = c.ask(everyone, dhcpv4.MessageTypeDiscover)
	is(offer, dhcpv4.MessageTypeOffer, address)
	second := by(offer)
	ack := c.ask(everyone, dhcpv4.MessageTypeRequest, mine,
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(second.address.AsSlice())))
	is(ack, dhcpv4.MessageTypeAck, address)
	if by(ack) != second {
		t.Errorf("%s was asked, and %s answers", second.address, by(ack).address)
	}
	is(c.ask(everyone, dhcpv4.MessageTypeRequest, mine), dhcpv4.MessageTypeAck, address) // init-reboot
	kill(second)

	hostIP(t)("-n", c.ns, "addr", "add", address.String()+"/24", "dev", "v1")
	rebind := c.ask(everyone, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(address))
	is(rebind, dhcpv4.MessageTypeAck, address)
	lease, err := s.store.Lease(t.Context(), mac)
	if err != nil || lease.Address != address.String() || time.Until(lease.Expires) < 55*time.Minute {
		t.Errorf("lease %+v, %v", lease, err)
	}
}
