package netboot

import (
	"net/url"
	"strconv"
	"strings"
)

// BootIPXE is the script for DHCP servers that can name one URL for all machines and no more: it
// asks for the script of the machine that runs it. ingot's own DHCP never names it (S1.6).
func BootIPXE(env Env) string {
	s := script{env: &env, driver: env.Driver}
	s.line("#!ipxe")
	s.line(":again")
	for i, base := range env.BaseURLs {
		if i > 0 {
			s.b.WriteString(" || ")
		}
		s.chain(base)
	}
	s.line(" || echo ingot: no server answered; asking again in 5 seconds")
	s.line("sleep 5")
	s.line("goto again")
	return s.b.String()
}

// script writes iPXE's language: words split at blanks, ${settings}, "||" and "#". Nothing else
// is needed from it and nothing else may get in (clean.go).
type script struct {
	env    *Env
	driver string
	b      strings.Builder
}

// line writes one line of clean parts.
func (s *script) line(parts ...string) {
	for _, p := range parts {
		s.b.WriteString(p)
	}
	s.b.WriteByte('\n')
}

// ipxe writes a script. No path through it ends at a prompt: each ends in a boot, in exit, in power
// off or in asking again.
func (a *answer) ipxe(env *Env) string {
	s := script{env: env, driver: a.driver}
	s.b.Grow(1024 + len(env.BaseURLs)*512) // what a usual script takes
	s.line("#!ipxe")
	s.line("echo ingot: node ", text(a.label), ": ", text(a.title), ", ", text(a.trace))
	for _, say := range a.says {
		s.line("echo ingot: ", text(say))
	}
	switch a.end {
	case endBoot:
		s.boot(a)
	case endISO:
		s.iso(a)
	case endDisk:
		s.disk()
	case endStop:
		s.stop(a)
	case endAgain:
		s.again(a)
	case endWait:
		s.wait(a)
	case endLater:
		s.line("echo ingot: next boot device in 10 seconds")
		s.line("sleep 10")
		s.line("exit 0")
	default:
		s.line("exit 0")
	}
	return s.b.String()
}

// boot starts kernel and ramdisk. A server that is down, slow or lacks the file is skipped; when
// all were tried the machine pauses and asks for a fresh script, because the truth may have
// changed meanwhile (another server, deployment given up).
func (s *script) boot(a *answer) {
	s.pauses(a)
	s.line(":again")
	bases := s.env.BaseURLs
	if a.elsewhere() {
		bases = bases[:1]
	}
	for i, base := range bases {
		base, next := server(base), "server"+strconv.Itoa(i+1)
		s.line("imgfree")
		// --timeout is about silence, not about the whole transfer, in milliseconds. A server that was
		// stopped takes connections and says nothing: only the last one is waited for longer.
		silence := "30000 "
		if i < len(bases)-1 {
			silence = "10000 "
		}
		s.b.WriteString("kernel --timeout " + silence)
		s.b.WriteString(a.url(base, a.kernel, TagFile))
		// EFI kernels look for initrd= by image name, so the name must not depend on the URL.
		// ${netX} is the interface iPXE booted from; the ramdisk uses that one.
		s.b.WriteString(" initrd=initrd BOOTIF=01-${netX/mac:hexhyp}")
		for _, arg := range a.args {
			s.b.WriteByte(' ')
			s.b.WriteString(arg)
		}
		s.line(" || goto ", next)
		s.line("initrd --timeout ", silence, "--name initrd ", a.url(base, a.ramdisk, TagLast),
			" || goto ", next)
		s.line("boot || goto ", next)
		s.line(":", next)
		if a.elsewhere() {
			base = "Swift"
		}
		s.line("echo ingot: no boot from ", base)
	}
	s.askAgain()
}

