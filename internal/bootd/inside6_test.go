package bootd

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/dhcp"
	"ingot/internal/ingot"
)

// newRig6 is newRig with DHCPv6 on fd77::/64, and fd78::/64 behind a relay.
func newRig6(t testing.TB) *rig {
	t.Helper()
	r := newRig(t, serverMode())
	r.site6 = Site6{Address: netip.MustParseAddr("fd77::1"), MAC: []byte{2, 0, 0, 0, 0, 1},
		Networks: []netip.Prefix{netip.MustParsePrefix("fd77::/64"), netip.MustParsePrefix("fd78::/64")}}
	return r
}

const (
	knownLinkLocal = "fe80::5054:ff:fe77:1"
	knownAddress6  = "fd77::5054:ff:fe77:1"
)

// message6 builds a message as EDK2's PXE sends it: its identifier is a UUID, without a MAC.
func message6(kind dhcpv6.MessageType, class string, options ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDUUID{UUID: [16]byte{1}}))
	if class != "" {
		m.AddOption(&dhcpv6.OptVendorClass{EnterpriseNumber: 343, Data: [][]byte{[]byte(class)}})
		m.AddOption(dhcpv6.OptClientArchType(iana.EFI_BC))
	}
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}

// ask6 has a message handled as if it came from an address; nil is silence.
func (r *rig) ask6(t testing.TB, from string, m dhcpv6.DHCPv6) *dhcpv6.Message {
	t.Helper()
	q, _, err := dhcp.Parse6(m.ToBytes(), netip.MustParseAddr(from))
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.handleDHCP6(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func iaNA(address string) dhcpv6.Option {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{7}}
	if address != "" {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(address)})
	}
	return ia
}

func TestEveryMessageOfDHCPv6IsAnswered(t *testing.T) {
	t.Parallel()
	r := newRig6(t)
	ours := dhcpv6.OptServerID(r.site6.id())
	other := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: []byte{2, 0, 0, 0, 0, 2}})
	rapid := &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit}
	reply, silence := dhcpv6.MessageTypeReply, dhcpv6.MessageTypeNone
	for name, c := range map[string]struct {
		kind    dhcpv6.MessageType
		options []dhcpv6.Option
		want    dhcpv6.MessageType
		address string // in the answer
		status  string
	}{
		"solicit":               {1, []dhcpv6.Option{iaNA("")}, dhcpv6.MessageTypeAdvertise, knownAddress6, ""},
		"solicit with a server": {1, []dhcpv6.Option{iaNA(""), ours}, silence, "", ""},
		"rapid commit":          {1, []dhcpv6.Option{iaNA(""), rapid}, reply, knownAddress6, ""},
		"request":               {3, []dhcpv6.Option{iaNA(knownAddress6), ours}, reply, knownAddress6, ""},
		"request to another":    {3, []dhcpv6.Option{iaNA(knownAddress6), other}, silence, "", ""},
		"request to nobody":     {3, []dhcpv6.Option{iaNA(knownAddress6)}, silence, "", ""},
		"confirm":               {4, []dhcpv6.Option{iaNA(knownAddress6)}, reply, "", "Success"},
		"confirm after a move":  {4, []dhcpv6.Option{iaNA("fd99::1")}, reply, "", "NotOnLink"},
		"confirm nothing":       {4, []dhcpv6.Option{iaNA("")}, silence, "", ""},
		"renew":                 {5, []dhcpv6.Option{iaNA(knownAddress6), ours}, reply, knownAddress6, ""},
		"rebind":                {6, []dhcpv6.Option{iaNA(knownAddress6)}, reply, knownAddress6, ""},
		"release":               {8, []dhcpv6.Option{iaNA(knownAddress6), ours}, reply, "", "Success"},
		"decline":               {9, []dhcpv6.Option{iaNA(knownAddress6), ours}, reply, "", "Success"},
		"information request":   {11, nil, reply, "", ""},
		"an answer":             {7, []dhcpv6.Option{ours}, silence, "", ""},
	} {
		a := r.ask6(t, knownLinkLocal, message6(c.kind, "PXEClient:Arch:00007:UNDI:003010", c.options...))
		if a == nil {
			if c.want != silence {
				t.Errorf("%s: silence", name)
			}
			continue
		}
		address := ""
		if ia := a.Options.OneIANA(); ia != nil {
			address = ia.Options.OneAddress().IPv6Addr.String()
		}
		status := ""
		if s := a.Options.Status(); s != nil {
			status = s.StatusCode.String()
		}
		if a.MessageType != c.want || address != c.address || status != c.status ||
			a.Options.BootFileURL() != "tftp://[fd77::1]/snponly.efi" {
			t.Errorf("%s: %s", name, a.LongString(0))
		}
	}
}

