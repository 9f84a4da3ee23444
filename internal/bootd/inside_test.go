package bootd

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/dhcp"
	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/tftp"
)

var update = flag.Bool("update", false, "renew golden files")

// memory is a journal that keeps everything.
type memory struct {
	mu      sync.Mutex // guards entries
	entries []ingot.Entry
}

func (m *memory) Add(e ingot.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = append(m.entries, e)
}

func (m *memory) Flush(context.Context) error { return nil }

// texts returns the lines of one level.
func (m *memory) texts(level string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []string
	for _, e := range m.entries {
		if e.Level == level {
			found = append(found, e.Text)
		}
	}
	return found
}

const (
	known   = "52:54:00:77:00:01" // port of a node
	second  = "52:54:00:77:00:02" // port of the same node, reserves 10.77.0.50
	noPXE   = "52:54:00:77:00:03" // port with pxe_enabled false
	unknown = "52:54:00:77:00:99"
)

// rig is a Server without DHCP sockets, over a store with one node.
type rig struct {
	*Server
	journal *memory
	node    *ingot.Node
}

func newRig(t testing.TB, c Config) *rig {
	t.Helper()
	ctx := t.Context()
	st, err := store.Open(ctx, store.Options{Path: filepath.Join(t.TempDir(), "s.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Driver: "ipmi",
		ProvisionState: "deploying", BootIntent: ingot.BootDeploy,
		Attempt: &ingot.Attempt{ID: "5f3a9c01"}}
	if err := st.CreateNode(ctx, n); err != nil {
		t.Fatal(err)
	}
	for i, mac := range []string{known, second, noPXE} {
		p := &ingot.Port{UUID: fmt.Sprintf("00000000-0000-4000-8000-00000000000%d", i),
			NodeUUID: n.UUID, Address: mac, PXEEnabled: mac != noPXE, Extra: ingot.Object{}}
		if mac == second {
			p.Extra["ip_address"] = "10.77.0.50"
		}
		if err := st.CreatePort(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	j := &memory{}
	r := &rig{journal: j, node: n, Server: &Server{Config: c, Store: st, Journal: j,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}
	if r.http, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.http.Close() })
	r.site = Site{Mode: c.Mode, Address: netip.MustParseAddr("10.77.0.1"), Service: c.Service,
		Lease: time.Hour, Networks: append([]Network{{Pool: c.Pool, Router: c.Router, DNS: c.DNS,
			Prefix: netip.MustParsePrefix("10.77.0.0/24")}}, c.Relayed...)}
	r.leases = &leases{store: st, site: r.site}
	return r
}

// peer is another conductor on the same network.
func (r *rig) peer(address string, st *store.Store) *Server {
	other := &Server{Config: r.Config, Store: st, Journal: r.journal, Log: r.Log, site: r.site,
		http: r.http}
	other.site.Address = netip.MustParseAddr(address)
	other.leases = &leases{store: st, site: other.site}
	return other
}

func pool(first, last string) dhcp.Pool {
	return dhcp.Pool{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}
}

func serverMode() Config {
	return Config{Mode: ModeServer, Pool: pool("10.77.0.100", "10.77.0.200"),
		Router: netip.MustParseAddr("10.77.0.254"),
		DNS:    []netip.Addr{netip.MustParseAddr("10.77.0.53")}}
}

// firmware builds a request as the named firmware sends it.
func firmware(t testing.TB, kind dhcpv4.MessageType, mac, vendor, user string, arch iana.Arch,
) *dhcpv4.DHCPv4 {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	p, err := dhcpv4.New(dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(kind),
		dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4}))
	if err != nil {
		t.Fatal(err)
	}
	if vendor != "" {
		p.UpdateOption(dhcpv4.OptClassIdentifier(vendor))
		p.UpdateOption(dhcpv4.OptClientArch(arch))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier,
			[]byte("\x000123456789abcdef")))
	}
	if user != "" {
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte(user)))
	}
	return p
}

