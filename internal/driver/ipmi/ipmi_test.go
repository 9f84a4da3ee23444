package ipmi_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/hal/mock"
	"github.com/bougou/go-ipmi/pkg/types"

	"ingot/internal/driver"
	"ingot/internal/driver/ipmi"
	"ingot/internal/ingot"
)

// chassis is a machine behind a simulated BMC.
type chassis struct {
	*mock.Chassis
	mu       sync.Mutex
	on       bool
	stuck    bool // takes commands and does nothing
	busy     int  // so many questions are answered with "node busy"
	flags    types.BootOptionParam_BootFlags
	switched []string
	guid     []byte // system GUID; nil: its BMC has no such command
	// crash, if set, is called once in place of the next change of power.
	crash func()
}

func (c *chassis) set(change func(c *chassis)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *chassis) PowerState(context.Context) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy > 0 {
		c.busy--
		return false, types.CodeNodeBusy
	}
	return c.on, nil
}

func (c *chassis) SetPower(_ context.Context, on bool) error {
	c.mu.Lock()
	crash := c.crash
	c.crash = nil
	c.mu.Unlock()
	if crash != nil {
		crash()
		return nil
	}
	c.set(func(c *chassis) {
		c.switched = append(c.switched, map[bool]string{true: "on", false: "off"}[on])
		c.on = on != c.stuck
	})
	return nil
}

// WarmReset is what the simulator makes of a soft shutdown.
func (c *chassis) WarmReset(context.Context) error {
	c.set(func(c *chassis) {
		c.switched = append(c.switched, "soft")
		c.on = false
	})
	return nil
}

func (c *chassis) SetBootFlags(_ context.Context, f *types.BootOptionParam_BootFlags) error {
	c.set(func(c *chassis) { c.flags = *f })
	return nil
}

func (c *chassis) GetBootFlags(context.Context) (*types.BootOptionParam_BootFlags, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.flags
	return &f, nil
}

// board is a hal.HAL with that chassis.
type board struct {
	*mock.HAL
	chassis *chassis
}

func (b board) Chassis() hal.ChassisHAL { return b.chassis }

// simulate starts a BMC and returns its machine and a task for a node behind it.
func simulate(t *testing.T, suites ...types.CipherSuiteID) (*chassis, *driver.Task) {
	t.Helper()
	ch, _, tk := simulateWire(t, suites...)
	return ch, tk
}

// simulateWire also returns the BMC's network connection.
func simulateWire(t *testing.T, suites ...types.CipherSuiteID) (*chassis, *wire, *driver.Task) {
	t.Helper()
	if len(suites) == 0 {
		suites = []types.CipherSuiteID{types.CipherSuiteID3, types.CipherSuiteID17}
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, ch: &chassis{Chassis: &mock.Chassis{}}, suites: suites, conn: conn}
	w.start()
	t.Cleanup(func() {
		w.stop()
		conn.Close()
	})
	return w.ch, w, task(conn.LocalAddr())
}

func task(addr net.Addr) *driver.Task {
	host, port, _ := net.SplitHostPort(addr.String())
	return &driver.Task{
		Node: &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", DriverInfo: ingot.Object{
			"ipmi_address": host, "ipmi_port": port, "ipmi_username": "admin",
			"ipmi_password": "secret"}},
		Log: slog.New(slog.DiscardHandler), Note: func(ingot.Entry) {},
	}
}

func family(o ipmi.Options) *ipmi.Family {
	if o.PollInterval == 0 {
		o.PollInterval = time.Millisecond
	}
	return ipmi.New(o)
}

func TestPowerGoesWhereItIsTold(t *testing.T) {
	t.Parallel()
	ch, tk := simulate(t)
	p := family(ipmi.Options{}).Power()
	for _, c := range []struct {
		target, want ingot.PowerState
		switched     string
	}{
		{ingot.PowerOff, ingot.PowerOff, ""}, // is off
		{ingot.PowerOn, ingot.PowerOn, "on"},
		{ingot.PowerOn, ingot.PowerOn, ""}, // is on
		{ingot.Rebooting, ingot.PowerOn, "off on"},
		{ingot.SoftReboot, ingot.PowerOn, "soft on"},
		{ingot.SoftPowerOff, ingot.PowerOff, "soft"},
		{ingot.Rebooting, ingot.PowerOn, "on"}, // was off
		{ingot.PowerOff, ingot.PowerOff, "off"},
	} {
		ch.set(func(c *chassis) { c.switched = nil })
		if err := p.SetPower(t.Context(), tk, c.target); err != nil {
			t.Fatalf("%s: %v", c.target, err)
		}
		state, err := p.PowerState(t.Context(), tk)
		if err != nil || state != c.want {
			t.Errorf("%s: state %q, %v", c.target, state, err)
		}
		ch.set(func(ch *chassis) {
			if got := strings.Join(ch.switched, " "); got != c.switched {
				t.Errorf("%s: switched %q, want %q", c.target, got, c.switched)
			}
		})
	}
}

