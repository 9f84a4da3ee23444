package bootd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ingot/internal/bootd"
	"ingot/internal/bootfile"
	"ingot/internal/config"
	"ingot/internal/dhcp"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/sim"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// patience is how long something may take that takes ten seconds on an idle host.
const patience = 60 * time.Second

// journal keeps everything and wakes who waits.
type journal struct {
	mu      sync.Mutex // guards entries
	entries []ingot.Entry
	changed chan struct{}
}

func (*journal) Flush(context.Context) error { return nil }

func (j *journal) Add(e ingot.Entry) {
	j.mu.Lock()
	j.entries = append(j.entries, e)
	j.mu.Unlock()
	select {
	case j.changed <- struct{}{}:
	default:
	}
}

func (j *journal) all() []ingot.Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries)
}

// wait returns the first entry whose text has all parts.
func (j *journal) wait(t *testing.T, parts ...string) ingot.Entry {
	t.Helper()
	return j.waitAfter(t, time.Time{}, parts...)
}

// waitAfter is wait for an entry younger than a time.
func (j *journal) waitAfter(t *testing.T, after time.Time, parts ...string) ingot.Entry {
	t.Helper()
	end := time.After(patience)
	for {
		all := j.all()
		for _, e := range all {
			lacks := func(p string) bool { return !strings.Contains(e.Text, p) }
			if e.Time.After(after) && !slices.ContainsFunc(parts, lacks) {
				return e
			}
		}
		select {
		case <-j.changed:
		case <-end:
			for _, e := range all {
				t.Logf("journal: %s %s %s", e.Time.Format("05.000"), e.Source, e.Text)
			}
			t.Fatalf("no journal entry with %q", parts)
		}
	}
}

// serverProcess holds the configuration of the copy of the test program that runs the server
// inside the namespace, as in production: sockets made later belong there, too.
const serverProcess = "INGOT_BOOTD_TEST_SERVER"

// order is what that copy is told.
type order struct {
	Config bootd.Config
	Store  store.Options
	Files  string   // directory with one file
	Digest string   // its name
	Living []string // URLs of servers that live, as far as it knows; none: it is alone
}

func TestMain(m *testing.M) {
	if text := os.Getenv(serverProcess); text != "" {
		if err := serve(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(storetest.Run(m))
}

// printer is a journal that writes to standard output, one JSON object a line.
type printer struct{ out *json.Encoder }

func (p printer) Add(e ingot.Entry) {
	if e.Time.IsZero() {
		e.Time = time.Now() // as the journal does
	}
	p.out.Encode(e)
}

func (printer) Flush(context.Context) error { return nil }

// serve runs a server until standard input ends. Every script is: fetch the boot file, say so.
func serve(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	st, err := store.Open(ctx, o.Store)
	if err != nil {
		return err
	}
	defer st.Close()
	log := printer{json.NewEncoder(os.Stdout)}
	s := &bootd.Server{Config: o.Config, Store: st, Journal: log, Files: bootfile.New(o.Files, nil, slog.New(slog.DiscardHandler)),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	s.Machine = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/pass_deploy_info") {
			log.Add(ingot.Entry{Time: time.Now(), Source: "test", Text: "ramdisk called " + r.URL.Path})
			w.WriteHeader(http.StatusAccepted)
			return
		}
		if r.URL.Path != "/v1/drivers/ipmi/vendor_passthru/ipxe_config" ||
			r.FormValue("port_address") != mac {
			http.NotFound(w, r)
			return
		}
		log.Add(ingot.Entry{Time: time.Now(), Source: "test", Text: "script asked for"})
		fmt.Fprintf(w, "#!ipxe\nimgfetch %s/files/%s/vmlinuz && echo MARK-FETCHED\nsleep 600\n",
			s.URL(), o.Digest)
	})
	if o.Living != nil {
		s.Servers = func(string) []string { return o.Living }
	}
	if err := s.Listen(ctx); err != nil {
		return err
	}
	s.Boot = pxe.New(pxe.Options{Log: s.Log, Note: log.Add, Env: netboot.Env{
		BaseURLs: []string{s.URL()}, Driver: "ipmi", KernelArgs: "console=ttyS0 panic=30"}})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	log.Add(ingot.Entry{Time: time.Now(), Source: "test", Text: "ready " + s.URL()})
	return s.Run(ctx)
}

// site is a network with a running bootd and one enrolled machine.
type site struct {
	*sim.Network
	dir     string // of boot files
	config  bootd.Config
	store   *store.Store
	journal *journal
	url     string
	content []byte // of the one boot file
	digest  string
}

// mac is the enrolled machine's.
const mac = "52:54:00:77:00:01"

