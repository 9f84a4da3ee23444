// Package redfish is the power and the management interface `redfish`, and with other names `ilo`: machines
// switched and told what to boot through the Redfish service of their BMC. It knows when a BMC can be believed and what a person
// should check when it cannot; the protocol, and what BMCs do other than it says, is the business of
// internal/redfish.
//
// BMCs have few sessions, eight and less. So each operation has one of its own and ends it: what a
// conductor that dies leaves behind is one session at most for each machine, and the BMC drops it after a
// while. Operations on one BMC queue up, and a change counts as done when the BMC says so, not when it
// took the command.
//
// Read power.go first.
package redfish

import (
	"cmp"
	"crypto/tls"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

// Name is the name of the power and of the management interface, and of the hardware type.
const Name = "redfish"

// Options is how BMCs are used; the zero value works. Timeout bounds one request: an operation is
// several, and BMCs need seconds for each.
type Options = driver.BMCOptions

// Hardware is the hardware type redfish.
func Hardware() driver.Hardware {
	return driver.Hardware{Name: Name, Supported: map[string][]string{
		"power": {Name}, "management": {Name}, "boot": {"ipxe", "pxe", "http-ipxe", "http", "redfish-virtual-media",
			"redfish-https"}, "deploy": {"iscsi", "direct", "ramdisk"},
		"inspect": {Name, "no-inspect"}, "bios": {Name, "no-bios"}, "network": driver.Networks,
	}}
}

// Family is what Power and Management share: how to talk to BMCs, and whose turn it is.
type Family struct {
	*driver.BMCs
	face
}

// New returns the family.
func New(o Options) *Family { return &Family{driver.NewBMCs(o), plain} }

// A face is how driver_info of a hardware type tells of a BMC.
type face struct {
	parse      func(n *ingot.Node) (info, error)
	properties map[string]string
	identity   driver.Identity
	// The names of keys, for errors. slow is what to set for a slow BMC.
	address, user, password, verify, slow string
	// What to do about a service that has another system, or several, about one that cannot be read, and
	// about a connection that breaks.
	noSystem, unread, broken string
}

// plain is the face of the hardware type redfish.
var plain = face{
	parse: parse, properties: properties, identity: identity,
	address: "redfish_address", user: "redfish_username", password: "redfish_password",
	verify: "redfish_verify_ca", slow: "bmc_timeout",
	noSystem: "set redfish_system_id to the path of the node's machine",
	unread:   "check redfish_address and redfish_system_id, and look at its log",
	broken:   "check redfish_address, whether it speaks TLS at this port, and redfish_tls_minimum_version",
}

// Power is the power interface.
func (f *Family) Power() *Power { return &Power{f} }

// Inspect is the inspect interface.
func (f *Family) Inspect() *Inspect { return &Inspect{f} }

// Management is the management interface.
func (f *Family) Management() *Management { return &Management{f} }

// info is driver_info, checked.
type info struct {
	address        *url.URL
	system         string // path or ID; "" is the only one
	user           string
	password       ingot.Secret
	auth           redfish.Auth
	ca             string // file or directory; "" is the system's
	anyCertificate bool
	minTLS         uint16
	timeout        time.Duration // of a request; 0 is that of the configuration
}

// bmc names the BMC.
func (i info) bmc() string { return i.address.Host }

// turn names it, too, the same however it is written; one that has several systems still has one turn.
func (i info) turn() string {
	port := cmp.Or(i.address.Port(), map[string]string{"http": "80"}[i.address.Scheme], "443")
	return strings.ToLower(net.JoinHostPort(i.address.Hostname(), port))
}

// properties are the keys of driver_info that are understood.
var properties = map[string]string{
	"redfish_address": "URL of the BMC, such as https://bmc.example.com or with a port; without a scheme " +
		"it is https. Required.",
	"redfish_system_id": "Path of the machine's ComputerSystem, such as /redfish/v1/Systems/1, or its last " +
		"part. Default: the only one that the BMC has; required if it has several.",
	"redfish_username": "User name on the BMC.",
	"redfish_password": "Password.",
	"redfish_verify_ca": "Whether the BMC's certificate is checked: True (default), by the CAs of the " +
		"conductor's system; a file or directory with the certificates of CAs, or of BMCs, that are " +
		"believed; False believes any, and with it whoever stands between.",
	"redfish_auth_type": "How to sign in: auto (default; a session, or basic where the BMC has none or no " +
		"more of them), basic, session.",
	"redfish_tls_minimum_version": "Lowest version of TLS: 1.2 (default), 1.3; 1.0 and 1.1 for BMCs that " +
		"have nothing better.",
	identity.Key: "System UUID of the machine; power and boot device of another one are left alone. " +
		"Default: what its BMC said when the node was managed. \"any\" compares nothing.",
}

var (
	authTypes   = []redfish.Auth{redfish.Auto, redfish.Basic, redfish.Session}
	tlsVersions = map[string]uint16{"": 0, "1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11,
		"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
)

// parse reads and checks driver_info.
func parse(n *ingot.Node) (info, error) {
	di := n.DriverInfo
	i := info{system: driver.Text(di, "redfish_system_id"), user: driver.Text(di, "redfish_username"),
		password: ingot.Secret(driver.Text(di, "redfish_password")),
		auth:     redfish.Auth(driver.Text(di, "redfish_auth_type"))}
	wrong := func(key, format string, args ...any) (info, error) {
		return info{}, ingot.Errorf(ingot.Invalid, "driver_info "+key+" of node "+n.UUID+" "+
			format, args...)
	}
	address := driver.Text(di, "redfish_address")
	if address == "" {
		return info{}, ingot.Errorf(ingot.Invalid, "Missing the following Redfish properties in node's "+
			"driver_info: ['redfish_address']. Set them with: baremetal node set %s --driver-info "+
			"redfish_address=https://ADDRESS", n.UUID)
	}
	var err error
	if i.address, err = redfish.ParseAddress(address); err != nil {
		return wrong("redfish_address", "cannot be used: %w", err)
	}
	if i.auth == "" {
		i.auth = redfish.Auto
	}
	if !slices.Contains(authTypes, i.auth) {
		return wrong("redfish_auth_type", "is %q; allowed: auto, basic, session", i.auth)
	}
	if i.auth != redfish.Auto && i.user == "" {
		return wrong("redfish_auth_type", "is %s, but there is no redfish_username", i.auth)
	}
	text := driver.Text(di, "redfish_tls_minimum_version")
	version, known := tlsVersions[text]
	if !known {
		return wrong("redfish_tls_minimum_version", "is %q; allowed: 1.0, 1.1, 1.2, 1.3", text)
	}
	i.minTLS = version
	if driver.Text(di, "redfish_tls_ciphers") != "" {
		return wrong("redfish_tls_ciphers", "is set, which this version does not support")
	}
	i.anyCertificate, i.ca = verify(driver.Text(di, "redfish_verify_ca"))
	if i.ca != "" && !strings.HasPrefix(i.ca, "/") {
		return wrong("redfish_verify_ca", "is %q; it must be True, False or an absolute path", i.ca)
	}
	if _, err := identity.Said(n); err != nil {
		return info{}, err
	}
	if _, err := i.client(0); err != nil {
		return wrong("redfish_verify_ca", "cannot be used: %w", err)
	}
	return i, nil
}

// verify reads redfish_verify_ca: a truth by the words of Ironic, or a path.
func verify(text string) (anyCertificate bool, ca string) {
	switch strings.ToLower(text) {
	case "", "yes", "y", "on":
		return false, ""
	case "no", "n", "off":
		return true, ""
	}
	if truth, err := strconv.ParseBool(strings.ToLower(text)); err == nil {
		return !truth, ""
	}
	return false, text
}
