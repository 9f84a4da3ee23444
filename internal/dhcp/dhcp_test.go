package dhcp_test

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"pgregory.net/rapid"

	"ingot/internal/dhcp"
)

var mac = net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 1}

func TestFirmwareIsRecognised(t *testing.T) {
	t.Parallel()
	uuid, _ := hex.DecodeString("0013b8aa6d39a84e9d9f0d0d0f1a2b3c4d")
	for name, c := range map[string]struct {
		options []dhcpv4.Option
		want    dhcp.Client
	}{
		"operating system": {nil, dhcp.Client{}},
		"OVMF PXE": {[]dhcpv4.Option{
			dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003000"),
			dhcpv4.OptClientArch(iana.EFI_BC),
			dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, uuid),
		}, dhcp.Client{Class: dhcp.ClassPXE, Arch: iana.EFI_BC,
			UUID: "13b8aa6d-39a8-4e9d-9f0d-0d0f1a2b3c4d"}},
		"iPXE ROM on BIOS": {[]dhcpv4.Option{
			dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001"),
			dhcpv4.OptClientArch(iana.INTEL_X86PC),
			dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE")),
		}, dhcp.Client{Class: dhcp.ClassPXE, IPXE: true}},
		"iPXE by its own option": {[]dhcpv4.Option{
			dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003010"),
			dhcpv4.OptClientArch(iana.EFI_BC),
			dhcpv4.OptGeneric(dhcp.OptionIPXE, []byte{0xeb, 3, 1, 0, 0}),
		}, dhcp.Client{Class: dhcp.ClassPXE, Arch: iana.EFI_BC, IPXE: true}},
		"OVMF HTTP boot": {[]dhcpv4.Option{
			dhcpv4.OptClassIdentifier("HTTPClient:Arch:00016:UNDI:003000"),
			dhcpv4.OptClientArch(iana.EFI_X86_64_HTTP),
		}, dhcp.Client{Class: dhcp.ClassHTTP, Arch: iana.EFI_X86_64_HTTP}},
		"arm64 PXE": {[]dhcpv4.Option{
			dhcpv4.OptClassIdentifier("PXEClient:Arch:00011:UNDI:003000"),
			dhcpv4.OptClientArch(iana.EFI_ARM64),
		}, dhcp.Client{Class: dhcp.ClassPXE, Arch: iana.EFI_ARM64}},
		"arm64 HTTP boot": {[]dhcpv4.Option{
			dhcpv4.OptClassIdentifier("HTTPClient:Arch:00019:UNDI:003000"),
			dhcpv4.OptClientArch(iana.EFI_ARM64_HTTP),
		}, dhcp.Client{Class: dhcp.ClassHTTP, Arch: iana.EFI_ARM64_HTTP}},
	} {
		p, err := dhcpv4.NewDiscovery(mac)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range c.options {
			p.UpdateOption(o)
		}
		parsed, err := dhcp.Parse(p.ToBytes())
		if err != nil {
			t.Fatal(err)
		}
		if got := dhcp.Identify(parsed); got != c.want {
			t.Errorf("%s: taken for %+v, want %+v", name, got, c.want)
		}
	}
}

// The header as a client may fill it that has more options than room (RFC 2132 section 9.3).
func TestOptionsAreReadFromTheHeader(t *testing.T) {
	t.Parallel()
	p, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithGeneric(dhcpv4.OptionOptionOverload, []byte{3}))
	if err != nil {
		t.Fatal(err)
	}
	b := p.ToBytes()
	copy(b[108:], "\x3c\x09PXEClient\xff")
	copy(b[44:], "\x4d\x04iPXE\xff")
	got, err := dhcp.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if c := dhcp.Identify(got); c.Class != dhcp.ClassPXE || !c.IPXE {
		t.Errorf("taken for %+v", c)
	}
	copy(b[108:], bytes.Repeat([]byte{1, 100}, 64))
	if _, err := dhcp.Parse(b); err == nil {
		t.Error("options that go beyond the field are accepted")
	}
}

func TestPoolGivesEveryAddressOnceAndRepeatsItself(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		first := netip.AddrFrom4([4]byte{10, 0, rapid.Byte().Draw(t, "c"), 250})
		last := first
		for range rapid.IntRange(0, 300).Draw(t, "size") {
			last = last.Next()
		}
		pool := dhcp.Pool{First: first, Last: last}
		given := map[netip.Addr]bool{}
		taken := func(a netip.Addr) bool { return given[a] }
		for i := range pool.Size() {
			m := net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}
			a, ok := pool.Pick(m, taken)
			again, _ := pool.Pick(m, taken)
			if !ok || a != again || given[a] || !pool.Contains(a) {
				t.Fatalf("%s gave %s (%t), then %s", pool, a, ok, again)
			}
			given[a] = true
		}
		if a, ok := pool.Pick(mac, taken); ok {
			t.Fatalf("exhausted %s gave %s", pool, a)
		}
	})
}

func TestPoolOfNothingGivesNothing(t *testing.T) {
	t.Parallel()
	for _, p := range []dhcp.Pool{{}, {
		First: netip.MustParseAddr("10.0.0.9"), Last: netip.MustParseAddr("10.0.0.1"),
	}} {
		if a, ok := p.Pick(mac, func(netip.Addr) bool { return false }); ok {
			t.Errorf("%v gave %s", p, a)
		}
	}
}

// The golden bytes are RFC 4861 section 4.2 and 4.6 written out.
func TestAdvertisementHasNoRouterAndNoDHCPv6(t *testing.T) {
	t.Parallel()
	got := dhcp.RA{}.Packet(mac)
	want := []byte{134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0x52, 0x54, 0, 0x77, 0, 1}
	if !bytes.Equal(got, want) {
		t.Errorf("advertisement % x, want % x", got, want)
	}
	got = dhcp.RA{Prefix: netip.MustParsePrefix("fd77::1/64")}.Packet(mac)
	want = append(want, 3, 4, 64, 0xc0, 0, 2, 0xa3, 0, 0, 1, 0x51, 0x80, 0, 0, 0, 0,
		0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	if !bytes.Equal(got, want) {
		t.Errorf("with prefix % x, want % x", got, want)
	}
}

// With DHCPv6 the flags M and O say so, and nobody makes further addresses of the prefix.
func TestManagedAdvertisementSendsHostsToDHCPv6(t *testing.T) {
	t.Parallel()
	got := dhcp.RA{Managed: true, Prefix: netip.MustParsePrefix("fd77::/64")}.Packet(nil)
	if got[5] != 0xc0 || got[16+3] != 0x80 {
		t.Errorf("advertisement % x", got)
	}
}

func FuzzRequest(f *testing.F) {
	p, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithUserClass("iPXE", false),
		dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_BC)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := dhcp.Parse(b)
		if err != nil {
			return
		}
		c := dhcp.Identify(p)
		if c.UUID != "" && len(c.UUID) != 36 {
			t.Fatalf("UUID %q", c.UUID)
		}
		if again, err := dhcp.Parse(p.ToBytes()); err != nil {
			t.Fatalf("%s does not survive encoding: %v", p.Summary(), err)
		} else if dhcp.Identify(again) != c {
			t.Fatalf("%+v became %+v", c, dhcp.Identify(again))
		}
	})
}
