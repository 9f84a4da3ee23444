package ramdisk_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/ingot"
	initiator "ingot/internal/iscsi"
	"ingot/internal/iscsi/iscsitest"
	"ingot/internal/ramdisk"
	"ingot/internal/roothint"
	"ingot/internal/testkit"
)

// call is one request of the agent.
type call struct {
	method string
	body   map[string]string
}

// conductor pretends to be the server; the guest reaches the host's loopback as 10.0.2.2.
func conductor(t *testing.T) (calls <-chan call, port string) {
	t.Helper()
	heard := make(chan call, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := call{method: r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]}
		if err := json.NewDecoder(r.Body).Decode(&c.body); err != nil {
			t.Errorf("body of %s: %v", r.URL.Path, err)
		}
		heard <- c
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(server.Close)
	_, port, _ = net.SplitHostPort(server.Listener.Addr().String())
	return heard, port
}

// machine boots kernel and ramdisk with a 1 GiB disk, in software emulation, beside a smaller one
// that would be chosen without hints. It returns the addresses on the host that lead to the
// guest's ports 3260 and 10000.
func machine(t *testing.T, built ramdisk.Result, disk diskKind, cmdline string) (iscsi,
	outcome string) {
	t.Helper()
	iscsi, outcome = freeAddress(t), freeAddress(t)
	console := filepath.Join(t.TempDir(), "console")
	cmd := exec.Command(tool(t, "qemu-system-x86_64"), "-accel", "tcg", "-cpu", "max",
		"-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:"+console,
		"-kernel", built.Kernel.Path, "-initrd", built.Ramdisk.Path,
		"-append", "console=ttyS0 quiet panic=-1 "+cmdline,
		"-netdev", "user,id=n,hostfwd=tcp:"+iscsi+"-:3260,hostfwd=tcp:"+outcome+"-:10000",
		"-device", "virtio-net-pci,netdev=n,mac=52:54:00:77:00:09",
		"-blockdev", "driver=null-co,node-name=decoy,size=536870912",
		"-device", "virtio-blk-pci,drive=decoy,serial=decoy,addr=0x7",
		"-drive", "file="+disk.path+",format=raw,if=none,id=disk,discard=unmap")
	cmd.Args = append(cmd.Args, disk.device...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		text, _ := os.ReadFile(console)
		t.Logf("console:\n%s", text)
	})
	return iscsi, outcome
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: run scripts/packages.sh", name)
	}
	return path
}

func next(t *testing.T, calls <-chan call) call {
	t.Helper()
	select {
	case c := <-calls:
		return c
	case <-time.After(90 * time.Second):
		t.Fatal("the machine did not call within 90 s")
	}
	return call{}
}

// agent is the path of what TestMain has built.
var agent string

