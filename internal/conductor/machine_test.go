package conductor_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/bootfile"
	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/iscsi"
	"ingot/internal/driver/pxe"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/iscsi/iscsitest"
	"ingot/internal/netboot"
	"ingot/internal/rpc"
)

const (
	machineMAC = "52:54:00:12:34:56"
	imageSize  = 3<<20 + 4096
)

// machine is a simulated machine: power, a network card that asks for its boot script, a disk
// behind a real iSCSI target, and the deploy ramdisk's side of the protocol.
type machine struct {
	fake.Power
	w      *world
	target *iscsitest.Target
	// outcome hands the connections to the outcome port to the ramdisk that runs.
	outcome net.Listener

	mu     sync.Mutex
	state  ingot.PowerState
	stop   context.CancelFunc // of what the machine runs now
	runs   sync.WaitGroup
	events []string // what it did: "on", "off", "cycle", "ramdisk", "info", "done"...
	// tweak, if set, changes what the ramdisk sends; nil arguments: it does not send at all.
	tweak func(method string, args ingot.Object) ingot.Object
	// loader makes it a ramdisk that installs a boot loader, with this status.
	loader string
	// ramdiskAgent is what the ramdisk is like if it speaks Ironic's agent protocol.
	ramdiskAgent *ramdiskAgent
	ctx          context.Context
	cond         *conductor.Conductor // that answers now; nil while there is none
}

// metal is a world with one machine, an image, and a node n1 ready to be deployed on it.
type metal struct {
	*world
	m     *machine
	image []byte
	info  ingot.Object // instance_info of n1
}

func newMetal(t *testing.T) *metal {
	t.Helper()
	return newWorld(t).metal()
}