func (r *rig) setIntent(t testing.TB, intent ingot.BootIntent) {
	t.Helper()
	r.node.BootIntent = intent
	if err := r.Store.UpdateNode(t.Context(), r.node); err != nil {
		t.Fatal(err)
	}
}

// ask handles one request of port 67 and wants no error.
func (r *rig) ask(t testing.TB, q *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	a, err := r.handleDHCP(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// The golden file is the decision table as the machines see it: every firmware, every mode,
// every intent that matters.
func TestEveryFirmwareGetsTheAnswerOnRecord(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, mode := range []Mode{ModeServer, ModeProxy} {
		c := serverMode()
		c.Mode = mode
		r := newRig(t, c)
		for _, intent := range []ingot.BootIntent{ingot.BootDeploy, ingot.BootDisk} {
			r.setIntent(t, intent)
			for _, f := range []struct {
				name, vendor, user string
				arch               iana.Arch
			}{
				{"SeaBIOS PXE", "PXEClient:Arch:00000:UNDI:002001", "", iana.INTEL_X86PC},
				{"iPXE on BIOS", "PXEClient:Arch:00000:UNDI:002001", "iPXE", iana.INTEL_X86PC},
				{"OVMF PXE", "PXEClient:Arch:00007:UNDI:003000", "", iana.EFI_BC},
				{"iPXE on UEFI", "PXEClient:Arch:00007:UNDI:003010", "iPXE", iana.EFI_BC},
				{"OVMF HTTP boot", "HTTPClient:Arch:00016:UNDI:003000", "", iana.EFI_X86_64_HTTP},
				{"arm64 UEFI", "PXEClient:Arch:00011:UNDI:003000", "", iana.EFI_ARM64},
				{"operating system", "", "", 0},
			} {
				a := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, f.vendor, f.user, f.arch))
				fmt.Fprintf(&got, "== %s, boot intent %s, %s\n", mode, intent, f.name)
				if a == nil {
					got.WriteString("  silence\n")
					continue
				}
				text := strings.ReplaceAll(a.Summary(), r.URL(), "http://10.77.0.1:8080")
				got.WriteString(text + "\n")
			}
		}
	}
	golden(t, "answers.txt", got.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	got = regexp.MustCompile(`(?m)[ \t]+$`).ReplaceAllString(got, "")
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), renew with -update:\n%s", path, diff)
	}
}

func TestUnknownMachineLearnsNothingAndIsMentionedOnce(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{ModeServer, ModeProxy} {
		c := serverMode()
		c.Mode = mode
		r := newRig(t, c)
		for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover,
			dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform} {
			q := firmware(t, kind, unknown, "PXEClient:Arch:00007", "", iana.EFI_BC)
			if a := r.ask(t, q); a != nil {
				t.Errorf("%s: %s answered with %s", mode, kind, a.Summary())
			}
		}
		if got := r.journal.texts(ingot.LevelWarning); len(got) != 1 ||
			!strings.Contains(got[0], unknown) || !strings.Contains(got[0], "create a port") {
			t.Errorf("%s: journal says %q", mode, got)
		}
	}
}

func TestUnknownMachineGetsAnAddressButNoBootFileIfConfigured(t *testing.T) {
	t.Parallel()
	c := serverMode()
	c.AnswerUnknown = true
	r := newRig(t, c)
	q := firmware(t, dhcpv4.MessageTypeDiscover, unknown, "PXEClient:Arch:00007", "iPXE", iana.EFI_BC)
	a := r.ask(t, q)
	if a == nil || a.YourIPAddr.IsUnspecified() || a.BootFileName != "" {
		t.Fatalf("answer %v", a)
	}
}

func TestPortWithoutPXEGetsAnAddressOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	a := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, noPXE, "PXEClient:Arch:00007", "",
		iana.EFI_BC))
	if a == nil || a.YourIPAddr.IsUnspecified() || a.BootFileName != "" {
		t.Fatalf("answer %v", a)
	}
}

