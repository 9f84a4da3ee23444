package sim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/internal/sim"
	"ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

const (
	fromCD     = "MARK-BOOT-CD"
	fromFloppy = "MARK-BOOT-FLOPPY"
	mediaPath  = redfish.ManagerPath + "/VirtualMedia/"
)

// A mediaServer is a web server beside the machines.
type mediaServer struct {
	url  string
	stop func()

	mu     sync.Mutex // guards the fields below
	ranges []string   // that were asked for
	breaks int        // how many of them are broken off in the middle yet
}

// serveMedia serves files by name on the bridge of a network.
func serveMedia(t *testing.T, n *sim.Network, files map[string][]byte) *mediaServer {
	t.Helper()
	s := &mediaServer{}
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(n.Addr(), 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, known := files[strings.TrimPrefix(r.URL.Path, "/")]
		if !known {
			http.NotFound(w, r)
			return
		}
		s.mu.Lock()
		broken := false
		if v := r.Header.Get("Range"); v != "" {
			s.ranges = append(s.ranges, v)
			broken = s.breaks > 0
			s.breaks--
		}
		s.mu.Unlock()
		if broken {
			http.ServeContent(&half{w, 1000}, r, r.URL.Path, time.Time{}, bytes.NewReader(data))
			panic(http.ErrAbortHandler)
		}
		if strings.HasSuffix(r.URL.Path, ".stream") { // has no ranges
			_, _ = w.Write(data)
			return
		}
		http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(data))
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	s.url = "http://" + l.Addr().String() + "/"
	s.stop = sync.OnceFunc(func() {
		_ = srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// half is an answer that ends after so many bytes.
type half struct {
	http.ResponseWriter
	left int
}

func (h *half) Write(p []byte) (int, error) {
	if h.left -= len(p); h.left < 0 {
		return 0, http.ErrAbortHandler
	}
	return h.ResponseWriter.Write(p)
}

// breakOff has the server break off the next ranges in the middle.
func (s *mediaServer) breakOff(next int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.breaks = next
}

// parts is how many ranges were read.
func (s *mediaServer) parts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ranges)
}

// redfishClient speaks to a machine's BMC from inside the namespace.
type redfishClient struct {
	network *sim.Network
	machine *sim.Machine
}

// do sends a request and wants a status.
func (c redfishClient) do(t *testing.T, method, path, body string, status int) map[string]any {
	t.Helper()
	req, err := http.NewRequestWithContext(limit(t), method, c.machine.Redfish().URL()+path,
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(c.machine.Spec().User, c.machine.Spec().Password)
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: c.network.Dial,
	}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Fatalf("%s %s %s: %s, want %d: %s", method, path, body, resp.Status, status, text)
	}
	if len(text) == 0 {
		return nil
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func (c redfishClient) reset(t *testing.T, how redfish.ResetType) {
	t.Helper()
	c.do(t, "POST", redfish.SystemPath+"/Actions/ComputerSystem.Reset",
		`{"ResetType": "`+string(how)+`"}`, http.StatusNoContent)
}

func (c redfishClient) bootOnce(t *testing.T, from redfish.Target) {
	t.Helper()
	c.do(t, "PATCH", redfish.SystemPath, `{"Boot": {"BootSourceOverrideEnabled": "Once",
		"BootSourceOverrideTarget": "`+string(from)+`"}}`, http.StatusOK)
}

func (c redfishClient) insert(t *testing.T, d redfish.Drive, url string, status int) {
	t.Helper()
	c.do(t, "POST", mediaPath+string(d)+"/Actions/VirtualMedia.InsertMedia",
		`{"Image": "`+url+`"}`, status)
}

func (c redfishClient) eject(t *testing.T, d redfish.Drive) {
	t.Helper()
	c.do(t, "POST", mediaPath+string(d)+"/Actions/VirtualMedia.EjectMedia", `{}`, http.StatusNoContent)
}

// bootISO makes an ISO that boots a sector on BIOS, or a program on UEFI.
func bootISO(t *testing.T, option, name string, boot []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, name), boot, 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "boot.iso")
	args := []string{"-as", "mkisofs", "-quiet", "-o", out, option, name, "-no-emul-boot"}
	if option == "-b" {
		args = append(args, "-boot-load-size", "4")
	}
	testkit.Run(t, "xorriso", append(args, tree)...)
	iso, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return iso
}