// metal adds the machine to a world.
func (w *world) metal() *metal {
	t := w.t
	t.Helper()
	m := &machine{w: w, state: ingot.PowerOff, ctx: context.Background(),
		target: iscsitest.Start(t, iscsitest.Options{Size: 8 << 20})}
	var err error
	if m.outcome, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.set(func(m *machine) { m.halt() })
		m.outcome.Close()
		m.runs.Wait()
	})
	dir := t.TempDir()
	x := &metal{world: w, m: m, image: make([]byte, imageSize)}
	rand.Read(x.image[:1<<20])
	rand.Read(x.image[2<<20:]) // zeros in between
	for name, content := range map[string][]byte{
		"disk.raw": x.image, "vmlinuz": []byte("kernel"), "ramdisk": []byte("ramdisk"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	w.o.Table.Power[fake.Name] = m
	w.o.Table.Boot["ipxe"] = pxe.New(pxe.Options{
		Files:  bootfile.New(filepath.Join(dir, "cache"), nil, log),
		Env:    netboot.Env{BaseURLs: []string{"http://192.0.2.1:8080"}},
		Kernel: "file://" + dir + "/vmlinuz", Ramdisk: "file://" + dir + "/ramdisk",
		Log: log, Note: w.Add,
	})
	_, port, _ := net.SplitHostPort(m.outcome.Addr().String())
	outcomePort, _ := strconv.Atoi(port)
	w.o.Table.Deploy[iscsi.Name] = iscsi.New(iscsi.Options{
		OutcomePort: outcomePort,
		Image:       image.Options{AllowedPaths: []string{dir}, SpoolDir: dir + "/spool"},
	})
	sum := sha256.Sum256(x.image)
	no := false
	x.info = ingot.Object{"image_source": "file://" + dir + "/disk.raw",
		"image_checksum": hex.EncodeToString(sum[:])}
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Name: "n1",
		Driver: "fake-hardware", ProvisionState: "available", AutomatedClean: &no,
		BootIntent: ingot.BootNone, Interfaces: map[string]string{"boot": "ipxe",
			"deploy": "iscsi"},
		InstanceInfo: x.info}
	if err := w.o.Table.Complete(n); err != nil {
		t.Fatal(err)
	}
	if err := w.store.CreateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	err = w.store.CreatePort(t.Context(), &ingot.Port{NodeID: n.ID, Address: machineMAC,
		UUID: "3be26c0b-03f2-4d2e-ae87-c02d7f33c123", PXEEnabled: true})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// start runs a conductor that the machine can reach.
func (x *metal) start() (*conductor.Conductor, func()) {
	c, stop := x.world.start()
	x.m.set(func(m *machine) { m.cond = c })
	return c, stop
}

// silent makes a machine whose ramdisk never calls.
func (x *metal) silent() {
	x.m.set(func(m *machine) {
		m.tweak = func(string, ingot.Object) ingot.Object { return nil }
	})
}

// freed takes the instance away, on a conductor of its own, and lays out its image again.
func (x *metal) freed() {
	x.t.Helper()
	c, stop := x.start()
	defer stop()
	x.provision(c, "n1", "delete")
	n := x.state("n1", "available")
	n.InstanceInfo = maps.Clone(x.info)
	if _, err := c.UpdateNode(x.t.Context(), n, rpc.UpdateOptions{}); err != nil {
		x.t.Fatal(err)
	}
}

// wiped empties the disk.
func (x *metal) wiped() {
	x.t.Helper()
	f, err := os.OpenFile(x.m.target.Backing, os.O_WRONLY, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	// Not by writing: the race detector would look at each byte.
	const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(f.Fd()), hole, 0, 8<<20); err != nil {
		x.t.Fatal(err)
	}
}

// deployed checks everything that has to be true in the end.
func (x *metal) deployed() {
	x.t.Helper()
	n := x.state("n1", "active")
	if n.BootIntent != ingot.BootDisk || n.Attempt != nil || n.LastError != "" ||
		n.WaitUntil != nil || len(n.Steps) != 0 || n.PowerState != ingot.PowerOn {
		x.t.Errorf("active: %+v", n)
	}
	disk, err := os.ReadFile(x.m.target.Backing)
	if err != nil || !bytes.Equal(disk[:imageSize], x.image) {
		x.t.Errorf("the disk does not hold the image (%v)", err)
	}
	deadline := time.Now().Add(patience)
	for !x.m.has("disk") && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if !x.m.has("disk") {
		x.t.Errorf("the machine did not boot its disk: %v", x.m.story())
	}
	if s := x.m.target.Sessions(x.t); strings.Contains(s, "Connection") {
		x.t.Errorf("an iSCSI session was left behind:\n%s", s)
	}
}

// failed checks what a deployment that failed leaves.
func (x *metal) failed(why string) *ingot.Node {
	x.t.Helper()
	n := x.state("n1", "deploy failed")
	if !strings.Contains(n.LastError, why) {
		x.t.Errorf("last error %q, want %q", n.LastError, why)
	}
	if n.BootIntent != ingot.BootError || n.Attempt != nil || n.WaitUntil != nil ||
		len(n.Steps) != 0 || n.PowerState != ingot.PowerOff || x.m.power() != ingot.PowerOff {
		x.t.Errorf("deploy failed: %+v, machine %s", n, x.m.power())
	}
	return n
}

func (m *machine) set(change func(m *machine)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *machine) power() ingot.PowerState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *machine) story() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.events...)
}

func (m *machine) has(event string) bool {
	for _, e := range m.story() {
		if e == event {
			return true
		}
	}
	return false
}

func (m *machine) did(event string) {
	m.set(func(m *machine) { m.events = append(m.events, event) })
}

// halt stops what the machine runs; mu is held.
func (m *machine) halt() {
	if m.stop != nil {
		m.stop()
	}
}

// PowerState asks the machine.
func (m *machine) PowerState(context.Context, *driver.Task) (ingot.PowerState, error) {
	return m.power(), nil
}