// request asks for an address the way a client in one of the states of RFC 2131 does.
func request(t testing.TB, mac string, change func(p *dhcpv4.DHCPv4)) *dhcpv4.DHCPv4 {
	t.Helper()
	p := firmware(t, dhcpv4.MessageTypeRequest, mac, "", "", 0)
	change(p)
	return p
}

func TestAddressLifeFollowsTheRFC(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	ctx := t.Context()
	offer := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0))
	address := offer.YourIPAddr
	wants := func(state string, q *dhcpv4.DHCPv4, kind dhcpv4.MessageType) {
		t.Helper()
		a := r.ask(t, q)
		switch {
		case kind == dhcpv4.MessageTypeNone && a != nil:
			t.Errorf("%s: answered with %s", state, a.MessageType())
		case kind != dhcpv4.MessageTypeNone && (a == nil || a.MessageType() != kind):
			t.Errorf("%s: answer %v, want %s", state, a, kind)
		case kind == dhcpv4.MessageTypeAck && !a.YourIPAddr.Equal(address):
			t.Errorf("%s: got %s, want %s", state, a.YourIPAddr, address)
		}
	}
	selecting := func(server, ip net.IP) func(p *dhcpv4.DHCPv4) {
		return func(p *dhcpv4.DHCPv4) {
			p.UpdateOption(dhcpv4.OptServerIdentifier(server))
			p.UpdateOption(dhcpv4.OptRequestedIPAddress(ip))
		}
	}
	us, other := net.IPv4(10, 77, 0, 1).To4(), net.IPv4(10, 77, 0, 2).To4()
	wrong := net.IPv4(10, 99, 0, 7).To4()
	wants("another server was taken", request(t, known, selecting(other, address)),
		dhcpv4.MessageTypeNone)
	wants("selecting a foreign address", request(t, known, selecting(us, wrong)),
		dhcpv4.MessageTypeNak)
	wants("selecting", request(t, known, selecting(us, address)), dhcpv4.MessageTypeAck)
	wants("init-reboot", request(t, known, func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(address))
	}), dhcpv4.MessageTypeAck)
	wants("init-reboot on another network", request(t, known, func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(wrong))
	}), dhcpv4.MessageTypeNak)
	wants("renewing", request(t, known, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = address }),
		dhcpv4.MessageTypeAck)
	lease, err := r.Store.Lease(ctx, known)
	if err != nil || lease.Address != address.String() || time.Until(lease.Expires) < 59*time.Minute {
		t.Errorf("lease in the store: %+v, %v", lease, err)
	}
	if a := r.ask(t, firmware(t, dhcpv4.MessageTypeInform, known, "", "", 0)); a == nil ||
		!a.YourIPAddr.IsUnspecified() || a.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
		t.Errorf("INFORM answered with %v", a)
	}
	release := firmware(t, dhcpv4.MessageTypeRelease, known, "", "", 0)
	release.ClientIPAddr = address
	r.ask(t, release)
	if _, err := r.Store.Lease(ctx, known); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("lease after release: %v", err)
	}
}

func TestDeclinedAddressIsNotOfferedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	first := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0)).YourIPAddr
	r.ask(t, request(t, known, func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(first))
	}))
	q := firmware(t, dhcpv4.MessageTypeDecline, known, "", "", 0)
	q.UpdateOption(dhcpv4.OptRequestedIPAddress(first))
	if a := r.ask(t, q); a != nil {
		t.Fatalf("DECLINE answered with %v", a)
	}
	next := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0)).YourIPAddr
	if next.Equal(first) {
		t.Errorf("%s was offered again", first)
	}
	if got := r.journal.texts(ingot.LevelWarning); len(got) != 1 ||
		!strings.Contains(got[0], first.String()) {
		t.Errorf("journal says %q", got)
	}
}

func TestReservedAddressGoesToItsPortOnly(t *testing.T) {
	t.Parallel()
	c := serverMode()
	c.Pool = pool("10.77.0.50", "10.77.0.51")
	r := newRig(t, c)
	a := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0))
	if a.YourIPAddr.String() != "10.77.0.51" {
		t.Errorf("the machine without reservation was offered %s", a.YourIPAddr)
	}
	a = r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, second, "", "", 0))
	if a.YourIPAddr.String() != "10.77.0.50" {
		t.Errorf("the machine with a reservation was offered %s", a.YourIPAddr)
	}
}

