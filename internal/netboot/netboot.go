// Package netboot decides what a machine boots now and writes the text that tells its boot loader:
// an iPXE script, a PXELINUX configuration or a GRUB configuration. It is pure: the same node,
// Env and Request give the same bytes, on every conductor, so no file has to be written for a
// machine and none can be out of date. It does not fetch, serve or store anything; bootfile holds
// the kernels, bootd and the driver passthru `ipxe_config` hand out the text, and package tree puts
// it on a disk where another server shall (page.go).
//
// Read Decide first (what a node boots), then answer.go (what the machine is told, in no
// language), then ipxe.go, pxelinux.go and grub.go (how each boot loader is told).
package netboot

import (
	"slices"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// Env is what an answer must know of the installation. All of it is the same for every node.
type Env struct {
	// BaseURLs are the servers of scripts, kernels and ramdisks ("http://10.77.0.1:8080"),
	// tried in order; at least one. GRUB and PXELINUX ask the same hosts by TFTP.
	BaseURLs []string
	// APIURLs are where the ramdisk calls back, tried in order. Empty: BaseURLs, because the
	// calls of machines are served there too.
	APIURLs []string
	// KernelArgs are appended to the command line of the deploy kernel ("console=ttyS0"). A
	// node's driver_info.kernel_append_params replaces them, with %default% standing for them.
	KernelArgs string
	// Driver is a hardware type whose ipxe_config answers, for machines of which no node, and so
	// no driver, is known. Any one with the boot interface will do: it answers for every machine.
	Driver string
	// Unknown is what a machine without a node is told.
	Unknown Unknown
	// onDisk makes the text a page of a Tree: BaseURLs are relative to it, and a machine that asks
	// again gets a page.
	onDisk bool
}

// Unknown is what a machine without a node is told; the values are those of the configuration
// ([boot] unknown_machine).
type Unknown string

// What unknown machines do after the message: go on to their next boot device, or ask again until
// somebody enrolls them. The zero value is the first.
const (
	UnknownExit  Unknown = "exit"
	UnknownRetry Unknown = "retry"
)

// Request is what is known of who asks, and how the answer is found again.
type Request struct {
	// MAC as ParseMAC returns it; "" when the machine did not say.
	MAC string
	// Trace is made for this answer: it is shown on the console and is in the answer's journal
	// entry. Answers that belong to an attempt show that instead.
	Trace string
	// Turn is the place of a machine that would load boot files; only iPXE can wait for it.
	Turn Turn
	// URLs are where the files are now that no server has, by ingot.File.Image. Only iPXE
	// fetches from there.
	URLs map[string]string
}

// TurnNews is how often it is worth a line in the journal that a machine still waits; those who
// look for a sign of life of it can rely on one.
const TurnNews = time.Minute

// Turn tells whether a machine may load its boot files now. The zero value says that it may.
type Turn struct {
	// Tag goes into the URLs of the files, for the server to know whose place they are loaded in.
	Tag string
	// Waited is how long a machine that may load now was in the line.
	Waited time.Duration
	// Ask is the time after which the machine is to ask again; 0 says that it need not wait.
	Ask time.Duration
	// Place is where it is in the line, from 1; 0 if it is not, because the line is full or
	// because it is asked to look elsewhere.
	Place int
	// Sending is how many machines load now, Start when this one will, as far as can be told.
	Sending int
	Start   time.Duration
	// News says that the journal should mention the wait.
	News bool
}

// Decision is what a node boots now.
type Decision struct {
	Intent ingot.BootIntent
	// Problem is set when the row does not tell what to boot: someone has to look at it. It is
	// one sentence, shown on the console and worth a warning in the log (S1.4).
	Problem string
}

// Loads tells whether the machine loads kernel and ramdisk.
func (d Decision) Loads() bool {
	switch d.Intent {
	case ingot.BootDeploy, ingot.BootRescue, ingot.BootInspect, ingot.BootInstance:
		return d.Problem == ""
	}
	return false
}

// Files returns what a node's machine loads now; ok is false if it loads nothing, or reads an ISO.
func Files(n *ingot.Node) (kernel, ramdisk ingot.File, ok bool) {
	switch d := Decide(n); {
	case !d.Loads() || d.Intent == ingot.BootInstance && n.Instance.ISO.Known():
		return kernel, ramdisk, false
	case d.Intent == ingot.BootInstance:
		return n.Instance.Kernel, n.Instance.Ramdisk, true
	default:
		return n.Attempt.Kernel, n.Attempt.Ramdisk, true
	}
}

// booting lists, for each provision state, what a machine may be booted into over the network
// there. The boot intent decides; this refuses what only a fault can have left in the row, so
// that no machine in use is booted into a ramdisk. Leaving to the disk or to the next boot device
// and showing an error are safe in every state, hence not listed.
var booting = map[lifecycle.State][]ingot.BootIntent{
	lifecycle.Enroll:     {},
	lifecycle.Verifying:  {},
	lifecycle.Manageable: {},
	lifecycle.Available:  {},

	lifecycle.Inspecting:    {ingot.BootInspect},
	lifecycle.InspectWait:   {ingot.BootInspect},
	lifecycle.InspectFailed: {},

	// Deploying covers both the ramdisk and what it wrote, and so does the wait: for the
	// ramdisk's first call, then for its last.
	lifecycle.Deploying:    {ingot.BootDeploy, ingot.BootInstance},
	lifecycle.WaitCallBack: {ingot.BootDeploy, ingot.BootInstance},
	lifecycle.DeployHold:   {ingot.BootDeploy, ingot.BootInstance},
	lifecycle.DeployFailed: {ingot.BootInstance}, // of a rebuild that failed before it began
	lifecycle.Active:       {ingot.BootInstance},
	lifecycle.Adopting:     {ingot.BootInstance},
	lifecycle.AdoptFailed:  {},
	lifecycle.Deleting:     {},
	lifecycle.Error:        {},

	lifecycle.Cleaning:    {ingot.BootDeploy},
	lifecycle.CleanWait:   {ingot.BootDeploy},
	lifecycle.CleanHold:   {ingot.BootDeploy},
	lifecycle.CleanFailed: {},

	// A reboot in state rescue leaves the rescue ramdisk, as in Ironic.
	lifecycle.Rescuing:       {ingot.BootRescue, ingot.BootInstance},
	lifecycle.RescueWait:     {ingot.BootRescue},
	lifecycle.Rescue:         {},
	lifecycle.RescueFailed:   {},
	lifecycle.Unrescuing:     {ingot.BootInstance},
	lifecycle.UnrescueFailed: {ingot.BootInstance},

	lifecycle.Servicing:     {ingot.BootDeploy, ingot.BootInstance},
	lifecycle.ServiceWait:   {ingot.BootDeploy},
	lifecycle.ServiceHold:   {ingot.BootDeploy},
	lifecycle.ServiceFailed: {ingot.BootInstance},
}

// Decide computes what the node boots. The provision state alone cannot tell, hence the boot
// intent in the row; a state that does not exist, an intent that has no business in the state, or
// one without its files is a Problem.
func Decide(n *ingot.Node) Decision {
	d := decide(n)
	if d.Intent == ingot.BootDeploy && n.Attempt != nil && n.Attempt.ISO.Known() {
		return Decision{Intent: ingot.BootNone} // its BMC has inserted what it boots
	}
	return d
}

func decide(n *ingot.Node) Decision {
	state := lifecycle.State(n.ProvisionState)
	allowed, known := booting[state]
	if !known {
		return Decision{ingot.BootNone, `provision state "` + n.ProvisionState + `" is unknown`}
	}
	switch n.BootIntent {
	case "", ingot.BootNone:
		return Decision{Intent: ingot.BootNone}
	case ingot.BootDisk, ingot.BootError:
		return Decision{Intent: n.BootIntent}
	case ingot.BootDeploy, ingot.BootRescue, ingot.BootInspect, ingot.BootInstance:
	default:
		return Decision{ingot.BootNone, `boot intent "` + string(n.BootIntent) +
			`" is not served by this version`}
	}
	switch {
	case slices.Contains(allowed, n.BootIntent):
	case state == lifecycle.DeployFailed || state == lifecycle.CleanFailed:
		return Decision{Intent: ingot.BootError}
	case state == lifecycle.Deleting && (n.BootIntent == ingot.BootInstance ||
		n.BootIntent == ingot.BootDeploy):
		return Decision{Intent: ingot.BootNone} // until it is off
	default:
		return Decision{ingot.BootNone, `boot intent "` + string(n.BootIntent) +
			`" does not belong to provision state "` + n.ProvisionState + `"`}
	}
	if n.BootIntent == ingot.BootInstance {
		return decideInstance(n)
	}
	if a := n.Attempt; a == nil || !a.ISO.Known() && (!a.Kernel.Known() || !a.Ramdisk.Known()) {
		return Decision{ingot.BootError, "the machine shall boot a ramdisk, but its kernel or " +
			"ramdisk is not on record; undeploy the node and deploy it again"}
	}
	return Decision{Intent: n.BootIntent}
}

// decideInstance leaves a machine in use running, or gives its disk a chance, where it cannot be
// booted: switching it off would help nobody.
func decideInstance(n *ingot.Node) Decision {
	i := n.Instance
	switch {
	case i != nil && i.Diskless && i.ISO.Known():
	case i == nil || !i.Kernel.Known() || !i.Ramdisk.Known():
		return Decision{ingot.BootNone, "the instance boots from the network, but its kernel or " +
			"ramdisk is not on record; rebuild the node"}
	case i.RootUUID == "" && !i.Diskless:
		return Decision{ingot.BootNone, "the instance boots from the network, but its root " +
			"partition is not on record; rebuild the node"}
	}
	return Decision{Intent: ingot.BootInstance}
}
