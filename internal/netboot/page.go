package netboot

import (
	"strconv"
	"strings"

	"ingot/internal/ingot"
)

// Tree is files for servers that know nothing of ingot: what requests are answered, written down.
// Keys are paths below the root of the server, "pxelinux.cfg/01-52-54-00-12-34-56".
type Tree struct {
	// Pages are texts. Those of a node that boots a deploy ramdisk have its key.
	Pages map[string]string
	// Files are kernels and ramdisks.
	Files map[string]ingot.File
}

// pageTrace stands in pages for the trace of an answer: whether and when a page is read is not seen.
const pageTrace = "on disk"

// maxCards is how many network cards of a machine are looked at for one that has a page.
const maxCards = 8

// NodeTree is what the machine of a node finds on a server, by the addresses of its ports. It is
// empty for a node that boots nothing from the network now: machines go on to their next boot device
// then (CommonTree). Of env it uses APIURLs, or else BaseURLs, and KernelArgs.
func NodeTree(n *ingot.Node, macs []string, env Env) Tree {
	d := Decide(n)
	if d.Problem != "" {
		return Tree{}
	}
	t := Tree{Pages: map[string]string{}, Files: map[string]ingot.File{}}
	dir := word(n.UUID) + "/"
	switch d.Intent {
	case ingot.BootDeploy, ingot.BootInspect:
		t.file(dir+"deploy_kernel", n.Attempt.Kernel)
		t.file(dir+"deploy_ramdisk", n.Attempt.Ramdisk)
	case ingot.BootRescue:
		t.file(dir+"rescue_kernel", n.Attempt.Kernel)
		t.file(dir+"rescue_ramdisk", n.Attempt.Ramdisk)
	case ingot.BootInstance:
		if iso := n.Instance.ISO.File; iso.Known() {
			t.file(dir+"boot_iso", iso)
			break
		}
		if n.Instance.ISO.URL != "" {
			break
		}
		t.file(dir+"kernel", n.Instance.Kernel)
		t.file(dir+"ramdisk", n.Instance.Ramdisk)
	default:
		return Tree{}
	}
	if len(env.APIURLs) == 0 {
		env.APIURLs = env.BaseURLs
	}
	env.BaseURLs, env.onDisk = []string{".."}, true
	ask := Request{Trace: pageTrace}
	script := IPXE.Render(n, env, ask)
	t.Pages[dir+"config"] = script
	for _, mac := range macs {
		clean, err := ParseMAC(mac)
		if err != nil {
			continue // InfiniBand; no boot loader here asks by such an address
		}
		ask.MAC = clean
		dashes, grub := strings.ReplaceAll(clean, ":", "-"), GRUB.Render(n, env, ask)
		t.Pages["pxelinux.cfg/"+dashes] = script
		t.Pages["pxelinux.cfg/01-"+dashes] = PXELINUX.Render(n, env, ask)
		t.Pages[clean+".conf"] = grub
		t.Pages["grub.cfg-01-"+dashes] = grub
		t.Pages["grub/grub.cfg-01-"+dashes] = grub
	}
	return t
}

// file adds a file under a name for people, and under the one that pages have.
func (t Tree) file(name string, f ingot.File) {
	t.Files[name] = f
	t.Files[FilePath(f)] = f
}

// FilePath is the path of a boot file on every server, without a slash before it.
func FilePath(f ingot.File) string { return filePath(f)[1:] }

// CommonTree is the pages that are the same for all machines: they lead to those of a machine, or, if
// it has none, to its next boot device.
func CommonTree() map[string]string {
	leave := answer{label: "of this machine", trace: "trace " + pageTrace,
		title: "nothing to boot from the network; next boot device"}
	chain := chainPages()
	grub := "configfile \"/${net_default_mac}.conf\"\n" + leave.grub(&Env{})
	return map[string]string{
		"boot.ipxe":            chain,
		"autoexec.ipxe":        chain,
		"pxelinux.cfg/default": leave.pxelinux(&Env{}),
		"grub.cfg":             grub,
		"grub/grub.cfg":        grub,
	}
}

// chainPages is the script that looks for the page of the card that was booted from, then for those
// of the others.
func chainPages() string {
	s := script{env: &Env{}}
	s.line("#!ipxe")
	page := func(card, next string) {
		s.line("isset ${", card, "/mac} && chain --replace --autofree --timeout 10000 pxelinux.cfg/${",
			card, "/mac:hexhyp} || goto ", next)
		s.line(":", next)
	}
	page("netX", "net0")
	for i := range maxCards {
		page("net"+strconv.Itoa(i), "net"+strconv.Itoa(i+1))
	}
	s.line("echo ingot: nothing to boot from the network; next boot device")
	s.line("exit 0")
	return s.b.String()
}
