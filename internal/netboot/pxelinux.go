package netboot

import (
	"strconv"
	"strings"
)

// pxelinux writes a configuration of PXELINUX, which has keywords and lines and no conditions. It
// loads by TFTP from the server that it came from. When a file is missing or a label ends, it
// starts itself anew and so asks for a fresh configuration; NOESCAPE and ALLOWOPTIONS keep a
// keystroke from turning that into a prompt.
func (a *answer) pxelinux(env *Env) string {
	var b strings.Builder
	line := func(parts ...string) {
		for _, p := range parts {
			b.WriteString(p)
		}
		b.WriteByte('\n')
	}
	b.Grow(2048)
	line("SAY ingot: node ", text(a.label), ": ", text(a.title), ", ", text(a.trace))
	for _, say := range a.says {
		line("SAY ingot: ", text(say))
	}
	line("NOESCAPE 1")
	line("ALLOWOPTIONS 0")
	line("ONERROR again")
	// A prompt with a time-out is the one way to wait. Its unit is a tenth of a second.
	wait := func(seconds int, then string) {
		line("SAY ingot: ", then, " in ", strconv.Itoa(seconds), " seconds")
		line("PROMPT 1")
		line("TIMEOUT ", strconv.Itoa(seconds*10))
	}
	switch a.end {
	case endBoot:
		line("PROMPT 0")
		line("DEFAULT boot")
		line("LABEL boot")
		line("KERNEL ", filePath(a.kernel)[1:])
		line("INITRD ", filePath(a.ramdisk)[1:])
		b.WriteString("APPEND")
		for _, arg := range a.args {
			b.WriteByte(' ')
			b.WriteString(arg)
		}
		line()
		line("SYSAPPEND 2") // BOOTIF=01-aa-bb-cc-dd-ee-ff
	case endStop:
		// There is no power off without a module, and the machine has nothing to lose by asking.
		wait(a.pauses()[5], "asking again")
		line("DEFAULT again")
	case endAgain:
		wait(a.pauses()[4], "asking again")
		line("DEFAULT again")
	case endLater:
		wait(10, "next boot device")
		line("DEFAULT leave")
	case endDisk:
		line("PROMPT 0")
		line("DEFAULT disk")
		// 0 has the BIOS boot its disk (measured; chain.c32 hangs with SeaBIOS).
		line("LABEL disk")
		line("LOCALBOOT 0")
	default:
		line("PROMPT 0")
		line("DEFAULT leave")
	}
	line("LABEL leave")
	line("LOCALBOOT 0")
	line("LABEL again")
	line("KERNEL pxelinux.0")
	return b.String()
}