// TestMain builds a static agent of this tree, which takes seconds, once for all tests.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ramdisk-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	agent = filepath.Join(dir, "ingot-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent,
		"ingot/cmd/ingot-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build agent: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func build(t *testing.T, flavour ramdisk.Flavour) ramdisk.Result {
	t.Helper()
	tool(t, "apt-get")
	built, err := ramdisk.Build(t.Context(), ramdisk.Options{OutDir: t.TempDir(),
		Flavour: flavour, AgentPath: agent, Progress: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	return built
}

func TestMachineLendsItsDiskToWhoHasTheSecretAndCompletes(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	for _, flavour := range []ramdisk.Flavour{ramdisk.Cloud, ramdisk.Generic} {
		t.Run(string(flavour), func(t *testing.T) {
			t.Parallel()
			lendAndComplete(t, build(t, flavour), disks[flavour])
		})
	}
}

// diskKind is how the disk is connected, the hints that tell it from the decoy, and how the
// ramdisk describes it.
type diskKind struct {
	device []string
	hints  ingot.Object
	about  string
	path   string
}

var disks = map[ramdisk.Flavour]diskKind{
	ramdisk.Cloud: {
		device: []string{"-device", "virtio-blk-pci,drive=disk,serial=ingot-1,addr=0x9"},
		hints:  ingot.Object{"serial": "INGOT-1", "by_path": "<in> pci-0000:00:09.0"},
		about:  "/dev/vdb 1.0 GiB, vendor 0x1af4, serial ingot-1, rotational",
	},
	ramdisk.Generic: {
		device: []string{"-device", "ich9-ahci,id=sata,addr=0x9", "-device", "ide-hd,drive=disk," +
			"bus=sata.2,serial=ingot-1,wwn=0x5000c500a1b2c3d4,rotation_rate=1"},
		hints: ingot.Object{"model": "<in> qemu", "wwn": "0x5000c500a1b2c3d4",
			"by_path": "/dev/disk/by-path/pci-0000:00:09.0-ata-3", "size": "= 1",
			"serial": "ingot-1", "rotational": false},
		about: "/dev/sda 1.0 GiB, model QEMU HARDDISK, vendor ATA, serial ingot-1, " +
			"wwn 0x5000c500a1b2c3d4, hctl 2:0:0:0",
	},
}

func lendAndComplete(t *testing.T, built ramdisk.Result, kind diskKind) {
	calls, port := conductor(t)
	disk := filepath.Join(t.TempDir(), "disk.raw")
	kind.path = disk
	hints, err := roothint.Parse(kind.hints)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 1<<30); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	iscsi, outcome := machine(t, built, kind, "root_device="+hints.Encode()+" deployment_id=a-node deployment_key=a-key "+
		"iscsi_target_iqn=iqn.2008-10.org.openstack:a-node BOOTIF=01-52-54-00-77-00-09 "+
		"ironic_api_url=http://10.0.2.2:1,http://10.0.2.2:"+port)
	info := next(t, calls)
	t.Logf("pass_deploy_info %.1f s after power on", time.Since(start).Seconds())
	secret := info.body["chap_password"]
	want := fmt.Sprint(call{"pass_deploy_info", map[string]string{
		"address": "10.0.2.15", "port": "3260", "iqn": "iqn.2008-10.org.openstack:a-node",
		"lun": "1", "key": "a-key", "error": "", "chap_username": "ingot",
		"chap_password": secret, "disk": kind.about}})
	if fmt.Sprint(info) != want || len(secret) < 16 {
		t.Fatalf("call is %v, want %s", info, want)
	}

	lun := iscsi + "/iqn.2008-10.org.openstack:a-node/1"
	for _, login := range []string{"", "ingot%not-the-secret-at-all@"} {
		out, err := exec.Command(tool(t, "iscsi-inq"), "iscsi://"+login+lun).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Authentication failure") {
			t.Errorf("login by %q: %v: %s; want an authentication failure", login, err, out)
		}
	}
	address := "iscsi://ingot%" + secret + "@" + lun
	out, err := exec.Command(tool(t, "iscsi-readcapacity16"), address).CombinedOutput()
	if err != nil || !strings.Contains(string(out), fmt.Sprint(1<<30)) {
		t.Errorf("capacity: %v: %s; want %d", err, out, 1<<30)
	}

	content := make([]byte, 32<<20)
	rand.Read(content)
	image := filepath.Join(t.TempDir(), "image.raw")
	if err := os.WriteFile(image, content, 0o600); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	out, err = exec.Command(tool(t, "qemu-img"), "convert", "-n", "-W", "-m", "16", "-f", "raw",
		"-O", "raw", image, address).CombinedOutput()
	if err != nil {
		t.Fatalf("write image: %v: %s", err, out)
	}
	t.Logf("32 MiB written in %.2f s", time.Since(start).Seconds())

	useInitiator(t, iscsi, initiator.CHAP{Username: "ingot", Secret: secret})
	copy(content, head(t, disk, 1<<20)) // what it left there, checked there

	for range 2 { // a conductor that was restarted says it again
		if answer := tell(t, outcome, "done\n"); answer != "ok\n" {
			t.Errorf("answer to done is %q, want ok", answer)
		}
	}
	status := next(t, calls)
	want = fmt.Sprint(call{"pass_deploy_status", map[string]string{
		"key": "a-key", "status": "Completed", "error": ""}})
	if fmt.Sprint(status) != want {
		t.Errorf("call is %v, want %s", status, want)
	}
	if out, err := exec.Command(tool(t, "iscsi-inq"), address).CombinedOutput(); err == nil {
		t.Errorf("the target still answers after Completed: %s", out)
	}
	if got := head(t, disk, len(content)); !bytes.Equal(got, content) {
		t.Error("the disk does not hold what was written")
	}
}