func TestMachineBootsFromMediaThatRedfishInserts(t *testing.T) {
	t.Parallel()
	n, m := newMachine(t, sim.MachineSpec{BMC: sim.Redfish, VirtualMedia: true, NICROM: sim.NoROM})
	floppy := make([]byte, 1440<<10)
	copy(floppy, bootSector(fromFloppy, thenHalt))
	web := serveMedia(t, n, map[string][]byte{
		"boot.iso":    bootISO(t, "-b", "boot.bin", append(bootSector(fromCD, thenHalt), make([]byte, 1536)...)),
		"boot.img":    floppy,
		"boot.stream": floppy,
	})
	c := redfishClient{n, m}
	for _, url := range []string{web.url + "none.iso", web.url + "boot.stream", "http://10.77.0.1:9/x.iso"} {
		c.insert(t, redfish.VirtualCD, url, http.StatusBadRequest)
	}

	c.insert(t, redfish.VirtualCD, web.url+"boot.iso", http.StatusNoContent)
	if got := web.parts(); got != 0 {
		t.Errorf("%d ranges were read for a machine that is off", got)
	}
	c.bootOnce(t, redfish.CD)
	c.reset(t, redfish.PowerOn)
	see(t, m, banner, fromCD)
	if web.parts() == 0 {
		t.Error("the firmware has read no range of the medium")
	}
	boot := c.do(t, "GET", redfish.SystemPath, "", http.StatusOK)["Boot"].(map[string]any)
	if got := boot["BootSourceOverrideEnabled"]; got != "Disabled" {
		t.Errorf("after the boot the override is %v", boot)
	}

	skip(t, m)
	c.insert(t, redfish.VirtualFloppy, web.url+"boot.img", http.StatusNoContent) // into one that runs
	c.reset(t, redfish.ForceRestart)
	see(t, m, banner, triesDisk, fromCD) // its last resort but one

	skip(t, m)
	c.bootOnce(t, redfish.Floppy)
	c.reset(t, redfish.PowerCycle)
	see(t, m, banner, fromFloppy)

	skip(t, m)
	c.eject(t, redfish.VirtualCD)
	c.eject(t, redfish.VirtualFloppy)
	c.bootOnce(t, redfish.CD)
	c.reset(t, redfish.ForceRestart)
	see(t, m, banner, triesDisk, "No bootable device")

	skip(t, m)
	c.insert(t, redfish.VirtualCD, web.url+"boot.iso", http.StatusNoContent)
	web.stop()
	c.bootOnce(t, redfish.CD)
	c.reset(t, redfish.ForceRestart) // goes without what cannot be read any more
	see(t, m, banner, triesDisk, "No bootable device")
	c.reset(t, redfish.ForceOff)
	if got := m.PowerState(); got != sim.Off {
		t.Errorf("after ForceOff the machine is %s", got)
	}
}

// A BMC reads on where a server breaks off; one that does not has the machine see an error.
func TestABMCReadsItsMediumAgain(t *testing.T) {
	t.Parallel()
	n, m := newMachine(t, sim.MachineSpec{BMC: sim.Redfish, VirtualMedia: true, NICROM: sim.NoROM})
	web := serveMedia(t, n, map[string][]byte{
		"boot.iso": bootISO(t, "-b", "boot.bin", append(bootSector(fromCD, thenHalt), make([]byte, 1536)...)),
	})
	c := redfishClient{n, m}
	c.insert(t, redfish.VirtualCD, web.url+"boot.iso", http.StatusNoContent)
	web.breakOff(3)
	c.bootOnce(t, redfish.CD)
	c.reset(t, redfish.PowerOn)
	see(t, m, banner, fromCD)

	skip(t, m)
	m.Redfish().SetQuirks(redfish.Quirks{ReadsOnce: true})
	web.breakOff(1000)
	c.bootOnce(t, redfish.CD)
	c.reset(t, redfish.ForceRestart)
	see(t, m, banner, triesDisk)
	if got := web.parts(); got < 5 {
		t.Errorf("%d ranges were asked for", got)
	}
}

func TestUEFIMachineBootsFromAVirtualCD(t *testing.T) {
	t.Parallel()
	testkit.Long(t) // its firmware takes its time
	n, m := newMachine(t, sim.MachineSpec{Firmware: sim.UEFI, BMC: sim.Redfish, VirtualMedia: true,
		NICROM: sim.NoROM})
	esp := filepath.Join(t.TempDir(), "esp.img")
	testkit.Run(t, "mformat", "-C", "-f", "2880", "-i", esp, "::")
	testkit.Run(t, "mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
	testkit.Run(t, "mcopy", "-i", esp, "/usr/lib/ipxe/snponly.efi", "::/EFI/BOOT/BOOTX64.EFI")
	fat, err := os.ReadFile(esp)
	if err != nil {
		t.Fatal(err)
	}
	web := serveMedia(t, n, map[string][]byte{"boot.iso": bootISO(t, "-e", "esp.img", fat)})
	c := redfishClient{n, m}
	c.insert(t, redfish.VirtualCD, web.url+"boot.iso", http.StatusNoContent)
	c.bootOnce(t, redfish.CD)
	c.reset(t, redfish.PowerOn)
	see(t, m, triesNetwork) // which only the iPXE on the CD says here
}

func TestBMCSpeaksIPMIAndRedfish(t *testing.T) {
	t.Parallel()
	n, m := newMachine(t, sim.MachineSpec{BMC: sim.Both})
	c, tool := redfishClient{n, m}, newIPMITool(t, n, m)
	tool.run(t, "chassis bootdev pxe options=persistent")
	c.reset(t, redfish.PowerOn)
	see(t, m, triesNetwork)
	wantFirst(t, m, triesNetwork)
	tool.run(t, "power off")
	system := c.do(t, "GET", redfish.SystemPath, "", http.StatusOK)
	boot := system["Boot"].(map[string]any)
	if system["PowerState"] != "Off" || boot["BootSourceOverrideTarget"] != "Pxe" ||
		boot["BootSourceOverrideEnabled"] != "Continuous" {
		t.Errorf("the system is %v", system)
	}
	c.do(t, "GET", mediaPath+"Cd", "", http.StatusNotFound)
}