func TestDHCPv6NamesWhatTheFirmwareLoads(t *testing.T) {
	t.Parallel()
	r := newRig6(t)
	solicit := func(from, class string, options ...dhcpv6.Option) *dhcpv6.Message {
		return r.ask6(t, from, message6(dhcpv6.MessageTypeSolicit, class, append(options, iaNA(""))...))
	}
	a := solicit(knownLinkLocal, "HTTPClient:Arch:00016:UNDI:003010")
	if url := a.Options.BootFileURL(); !strings.HasPrefix(url, "http://[fd77::1]:") ||
		!strings.HasSuffix(url, "/programs/snponly.efi") || len(a.Options.VendorClasses()) != 1 {
		t.Errorf("HTTP boot: %s", a.LongString(0))
	}
	a = solicit(knownLinkLocal, "PXEClient:Arch:00007:UNDI:003010")
	if a.Options.BootFileURL() != "tftp://[fd77::1]/snponly.efi" || len(a.Options.VendorClasses()) != 0 {
		t.Errorf("PXE: %s", a.LongString(0))
	}
	a = solicit(knownLinkLocal, "PXEClient:Arch:00007:UNDI:003010",
		&dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte("iPXE")}})
	if !strings.HasSuffix(a.Options.BootFileURL(), "ipxe_config?port_address="+known) {
		t.Errorf("iPXE: %s", a.LongString(0))
	}
	if a = solicit(knownLinkLocal, ""); a.Options.BootFileURL() != "" {
		t.Errorf("operating system: %s", a.LongString(0))
	}
	r.setIntent(t, ingot.BootDisk)
	a = solicit(knownLinkLocal, "PXEClient:Arch:00007:UNDI:003010")
	if a.Options.BootFileURL() != "" || a.Options.OneIANA() == nil {
		t.Errorf("to be booted from disk: %s", a.LongString(0))
	}
	if a = solicit("fe80::5054:ff:fe77:99", "PXEClient:Arch:00007"); a != nil {
		t.Errorf("unknown machine: %s", a.LongString(0))
	}
	if got := r.journal.texts(ingot.LevelWarning); len(got) != 1 || !strings.Contains(got[0], unknown) {
		t.Errorf("journal warns %q", got)
	}
}

// What the relay saw of the client goes before what the client says; the network is the relay's.
func TestRelayedDHCPv6IsOfTheRelaysNetwork(t *testing.T) {
	t.Parallel()
	r := newRig6(t)
	hw, _ := net.ParseMAC(known)
	for link, want := range map[string]string{
		"fd78::5": "fd78::5054:ff:fe77:1", "::": knownAddress6, "fd99::5": "",
	} {
		inner := message6(dhcpv6.MessageTypeSolicit, "PXEClient:Arch:00007", iaNA(""))
		relay, err := dhcpv6.EncapsulateRelay(inner, dhcpv6.MessageTypeRelayForward, net.ParseIP(link),
			net.ParseIP("fe80::1234"))
		if err != nil {
			t.Fatal(err)
		}
		relay.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, hw))
		a := r.ask6(t, "fd78::5", relay)
		got := ""
		if a != nil {
			got = a.Options.OneIANA().Options.OneAddress().IPv6Addr.String()
			if lease := a.Options.OneIANA().T1; lease != 30*time.Minute {
				t.Errorf("T1 is %s", lease)
			}
		}
		if got != want {
			t.Errorf("relay on %s: address %q, want %q", link, got, want)
		}
	}
}

func FuzzDHCPv6(f *testing.F) {
	r := newRig6(f)
	for _, m := range []*dhcpv6.Message{
		message6(dhcpv6.MessageTypeSolicit, "PXEClient:Arch:00007", iaNA("")),
		message6(dhcpv6.MessageTypeRequest, "HTTPClient", iaNA("fd77::9"), dhcpv6.OptServerID(r.site6.id())),
		message6(dhcpv6.MessageTypeConfirm, "", iaNA("fd99::1")),
	} {
		f.Add(m.ToBytes())
		relay, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, net.ParseIP("fd78::5"),
			net.ParseIP(knownLinkLocal))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(relay.ToBytes())
	}
	from := netip.MustParseAddr(knownLinkLocal)
	f.Fuzz(func(t *testing.T, b []byte) {
		q, relay, err := dhcp.Parse6(b, from)
		if err != nil {
			return
		}
		a, err := r.handleDHCP6(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if a == nil {
			return
		}
		if _, err := dhcpv6.FromBytes(a.ToBytes()); err != nil {
			t.Fatalf("answer cannot be decoded: %v", err)
		}
		if relay != nil {
			if _, err := dhcpv6.NewRelayReplFromRelayForw(relay, a); err != nil {
				t.Fatal(err)
			}
		}
	})
}
