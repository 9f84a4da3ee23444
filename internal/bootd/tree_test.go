package bootd

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/config"
	"ingot/internal/dhcp"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
	"ingot/internal/tftp"
)

// newTree is a rig whose node boots its disk, with the tree of boot loaders.
func newTree(t testing.TB) *rig {
	t.Helper()
	r := newRig(t, serverMode())
	r.node.ProvisionState, r.node.BootIntent, r.node.Attempt = "active", ingot.BootDisk, nil
	if err := r.Store.UpdateNode(t.Context(), r.node); err != nil {
		t.Fatal(err)
	}
	r.Boot = pxe.New(pxe.Options{Log: slog.New(slog.DiscardHandler), Note: r.journal.Add,
		Env: netboot.Env{BaseURLs: []string{"http://10.77.0.1:8080"}, Driver: "ipmi"}})
	hw, _ := net.ParseMAC(known)
	r.seen.put(netip.MustParseAddr("10.77.0.7"), Machine{MAC: hw})
	errs := r.Store.TakeLeases(t.Context(), []store.LeaseChange{{Lease: ingot.Lease{MAC: second,
		Address: leased, Expires: time.Now().Add(time.Hour)}}})
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	return r
}

const (
	at       = "10.77.0.7"  // of the machine known
	leased   = "10.77.0.50" // of the machine second, as another conductor told it
	stranger = "10.77.0.99"
)

func TestEveryLoaderFindsItsConfigurationByEveryName(t *testing.T) {
	t.Parallel()
	r := newTree(t)
	for _, c := range []struct{ path, from, want string }{
		{"pxelinux.cfg/01-52-54-00-77-00-01", stranger, "LOCALBOOT 0"},
		{"pxelinux.cfg/01-52-54-00-77-00-01", stranger, "boot from disk"},
		{"pxelinux.cfg/1be26c0b-03f2-4d2e-ae87-c02d7f33c123", stranger, "boot from disk"},
		{"pxelinux.cfg/1BE26C0B-03F2-4D2E-AE87-C02D7F33C123", stranger, "boot from disk"},
		{"pxelinux.cfg/0A4D0007", at, "boot from disk"},
		{"pxelinux.cfg/0A4D0032", leased, "boot from disk"},
		{"pxelinux.cfg/default", at, "boot from disk"},
		{"pxelinux.cfg/default", stranger, "SAY ingot: no node has a port"},
		{"pxelinux.cfg/01-52-54-00-77-00-99", at, "LOCALBOOT 0"},
		{"grub/grub.cfg-01-52-54-00-77-00-01", stranger, "echo 'ingot: the boot device set"},
		{"grub/grub.cfg-01-52-54-00-77-00-01", stranger, "boot from disk"},
		{"grub/grub.cfg", at, "boot from disk"},
		{"grub/grub.cfg", leased, "boot from disk"},
		{"grub/grub.cfg", stranger, "'ingot: no node has a port"},
		{"52:54:00:77:00:01.conf", stranger, "boot from disk"},
		{"52:54:00:77:00:03.conf", stranger, "pxe_enabled false"},
		{"autoexec.ipxe", at, "#!ipxe\necho ingot: node 1be26c0b"},
		{"autoexec.ipxe", stranger, "#!ipxe\necho ingot: node unknown"},
		{"boot.ipxe", stranger, "chain --replace"},
	} {
		got, ok := r.configFile(t.Context(), c.path, netip.MustParseAddr(c.from))
		if !ok || !strings.Contains(got, c.want) {
			t.Errorf("%s for %s: %v, want %q in\n%s", c.path, c.from, ok, c.want, got)
		}
		if c.from == stranger && !strings.Contains(c.path, "77") &&
			!strings.Contains(strings.ToLower(c.path), "1be26c0b") &&
			strings.Contains(got, "1be26c0b") {
			t.Errorf("%s tells a stranger of a node:\n%s", c.path, got)
		}
	}
	// What is not there is left to the loader's next try.
	for _, path := range []string{"pxelinux.cfg/0A4D0063", "pxelinux.cfg/0A4D000", "pxelinux.cfg/0",
		"pxelinux.cfg/2be26c0b-03f2-4d2e-ae87-c02d7f33c123", "pxelinux.cfg/", "pxelinux.cfg/zzzzzzzz",
		"grub/x86_64-efi/command.lst", "grub/grub.cfg-02-x", "x.conf", ".conf", "undionly.kpxe",
		"pxelinux.cfg/../boot.ipxe", "grub/52:54:00:77:00:01.conf",
	} {
		if got, ok := r.configFile(t.Context(), path, netip.MustParseAddr(at)); ok {
			t.Errorf("%s:\n%s", path, got)
		}
	}
}