func TestExhaustedPoolIsSilenceWithAReason(t *testing.T) {
	t.Parallel()
	c := serverMode()
	c.Pool = pool("10.77.0.101", "10.77.0.101")
	r := newRig(t, c)
	if a := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0)); a == nil {
		t.Fatal("the only address was not offered")
	}
	if a := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, noPXE, "", "", 0)); a != nil {
		t.Fatalf("answered with %v", a)
	}
	if got := r.journal.texts(ingot.LevelError); len(got) != 1 ||
		!strings.Contains(got[0], "boot.dhcp.range") {
		t.Errorf("journal says %q", got)
	}
}

func TestReservedAddressInUseIsSilenceWithAReason(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	squatter := ingot.Lease{Address: "10.77.0.50", MAC: known, Expires: time.Now().Add(time.Hour)}
	changes := []store.LeaseChange{{Lease: squatter}}
	if err := errors.Join(r.Store.TakeLeases(t.Context(), changes)...); err != nil {
		t.Fatal(err)
	}
	if a := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, second, "", "", 0)); a != nil {
		t.Fatalf("answered with %v", a)
	}
	if got := r.journal.texts(ingot.LevelError); len(got) != 1 ||
		!strings.Contains(got[0], "10.77.0.50") {
		t.Errorf("journal says %q", got)
	}
	// The squatter learns at its next renewal that the address is not its own any more.
	q := request(t, known, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.IPv4(10, 77, 0, 50) })
	if a := r.ask(t, q); a.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("renewal of a reserved address answered with %s", a.MessageType())
	}
}

// Two conductors share the store; whoever gets the packet, the address is the same.
func TestAnotherConductorOffersAndRenewsTheSameAddress(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	other := r.peer("10.77.0.2", r.Store)
	discover := firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0)
	a := r.ask(t, discover)
	b, err := other.handleDHCP(t.Context(), discover)
	if err != nil || !b.YourIPAddr.Equal(a.YourIPAddr) {
		t.Fatalf("offers %v and %v, %v", a, b, err)
	}
	renew := request(t, known, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = a.YourIPAddr })
	if b, err = other.handleDHCP(t.Context(), renew); err != nil ||
		b.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("renewal answered with %v, %v", b, err)
	}
}

func TestRelayOfAnotherNetworkIsNotAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	q := firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0)
	q.GatewayIPAddr = net.IPv4(10, 99, 0, 1)
	if a := r.ask(t, q); a != nil {
		t.Errorf("answered with %v", a)
	}
	q.GatewayIPAddr = net.IPv4(10, 77, 0, 254)
	if a := r.ask(t, q); a == nil || !a.GatewayIPAddr.Equal(q.GatewayIPAddr) {
		t.Errorf("relay of the own network: %v", a)
	}
}

// Reservations are of one network; elsewhere the machine gets an address of the pool.
func TestReservationCountsOnItsNetworkOnly(t *testing.T) {
	t.Parallel()
	c := serverMode()
	c.Relayed = []Network{{Prefix: netip.MustParsePrefix("10.1.0.0/24"),
		Pool: pool("10.1.0.100", "10.1.0.200")}}
	r := newRig(t, c)
	q := firmware(t, dhcpv4.MessageTypeDiscover, second, "", "", 0)
	q.GatewayIPAddr = net.IPv4(10, 1, 0, 1)
	a := r.ask(t, q)
	if a == nil || !a.YourIPAddr.Mask(net.CIDRMask(24, 32)).Equal(net.IPv4(10, 1, 0, 0)) {
		t.Fatalf("answer %v", a)
	}
	if a.Router() != nil || a.DNS() != nil {
		t.Errorf("the relayed network was told of the local one: %s", a.Summary())
	}
}

