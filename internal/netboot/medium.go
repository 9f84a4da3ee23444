package netboot

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/netdata"
)

// Medium is a medium that the BMC of a machine inserts: a kernel and a ramdisk, or an ISO, or a floppy.
type Medium struct {
	Kernel, Ramdisk ingot.File
	Args            []string // of the kernel; clean
	// Network is the file network_data.json for the ramdisk; "" is none.
	Network string
	// ISO is the site's own, as it is.
	ISO ingot.File
	// Parameters are of the floppy: name=value; clean.
	Parameters []string
	// Drive says that it is the config drive of the instance.
	Drive bool
	// ByHTTP tells that the machine itself loads it, by UEFI's HTTP client, and not its BMC.
	ByHTTP bool
}

// StaticArg names the argument by which our agent learns the address of the card that BOOTIF names, in place of
// asking DHCP: ADDRESS/PREFIX, and a comma and a gateway if there is one.
const StaticArg = "agent_ip"

// MediumOf returns the medium of the node's deploy ramdisk, with its machine known by a MAC; ok is false
// if it boots no ramdisk now. The same row and environment give the same medium.
func MediumOf(n *ingot.Node, mac string, env Env) (m Medium, ok bool) {
	if d := decide(n); d.Problem != "" || d.Intent != ingot.BootDeploy || len(env.BaseURLs) == 0 {
		return m, false
	}
	if n.Attempt.ISO.Known() {
		return Medium{ISO: n.Attempt.ISO.File}, n.Attempt.ISO.File.Known()
	}
	kernel, ramdisk, args := told(n, mac, env)
	return Medium{Kernel: kernel, Ramdisk: ramdisk, Args: args, Network: netdata.Text(n.NetworkData)}, true
}

// InstanceMediumOf returns the medium that an instance boots; ok is false if it boots none now.
func InstanceMediumOf(n *ingot.Node) (m Medium, ok bool) {
	if d := decide(n); d.Problem != "" || d.Intent != ingot.BootInstance || n.Instance.Key == "" {
		return m, false
	}
	if iso := n.Instance.ISO; iso.Known() {
		return Medium{ISO: iso.File}, iso.File.Known()
	}
	var a answer
	a.boot(n, &Env{})
	return Medium{Kernel: a.kernel, Ramdisk: a.ramdisk, Args: a.args}, true
}

// FloppyOf returns the floppy that goes with the site's own ISO; ok is false if the machine boots none now.
func FloppyOf(n *ingot.Node, mac string, env Env) (m Medium, ok bool) {
	if d := decide(n); d.Problem != "" || d.Intent != ingot.BootDeploy || len(env.BaseURLs) == 0 ||
		!n.Attempt.ISO.Known() {
		return m, false
	}
	_, _, args := told(n, mac, env)
	return Medium{Parameters: slices.DeleteFunc(args, func(a string) bool { return !strings.Contains(a, "=") })}, true
}

// told is what a ramdisk is told of a node.
func told(n *ingot.Node, mac string, env Env) (kernel, ramdisk ingot.File, args []string) {
	var a answer
	a.boot(n, &env)
	args = []string{"BOOTIF=01-" + strings.ReplaceAll(mac, ":", "-")}
	if g := n.Attempt.Agent; g != nil && g.OnMedium {
		// It never crosses a network, unlike one that is looked up.
		args = append(args, "ipa-agent-token="+word(g.Token.Reveal()))
	}
	for _, s := range netdata.Statics(n.NetworkData) {
		if s.MAC == mac {
			args = append(args, staticArg(s))
			break
		}
	}
	return a.kernel, a.ramdisk, append(args, a.args...)
}

func staticArg(s netdata.Static) string {
	arg := StaticArg + "=" + s.Address.String()
	if s.Gateway.IsValid() {
		arg += "," + s.Gateway.String()
	}
	return arg
}

// MediumPath is where the medium of a deployment or an instance is at every server; "" if there is none. The
// medium has the deploy key on it, so the path cannot be guessed; it is another one for each boot, because
// BMCs keep what they have read.
func MediumPath(n *ingot.Node) string { return mediumPath(n, "medium", "boot.iso") }

// FloppyPath is where the floppy is that goes with it.
func FloppyPath(n *ingot.Node) string { return mediumPath(n, "floppy", "image.img") }

func mediumPath(n *ingot.Node, what, file string) string {
	secret := ""
	switch {
	case n.BootIntent == ingot.BootInstance && n.Instance != nil && n.Instance.Key != "":
		secret = "instance " + n.Instance.Key.Reveal()
	case n.BootIntent == ingot.BootInstance || n.Attempt == nil:
		return ""
	default:
		secret = n.Attempt.ID + " " + n.Attempt.Key.Reveal()
	}
	return "/media/" + n.UUID + "/" + unguessable(what+" "+secret) + "/" + file
}

// MediumTag makes the name of a medium unguessable that is stored somewhere; the node has an Attempt, or boots an
// Instance with a key. It is another one for each boot of a deployment.
func MediumTag(n *ingot.Node) string {
	if n.BootIntent == ingot.BootInstance {
		return unguessable("stored instance " + n.Instance.Key.Reveal())
	}
	a := n.Attempt
	return unguessable("stored " + a.ID + " " + a.Key.Reveal() + " " + strconv.Itoa(a.Boots))
}

func unguessable(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:16])
}
