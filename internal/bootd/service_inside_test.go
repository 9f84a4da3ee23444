package bootd

import (
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/testkit"
)

// No machine gets the service address, nor does one that wishes it.
func TestTheServiceAddressIsGivenToNoMachine(t *testing.T) {
	t.Parallel()
	c := serverMode()
	c.Pool, c.Service = pool("10.77.0.100", "10.77.0.101"), netip.MustParseAddr("10.77.0.100")
	r := newRig(t, c)
	q := firmware(t, dhcpv4.MessageTypeDiscover, known, "PXEClient", "", iana.INTEL_X86PC)
	q.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 77, 0, 100)))
	if a := r.ask(t, q); a == nil || !a.YourIPAddr.Equal(net.IPv4(10, 77, 0, 101)) {
		t.Errorf("offered %v", a)
	}
}

// A server that listens at one address answers at the service address, too, which the host need not have when it
// starts.
func TestMachinesAreAnsweredAtTheServiceAddress(t *testing.T) {
	t.Parallel()
	for listen, service := range map[string]bool{"127.0.0.1:0": true, "0.0.0.0:0": false} {
		s := &Server{Config: Config{HTTPListen: listen, Address: netip.MustParseAddr("127.0.0.1"),
			Service: netip.MustParseAddr("127.0.0.2")}}
		if err := s.Listen(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if (s.service != nil) != service {
			t.Errorf("at %s: a socket of its own: %t", listen, s.service != nil)
		}
		for _, l := range []net.Listener{s.http, s.service} {
			if l != nil {
				srv := &http.Server{Handler: http.NotFoundHandler()}
				go srv.Serve(l)
				defer srv.Close()
			}
		}
		resp, err := testkit.Web.Get(s.ServiceURL())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	s := &Server{Config: Config{HTTPListen: "127.0.0.1:0", Service: netip.MustParseAddr("192.0.2.7")}}
	if err := s.Listen(t.Context()); err != nil {
		t.Errorf("at an address that the host does not have yet: %v", err)
	}
	s.Close()
	if (&Server{}).ServiceURL() != "" {
		t.Error("a URL without an address")
	}
}
