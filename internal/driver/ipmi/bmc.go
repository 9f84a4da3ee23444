package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

const (
	// attemptTimeout is how long one packet's answer is waited for at least before it is sent
	// again, and attemptsInTime how many such waits make up the time of an operation.
	attemptTimeout = 2 * time.Second
	attemptsInTime = 5
	attempts       = 4
	// refusalTime is how long a BMC takes at most to refuse a login that nobody has held up.
	refusalTime = 2 * time.Second
	// closeTimeout bounds the end of a session. A BMC that misses it ends it by itself after a
	// minute.
	closeTimeout = time.Second
	// insufficientPrivilege is a completion code (IPMI 2.0, table 5-2).
	insufficientPrivilege types.CompletionCode = 0xd4
	// busyPause is how long a BMC that is busy is left alone at first; each time twice as long.
	busyPause    = 250 * time.Millisecond
	maxBusyPause = 2 * time.Second
)

// bmc is one session with a BMC: what we ask of one, and nothing else.
type bmc interface {
	poweredOn(ctx context.Context) (bool, error)
	control(ctx context.Context, a action) error
	bootFlags(ctx context.Context) (flags, error)
	setBootFlags(ctx context.Context, f flags) error
	// keepBootFlags tells the BMC not to forget boot flags after 60 seconds.
	keepBootFlags(ctx context.Context) error
	// systemGUID names the machine; "" if the BMC does not know it.
	systemGUID(ctx context.Context) (string, error)
}

// action is a command of Chassis Control (IPMI 2.0, 28.3).
type action string

const (
	up           action = "power up"
	down         action = "power down"
	softShutdown action = "soft shutdown"
)

var controls = map[action]chassis.ChassisControl{
	up: chassis.ChassisControlPowerUp, down: chassis.ChassisControlPowerDown,
	softShutdown: chassis.ChassisControlSoftShutdown,
}

// flags are the boot flags (IPMI 2.0, table 28-14, parameter 5) that we use.
type flags struct {
	device     string // "" is no override
	persistent bool
	efi        bool
}

// devices are the boot devices that IPMI can name, in the order in which they are listed.
var devices = []struct {
	name     string
	selector types.BootDeviceSelector
}{
	{"pxe", types.BootDeviceSelectorForcePXE},
	{"disk", types.BootDeviceSelectorForceHardDrive},
	{"cdrom", types.BootDeviceSelectorForceCDROM},
	{"bios", types.BootDeviceSelectorForceBIOSSetup},
	{"safe", types.BootDeviceSelectorForceHardDriveSafe},
}

// ask runs fn in a session of its own, and in another one if that is lost on the way. A BMC that
// does not even let us in gets Options.Timeout. Errors are ingot.Unavailable and tell which BMC it
// is, and what to check if it did not even let us in.
func (f *Family) ask(ctx context.Context, t *driver.Task, what string,
	fn func(ctx context.Context, b bmc) error) error {
	i, err := parse(t.Node)
	if err != nil {
		return err
	}
	return f.Ask(ctx, t, i.address(), func(ctx context.Context, answered func()) driver.Attempt {
		return f.try(ctx, t, i, what, answered, fn)
	})
}

// try runs fn in one session, again while the BMC says that it is busy.
func (f *Family) try(ctx context.Context, t *driver.Task, i info, what string, answered func(),
	fn func(ctx context.Context, b bmc) error) driver.Attempt {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	begun := time.Now()
	c, err := connect(ctx, i, f.Timeout)
	if err != nil && !gone(ctx, err) && time.Since(begun) > refusalTime {
		// Somebody stood still in the middle, and the BMC has given the login up.
		c, err = connect(ctx, i, f.Timeout)
	}
	if err != nil {
		t.Log.Debug("IPMI login failed", "bmc", i.address(), "error", oneLine(err))
		return driver.Attempt{Gone: gone(ctx, err), Err: f.explain(ctx, i, err)}
	}
	answered()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Log.Debug("end of IPMI session failed", "bmc", i.address(), "error", err)
		}
	}()
	err = fn(ctx, session{c})
	for pause := busyPause; busy(err) && driver.Wait(ctx, pause); pause = min(2*pause, maxBusyPause) {
		err = fn(ctx, session{c})
	}
	if err != nil {
		t.Log.Debug("IPMI command failed", "bmc", i.address(), "error", oneLine(err))
		return driver.Attempt{Entered: true, Gone: gone(ctx, err), Err: f.failed(ctx, i, what, err)}
	}
	return driver.Attempt{Entered: true}
}