func TestReplyKeepsWithinWhatTheClientTakes(t *testing.T) {
	t.Parallel()
	c := serverMode()
	for i := range 40 {
		c.DNS = append(c.DNS, netip.AddrFrom4([4]byte{10, 77, 1, byte(i)}))
	}
	r := newRig(t, c)
	q := firmware(t, dhcpv4.MessageTypeDiscover, known, "PXEClient:Arch:00007", "", iana.EFI_BC)
	q.GatewayIPAddr = net.IPv4(10, 77, 0, 254)
	info := bytes.Repeat([]byte{1, 1, 7}, 84)
	q.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, info))
	for _, d := range []struct {
		size      uint16
		dns, echo bool
	}{{1500, true, true}, {0, false, true}, {64, false, true}} {
		q.UpdateOption(dhcpv4.OptMaxMessageSize(d.size))
		a := r.ask(t, q)
		most := max(int(d.size), 576) - 28
		if got := len(a.ToBytes()); got > most {
			t.Errorf("limit %d: %d bytes", d.size, got)
		}
		if (a.DNS() != nil) != d.dns || a.Options.Has(dhcpv4.OptionRelayAgentInformation) != d.echo ||
			a.BootFileName != "snponly.efi" {
			t.Errorf("limit %d: %s", d.size, a.Summary())
		}
	}
}

// A server that knows nothing of a client stays out of the conversation with the one that does,
// RFC 2131 section 4.3.2.
func TestRebootingMachineNobodyEnrolledIsNotRefused(t *testing.T) {
	t.Parallel()
	c := serverMode()
	c.AnswerUnknown = true
	r := newRig(t, c)
	q := request(t, unknown, func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 77, 0, 9)))
	})
	if a := r.ask(t, q); a != nil {
		t.Errorf("answer %s", a.Summary())
	}
	q.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 99, 0, 9))) // of another network
	if a := r.ask(t, q); a == nil || a.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("answer %v", a)
	}
}

// Two conductors on one store hear the same machines at the same time. Each offers what it holds,
// machines take one of the two offers, and the pool has an address for each and no more.
func TestConductorsNeverLeaseOneAddressTwice(t *testing.T) {
	t.Parallel()
	const machines = 32
	c := serverMode()
	c.AnswerUnknown = true
	c.Pool = pool("10.77.0.100", "10.77.0.131")
	r := newRig(t, c)
	other := r.peer("10.77.0.2", r.Store)
	conductors := []*Server{r.Server, other}
	tell := func(s *Server, q *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
		a, err := s.handleDHCP(t.Context(), q)
		if err != nil {
			t.Error(err)
		}
		return a
	}
	// exchange returns the address that the machine got; it may be sent back to the start.
	exchange := func(mac string, chosen int) string {
		offers := [2]*dhcpv4.DHCPv4{}
		for i, s := range conductors {
			offers[i] = tell(s, firmware(t, dhcpv4.MessageTypeDiscover, mac, "", "", 0))
		}
		if offers[chosen] == nil {
			return ""
		}
		q := request(t, mac, func(p *dhcpv4.DHCPv4) {
			p.UpdateOption(dhcpv4.OptServerIdentifier(conductors[chosen].site.Address.AsSlice()))
			p.UpdateOption(dhcpv4.OptRequestedIPAddress(offers[chosen].YourIPAddr))
		})
		got := ""
		for i, s := range conductors {
			switch a := tell(s, q); {
			case a != nil && i != chosen:
				t.Errorf("%s: both conductors answered one request", mac)
			case a != nil && a.MessageType() == dhcpv4.MessageTypeAck:
				got = a.YourIPAddr.String()
			}
		}
		return got
	}
	var mu sync.Mutex
	holder := map[string]string{}
	var wait sync.WaitGroup
	for i := range machines {
		wait.Go(func() {
			mac := fmt.Sprintf("02:00:00:00:00:%02x", i)
			got := ""
			for try := 0; got == "" && try < 1000; try++ {
				got = exchange(mac, (i+try)%2)
			}
			mu.Lock()
			defer mu.Unlock()
			if got == "" || holder[got] != "" {
				t.Errorf("%s got %q, which %q has", mac, got, holder[got])
			}
			holder[got] = mac
		})
	}
	wait.Wait()
	leases, err := r.Store.Leases(t.Context())
	if err != nil || len(leases) != machines {
		t.Fatalf("%d leases in the store, %v", len(leases), err)
	}
	for _, l := range leases {
		if holder[l.Address] != l.MAC {
			t.Errorf("%s is leased to %s, the one who was told so is %s", l.Address, l.MAC,
				holder[l.Address])
		}
	}
}

