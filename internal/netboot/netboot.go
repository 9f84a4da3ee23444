// Package netboot decides what a machine boots now and writes the iPXE script that says so.
// It is pure: the same node and the same Env give the same bytes, on every conductor, so no
// boot file is ever written for a machine and none can be out of date. It does not fetch, serve
// or store anything; bootfile holds the kernels, bootd and the driver passthru `ipxe_config`
// hand out the text.
//
// Read Decide first (what a node boots), then script.go (how iPXE is told).
package netboot

import (
	"fmt"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// Env is what a script must know of the installation. All of it is the same for every node.
type Env struct {
	// BaseURLs are the servers of scripts, kernels and ramdisks ("http://10.77.0.1:8080"),
	// tried in order; at least one.
	BaseURLs []string
	// APIURLs are where the ramdisk calls back, tried in order. Empty: BaseURLs, because the
	// calls of machines are served there too.
	APIURLs []string
	// KernelArgs are appended to the command line of the deploy kernel ("console=ttyS0"). A
	// node's driver_info.kernel_append_params replaces them, with %default% standing for them.
	KernelArgs string
}

// Decision is what a node boots now.
type Decision struct {
	Intent ingot.BootIntent
	// Problem is set when the row does not tell what to boot: someone has to look at it. It is
	// one sentence, shown on the console and worth a warning in the log (S1.4).
	Problem string
}

// Decide computes what the node boots. The provision state alone cannot tell (deploying covers
// both the ramdisk and what it wrote), hence the boot intent in the row; a state that does not
// exist, an intent this version does not serve or a deployment without its files is a Problem.
func Decide(n *ingot.Node) Decision {
	if lifecycle.KindOf(lifecycle.State(n.ProvisionState)) == "" {
		return Decision{ingot.BootNone,
			fmt.Sprintf("provision state %q is unknown", n.ProvisionState)}
	}
	switch n.BootIntent {
	case "", ingot.BootNone:
		return Decision{Intent: ingot.BootNone}
	case ingot.BootDisk, ingot.BootError:
		return Decision{Intent: n.BootIntent}
	case ingot.BootDeploy:
		a := n.Attempt
		if a == nil || a.Kernel.SHA256 == "" || a.Ramdisk.SHA256 == "" {
			return Decision{ingot.BootError,
				"a deployment is under way, but its kernel or ramdisk is not on record; " +
					"undeploy the node and deploy it again"}
		}
		return Decision{Intent: ingot.BootDeploy}
	}
	return Decision{ingot.BootNone,
		fmt.Sprintf("boot intent %q is not served by this version", n.BootIntent)}
}

// Script returns the iPXE script for a node.
func Script(n *ingot.Node, env Env) string {
	d := Decide(n)
	s := script{node: n, env: env}
	switch {
	case d.Intent == ingot.BootDeploy && len(env.BaseURLs) > 0:
		return s.deploy()
	case d.Intent == ingot.BootDeploy:
		return s.failed("no server address is configured to fetch the ramdisk from")
	case d.Intent == ingot.BootDisk:
		return s.disk()
	case d.Intent == ingot.BootError && d.Problem == "":
		return s.failed(n.LastError)
	case d.Intent == ingot.BootError:
		return s.failed(d.Problem)
	case d.Problem != "":
		return Problem(n.Label(), d.Problem)
	}
	return s.none()
}