// newSite needs root.
func newSite(t *testing.T, mode bootd.Mode, changes ...func(*bootd.Config)) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("test machines need root; run the tests as root")
		}
		t.Skip("test machines need root")
	}
	n, err := sim.NewNetwork(t.Context(), sim.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	s := &site{Network: n, journal: &journal{changed: make(chan struct{}, 1)},
		content: bytes.Repeat([]byte("0123456789abcdef"), 1<<16)}
	sum := sha256.Sum256(s.content)
	s.digest = hex.EncodeToString(sum[:])
	dir := t.TempDir()
	s.dir = dir
	if err := os.WriteFile(filepath.Join(dir, s.digest), s.content, 0o600); err != nil {
		t.Fatal(err)
	}
	s.config = bootd.Config{Interface: n.Bridge(), HTTPListen: ":8080", TFTPListen: ":69",
		Programs: config.Default().Boot.TFTPFiles, Mode: mode, RouterAdverts: true,
		Pool: dhcp.Pool{First: netip.MustParseAddr("10.77.0.100"),
			Last: netip.MustParseAddr("10.77.0.200")}}
	for _, change := range changes {
		change(&s.config)
	}
	o := store.Options{Path: filepath.Join(t.TempDir(), "s.db")}
	s.store = enrolled(t, o)
	s.start(t, order{Config: s.config, Store: o, Files: dir, Digest: s.digest})
	s.url = strings.TrimPrefix(s.journal.wait(t, "ready ").Text, "ready ")
	return s
}

// start runs the server inside the namespace and collects its journal.
func (s *site) start(t *testing.T, o order) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.Command(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), serverProcess+"="+string(text))
	var log bytes.Buffer
	cmd.Stderr = &log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := json.NewDecoder(out); ; {
			var e ingot.Entry
			if lines.Decode(&e) != nil {
				return
			}
			s.journal.Add(e)
		}
	}()
	t.Cleanup(func() {
		in.Close()
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("server: %v: %s", err, log.String())
		}
	})
}

// enrolled is a store with one node in deployment, whose port has the address mac.
func enrolled(t *testing.T, o store.Options) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Driver: "ipmi",
		ProvisionState: "deploying", BootIntent: ingot.BootDeploy}
	if err := st.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	p := &ingot.Port{UUID: "00000000-0000-4000-8000-000000000001", NodeUUID: n.UUID, Address: mac,
		PXEEnabled: true}
	if err := st.CreatePort(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return st
}

func (s *site) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := s.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s (tools: scripts/packages.sh)", name, args, err, out)
	}
	return string(out)
}

// Real firmware, real iPXE: from power on to the script and a file. The time between the last
// DHCP answer and the request for the script is where iPXE waits when it gets no router
// advertisement (13 to 16 s) or may expect a ProxyDHCP server (3 s).
func TestRealFirmwareGetsToItsScriptWithoutWaits(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	for _, c := range []struct {
		name    string
		spec    sim.MachineSpec
		program string
	}{
		{"BIOS with iPXE in ROM", sim.MachineSpec{Firmware: sim.BIOS}, ""},
		{"UEFI by PXE and snponly.efi", sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM},
			"snponly.efi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, bootd.ModeServer)
			start := time.Now()
			script := s.boot(t, c.spec, c.program)
			offer := s.journal.wait(t, "DHCP DISCOVER answered with OFFER", "(iPXE)")
			ack := s.journal.wait(t, "DHCP REQUEST answered with ACK", "(iPXE)")
			fetched := s.journal.wait(t, "HTTP: vmlinuz sent", fmt.Sprint(len(s.content), " bytes"))
			t.Logf("power on to script %.1f s; iPXE: DISCOVER to ACK %.1f s, ACK to script %.1f s",
				script.Sub(start).Seconds(), ack.Time.Sub(offer.Time).Seconds(),
				script.Sub(ack.Time).Seconds())
			// A second DISCOVER would be the wait for a ProxyDHCP server.
			discovers := 0
			for _, e := range s.journal.all() {
				if strings.Contains(e.Text, "DHCP DISCOVER") && strings.Contains(e.Text, "(iPXE)") {
					discovers++
				}
			}
			if discovers != 1 {
				t.Errorf("iPXE sent %d DISCOVERs before it took the offer", discovers)
			}
			if wait := script.Sub(ack.Time); wait > 10*time.Second {
				t.Errorf("iPXE waited %s between its address and its script", wait)
			}
			if fetched.Node == "" || fetched.MAC != mac {
				t.Errorf("the download is not in the node's journal: %+v", fetched)
			}
		})
	}
}

// Beside another DHCP server, which gives addresses and knows nothing of us.
func TestRealFirmwareBootsBesideAForeignDHCPServer(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	for _, c := range []struct {
		name    string
		spec    sim.MachineSpec
		program string
	}{
		{"BIOS with iPXE in ROM", sim.MachineSpec{Firmware: sim.BIOS}, ""},
		{"UEFI by PXE and snponly.efi", sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.NoROM},
			"snponly.efi"},
		{"UEFI by HTTP boot", sim.MachineSpec{Firmware: sim.UEFI, NICROM: sim.HTTPOnly}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, bootd.ModeProxy)
			stop, err := s.ForeignDHCP(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
			start := time.Now()
			script := s.boot(t, c.spec, c.program)
			t.Logf("power on to script %.1f s", script.Sub(start).Seconds())
		})
	}
}