// A request that both conductors get, as a renewal by broadcast is, ends with one lease and no
// refusal.
func TestOneRequestAtTwoConductorsIsNotRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	other := &leases{store: r.Store, site: r.site}
	hw, err := net.ParseMAC(known)
	if err != nil {
		t.Fatal(err)
	}
	w := want{Machine: Machine{MAC: hw}, network: &r.site.Networks[0],
		wish: netip.MustParseAddr("10.77.0.111")}
	for _, l := range []*leases{r.leases, other} { // both with the rows as they were at first
		if d, err := l.confirm(t.Context(), w); err != nil || d < 59*time.Minute {
			t.Errorf("leased for %s, %v", d, err)
		}
	}
}

func TestOfferIsHeldInMemoryAndForAWhile(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0))
	if all, err := r.Store.Leases(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("an offer was written: %v, %v", all, err)
	}
	var h holds
	now := time.Now()
	a, b := netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.101")
	h.put(a, known, now)
	if h.of(known, now) != a || h.byOther(a, known, now) || !h.byOther(a, second, now) {
		t.Errorf("%s is not held for who was offered it: %+v", a, h)
	}
	h.put(b, known, now)
	if h.byOther(a, second, now) || !h.byOther(b, second, now) {
		t.Errorf("one machine holds two addresses: %+v", h)
	}
	now = now.Add(hold)
	if h.of(known, now).IsValid() || h.byOther(b, second, now) {
		t.Errorf("held for ever: %+v", h)
	}
	h.put(b, second, now)
	h.drop(known)
	if h.of(second, now) != b {
		t.Errorf("the end of an expired hold ended another one: %+v", h)
	}
}

func TestHoldsAreBounded(t *testing.T) {
	t.Parallel()
	var h holds
	now := time.Now()
	a := netip.MustParseAddr("10.0.0.0")
	for i := range maxHolds + 10 {
		h.put(a, fmt.Sprint(i), now)
		a = a.Next()
	}
	if len(h.offers) != maxHolds || len(h.addresses) != maxHolds {
		t.Errorf("%d holds, %d machines", len(h.offers), len(h.addresses))
	}
	h.put(a, known, now.Add(hold))
	if len(h.offers) != 1 || len(h.addresses) != 1 {
		t.Errorf("%d holds, %d machines after all expired", len(h.offers), len(h.addresses))
	}
}

func TestLeaseThatIsYoungIsToldAsItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	a := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0))
	renew := request(t, known, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = a.YourIPAddr })
	r.ask(t, renew)
	for _, d := range []struct{ left, least, most time.Duration }{
		{40 * time.Minute, 39 * time.Minute, 40 * time.Minute}, // of 60
		{20 * time.Minute, time.Hour, time.Hour},
	} {
		lease := ingot.Lease{Address: a.YourIPAddr.String(), MAC: known, Expires: time.Now().Add(d.left)}
		if _, err := r.Store.FreeLease(t.Context(), known, lease.Address); err != nil {
			t.Fatal(err)
		}
		err := r.Store.TakeLeases(t.Context(), []store.LeaseChange{{Lease: lease}})[0]
		if err != nil {
			t.Fatal(err)
		}
		told := r.ask(t, renew).IPAddressLeaseTime(0)
		kept, err := r.Store.Lease(t.Context(), known)
		if err != nil || told < d.least || told > d.most || time.Until(kept.Expires) < told-time.Minute {
			t.Errorf("%s left: told %s, kept until %s, %v", d.left, told, kept.Expires, err)
		}
	}
}

