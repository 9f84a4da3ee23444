// Package ipmi is the power and the management interface `ipmitool` (Ironic's name for them;
// no such program is run): machines switched and told what to boot through the IPMI of their
// BMC. It knows when a BMC can be believed and what a person should check when it cannot; the
// protocol is the business of go-ipmi, all use of which is in bmc.go.
//
// BMCs are slow, lose packets and mix up clients that talk to them at once. So each operation
// has a session of its own, operations on one BMC queue up, every one has a deadline, and a
// change counts as done when the BMC says so, not when it took the command.
//
// Read power.go first.
package ipmi

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// Name is the name of the power and of the management interface.
const Name = "ipmitool"

// Options is how BMCs are used; the zero value works. Timeout bounds one operation.
type Options = driver.BMCOptions

// Hardware is the hardware type ipmi.
func Hardware() driver.Hardware {
	return driver.Hardware{Name: "ipmi", Supported: map[string][]string{
		"power": {Name}, "management": {Name}, "boot": {"ipxe", "pxe", "http-ipxe", "http"},
		"deploy":  {"iscsi", "direct", "ramdisk"},
		"network": driver.Networks,
	}}
}

// Family is what Power and Management share: how to talk to BMCs, and whose turn it is.
type Family struct{ *driver.BMCs }

// New returns the family.
func New(o Options) *Family { return &Family{driver.NewBMCs(o)} }

// Power is the power interface.
func (f *Family) Power() *Power { return &Power{f} }

// Management is the management interface.
func (f *Family) Management() *Management { return &Management{f} }

// info is driver_info, checked.
type info struct {
	host, user string
	port       int
	password   ingot.Secret
	privilege  string
	suites     []int // cipher suites in order of preference
	lan15      bool  // IPMI 1.5
	keepTimer  bool  // leave the BMC's boot flag timeout alone
}

func (i info) address() string { return net.JoinHostPort(i.host, strconv.Itoa(i.port)) }

// privileges are the levels of ipmi_priv_level.
var privileges = []string{"ADMINISTRATOR", "OPERATOR", "USER", "CALLBACK"}

const (
	defaultPort = 623
	maxUser     = 16 // IPMI 2.0, table 22-28
	maxPassword = 20 // IPMI 2.0, table 22-30
	maxSuite    = 17
)

// defaultSuites: HMAC-SHA256 first; 3 is the one that every IPMI 2.0 BMC has.
var defaultSuites = []int{17, 3}

// properties are the keys of driver_info that are understood.
var properties = map[string]string{
	"ipmi_address":  "IP address or host name of the BMC. Required.",
	"ipmi_port":     "UDP port of the BMC. Default 623.",
	"ipmi_username": "User name on the BMC; default is the null user.",
	"ipmi_password": "Password; default is the null password.",
	"ipmi_priv_level": "Privilege level of the session: ADMINISTRATOR (default), OPERATOR, " +
		"USER, CALLBACK. Setting the boot device takes ADMINISTRATOR on most BMCs.",
	"ipmi_cipher_suite": "Cipher suite, a number from 0 to 17. Default: 17, then 3.",
	"ipmi_protocol_version": "2.0 (default) or 1.5. In 1.5 the password crosses the network " +
		"nearly unprotected.",
	identity.Key: "System GUID of the machine; power and boot device of another one are left alone. " +
		"Default: what its BMC said when the node was managed. \"any\" compares nothing.",
	"ipmi_disable_boot_timeout": "Whether the BMC is told not to forget a boot device after " +
		"60 seconds. Default true; set false for BMCs that stumble over it.",
}

// parse reads and checks driver_info.
func parse(n *ingot.Node) (info, error) {
	di := n.DriverInfo
	i := info{
		host: driver.Text(di, "ipmi_address"), user: driver.Text(di, "ipmi_username"),
		password: ingot.Secret(driver.Text(di, "ipmi_password")), port: defaultPort,
		privilege: strings.ToUpper(driver.Text(di, "ipmi_priv_level")), suites: defaultSuites,
	}
	wrong := func(key, format string, args ...any) (info, error) {
		return info{}, ingot.Errorf(ingot.Invalid, "driver_info "+key+" of node "+n.UUID+" "+
			format, args...)
	}
	if i.host == "" {
		return info{}, ingot.Errorf(ingot.Invalid, "Missing the following IPMI credentials in "+
			"node's driver_info: ['ipmi_address']. Set them with: baremetal node set %s "+
			"--driver-info ipmi_address=ADDRESS", n.UUID)
	}
	if strings.ContainsAny(i.host, " /%@") {
		return wrong("ipmi_address", "is %q; it must be an IP address or a host name", i.host)
	}
	var err error
	if text := driver.Text(di, "ipmi_port"); text != "" {
		if i.port, err = strconv.Atoi(text); err != nil || i.port < 1 || i.port > 65535 {
			return wrong("ipmi_port", "is %q; it must be a number from 1 to 65535", text)
		}
	}
	if i.privilege == "" {
		i.privilege = privileges[0]
	}
	if !slices.Contains(privileges, i.privilege) {
		return wrong("ipmi_priv_level", "is %q; allowed: %s", i.privilege,
			strings.Join(privileges, ", "))
	}
	if text := driver.Text(di, "ipmi_cipher_suite"); text != "" {
		suite, err := strconv.Atoi(text)
		if err != nil || suite < 0 || suite > maxSuite {
			return wrong("ipmi_cipher_suite", "is %q; it must be a number from 0 to %d", text,
				maxSuite)
		}
		i.suites = []int{suite}
	}
	switch v := driver.Text(di, "ipmi_protocol_version"); v {
	case "", "2.0":
	case "1.5":
		i.lan15 = true
	default:
		return wrong("ipmi_protocol_version", "is %q; allowed: 2.0, 1.5", v)
	}
	if len(i.user) > maxUser || len(i.password) > maxPassword {
		return wrong("ipmi_username or ipmi_password", "is too long; IPMI takes %d and %d bytes",
			maxUser, maxPassword)
	}
	if v := driver.Text(di, "ipmi_bridging"); v != "" && v != "no" {
		return wrong("ipmi_bridging", "is %q, which this version does not support", v)
	}
	if _, err := identity.Said(n); err != nil {
		return info{}, err
	}
	if driver.Text(di, "ipmi_hex_kg_key") != "" {
		return wrong("ipmi_hex_kg_key", "is set, which this version does not support")
	}
	i.keepTimer = strings.EqualFold(driver.Text(di, "ipmi_disable_boot_timeout"), "false")
	return i, nil
}