// iso boots an ISO as a disk that is read over the network: from a server that has it, or from where the site has
// it. The boot program on it finds nothing else of it than what firmware reads.
func (s *script) iso(a *answer) {
	s.pauses(a)
	s.line(":again")
	var urls []string
	if a.iso.URL != "" {
		urls = []string{foreign(a.iso.URL)}
	} else {
		for _, base := range s.env.BaseURLs {
			urls = append(urls, server(base)+filePath(a.iso.File))
		}
	}
	for i, url := range urls {
		next := "server" + strconv.Itoa(i+1)
		s.line("sanboot --no-describe ", url, " || goto ", next)
		s.line(":", next)
		s.line("echo ingot: no boot from ", url)
	}
	s.askAgain()
}

// pauses sets the pauses of this machine. The counter is a setting and outlives a chained script:
// the pauses grow over all of them.
func (s *script) pauses(a *answer) {
	s.line("isset ${try} || set try:int32 0")
	for i, p := range a.pauses() {
		s.line("set pause", strconv.Itoa(i), " ", strconv.Itoa(p))
	}
}

// askAgain pauses and fetches the script of that moment from the first server that answers. A
// failing chain falls through to the next line, and the last one to :again.
func (s *script) askAgain() {
	s.line("echo ingot: asking again in ${pause${try}} seconds")
	s.line("sleep ${pause${try}}")
	s.line("iseq ${try} 5 || inc try || set try:int32 5")
	s.ask()
}

// ask fetches the script from the first server that answers, else it goes to :again.
func (s *script) ask() {
	for i, base := range s.env.BaseURLs {
		asked := "asked" + strconv.Itoa(i+1)
		s.chain(base)
		s.line(" || goto ", asked)
		s.line(":", asked)
	}
	s.line("goto again")
}

// wait sleeps until the server is to be asked again. That one comes first, for the machine's place is
// there; if it is dead the others have a line, too.
func (s *script) wait(a *answer) {
	s.line(":again")
	s.line("sleep ", strconv.Itoa(seconds(a.turn.Ask)))
	s.ask()
}

// Names of the parameters that tell a server for whom a file is loaded: by TagFile, and by TagLast
// for the one after which the machine needs no more. An ampersand would be iPXE's.
const (
	TagFile = "for"
	TagLast = "last-for"
)

func tag(name, value string) string {
	if value == "" {
		return ""
	}
	return "?" + name + "=" + word(value)
}

// chain writes, without the end of the line, the command that runs the machine's script of this
// moment. iPXE fills in the address of the interface it booted from (S1.3).
func (s *script) chain(base string) {
	s.b.WriteString("chain --replace --autofree --timeout 10000 ")
	s.b.WriteString(server(base))
	if s.env.onDisk {
		s.b.WriteString("/boot.ipxe")
		return
	}
	s.b.WriteString(ConfigPath(s.driver))
	s.b.WriteString("port_address=${netX/mac}")
}

// ConfigPath is where scripts are at every server. Whose follows: port_address= and a MAC, or node_uuid=
// and a UUID.
func ConfigPath(driver string) string {
	return "/v1/drivers/" + url.PathEscape(word(driver)) + "/vendor_passthru/ipxe_config?"
}

// disk boots the local disk. A BIOS boots drive 0x80 from here. UEFI firmware has no such call
// (sanboot fails there with "No such device"): the boot order that the BMC set decides, and
// exit hands over to it.
func (s *script) disk() {
	s.line("iseq ${platform} pcbios || goto firmware")
	s.line("sanboot --no-describe --drive 0x80 || exit 0")
	s.line(":firmware")
	s.line("echo ingot: the boot device set through the BMC decides; leaving to the firmware")
	s.line("exit 0")
}

// stop switches the machine off. Builds without the poweroff command wait and ask again.
func (s *script) stop(a *answer) {
	s.line("echo ingot: power off in 30 seconds")
	s.line("sleep 30")
	s.line("poweroff || goto wait")
	s.line(":wait")
	s.again(a)
}

func (s *script) again(a *answer) {
	s.pauses(a)
	s.line(":again")
	s.askAgain()
}