func TestAnswersAreJournalledWithNodeAndAttempt(t *testing.T) {
	t.Parallel()
	r := newRig(t, serverMode())
	r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, known, "PXEClient:Arch:00007", "", iana.EFI_BC))
	if len(r.journal.entries) != 1 {
		t.Fatalf("%d entries", len(r.journal.entries))
	}
	e := r.journal.entries[0]
	if e.Node != r.node.UUID || e.MAC != known || e.Attempt != "5f3a9c01" || e.Source != "dhcp" ||
		!strings.Contains(e.Text, "snponly.efi") {
		t.Errorf("entry %+v", e)
	}
}

func TestHerdGetsDistinctAddresses(t *testing.T) {
	t.Parallel()
	c := serverMode()
	c.AnswerUnknown = true
	c.Pool = pool("10.77.0.100", "10.77.0.119")
	r := newRig(t, c)
	var mu sync.Mutex
	given := map[string]bool{}
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			mac := fmt.Sprintf("02:00:00:00:00:%02x", i)
			offer := r.ask(t, firmware(t, dhcpv4.MessageTypeDiscover, mac, "", "", 0))
			if offer == nil {
				t.Errorf("%s got no offer", mac)
				return
			}
			ack := r.ask(t, request(t, mac, func(p *dhcpv4.DHCPv4) {
				p.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
			}))
			mu.Lock()
			defer mu.Unlock()
			if ack.MessageType() != dhcpv4.MessageTypeAck || given[ack.YourIPAddr.String()] {
				t.Errorf("%s got %v", mac, ack)
			}
			given[ack.YourIPAddr.String()] = true
		})
	}
	wait.Wait()
}

func FuzzDHCP(f *testing.F) {
	r := newRig(f, serverMode())
	for _, q := range []*dhcpv4.DHCPv4{
		firmware(f, dhcpv4.MessageTypeDiscover, known, "PXEClient:Arch:00007", "", iana.EFI_BC),
		firmware(f, dhcpv4.MessageTypeRequest, known, "HTTPClient:Arch:00016", "iPXE", 16),
	} {
		f.Add(q.ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := dhcp.Parse(b)
		if err != nil {
			return
		}
		for _, handle := range []dhcp.Handler{r.handleDHCP, r.handleProxy} {
			a, err := handle(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if a == nil {
				continue
			}
			if _, err := dhcpv4.FromBytes(a.ToBytes()); err != nil {
				t.Fatalf("answer %s cannot be decoded: %v", a.Summary(), err)
			}
		}
	})
}

func TestAReplacedProgramIsReadAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "ipxe.efi")
	s := &Server{Config: Config{Programs: []string{dir}}}
	fetch := func() string {
		t.Helper()
		c, err := s.serveTFTP(t.Context(), tftp.Request{Path: "ipxe.efi"})
		if err != nil {
			t.Fatal(err)
		}
		if c.Close != nil {
			defer c.Close()
		}
		data, err := io.ReadAll(io.NewSectionReader(c.Reader, 0, c.Size))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	// The last is more than is kept in memory.
	for _, want := range []string{"first", "other", "", strings.Repeat("x", maxProgram+1)} {
		next := path + ".new"
		if err := os.WriteFile(next, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := fetch(); got != want {
				t.Errorf("%d bytes served; want %d others", len(got), len(want))
			}
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err := s.serveTFTP(t.Context(), tftp.Request{Path: "ipxe.efi"})
	if !errors.Is(err, tftp.ErrNotFound) {
		t.Errorf("a removed program: %v", err)
	}
}

func TestTheSizeOfAReplyIsThatOfItsBytes(t *testing.T) {
	t.Parallel()
	p, err := dhcpv4.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, length := range []int{100, 0, 255, 256, 510, 511} {
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(200), make([]byte, length)))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(201), make([]byte, 100)))
		if got, want := size(p), len(p.ToBytes()); got != want {
			t.Errorf("option of %d bytes: size %d, the packet has %d", length, got, want)
		}
	}
}
