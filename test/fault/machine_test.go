package fault

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/clock"
	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/transport/udp"
	"github.com/bougou/go-ipmi/pkg/types"

	"ingot/internal/iscsi/iscsitest"
	"ingot/internal/testkit"
)

const (
	mac      = "52:54:00:0f:a1:01"
	bmcUser  = "admin"
	bmcWord  = "horse-battery"
	chapName = "ramdisk"
	chapWord = "correct-horse-battery"
	diskSize = 8 << 20
	// outcomePort is where a ramdisk waits to hear how the copy ended.
	outcomePort = "10000"
)

// machine is a computer seen through its wires: a BMC that speaks IPMI, a network card that
// fetches its boot script by HTTP, a disk behind a real iSCSI target, and the deploy ramdisk's
// side of the protocol.
type machine struct {
	*mock.Chassis
	target *iscsitest.Target
	// boots is where the network card asks for scripts; the server's boot socket.
	boots func() string

	mu     sync.Mutex // guards what follows
	bmc    net.Addr
	on     bool
	flags  types.BootOptionParam_BootFlags
	stop   context.CancelFunc // of what runs now
	story  []string
	manner manner
	runs   sync.WaitGroup
}

// manner is how a ramdisk behaves; the zero value behaves well.
type manner struct {
	// silent ramdisks never call.
	silent bool
	// report changes the body of pass_deploy_info.
	report func(body map[string]any)
	// beforeCompleted is called between hearing of the end and saying Completed.
	beforeCompleted func(r *ramdisk)
	// valve, if set, holds back what is written to the disk.
	valve *valve
}

// valve lets some bytes pass and the rest when it is opened.
type valve struct {
	after   int64
	once    sync.Once
	reached chan struct{} // closed when bytes are held back
	open    chan struct{} // closed by the test
}

func newValve(after int64) *valve {
	return &valve{after: after, reached: make(chan struct{}), open: make(chan struct{})}
}

// newMachine plugs a machine in; it is off. Its disk is in the file backing, "" is a new one.
func newMachine(t *testing.T, boots func() string, disk int64, backing string) *machine {
	t.Helper()
	m := &machine{Chassis: &mock.Chassis{}, boots: boots,
		target: iscsitest.Start(t, iscsitest.Options{Size: disk, Backing: backing,
			Username: chapName, Secret: chapWord})}
	m.serveBMC(t, bmcUser, bmcWord)
	t.Cleanup(func() {
		m.mu.Lock()
		m.halt()
		m.mu.Unlock()
		m.runs.Wait()
	})
	return m
}

// board is a hal.HAL whose chassis is the machine.
type board struct {
	*mock.HAL
	machine *machine
}

// Chassis is what the BMC switches.
func (b board) Chassis() hal.ChassisHAL { return b.machine }

// serveBMC starts a BMC with one user and no session, at an address of its own.
func (m *machine) serveBMC(t testing.TB, name, word string) {
	suites := []types.CipherSuiteID{types.CipherSuiteID3, types.CipherSuiteID17}
	b := bmc.New(bmc.DeviceInfo{DeviceID: 32, IPMIVersion: 0x20}, [16]byte{1},
		board{mock.New(), m}, bmc.WithClock(clock.Real), bmc.WithCipherSuites(suites))
	user, err := b.Users.Add(2, name)
	if err != nil {
		t.Error(err)
		return
	}
	user.SetPassword([]byte(word))
	user.Enabled = true
	user.ChannelAccess[1] = bmc.UserChannelAccess{
		MaxPrivilege: bmc.PrivilegeLevelAdministrator, Enabled: true}
	conn, err := udp.Listen("127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return
	}
	srv := server.NewServer(b, conn, server.WithCipherSuites(suites))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(context.Background()) // ends with Close
	}()
	t.Cleanup(func() {
		srv.Close()
		conn.Close()
		<-ended
	})
	m.mu.Lock()
	m.bmc = conn.LocalAddr()
	m.mu.Unlock()
}

// bmcAddr is where the BMC is now.
func (m *machine) bmcAddr() net.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bmc
}

// behave sets how the next ramdisk behaves.
func (m *machine) behave(how manner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.manner = how
}

// isOn is the truth about the power.
func (m *machine) isOn() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}

// did adds to what the machine did.
func (m *machine) did(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.story = append(m.story, what)
}

// deeds is what the machine did so far.
func (m *machine) deeds() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.story)
}

// halt stops what the machine runs; mu is held.
func (m *machine) halt() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// PowerState answers the BMC.
func (m *machine) PowerState(context.Context) (bool, error) { return m.isOn(), nil }

// SetPower switches the machine; one that comes on boots.
func (m *machine) SetPower(_ context.Context, on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if on == m.on {
		return nil
	}
	m.halt()
	m.on = on
	if !on {
		m.story = append(m.story, "off")
		return nil
	}
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	disk := m.flags.BootFlagsValid &&
		m.flags.BootDeviceSelector == types.BootDeviceSelectorForceHardDrive
	if !m.flags.Persist {
		m.flags.BootFlagsValid = false
	}
	m.runs.Go(func() { m.boot(ctx, disk) })
	return nil
}

// SetBootFlags takes the boot device.
func (m *machine) SetBootFlags(_ context.Context, f *types.BootOptionParam_BootFlags) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flags = *f
	return nil
}

// GetBootFlags tells the boot device.
func (m *machine) GetBootFlags(context.Context) (*types.BootOptionParam_BootFlags, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.flags
	return &f, nil
}

