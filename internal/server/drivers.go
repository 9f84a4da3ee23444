package server

import "ingot/internal/driver"

// hardware lists the hardware types this binary knows, each with the implementations it works
// with, best first (names and order: Ironic's).
var hardware = []driver.Hardware{
	{Name: "ipmi", Supported: map[string][]string{
		"power": {"ipmitool"}, "management": {"ipmitool"}, "boot": {"ipxe"}, "deploy": {"iscsi"},
	}},
	{Name: "fake-hardware", Supported: map[string][]string{
		"power": {"fake"}, "management": {"fake"}, "boot": {"fake", "ipxe"},
		"deploy": {"fake", "iscsi"},
	}},
}