func TestBothCipherSuitesWork(t *testing.T) {
	t.Parallel()
	for _, suite := range []types.CipherSuiteID{types.CipherSuiteID3, types.CipherSuiteID17} {
		_, tk := simulate(t, suite)
		if _, err := family(ipmi.Options{}).Power().PowerState(t.Context(), tk); err != nil {
			t.Errorf("suite %d: %v", suite, err)
		}
	}
	_, tk := simulate(t, types.CipherSuiteID17)
	tk.Node.DriverInfo["ipmi_cipher_suite"] = 3
	if _, err := family(ipmi.Options{}).Power().PowerState(t.Context(), tk); err == nil {
		t.Error("ipmi_cipher_suite is not obeyed")
	}
}

func TestAMachineThatDoesNotSwitchIsReported(t *testing.T) {
	t.Parallel()
	ch, tk := simulate(t)
	ch.set(func(c *chassis) { c.on, c.stuck = true, true })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := family(ipmi.Options{}).Power().SetPower(ctx, tk, ingot.PowerOff)
	if err == nil || !strings.Contains(err.Error(), "did not change its state") {
		t.Errorf("error %v", err)
	}
}

func TestBootDevicesAreSetWithModeAndDuration(t *testing.T) {
	t.Parallel()
	ch, tk := simulate(t)
	for _, c := range []struct {
		mode string
		dev  driver.BootDevice
		efi  bool
	}{
		{"bios", driver.BootDevice{Device: "pxe"}, false},
		{"uefi", driver.BootDevice{Device: "disk", Persistent: true}, true},
		{"", driver.BootDevice{Device: "cdrom", Persistent: true}, true},
		{"bios", driver.BootDevice{Device: "bios"}, false},
		{"bios", driver.BootDevice{Device: "safe"}, false},
	} {
		tk.Node.Properties = ingot.Object{"capabilities": "boot_mode:" + c.mode}
		m := family(ipmi.Options{}).Management()
		if err := m.SetBootDevice(t.Context(), tk, c.dev); err != nil {
			t.Fatal(err)
		}
		if got, err := m.BootDevice(t.Context(), tk); err != nil || got != c.dev {
			t.Errorf("set %+v, got %+v, %v", c.dev, got, err)
		}
		ch.set(func(ch *chassis) {
			if bool(ch.flags.BIOSBootType) != c.efi || !ch.flags.BootFlagsValid {
				t.Errorf("%+v in mode %q: flags %+v", c.dev, c.mode, ch.flags)
			}
		})
	}
	err := family(ipmi.Options{}).Management().SetBootDevice(t.Context(), tk,
		driver.BootDevice{Device: "tape"})
	if ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("tape: %v", err)
	}
}

func TestASilentBMCIsNamedInTime(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tk, notes := task(conn.LocalAddr()), []string{}
	tk.Note = func(e ingot.Entry) { notes = append(notes, e.Text) }
	power := family(ipmi.Options{Timeout: 200 * time.Millisecond}).Power()
	if _, err = power.PowerState(t.Context(), tk); err == nil || len(notes) != 0 {
		t.Errorf("error %v; nobody waits, yet the journal says %q", err, notes)
	}
	tk.Node.ProvisionState, tk.Node.TargetProvisionState = "verifying", "manageable"
	start := time.Now()
	_, err = power.PowerState(t.Context(), tk)
	if len(notes) != 1 || !strings.Contains(notes[0], "does not answer yet; it has 200ms") {
		t.Errorf("while somebody waits the journal says %q", notes)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), conn.LocalAddr().String()+" did not answer within 200ms") ||
		!strings.Contains(err.Error(), "check that it has power") {
		t.Errorf("error %v", err)
	}
}

// The network between may be out, and a deployment should not fail for it.
func TestABMCThatIsOutOfReachInADeploymentIsTriedForLonger(t *testing.T) {
	t.Parallel()
	ch, w, tk := simulateWire(t)
	ch.set(func(c *chassis) { c.on = true })
	notes := []string{}
	tk.Note = func(e ingot.Entry) { notes = append(notes, e.Text) }
	power := family(ipmi.Options{Timeout: time.Second, PollInterval: 100 * time.Millisecond}).Power()
	w.dead.Store(true)
	if _, err := power.PowerState(t.Context(), tk); err == nil {
		t.Error("a silent BMC has answered")
	}
	tk.Node.ProvisionState, tk.Node.TargetProvisionState = "deploying", "active"
	time.AfterFunc(2*time.Second, func() { w.dead.Store(false) })
	state, err := power.PowerState(t.Context(), tk)
	if err != nil || state != ingot.PowerOn {
		t.Errorf("%q, %v", state, err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "does not answer yet; it has 6s") {
		t.Errorf("the journal says %q", notes)
	}
	w.dead.Store(true)
	power = family(ipmi.Options{Timeout: 100 * time.Millisecond}).Power()
	if _, err = power.PowerState(t.Context(), tk); ingot.KindOf(err) != ingot.Unavailable {
		t.Errorf("error %v", err)
	}
}

func TestWhereNothingListensIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	_, err = family(ipmi.Options{}).Power().PowerState(t.Context(), task(conn.LocalAddr()))
	if err == nil || !strings.Contains(err.Error(), "nothing listens there") {
		t.Errorf("error %v", err)
	}
}

