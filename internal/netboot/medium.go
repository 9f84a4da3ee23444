package netboot

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/netdata"
)

// Medium is what a machine boots from a medium that its BMC inserts.
type Medium struct {
	Kernel, Ramdisk ingot.File
	Args            []string // of the kernel; clean
	// Network is the file network_data.json for the ramdisk; "" is none.
	Network string
}

// StaticArg names the argument by which our agent learns the address of the card that BOOTIF names, in place of
// asking DHCP: ADDRESS/PREFIX, and a comma and a gateway if there is one.
const StaticArg = "agent_ip"

// MediumOf returns the medium of the node's deploy ramdisk, with its machine known by a MAC; ok is false
// if it boots no ramdisk now. The same row and environment give the same medium.
func MediumOf(n *ingot.Node, mac string, env Env) (m Medium, ok bool) {
	if d := Decide(n); d.Problem != "" || d.Intent != ingot.BootDeploy || len(env.BaseURLs) == 0 {
		return m, false
	}
	var a answer
	a.boot(n, &env)
	args := []string{"BOOTIF=01-" + strings.ReplaceAll(mac, ":", "-")}
	for _, s := range netdata.Statics(n.NetworkData) {
		if s.MAC == mac {
			args = append(args, staticArg(s))
			break
		}
	}
	return Medium{a.kernel, a.ramdisk, append(args, a.args...), netdata.Text(n.NetworkData)}, true
}

func staticArg(s netdata.Static) string {
	arg := StaticArg + "=" + s.Address.String()
	if s.Gateway.IsValid() {
		arg += "," + s.Gateway.String()
	}
	return arg
}

// MediumPath is where the medium of a deployment is at every server. The medium has the deploy key on it, so
// the path cannot be guessed; it is another one for each boot, because BMCs keep what they have read.
func MediumPath(n *ingot.Node) string {
	if n.Attempt == nil {
		return ""
	}
	return "/media/" + n.UUID + "/" + unguessable("medium "+n.Attempt.ID+" "+n.Attempt.Key.Reveal()) + "/boot.iso"
}

// MediumTag makes the name of a medium unguessable that is stored somewhere; the node has an Attempt. It is
// another one for each boot of the machine.
func MediumTag(n *ingot.Node) string {
	a := n.Attempt
	return unguessable("stored " + a.ID + " " + a.Key.Reveal() + " " + strconv.Itoa(a.Boots))
}

func unguessable(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:16])
}
