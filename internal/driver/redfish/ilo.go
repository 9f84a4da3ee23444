package redfish

import (
	"cmp"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

// ILOName is the name of the hardware type of HPE's machines, and of its power and management interface.
const ILOName = "ilo"

// HardwareILO is the hardware type ilo: redfish with the keys and names of Ironic's. Its boot interfaces are
// the generic ones under names of their own, which are taken as well.
func HardwareILO() driver.Hardware {
	h := Hardware()
	h.Name = ILOName
	h.Supported = maps.Clone(h.Supported)
	h.Supported["power"], h.Supported["management"] = []string{ILOName}, []string{ILOName}
	h.Supported["inspect"], h.Supported["bios"] = []string{ILOName, "no-inspect"}, []string{ILOName, "no-bios"}
	h.Supported["boot"] = []string{"ilo-virtual-media", "ilo-ipxe", "ilo-pxe", "ipxe", "pxe"}
	return h
}

// ILOOptions are those of Ironic's section [ilo]; the zero value works.
type ILOOptions struct {
	// Timeout bounds how long an iLO may be silent, for nodes that do not say; 0 is a minute.
	Timeout time.Duration
	// Port is that of iLOs, for nodes that do not say; 0 is 443.
	Port int
}

// ILO is the same family with driver_info of the hardware type ilo: who talks to a BMC waits for who talks to
// it as redfish.
func (f *Family) ILO(o ILOOptions) *Family {
	o.Timeout, o.Port = cmp.Or(o.Timeout, time.Minute), cmp.Or(o.Port, 443)
	own := ilo
	own.parse = o.parse
	return &Family{f.BMCs, own}
}

// maxTimeout bounds client_timeout: nobody waits longer for an answer.
const maxTimeout = time.Hour

var iloIdentity = driver.Identity{Key: "ilo_system_uuid", Name: "system UUID", Address: "ilo_address"}

// ilo is the face of the hardware type ilo, but for how driver_info is read.
var ilo = face{
	identity: iloIdentity,
	address:  "ilo_address", user: "ilo_username", password: "ilo_password", verify: "ilo_verify_ca",
	slow:     "client_timeout",
	noSystem: "an iLO has one system; check ilo_address",
	unread:   "check ilo_address, and look at its log",
	broken:   "check ilo_address and client_port, and whether it speaks TLS at this port",
	properties: map[string]string{
		"ilo_address": "Address or host name of the iLO. Required.",
		"ilo_username": "User name on the iLO, with the privileges for virtual media, virtual power and " +
			"reset, and configuring. Required.",
		"ilo_password": "Password. Required.",
		"ilo_verify_ca": "Whether the iLO's certificate is checked: True (default), by the CAs of the " +
			"conductor's system; a file or directory with the certificates of CAs, or of iLOs, that are " +
			"believed; False believes any, and with it whoever stands between.",
		"ca_file":     "The same as ilo_verify_ca with a file; the older name.",
		"client_port": "Port of the iLO's HTTPS. Default: that of the configuration, 443.",
		"client_timeout": "Seconds that the iLO may be silent, retransmissions included. Default: that of the " +
			"configuration, 60; 6 times as long in the steps of a deployment.",
		iloIdentity.Key: "System UUID of the machine; power and boot device of another one are left alone. " +
			"Default: what its iLO said when the node was managed. \"any\" compares nothing.",
	},
}

// parse reads and checks driver_info.
func (o ILOOptions) parse(n *ingot.Node) (info, error) {
	di := n.DriverInfo
	i := info{user: driver.Text(di, "ilo_username"), password: ingot.Secret(driver.Text(di, "ilo_password")),
		auth: redfish.Auto}
	wrong := func(key, format string, args ...any) (info, error) {
		return info{}, ingot.Errorf(ingot.Invalid, "driver_info "+key+" of node "+n.UUID+" "+
			format, args...)
	}
	var missing []string
	for _, key := range []string{"ilo_address", "ilo_username", "ilo_password"} {
		if driver.Text(di, key) == "" {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return info{}, ingot.Errorf(ingot.Invalid, "Missing the following iLO properties in node's "+
			"driver_info: ['%s']. Set them with: baremetal node set %s --driver-info %s=...",
			strings.Join(missing, "', '"), n.UUID, missing[0])
	}
	port, err := number(di, "client_port", o.Port, 65535)
	if err != nil {
		return wrong("client_port", "%w", err)
	}
	seconds, err := number(di, "client_timeout", 0, int(maxTimeout.Seconds()))
	if err != nil {
		return wrong("client_timeout", "%w", err)
	}
	i.timeout = cmp.Or(time.Duration(seconds)*time.Second, o.Timeout)
	if i.address, err = redfish.ParseAddress(bracketed(driver.Text(di, "ilo_address"))); err != nil {
		return wrong("ilo_address", "cannot be used: %w", err)
	}
	named := driver.Text(di, "client_port") != ""
	if i.address.Port() == "" && (named || i.address.Scheme == "https") {
		i.address.Host = net.JoinHostPort(i.address.Hostname(), strconv.Itoa(port))
	}
	if named && i.address.Port() != strconv.Itoa(port) {
		return wrong("ilo_address", "has a port, and client_port another one; remove one of them")
	}
	key := "ilo_verify_ca"
	i.anyCertificate, i.ca = verify(driver.Text(di, key))
	if file := driver.Text(di, "ca_file"); file != "" {
		if i.anyCertificate || i.ca != "" && i.ca != file {
			return wrong("ca_file", "is set, and ilo_verify_ca says something else; remove one of them")
		}
		key, i.ca = "ca_file", file
	}
	if i.ca != "" && !strings.HasPrefix(i.ca, "/") {
		return wrong(key, "is %q; it must be an absolute path", i.ca)
	}
	if _, err := iloIdentity.Said(n); err != nil {
		return info{}, err
	}
	if _, err := i.client(0); err != nil {
		return wrong(key, "cannot be used: %w", err)
	}
	return i, nil
}

// bracketed is an address of IPv6 as URLs have it; what is no such address stays as it is: a host, or a URL, for
// iLOs behind a proxy and in tests.
func bracketed(address string) string {
	if ip := net.ParseIP(address); ip != nil && ip.To4() == nil {
		return "[" + address + "]"
	}
	return address
}

// number is a key with a number from 1 on.
func number(di ingot.Object, key string, usual, largest int) (int, error) {
	text := driver.Text(di, key)
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > largest {
		return 0, ingot.Errorf(ingot.Invalid, "is %q; it must be a number from 1 to %d", text, largest)
	}
	return n, nil
}