// gone tells whether err is about a BMC that is not there, as opposed to one that refuses.
func gone(ctx context.Context, err error) bool {
	var answer *types.ResponseError
	return !errors.As(err, &answer) && (silent(ctx, err) || errors.Is(err, syscall.ECONNREFUSED))
}

// busy tells whether the BMC asks to be asked again later.
func busy(err error) bool {
	var answer *types.ResponseError
	return errors.As(err, &answer) && answer.CompletionCode() == types.CodeNodeBusy
}

// failed tells what a command that failed after the login means for a person.
func (f *Family) failed(ctx context.Context, i info, what string, err error) error {
	var answer *types.ResponseError
	var ours *ingot.Error
	switch {
	case errors.As(err, &ours):
		return err
	case errors.As(err, &answer) && answer.CompletionCode() == insufficientPrivilege:
		return ingot.Errorf(ingot.Unavailable, "BMC %s refused to %s: privilege level %s is not "+
			"enough for it; set a higher ipmi_priv_level and use a user who has it",
			i.address(), what, i.privilege)
	case busy(err):
		return ingot.Errorf(ingot.Unavailable, "BMC %s was asked to %s and said for %s that it is "+
			"busy; try again, or restart it if it stays so", i.address(), what, f.Timeout)
	case errors.As(err, &answer):
		return ingot.Errorf(ingot.Unavailable, "BMC %s refused to %s (%v); look at its log and "+
			"try again", i.address(), what, answer)
	case silent(ctx, err):
		return ingot.Errorf(ingot.Unavailable, "BMC %s stopped answering when it was asked to "+
			"%s; check that it still has power and a network connection. If it is merely slow, set "+
			"a larger bmc_timeout (it is %s)", i.address(), what, f.Timeout)
	}
	return ingot.Errorf(ingot.Unavailable, "BMC %s was asked to %s: %s", i.address(), what,
		oneLine(err))
}

// connect logs in. Packets are waited for longer when all has more time, because a BMC that needs
// half a minute for each answer would otherwise never be heard.
func connect(ctx context.Context, i info, timeout time.Duration) (*client.Client, error) {
	host := i.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]" // go-ipmi joins with a colon
	}
	c, err := client.NewClient(host, i.port, i.user, i.password.Reveal())
	if err != nil {
		return nil, err
	}
	suites := make([]types.CipherSuiteID, len(i.suites))
	for k, s := range i.suites {
		suites[k] = types.CipherSuiteID(s)
	}
	level := map[string]types.PrivilegeLevel{
		"ADMINISTRATOR": types.PrivilegeLevelAdministrator,
		"OPERATOR":      types.PrivilegeLevelOperator,
		"USER":          types.PrivilegeLevelUser,
		"CALLBACK":      types.PrivilegeLevelCallback,
	}[i.privilege]
	c.WithTimeout(max(attemptTimeout, timeout/attemptsInTime)).WithRetry(attempts).WithCipherSuiteID(suites...).
		WithMaxPrivilegeLevel(level)
	if i.lan15 {
		c.WithInterface(client.InterfaceLan)
	}
	if err := c.Connect(ctx); err != nil {
		// There is no session to end, only a socket to close.
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Close(ended)
		return nil, err
	}
	return c, nil
}