// boot does what firmware and iPXE do.
func (m *machine) boot(ctx context.Context, disk bool) {
	if disk {
		m.did("disk")
		return
	}
	script, err := fetch(ctx, m.boots()+
		"/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address="+mac)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		m.did("no script: " + err.Error())
	case strings.Contains(script, "\nkernel "):
		m.bootRamdisk(ctx, script)
	case strings.Contains(script, "sanboot"):
		m.did("disk")
	default:
		m.did("stopped")
	}
}

var (
	fileForm = regexp.MustCompile(`(?m)^(?:kernel|initrd) .*?(http://\S+/(?:files|v1)/\S+)`)
	argForm  = regexp.MustCompile(`(deployment_id|deployment_key|ironic_api_url)=(\S+)`)
)

// bootRamdisk fetches kernel and ramdisk and runs the latter.
func (m *machine) bootRamdisk(ctx context.Context, script string) {
	for _, file := range fileForm.FindAllStringSubmatch(script, -1) {
		if _, err := fetch(ctx, file[1]); err != nil {
			m.did("no boot file: " + err.Error())
			return
		}
	}
	m.did("ramdisk")
	r := &ramdisk{m: m, args: map[string]string{}}
	m.mu.Lock()
	r.manner = m.manner
	m.mu.Unlock()
	for _, arg := range argForm.FindAllStringSubmatch(script, -1) {
		r.args[arg[1]] = arg[2]
	}
	if r.manner.silent {
		return
	}
	if err := r.run(ctx); err != nil && ctx.Err() == nil {
		m.did("ramdisk failed: " + err.Error())
	}
}

// ramdisk is one life of the deploy ramdisk.
type ramdisk struct {
	m      *machine
	args   map[string]string // of the kernel
	manner manner
	info   map[string]any // what it reported
}

func (r *ramdisk) run(ctx context.Context) error {
	outcome, err := listenOutcome()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { outcome.Close() })()
	defer outcome.Close()
	host, _, _ := net.SplitHostPort(outcome.Addr().String())
	port, err := r.export(ctx, host)
	if err != nil {
		return err
	}
	r.info = map[string]any{"address": host, "port": port, "iqn": r.m.target.IQN, "lun": "1",
		"key": r.args["deployment_key"], "chap_username": chapName, "chap_password": chapWord}
	if r.manner.report != nil {
		r.manner.report(r.info)
	}
	if err := r.insist(ctx, "pass_deploy_info", r.info); err != nil {
		return err
	}
	line, err := hear(outcome)
	if err != nil {
		return err
	}
	r.m.did(line)
	if line == "done" {
		// The outcome may be told again, by a conductor that does not know that it was told.
		r.m.runs.Go(func() {
			for again := error(nil); again == nil; {
				_, again = hear(outcome)
			}
		})
		if r.manner.beforeCompleted != nil {
			r.manner.beforeCompleted(r)
		}
		err := r.insist(ctx, "pass_deploy_status", map[string]any{
			"key": r.args["deployment_key"], "status": "Completed"})
		if err != nil {
			return err
		}
		r.m.did("Completed")
	}
	<-ctx.Done() // it waits to be switched off
	return nil
}

// listenOutcome gives the ramdisk an address of its own: the port is the same for all.
func listenOutcome() (net.Listener, error) {
	for try := 0; ; try++ {
		ip := net.IPv4(127, byte(1+rand.IntN(254)), byte(rand.IntN(256)), byte(1+rand.IntN(254)))
		l, err := net.Listen("tcp4", net.JoinHostPort(ip.String(), outcomePort))
		if err == nil || try == 20 {
			return l, err
		}
	}
}

// hear reads one line of the conductor and confirms it.
func hear(l net.Listener) (string, error) {
	conn, err := l.Accept()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	_, err = io.WriteString(conn, "ok\n")
	return strings.TrimSpace(line), err
}

// export makes the iSCSI target reachable at an address of the machine until ctx ends.
func (r *ramdisk) export(ctx context.Context, host string) (port string, err error) {
	l, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	r.m.runs.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.m.runs.Go(func() { r.relay(ctx, conn) })
		}
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	return port, err
}

// relay joins a connection to the target; what goes to the disk passes the valve.
func (r *ramdisk) relay(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	disk, err := net.Dial("tcp", r.m.target.Addr)
	if err != nil {
		return
	}
	defer disk.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { conn.Close(); disk.Close() })()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, disk) // ends when either side does
		cancel()
	})
	if v := r.manner.valve; v != nil {
		if _, err := io.CopyN(disk, conn, v.after); err == nil {
			v.once.Do(func() { close(v.reached) })
			select {
			case <-v.open:
			case <-ctx.Done():
			}
		}
	}
	_, _ = io.Copy(disk, conn)
	cancel()
	back.Wait()
}

// insist posts until the answer is no "try again", as the agent does.
func (r *ramdisk) insist(ctx context.Context, method string, body map[string]any) error {
	for {
		status, text, err := r.post(ctx, method, body)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && status < 300:
			return nil
		case err == nil && status != http.StatusConflict && status < 500:
			return fmt.Errorf("%s: %d %s", method, status, text)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// post calls the server once.
func (r *ramdisk) post(ctx context.Context, method string, body map[string]any) (status int,
	text string, err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, "", err
	}
	url := r.args["ironic_api_url"] + "/v1/nodes/" + r.args["deployment_id"] +
		"/vendor_passthru/" + method
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := testkit.Web.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

// fetch gets a URL; everything but 200 is an error.
func fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := testkit.Web.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return string(body), err
}