// SetPower switches the machine; one that comes on boots.
func (m *machine) SetPower(ctx context.Context, _ *driver.Task, s ingot.PowerState) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.halt()
	m.state = driver.PowerResult(s)
	m.events = append(m.events, string(s))
	if m.state == ingot.PowerOff {
		return nil
	}
	run, stop := context.WithCancel(m.ctx)
	m.stop = stop
	m.runs.Go(func() { m.boot(run) })
	return nil
}

// call repeats a call to whatever conductor there is until it is taken or the machine stops.
func (m *machine) call(ctx context.Context, fn func(*conductor.Conductor) error) bool {
	for ctx.Err() == nil {
		m.mu.Lock()
		c := m.cond
		m.mu.Unlock()
		if c != nil && fn(c) == nil {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	return false
}

var keyForm = regexp.MustCompile(`deployment_key=(\w+)`)

// boot does what the script says.
func (m *machine) boot(ctx context.Context) {
	var script string
	if !m.call(ctx, func(c *conductor.Conductor) error {
		r, err := c.CallDriver(ctx, "fake-hardware", rpc.Call{Method: "ipxe_config",
			HTTPMethod: "GET", PublicOnly: true, Args: ingot.Object{"port_address": machineMAC}})
		script = string(r.Body)
		return err
	}) {
		return
	}
	switch key := keyForm.FindStringSubmatch(script); {
	case strings.Contains(script, " agent_protocol=ipa"):
		m.did("ramdisk")
		m.agent(ctx)
	case key != nil:
		m.did("ramdisk")
		m.ramdisk(ctx, key[1])
	case strings.Contains(script, " root=/dev/ram0 "):
		m.did("instance")
	case strings.Contains(script, "sanboot"):
		m.did("disk")
	default:
		m.did("stopped")
	}
}

// ramdisk is the deploy ramdisk.
func (m *machine) ramdisk(ctx context.Context, key string) {
	host, port, _ := net.SplitHostPort(m.target.Addr)
	if !m.post(ctx, "pass_deploy_info", ingot.Object{"address": host, "port": port, "key": key,
		"iqn": m.target.IQN, "lun": "1"}) {
		return
	}
	m.did("info")
	// The outcome may be told again, by a conductor that does not know that it was told.
	told := make(chan string, 1)
	m.runs.Go(func() {
		defer close(told)
		for {
			line, conn, err := m.hear(ctx)
			if err != nil {
				return
			}
			io.WriteString(conn, "ok\n")
			conn.Close()
			select {
			case told <- line:
			default:
			}
		}
	})
	line := <-told
	if line == "" {
		return // switched off
	}
	m.did(strings.Fields(line)[0])
	m.mu.Lock()
	loader := m.loader
	m.mu.Unlock()
	if line == "done" && loader != "" {
		m.post(ctx, "pass_bootloader_install_info", ingot.Object{"key": key, "address": host,
			"status": loader, "error": ""})
		return
	}
	if line == "done" && m.post(ctx, "pass_deploy_status", ingot.Object{"key": key,
		"status": "Completed"}) {
		m.did("Completed")
	}
}

// hear waits for the outcome.
func (m *machine) hear(ctx context.Context) (string, net.Conn, error) {
	for {
		m.outcome.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond))
		conn, err := m.outcome.Accept()
		if err == nil {
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if line == "" {
				conn.Close()
				continue
			}
			return strings.TrimSpace(line), conn, nil
		}
		if ne, ok := err.(net.Error); !ok || !ne.Timeout() || ctx.Err() != nil {
			return "", nil, err
		}
	}
}

// post sends a call, again and again until it is taken.
func (m *machine) post(ctx context.Context, method string, args ingot.Object) bool {
	m.mu.Lock()
	tweak := m.tweak
	m.mu.Unlock()
	if tweak != nil {
		if args = tweak(method, args); args == nil {
			return false
		}
	}
	return m.call(ctx, func(c *conductor.Conductor) error {
		_, err := c.CallNode(ctx, "n1", rpc.Call{Method: method, HTTPMethod: "POST",
			PublicOnly: true, Args: args})
		return err
	})
}