// explain tells what a failed login means for a person. go-ipmi does not keep the causes apart
// in its errors, which list all that it tried; whether the time ran out does.
func (f *Family) explain(ctx context.Context, i info, err error) error {
	var unknown *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return ingot.Errorf(ingot.Unavailable, "BMC %s: nothing listens there; check "+
			"ipmi_address and ipmi_port, and that IPMI over LAN is enabled on the BMC",
			i.address())
	case errors.As(err, &unknown):
		return ingot.Errorf(ingot.Unavailable, "BMC %s: the host name cannot be resolved; check "+
			"ipmi_address", i.address())
	case silent(ctx, err):
		return ingot.Errorf(ingot.Unavailable, "BMC %s did not answer within %s; check that it "+
			"has power and a network connection, that ipmi_address and ipmi_port are right, "+
			"that IPMI over LAN is enabled, and that no firewall drops UDP. If it is merely slow, "+
			"set a larger bmc_timeout", i.address(), f.Timeout)
	}
	return ingot.Errorf(ingot.Unavailable, "BMC %s refused the login of user %q; check "+
		"ipmi_username and ipmi_password, that the user may use IPMI over LAN with "+
		"ipmi_priv_level %s, and that the BMC has cipher suite %s (ipmi_cipher_suite)",
		i.address(), i.user, i.privilege, suiteText(i.suites))
}

// silent tells whether err is about an answer that did not come.
func silent(ctx context.Context, err error) bool {
	var n net.Error
	return driver.Spent(ctx) || errors.As(err, &n) && n.Timeout()
}

// oneLine is the text of an error of go-ipmi, which has several lines.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func suiteText(suites []int) string {
	return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(suites), "[]")), " or ")
}

// session is a bmc by go-ipmi.
type session struct{ c *client.Client }

func (s session) poweredOn(ctx context.Context) (bool, error) {
	r, err := s.c.GetChassisStatus(ctx)
	if err != nil {
		return false, err
	}
	return r.PowerIsOn, nil
}

func (s session) control(ctx context.Context, a action) error {
	_, err := s.c.ChassisControl(ctx, controls[a])
	return err
}

func (s session) bootFlags(ctx context.Context) (flags, error) {
	var p types.BootOptionParam_BootFlags
	if err := s.c.GetSystemBootOptionsParamFor(ctx, &p); err != nil {
		return flags{}, err
	}
	f := flags{persistent: p.Persist, efi: bool(p.BIOSBootType)}
	if !p.BootFlagsValid {
		return f, nil
	}
	for _, d := range devices {
		if d.selector == p.BootDeviceSelector {
			f.device = d.name
		}
	}
	return f, nil
}

func (s session) setBootFlags(ctx context.Context, f flags) error {
	p := types.BootOptionParam_BootFlags{BootFlagsValid: true, Persist: f.persistent,
		BIOSBootType: types.BIOSBootType(f.efi)}
	for _, d := range devices {
		if d.name == f.device {
			p.BootDeviceSelector = d.selector
		}
	}
	return s.c.SetSystemBootOptionsParamFor(ctx, &p)
}

func (s session) keepBootFlags(ctx context.Context) error {
	return s.c.SetSystemBootOptionsParamFor(ctx, &types.BootOptionParam_BMCBootFlagValidBitClear{
		DontClearOnCommandReceivedTimeout: true,
	})
}

// systemGUID asks Get System GUID (IPMI 2.0, 22.14), an optional command.
func (s session) systemGUID(ctx context.Context) (string, error) {
	r, err := s.c.GetSystemGUID(ctx)
	var answer *types.ResponseError
	switch {
	case errors.As(err, &answer) && !busy(err):
		return "", nil
	case err != nil:
		return "", err
	}
	// The byte order in which it equals what the firmware tells the operating system.
	id, err := types.ParseGUID(r.GUID[:], types.GUIDModeSMBIOS)
	if err != nil {
		return "", err
	}
	return driver.MachineUUID(id.String()), nil
}
