package bootd

import (
	"fmt"
	"net"
	"net/netip"
	"path"

	"ingot/internal/dhcp"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// Mode is how much of DHCP is ours. The values are those of the configuration.
type Mode string

// The modes.
const (
	ModeOff    Mode = "off"    // no DHCP socket at all
	ModeServer Mode = "server" // addresses and boot files
	ModeProxy  Mode = "proxy"  // boot files only, beside a server that gives addresses
)

// Machine is what the store knows of who is asking. Node and Port are nil together, for a
// machine nobody enrolled.
type Machine struct {
	MAC   net.HardwareAddr
	Port  *ingot.Port
	Node  *ingot.Node
	Lease ingot.Lease // of the MAC, also an expired one; zero: none
}

// Boot is what firmware is told to load. The zero value is nothing: firmware goes on to its
// next boot device.
type Boot struct {
	File string // name for TFTP or URL
	TFTP bool   // File lies on our TFTP server
	// Secret tells that who knows File has a deploy key.
	Secret bool
	// Why is one clause for the journal: what was recognised, or why there is no file.
	Why string
}

// shown is File for people.
func (b Boot) shown() string {
	if b.Secret {
		return path.Dir(path.Dir(b.File)) + "/.../" + path.Base(b.File)
	}
	return b.File
}

// decide tells what a machine's firmware shall load. base is our HTTP address,
// "http://10.77.0.1:8080". It is a pure function of its arguments.
func decide(m Machine, c dhcp.Client, base string) Boot {
	// A node with the boot interface pxe boots the programs of that one also from an iPXE in the
	// card's ROM, which is then no more than a PXE ROM; as in Ironic.
	kind := ""
	if m.Node != nil {
		kind = pxe.Kind(m.Node)
	}
	plain := kind == pxe.PlainName
	switch {
	case c.Class == dhcp.ClassOther && !c.IPXE:
		// An operating system renews its address. A boot file would be no harm, but there is
		// no use in telling it either.
		return Boot{Why: "an operating system"}

	case m.Node == nil:
		// Unknown machines learn nothing, not even that there is a boot server.
		return Boot{Why: "unknown machine"}

	case !m.Port.PXEEnabled:
		return Boot{Why: "pxe_enabled of the port is false"}

	case c.IPXE && !plain:
		// iPXE is there already: from the NIC's ROM, or loaded by one of the cases below, which
		// the wire does not tell apart. It gets its script whatever the boot intent: "boot the
		// local disk" is a script too, and quicker than a firmware's time-outs.
		return Boot{File: scriptURL(base, m), Why: "iPXE"}

	case m.Node.BootIntent == "" || m.Node.BootIntent == ingot.BootNone,
		m.Node.BootIntent == ingot.BootDisk:
		// No file. A BIOS ROM says so (PXE-E53) and goes on with the next device. OVMF does not:
		// it repeats DISCOVER for a minute (measured 61 s) before PXE-E16, and then tries IPv6
		// and HTTP. Loading iPXE only to leave it again would be no better there, for an exit
		// lands in the firmware's menu; what gets UEFI to the disk is the boot device that the
		// BMC sets.
		return Boot{Why: fmt.Sprintf("boot intent %q, no boot file", m.Node.BootIntent)}
	}

	none := Boot{Why: fmt.Sprintf("no boot program for architecture %d (%s)", c.Arch, c.Arch)}
	if c.Class == dhcp.ClassHTTP {
		// UEFI HTTP boot wants a URL as boot file, and drops an answer without option 60
		// "HTTPClient" (UEFI specification 24.7.3).
		if url := pxe.HTTPBootURL(m.Node, base, c.Arch); url != "" {
			return Boot{File: url, Why: "UEFI HTTP boot", Secret: kind == pxe.HTTPName}
		}
		return none
	}
	program := netboot.Program(plain, c.Arch)
	switch {
	case kind == pxe.HTTPName || kind == pxe.HTTPIPXEName:
		// Firmware that has both tries PXE first, and HTTP after that when there is no file.
		return Boot{Why: "PXE, and boot interface " + kind + " boots by UEFI HTTP"}

	case program == "":
		return none

	default:
		// PXE of BIOS or UEFI: one file by TFTP. iPXE then asks again as iPXE, PXELINUX and GRUB
		// ask for their configuration by TFTP.
		return Boot{File: program, TFTP: true, Why: "PXE " + c.Arch.String()}
	}
}

// scriptURL is where the machine's iPXE gets its script from. The MAC is written out: the
// script is for the port that asked, whichever interface iPXE counts it as.
func scriptURL(base string, m Machine) string {
	return base + netboot.ConfigPath(m.Node.Driver) + "port_address=" + m.MAC.String()
}

// reservationKey is the key of a port's extra that sets an address aside.
const reservationKey = "ip_address"

// reservation is the address that the port's extra.ip_address sets aside for a machine.
func reservation(p *ingot.Port) (netip.Addr, bool) {
	if p == nil {
		return netip.Addr{}, false
	}
	text, _ := p.Extra[reservationKey].(string)
	a, err := netip.ParseAddr(text)
	return a, err == nil && a.Is4()
}
