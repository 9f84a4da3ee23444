package netboot

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// grub writes a configuration of GRUB, for UEFI firmware. Every value stands in single quotes.
// Files come by TFTP, from the server that the configuration came from and then from the others;
// when there are none left the machine starts anew, because a configuration that reads the next
// one never returns its memory.
func (a *answer) grub(env *Env) string {
	var b strings.Builder
	line := func(parts ...string) {
		for _, p := range parts {
			b.WriteString(p)
		}
		b.WriteByte('\n')
	}
	b.Grow(2048)
	line("echo ", quoted("ingot: node ", a.label, ": ", a.title, ", ", a.trace))
	for _, say := range a.says {
		line("echo ", quoted("ingot: ", say))
	}
	pause := func(seconds int, then string) {
		line("echo ", quoted("ingot: ", then, " in ", strconv.Itoa(seconds), " seconds"))
		line("sleep ", strconv.Itoa(seconds))
	}
	switch a.end {
	case endBoot:
		for _, device := range append([]string{""}, tftpDevices(env.BaseURLs)...) {
			line("if linux ", quoted(device, filePath(a.kernel)), a.grubArgs(), "; then")
			line("if initrd ", quoted(device, filePath(a.ramdisk)), "; then")
			line("boot")
			line("fi")
			line("fi")
			if device == "" {
				device = "the server of this configuration"
			}
			line("echo ", quoted("ingot: no boot from ", device))
		}
		pause(a.pauses()[4], "restart")
		line("reboot")
	case endStop:
		pause(30, "power off")
		line("halt")
	case endAgain:
		pause(a.pauses()[4], "restart")
		line("reboot")
	case endLater:
		pause(10, "next boot device")
		line("exit 1")
	case endDisk:
		line("echo 'ingot: the boot device set through the BMC decides; leaving to the firmware'")
		line("exit 1")
	default:
		line("exit 1")
	}
	return b.String()
}

func (a *answer) grubArgs() string {
	var b strings.Builder
	if a.mac != "" {
		b.WriteString(" ")
		b.WriteString(quoted("BOOTIF=01-", strings.ReplaceAll(a.mac, ":", "-")))
	}
	for _, arg := range a.args {
		b.WriteByte(' ')
		b.WriteString(quoted(arg))
	}
	return b.String()
}

// quoted joins the parts and makes them one word of GRUB.
func quoted(parts ...string) string {
	s := strings.Join(parts, "")
	if len(s) > maxKernel {
		s = s[:maxKernel]
	}
	return "'" + keep(strings.Join(strings.Fields(s), " "), quotedChars) + "'"
}

// tftpDevices are GRUB's names of the servers. Only addresses: GRUB has no name servers here.
func tftpDevices(bases []string) []string {
	var out []string
	for _, base := range bases {
		u, err := url.Parse(base)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.Is4() {
			out = append(out, "(tftp,"+a.String()+")")
		}
	}
	return out
}