// useInitiator is our own initiator against the kernel's target: digests, zeroing by whatever the
// disk has, and a connection that is cut in the middle of a write and of a read.
func useInitiator(t *testing.T, address string, login initiator.CHAP) {
	t.Helper()
	proxy := iscsitest.StartProxy(t, address)
	s, err := initiator.Dial(t.Context(), initiator.Config{
		Address: proxy.Addr, Target: "iqn.2008-10.org.openstack:a-node", LUN: 1, CHAP: &login,
		HeaderDigest: initiator.DigestRequired, DataDigest: initiator.DigestRequired,
		DialTimeout: time.Minute, ReconnectTimeout: 2 * time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	cutAfter := func(n int64) {
		var passed atomic.Int64
		proxy.Filter(func(_ bool, b []byte) {
			if end := passed.Add(int64(len(b))); end >= n && end-int64(len(b)) < n {
				proxy.Cut()
			}
		})
	}
	const off = 100 << 20
	want := make([]byte, 16<<20)
	rand.Read(want)
	cutAfter(5 << 20)
	if _, err := s.WriteAt(want, off); err != nil {
		t.Fatal(err)
	}
	clear(want[1<<20+5 : 9<<20+777])
	if err := s.WriteZeroes(t.Context(), off+1<<20+5, 8<<20+772); err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteAt(want[:1<<20], 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	cutAfter(3 << 20)
	if _, err := s.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
		t.Errorf("our initiator read something else than it wrote (%v)", err)
	}
	if n := proxy.Accepted(); n != 3 {
		t.Errorf("%d connections, want 3: each cut makes one more, and digests cost none", n)
	}
}

func head(t *testing.T, path string, n int) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, n)
	if _, err := io.ReadFull(f, data); err != nil {
		t.Fatal(err)
	}
	return data
}

func tell(t *testing.T, address, line string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, line)
	answer, _ := bufio.NewReader(conn).ReadString('\n')
	return answer
}

func TestSameInputGivesSameBytes(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	first := build(t, ramdisk.Cloud)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	relative, err := filepath.Rel(here, dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ramdisk.Build(t.Context(), ramdisk.Options{OutDir: relative, AgentPath: agent})
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "cloud.kernel"); second.Kernel.Path != want {
		t.Errorf("the kernel is %s, want %s: the path goes into a file:// URL",
			second.Kernel.Path, want)
	}
	if first.Kernel.SHA256 != second.Kernel.SHA256 ||
		first.Ramdisk.SHA256 != second.Ramdisk.SHA256 {
		t.Errorf("digests differ: %v and %v", first, second)
	}
	if first.Ramdisk.Bytes > 5e6 {
		t.Errorf("the cloud ramdisk has %d bytes, want at most 5 MB", first.Ramdisk.Bytes)
	}
}

// TestRamdiskHoldsTheAgentAndWhatItLoads looks into the generic flavour by Debian's own tools.
func TestRamdiskHoldsTheAgentAndWhatItLoads(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	built := build(t, ramdisk.Generic)
	for _, pair := range [][2]string{ // what is needed first, and by whom
		{"libata", "ahci"}, {"crc32c_generic", "iscsi_target_mod"}, {"virtio", "virtio_net"},
		{"target_core_mod", "iscsi_target_mod"}, {"scsi_mod", "megaraid_sas"}, {"i2c_algo_bit", "igb"},
	} {
		need, user := slices.Index(built.Modules, pair[0]), slices.Index(built.Modules, pair[1])
		if need < 0 || user < need {
			t.Errorf("%s is number %d and %s number %d of %v", pair[0], need, pair[1], user,
				built.Modules)
		}
	}
	dir := t.TempDir()
	unpack := exec.Command("sh", "-ec", tool(t, "zstd")+` -dc "$0" | `+tool(t, "cpio")+
		` -id --quiet --no-preserve-owner --nonmatching 'dev/*'`, built.Ramdisk.Path)
	unpack.Dir = dir
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v: %s", err, out)
	}
	order, err := os.ReadFile(filepath.Join(dir, "etc/modules"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(order))
	if len(lines) != len(built.Modules) {
		t.Errorf("etc/modules has %d lines for %d modules", len(lines), len(built.Modules))
	}
	for _, line := range lines {
		if _, err := os.Stat(filepath.Join(dir, line)); err != nil {
			t.Errorf("module of the load order: %v", err)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "init"))
	want, _ := os.ReadFile(agent)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("init is not the agent (%v)", err)
	}
}

func TestAgentThatCannotRunIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "build it by `make build`",
		text:                       "is no program",
		"/bin/cat":                 "is not static",
	} {
		_, err := ramdisk.Build(t.Context(), ramdisk.Options{OutDir: dir, CacheDir: dir,
			AgentPath: path})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("agent %s: error is %v, want %q in it", path, err, want)
		}
	}
}

func TestUnknownFlavourIsRefusedWithTheChoices(t *testing.T) {
	t.Parallel()
	_, err := ramdisk.Build(t.Context(), ramdisk.Options{OutDir: t.TempDir(), Flavour: "arm"})
	if err == nil || !strings.Contains(err.Error(), "cloud") {
		t.Errorf("error is %v, want one that names the flavours", err)
	}
}