// Names and addresses can be guessed, and leases outlive machines' use of them: none of these tells
// one machine what another one boots.
func TestConfigurationsAreNotGuessed(t *testing.T) {
	t.Parallel()
	r := newTree(t)
	n, err := r.Store.Node(t.Context(), r.node.UUID)
	if err != nil {
		t.Fatal(err)
	}
	n.Name = "rack-7-of-the-hall-at-the-river-no-1"
	if err := r.Store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	const expired, declined = "10.77.0.60", "10.77.0.61"
	for _, err := range r.Store.TakeLeases(t.Context(), []store.LeaseChange{
		{Had: leased, Lease: ingot.Lease{MAC: second, Address: expired,
			Expires: time.Now().Add(-time.Hour)}},
		{Lease: ingot.Lease{MAC: "declined " + declined, Address: declined,
			Expires: time.Now().Add(time.Hour)}},
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ path, from string }{
		{"pxelinux.cfg/" + n.Name, at},
		{"pxelinux.cfg/0A4D0007", stranger},
		{"pxelinux.cfg/0A4D003C", expired},
		{"pxelinux.cfg/0A4D003D", declined},
		{"pxelinux.cfg/default", expired},
		{"grub/grub.cfg", expired},
		{"autoexec.ipxe", expired},
	} {
		got, ok := r.configFile(t.Context(), c.path, netip.MustParseAddr(c.from))
		byAddress := !strings.HasPrefix(c.path, "pxelinux.cfg/") || c.path == "pxelinux.cfg/default"
		if ok != byAddress || strings.Contains(got, n.Name) || strings.Contains(got, "1be26c0b") {
			t.Errorf("%s for %s: %v\n%s", c.path, c.from, ok, got)
		}
	}
}

// boot.ipxe is for DHCP servers of others that cannot put a MAC into a URL; nothing of ours names
// it, and it is no file.
func TestS1_6_BootIPXEIsOneChainForOthersDHCPServers(t *testing.T) {
	t.Parallel()
	r := newTree(t)
	r.seen.put(netip.MustParseAddr("127.0.0.1"), Machine{MAC: net.HardwareAddr{0x52, 0x54, 0, 0x77,
		0, 1}})
	web := httptest.NewServer(r.routes())
	defer web.Close()
	get := func(method, path string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, web.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := testkit.Web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, script := get("GET", "/boot.ipxe")
	if strings.Count(script, "chain ") != 1 || !strings.Contains(script, " http://10.77.0.1:8080"+
		"/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address=${netX/mac} ") {
		t.Errorf("boot.ipxe\n%s", script)
	}
	if resp.Header.Get("Content-Type") != "text/plain" ||
		resp.ContentLength != int64(len(script)) {
		t.Errorf("headers %v", resp.Header)
	}
	head, body := get("HEAD", "/boot.ipxe")
	if head.StatusCode != 200 || head.Header.Get("Content-Length") != strconv.Itoa(len(script)) ||
		body != "" {
		t.Errorf("HEAD: %s, %v", head.Status, head.Header)
	}
	for path, want := range map[string]string{
		"/autoexec.ipxe": "boot from disk", "/programs/autoexec.ipxe": "boot from disk",
		"/grub/grub.cfg": "exit 1", "/pxelinux.cfg/01-52-54-00-77-00-01": "LOCALBOOT 0",
		"/52:54:00:77:00:01.conf": "exit 1",
	} {
		if _, got := get("GET", path); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	for _, path := range []string{"/", "/grub/x", "/pxelinux.cfg/x", "/x.conf", "/undionly.kpxe"} {
		if resp, _ := get("GET", path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for _, mode := range []Mode{ModeServer, ModeProxy} {
		r.site.Mode = mode
		for _, c := range firmwares {
			b := decide(Machine{Port: &ingot.Port{PXEEnabled: true}, Node: r.node}, c, "http://x")
			if strings.Contains(b.File, "boot.ipxe") {
				t.Errorf("%+v is told %s", c, b.File)
			}
		}
	}
}

var firmwares = []dhcp.Client{
	{Class: dhcp.ClassPXE, Arch: iana.INTEL_X86PC},
	{Class: dhcp.ClassPXE, Arch: iana.INTEL_X86PC, IPXE: true},
	{Class: dhcp.ClassPXE, Arch: iana.EFI_BC},
	{Class: dhcp.ClassPXE, Arch: iana.EFI_BC, IPXE: true},
	{Class: dhcp.ClassPXE, Arch: iana.EFI_ARM64},
	{Class: dhcp.ClassHTTP, Arch: iana.EFI_X86_64_HTTP},
}

func TestTheBootInterfaceChoosesTheProgram(t *testing.T) {
	t.Parallel()
	const nodeUUID = "1be26c0b-03f2-4d2e-ae87-c02d7f33c155"
	attempt := &ingot.Attempt{ID: "00000001", Key: "key"}
	script := "http://x/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address=" + known
	hw, _ := net.ParseMAC(known)
	for boot, want := range map[string][]string{
		"ipxe": {"undionly.kpxe", script, "snponly.efi", script, "snponly-arm64.efi",
			"http://x/programs/snponly.efi"},
		"pxe": {"pxelinux.0", "pxelinux.0", "bootx64.efi", "bootx64.efi", "bootaa64.efi",
			"http://x/programs/snponly.efi"},
		// A file by TFTP would keep firmware that has both from HTTP.
		"http-ipxe": {"", script, "", script, "", "http://x/programs/snponly.efi"},
		"http": {"", script, "", script, "",
			"http://x" + netboot.MediumPath(&ingot.Node{UUID: nodeUUID, Attempt: attempt})},
	} {
		for i, c := range firmwares {
			n := &ingot.Node{UUID: nodeUUID, Driver: "ipmi", BootIntent: ingot.BootDeploy, Attempt: attempt,
				Interfaces: map[string]string{"boot": boot}}
			m := Machine{MAC: hw, Port: &ingot.Port{PXEEnabled: true}, Node: n}
			if got := decide(m, c, "http://x"); got.File != want[i] ||
				got.TFTP != (want[i] != "" && !strings.HasPrefix(want[i], "http")) {
				t.Errorf("%s, %+v: %+v, want %s", boot, c, got, want[i])
			} else if secret := path.Base(path.Dir(got.File)); got.Secret && strings.Contains(got.shown(), secret) {
				t.Errorf("the journal is told %s", got.shown())
			}
			for _, leave := range []ingot.BootIntent{ingot.BootDisk, ingot.BootNone} {
				n.BootIntent = leave
				if got := decide(m, c, "http://x"); boot == "pxe" && got.File != "" {
					t.Errorf("%s, %+v, intent %s: %+v", boot, c, leave, got)
				}
			}
		}
	}
}

// Debian's packages have the programs under other names than firmware asks for; an operator's own
// directory goes by the name that is asked for.
func TestProgramsAreFoundWhereTheDistributionPutsThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"shimx64.efi.signed", "pxelinux.0"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &Server{Config: Config{Programs: []string{dir}}}
	for name, want := range map[string]string{"bootx64.efi": "shimx64.efi.signed",
		"pxelinux.0": "pxelinux.0"} {
		f, err := s.openProgram(name)
		if err != nil || filepath.Base(f.Name()) != want {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f.Close()
	}
	_, err := s.openProgram("grubx64.efi")
	if ingot.KindOf(err) != ingot.NotFound ||
		!strings.Contains(err.Error(), "install the package grub-efi-amd64-signed") {
		t.Errorf("missing program: %v", err)
	}
	// With what scripts/packages.txt has, all of x86 are there.
	s.Programs = config.Default().Boot.TFTPFiles
	for _, arch := range []iana.Arch{iana.INTEL_X86PC, iana.EFI_BC} {
		for _, name := range []string{netboot.Program(false, arch), netboot.Program(true, arch), "ldlinux.c32",
			"grubx64.efi", "mmx64.efi"} {
			f, err := s.openProgram(name)
			if err != nil {
				t.Errorf("%s: %v (tools: scripts/packages.sh)", name, err)
				continue
			}
			f.Close()
		}
	}
}

// What loaders look for and do without is no news.
func TestProbesLeaveNoWarnings(t *testing.T) {
	t.Parallel()
	r := newTree(t)
	client := netip.MustParseAddrPort(at + ":2000")
	for path, warns := range map[string]bool{
		"pxelinux.cfg/1be26c0b-03f2-4d2e-ae87-c02d7f33c124": false,
		"grub/x86_64-efi/command.lst":                       false, "revocations_sku.efi": false,
		"shim_certificate_0.efi": false, "grubx65.efi": true,
	} {
		before := len(r.journal.texts(ingot.LevelWarning))
		_, err := r.serveTFTP(t.Context(), tftp.Request{Path: path, Client: client})
		if err == nil {
			t.Errorf("%s was served", path)
		}
		r.noteTFTP(tftp.Event{Outcome: tftp.Refused, Err: err,
			Request: tftp.Request{Path: path, Client: client}})
		if got := len(r.journal.texts(ingot.LevelWarning)) > before; got != warns {
			t.Errorf("%s: warns %v (%v)", path, got, err)
		}
	}
}

func TestS1_5_DHCPNamesTheMethodAndNoStaticScript(t *testing.T) {
	t.Parallel()
	hw, _ := net.ParseMAC(known)
	for _, intent := range []ingot.BootIntent{ingot.BootDeploy, ingot.BootInstance, ingot.BootDisk,
		ingot.BootNone, ingot.BootError} {
		m := Machine{MAC: hw, Port: &ingot.Port{PXEEnabled: true},
			Node: &ingot.Node{Driver: "ipmi", BootIntent: intent}}
		for _, arch := range []iana.Arch{iana.INTEL_X86PC, iana.EFI_BC} {
			got := decide(m, dhcp.Client{Class: dhcp.ClassPXE, Arch: arch, IPXE: true}, "http://x:8080")
			if got.File != "http://x:8080/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address="+
				known || got.TFTP {
				t.Errorf("intent %s: %+v", intent, got)
			}
		}
	}
}

// TestS0_10_ADeploymentSwitchesTheConfigurationEverywhere: the configurations of PXELINUX, GRUB and
// iPXE follow the row at the same moment on all conductors, whichever wrote it; nothing is switched.
func TestS0_10_ADeploymentSwitchesTheConfigurationEverywhere(t *testing.T) {
	t.Parallel()
	url := storetest.Postgres(t)
	var all []*rig
	for range 3 {
		st, err := store.Open(t.Context(), store.Options{URL: url, Connections: 4})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		r := newTree(t)
		r.Store = st
		all = append(all, r)
	}
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Driver: "ipmi",
		ProvisionState: "active", BootIntent: ingot.BootDisk}
	if err := all[0].Store.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	p := &ingot.Port{UUID: "00000000-0000-4000-8000-000000000001", NodeUUID: n.UUID, Address: known,
		PXEEnabled: true}
	if err := all[0].Store.CreatePort(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	file := ingot.File{SHA256: strings.Repeat("ab", 32), Name: "vmlinuz", Size: 1}
	for round := range 6 {
		n.ProvisionState, n.BootIntent, n.Attempt = "active", ingot.BootDisk, nil
		want := "boot from disk"
		if round%2 == 0 {
			n.ProvisionState, n.BootIntent = "deploying", ingot.BootDeploy
			n.Attempt = &ingot.Attempt{ID: "5f3a9c01", Key: "k", Kernel: file, Ramdisk: file}
			want = file.SHA256
		}
		if err := all[round%3].Store.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		for i, r := range all {
			for _, path := range []string{"pxelinux.cfg/01-52-54-00-77-00-01",
				"grub/grub.cfg-01-52-54-00-77-00-01", "52:54:00:77:00:01.conf"} {
				got, ok := r.configFile(t.Context(), path, netip.MustParseAddr(stranger))
				if !ok || !strings.Contains(got, want) {
					t.Errorf("round %d, conductor %d, %s: %v, want %q in\n%s", round, i, path, ok,
						want, got)
				}
			}
		}
	}
}