func TestAWrongPasswordIsCalledThat(t *testing.T) {
	t.Parallel()
	_, tk := simulate(t)
	for key, value := range map[string]string{"ipmi_password": "wrong", "ipmi_username": "nobody"} {
		di := tk.Node.DriverInfo
		old := di[key]
		di[key] = value
		_, err := family(ipmi.Options{}).Power().PowerState(t.Context(), tk)
		if err == nil || !strings.Contains(err.Error(), "check ipmi_username and ipmi_password") {
			t.Errorf("%s: error %v", key, err)
		}
		if err != nil && (strings.Contains(err.Error(), "wrong") ||
			strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: the error tells the password: %v", key, err)
		}
		di[key] = old
	}
}

func TestOperationsOnOneBMCQueueUp(t *testing.T) {
	t.Parallel()
	_, tk := simulate(t)
	f := family(ipmi.Options{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := f.Power().PowerState(t.Context(), tk); err != nil {
				t.Error(err)
			}
			if _, err := f.Management().BootDevice(t.Context(), tk); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestDriverInfoIsChecked(t *testing.T) {
	t.Parallel()
	for want, info := range map[string]ingot.Object{
		"['ipmi_address']":      {},
		"IP address or a host":  {"ipmi_address": "a b"},
		"number from 1":         {"ipmi_address": "a", "ipmi_port": 0},
		"ipmi_priv_level":       {"ipmi_address": "a", "ipmi_priv_level": "KING"},
		"ipmi_cipher_suite":     {"ipmi_address": "a", "ipmi_cipher_suite": "x"},
		"ipmi_protocol_version": {"ipmi_address": "a", "ipmi_protocol_version": "3"},
		"too long":              {"ipmi_address": "a", "ipmi_password": strings.Repeat("x", 21)},
		"ipmi_bridging":         {"ipmi_address": "a", "ipmi_bridging": "dual"},
		"ipmi_hex_kg_key":       {"ipmi_address": "a", "ipmi_hex_kg_key": "00"},
	} {
		tk := &driver.Task{Node: &ingot.Node{UUID: "u", DriverInfo: info}}
		for _, v := range []driver.Validator{family(ipmi.Options{}).Power(),
			family(ipmi.Options{}).Management()} {
			err := v.Validate(t.Context(), tk)
			if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: error %v, want %q", info, err, want)
			}
		}
	}
	ok := &driver.Task{Node: &ingot.Node{DriverInfo: ingot.Object{"ipmi_address": "::1",
		"ipmi_port": 6230.0, "ipmi_priv_level": "operator", "ipmi_bridging": "no"}}}
	if err := family(ipmi.Options{}).Power().Validate(t.Context(), ok); err != nil {
		t.Error(err)
	}
}

func TestABMCThatIsBusyIsAskedAgain(t *testing.T) {
	t.Parallel()
	ch, tk := simulate(t)
	ch.set(func(c *chassis) { c.on, c.busy = true, 2 })
	state, err := family(ipmi.Options{}).Power().PowerState(t.Context(), tk)
	if err != nil || state != ingot.PowerOn {
		t.Errorf("%q, %v", state, err)
	}
	ch.set(func(c *chassis) { c.busy = 1000 })
	_, err = family(ipmi.Options{Timeout: time.Second}).Power().PowerState(t.Context(), tk)
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "busy") {
		t.Errorf("error %v", err)
	}
}

// Between the off and the on of a restart the right to switch the machine may end.
func TestNoCommandIsSentOnceTheMachineIsAnothers(t *testing.T) {
	t.Parallel()
	ch, tk := simulate(t)
	ch.set(func(c *chassis) { c.on = true })
	asked := 0
	tk.May = func() error {
		if asked++; asked > 1 {
			return errors.New("lost")
		}
		return nil
	}
	err := family(ipmi.Options{}).Power().SetPower(t.Context(), tk, ingot.Rebooting)
	if err == nil || !strings.Contains(err.Error(), "power up: lost") {
		t.Errorf("error %v", err)
	}
	err = family(ipmi.Options{}).Management().SetBootDevice(t.Context(), tk,
		driver.BootDevice{Device: "pxe"})
	if err == nil || !strings.Contains(err.Error(), "set the boot device: lost") {
		t.Errorf("boot device: %v", err)
	}
	ch.set(func(ch *chassis) {
		if got := strings.Join(ch.switched, " "); got != "off" {
			t.Errorf("switched %q", got)
		}
	})
}
