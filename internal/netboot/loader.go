package netboot

import "ingot/internal/ingot"

// A Loader is a boot loader and the language in which it is told what to boot.
type Loader struct {
	// Asks is what a machine asks for, in the words of the journal.
	Asks string
	// Waits tells whether it can be told to wait and to ask again.
	Waits bool
	write func(a *answer, env *Env) string
}

// The loaders.
var (
	IPXE     = Loader{"boot script", true, (*answer).ipxe}
	PXELINUX = Loader{"PXELINUX configuration", false, (*answer).pxelinux}
	GRUB     = Loader{"GRUB configuration", false, (*answer).grub}
)

// Render tells the machine of a node what it boots now; a nil node is a machine nobody knows.
func (l Loader) Render(n *ingot.Node, env Env, r Request) string {
	a := answerFor(n, &env, r)
	if !l.Waits && (a.kernel.Image != "" || a.ramdisk.Image != "") {
		a = a.problem("kernel and ramdisk are in Swift, from where only iPXE fetches; boot iPXE, or set the " +
			"boot interface to pxe and deploy again")
	}
	if !l.Waits && a.end == endISO {
		a = a.problem("the instance boots an ISO, which only iPXE reads from the network; boot iPXE")
	}
	return l.write(&a, &env)
}

// Problem says on the console what is wrong with the boot of node label, and goes on to the next
// boot device. It is served as a success: firmware shows nothing useful on anything else.
func (l Loader) Problem(label, problem string, r Request) string {
	a := answer{label: label, trace: "trace " + r.Trace}.problem(problem)
	return l.write(&a, &Env{})
}

// Unread tells the machine of Request.MAC that its rows cannot be read now, and to ask again, all
// servers, with growing pauses: to go on to the next boot device would be wrong for a machine that is
// being deployed. Where no server can be named it goes on all the same.
func (l Loader) Unread(env Env, r Request) string {
	label := r.MAC
	if label == "" {
		label = "unknown"
	}
	a := answer{label: label, driver: env.Driver, mac: r.MAC, trace: "trace " + r.Trace,
		seed: r.MAC}.problem("the database of the servers does not answer; see their logs")
	if len(env.BaseURLs) > 0 && env.Driver != "" {
		a.end = endAgain
	}
	return l.write(&a, &env)
}

// Again tells the machine of a node that it is known and has to ask again, and why.
func (l Loader) Again(n *ingot.Node, env Env, r Request, why string) string {
	a := answer{label: n.Label(), driver: n.Driver, mac: r.MAC, trace: "trace " + r.Trace,
		seed: n.UUID}.problem(why)
	if len(env.BaseURLs) > 0 {
		a.end = endAgain
	}
	return l.write(&a, &env)
}

// Script is the iPXE script for the machine of a node.
func Script(n *ingot.Node, env Env, r Request) string { return IPXE.Render(n, env, r) }