// powerOn starts a machine from the network.
func (s *site) powerOn(t *testing.T, spec sim.MachineSpec) *sim.Machine {
	t.Helper()
	spec.Name, spec.MAC = "node-0", mac
	m, err := s.AddMachine(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	m.SetBootDevice(sim.BootOverride{Device: sim.PXE})
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// boot starts a machine and waits until its script has run; it returns when that was asked
// for. program is what the firmware has to fetch by TFTP before.
func (s *site) boot(t *testing.T, spec sim.MachineSpec, program string) time.Time {
	t.Helper()
	m := s.powerOn(t, spec)
	if program != "" {
		s.journal.wait(t, "TFTP: "+program+" sent")
	}
	script := s.journal.wait(t, "script asked for").Time
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.Console().Wait(ctx, "MARK-FETCHED"); err != nil {
		t.Errorf("console: %v", err)
	}
	for _, e := range s.journal.all() {
		if e.Source == "tftp" && e.Level != ingot.LevelInfo {
			t.Errorf("TFTP fault in the journal: %s", e.Text)
		}
	}
	return script
}

// hostIP runs ip(8) outside of the network's namespace: what `ip netns add` mounts inside is
// seen there only.
func hostIP(t *testing.T) func(args ...string) {
	return func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q: %v: %s", args, err, out)
		}
	}
}

// An operating system's DHCP client, not ours, in a namespace of its own.
func TestForeignDHCPClientGetsAndReleasesALease(t *testing.T) {
	t.Parallel()
	s := newSite(t, bootd.ModeServer)
	udhcpc := startUdhcpc(t, s.host(t, "c", mac), "10.77.0.1")
	e := s.journal.wait(t, "DHCP REQUEST answered with ACK", "an operating system")
	if e.MAC != mac {
		t.Errorf("journal: %+v", e)
	}
	if err := udhcpc.Signal(syscall.SIGUSR2); err != nil { // release
		t.Fatal(err)
	}
	s.journal.wait(t, "address released")
	if _, err := s.store.Lease(t.Context(), mac); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("lease after release: %v", err)
	}
}

func TestFilesAreServedWholeInRangesAndByHEAD(t *testing.T) {
	t.Parallel()
	s := newSite(t, bootd.ModeOff)
	base := s.url + "/files/" + s.digest + "/vmlinuz"
	if got := s.run(t, "curl", "-sSf", base); got != string(s.content) {
		t.Errorf("%d bytes arrived", len(got))
	}
	if got := s.run(t, "curl", "-sSf", "-r", "16-20", base); got != "01234" {
		t.Errorf("range arrived as %q", got)
	}
	head := s.run(t, "curl", "-sSfI", base)
	for _, want := range []string{"200 OK", fmt.Sprint("Content-Length: ", len(s.content)),
		`Etag: "` + s.digest + `"`, "Accept-Ranges: bytes"} {
		if !strings.Contains(head, want) {
			t.Errorf("HEAD lacks %q: %s", want, head)
		}
	}
	again := s.run(t, "curl", "-sS", "-w", "%{http_code}", "-H", `If-None-Match: "`+s.digest+`"`, base)
	if again != "304" {
		t.Errorf("the same content asked for again: %s", again)
	}
	for _, path := range []string{"/files/" + strings.Repeat("0", 64) + "/x", "/etc/passwd",
		"/programs/../../etc/passwd", "/programs/%2e%2e%2fetc%2fpasswd", "/files/..%2f..%2fetc/passwd"} {
		got := s.run(t, "curl", "-sS", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}",
			s.url+path)
		if got != "404" && got != "307" {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func TestTFTPTreeHasTheBootProgramsAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newSite(t, bootd.ModeOff)
	want, err := os.ReadFile("/usr/lib/ipxe/undionly.kpxe")
	if err != nil {
		t.Fatalf("%v: install the tools with scripts/packages.sh", err)
	}
	url := "tftp://" + s.Addr().String()
	if got := s.run(t, "curl", "-sSf", url+"/undionly.kpxe"); got != string(want) {
		t.Errorf("%d bytes arrived, want %d", len(got), len(want))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, path := range []string{"/ipxe.iso", "//etc/passwd", "/../../../etc/passwd"} {
		err := s.Command(ctx, "curl", "-sSf", "--path-as-is", url+path).Run()
		if err == nil {
			t.Errorf("%s was served", path)
		}
	}
}

func TestOccupiedPortIsKnownBeforeReady(t *testing.T) {
	t.Parallel()
	s := newSite(t, bootd.ModeServer)
	second := &bootd.Server{Config: s.config, Store: s.store, Journal: s.journal,
		Log: slog.New(slog.DiscardHandler)}
	second.HTTPListen, second.TFTPListen = ":0", ""
	err := s.Do(func() error { return second.Listen(t.Context()) })
	if err == nil {
		second.Close()
		t.Fatal("two DHCP servers on one interface were not noticed")
	}
	if !strings.Contains(err.Error(), "another DHCP server") {
		t.Errorf("error %v does not say what to do", err)
	}
}
