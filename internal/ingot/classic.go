package ingot

import "maps"

// classic are Ironic's drivers from before hardware types (until its release 10, 2018), with the hardware type
// and the interfaces to which Ironic's own migration brought their nodes. pxe_ipmitool and its like stood for
// both PXE and iPXE, by an option of the whole service; here they are PXE, and another boot interface may be
// named beside them.
var classic = map[string]struct {
	driver                          string
	power, management, boot, deploy string
}{
	"pxe_ipmitool":   {"ipmi", "ipmitool", "ipmitool", "pxe", "iscsi"},
	"agent_ipmitool": {"ipmi", "ipmitool", "ipmitool", "pxe", "direct"},
	"iscsi_ilo":      {"ilo", "ilo", "ilo", "ilo-virtual-media", "iscsi"},
	"agent_ilo":      {"ilo", "ilo", "ilo", "ilo-virtual-media", "direct"},
	"pxe_ilo":        {"ilo", "ilo", "ilo", "ilo-pxe", "iscsi"},
}

// ExpandClassic replaces the name of a classic driver by its hardware type and sets its interfaces, but those
// that were named. A node with another driver stays as it is.
func (n *Node) ExpandClassic(named func(kind string) bool) {
	c, is := classic[n.Driver]
	if !is {
		return
	}
	n.Driver = c.driver
	n.Interfaces = maps.Clone(n.Interfaces)
	if n.Interfaces == nil {
		n.Interfaces = map[string]string{}
	}
	for kind, name := range map[string]string{"power": c.power, "management": c.management, "boot": c.boot,
		"deploy": c.deploy} {
		if !named(kind) {
			n.Interfaces[kind] = name
		}
	}
}
