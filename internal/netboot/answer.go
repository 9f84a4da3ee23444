package netboot

import (
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/roothint"
)

// end is what a machine does with its answer.
type end int

const (
	endLeave end = iota // next boot device, at once
	endLater            // next boot device, when a person had time to read
	endAgain            // ask again
	endStop             // power off
	endDisk             // boot the local disk
	endBoot             // boot kernel and ramdisk
	endISO              // boot an ISO
	endWait             // ask again when there is a place to load them
)

// answer is what a machine is told, in no language yet. Its texts are not clean, for each language
// has its own idea of what is special.
type answer struct {
	end    end
	label  string
	title  string
	says   []string // further lines for the console
	driver string   // whose ipxe_config is asked again
	trace  string   // how the answer is found in the journal
	seed   string   // makes the pauses of one machine differ from those of another
	mac    string   // as in Request
	turn   Turn
	// For endBoot, and for endISO.
	kernel, ramdisk ingot.File
	iso             ingot.ISO
	urls            map[string]string // as in Request
	args            []string          // clean
}

// answerFor computes what a node's machine is told; nil is a machine nobody knows.
func answerFor(n *ingot.Node, env *Env, r Request) answer {
	if n == nil {
		return unknownMachine(env, r)
	}
	a := answer{label: n.Label(), driver: n.Driver, mac: r.MAC, trace: "trace " + r.Trace,
		seed: n.UUID, turn: r.Turn}
	if n.Attempt != nil {
		a.trace = "attempt " + n.Attempt.ID
		a.seed += n.Attempt.ID
	}
	d := Decide(n)
	if d.Problem != "" && d.Intent != ingot.BootError {
		return a.problem(d.Problem)
	}
	switch d.Intent {
	case ingot.BootDeploy, ingot.BootRescue, ingot.BootInspect, ingot.BootInstance:
		if len(env.BaseURLs) == 0 {
			return a.problem("no server address is configured to boot from")
		}
		a.boot(n, env)
		a.urls = r.URLs
		if r.Turn.Ask > 0 {
			a.wait()
		}
	case ingot.BootDisk:
		a.end, a.title = endDisk, "boot from disk"
	case ingot.BootError:
		why := d.Problem
		if why == "" {
			why = n.LastError
		}
		if why == "" {
			why = "no reason on record"
		}
		a.end, a.title = endStop, "stopped in state "+n.ProvisionState
		a.says = []string{why, "more with: ingot node journal " + n.Label()}
	default:
		a.title = "nothing to boot from the network in state " + n.ProvisionState +
			"; next boot device"
	}
	return a
}

// problem makes the answer the message that someone has to look at the node.
func (a answer) problem(what string) answer {
	a.end, a.title, a.says = endLater, "cannot tell what to boot", []string{what}
	return a
}

// unknownMachine shows what the machine called itself, so that a person at the console can enroll
// it. It tells nothing about known ones.
func unknownMachine(env *Env, r Request) answer {
	mac := r.MAC
	if mac == "" {
		mac = "it did not name"
	}
	a := answer{label: "unknown", driver: env.Driver, mac: r.MAC, trace: "trace " + r.Trace,
		seed: r.MAC}.problem("no node has a port with the address " + mac +
		"; to manage this machine enroll a node and create the port")
	if env.Unknown == UnknownRetry && len(env.BaseURLs) > 0 && env.Driver != "" {
		a.end = endAgain
	}
	return a
}

// agentDeploy is the deploy interface whose ramdisk has an agent that speaks Ironic's protocol; ours speaks
// the older one unless it is told.
const agentDeploy = "direct"

// boot fills in kernel, ramdisk and arguments. Seed 2 and the Liberty release of Ironic name the
// arguments of the deploy ramdisk.
func (a *answer) boot(n *ingot.Node, env *Env) {
	a.end, a.args = endBoot, make([]string, 0, 16)
	if n.BootIntent == ingot.BootInstance {
		i := n.Instance
		a.title = "instance"
		if i.ISO.Known() {
			a.end, a.iso = endISO, i.ISO
			return
		}
		a.kernel, a.ramdisk = i.Kernel, i.Ramdisk
		root := []string{"root=UUID=" + word(i.RootUUID), "ro"}
		if i.Diskless {
			root = []string{"root=/dev/ram0", "text"}
		}
		a.args = kernelWords(append(a.args, root...), i.KernelArgs)
		return
	}
	a.title = string(n.BootIntent) + " ramdisk"
	a.kernel, a.ramdisk = n.Attempt.Kernel, n.Attempt.Ramdisk
	apis := env.APIURLs
	if len(apis) == 0 {
		apis = env.BaseURLs
	}
	all, first := apiURLs(apis)
	a.args = append(a.args,
		"deployment_id="+word(n.UUID),
		"deployment_key="+word(n.Attempt.Key.Reveal()),
		"iscsi_target_iqn=iqn.2008-10.org.openstack:"+word(n.UUID),
		"ironic_api_url="+all,
		"ipa-api-url="+first,
		"boot_attempt="+word(n.Attempt.ID),
	)
	if n.Interfaces["deploy"] == agentDeploy {
		a.args = append(a.args, "agent_protocol=ipa")
	}
	if n.BootIntent == ingot.BootInspect {
		a.args = append(a.args, "ipa-inspection-callback-url="+first+"/v1/continue_inspection")
	}
	if hints, _ := roothint.Of(n.InstanceInfo, n.Properties); hints != nil {
		// A node that would not validate asks for a disk that is not there, rather than for any.
		encoded := "invalid"
		if h, err := roothint.Parse(hints); err == nil {
			encoded = h.Encode()
		}
		a.args = append(a.args, "root_device="+encoded)
	}
	extra := env.KernelArgs
	if own, ok := n.DriverInfo["kernel_append_params"].(string); ok {
		extra = strings.ReplaceAll(own, "%default%", extra)
	}
	a.args = kernelWords(a.args, extra)
}

// wait makes the answer a wait for what boot says.
func (a *answer) wait() {
	a.end = endWait
	t := a.turn
	sending := "boot files are being sent to " + strconv.Itoa(t.Sending) + " machines; "
	switch {
	case t.Place > 0:
		a.says = []string{sending + "you start in " + strconv.Itoa(seconds(t.Start)) + " s (place " +
			strconv.Itoa(t.Place) + ")"}
	case t.Start > 0:
		a.says = []string{sending + "too many wait to keep your place; asking again in " +
			strconv.Itoa(seconds(t.Ask)) + " s"}
	default:
		a.says = []string{"this server is busy; asking the next one"}
	}
}

// seconds rounds up, to at least 1.
func seconds(d time.Duration) int { return max(int((d+time.Second-1)/time.Second), 1) }

// apiURLs are the URLs for the ramdisk, joined by commas, and the first of them.
func apiURLs(urls []string) (all, first string) {
	if len(urls) == 1 {
		u := server(urls[0])
		return u, u
	}
	clean := make([]string, len(urls))
	for i, u := range urls {
		clean[i] = server(u)
	}
	return strings.Join(clean, ","), clean[0]
}

// pauses are the seconds between a machine's questions: they double up to a minute, and each is
// longer by up to a half, by the machine, for iPXE has no random numbers and a rack that got its
// power back must not ask in step.
func (a *answer) pauses() [6]int {
	h := fnv.New32a()
	h.Write([]byte(a.seed))
	bits := h.Sum32()
	var p [6]int
	for i, base := range [...]int{2, 4, 8, 16, 32, 60} {
		p[i] = base + int(bits%uint32(base/2+1))
		bits = bits*1664525 + 1013904223 // Numerical Recipes' generator: any that spreads will do
		bits ^= bits >> 16
	}
	return p
}

// filePath is the path of a boot file on every server, by HTTP and by TFTP.
func filePath(f ingot.File) string {
	name := word(f.Name)
	if name == "" || strings.Trim(name, ".") == "" {
		name = "file"
	}
	return "/files/" + word(f.SHA256) + "/" + name
}

// url is where a boot file is: on a server, with a parameter; or elsewhere.
func (a *answer) url(base string, f ingot.File, parameter string) string {
	if f.Image != "" {
		return foreign(a.urls[f.Image])
	}
	return base + filePath(f) + tag(parameter, a.turn.Tag)
}

// elsewhere tells whether no file to boot is on a server of ours.
func (a *answer) elsewhere() bool { return a.kernel.Image != "" && a.ramdisk.Image != "" }

// server is a base URL as it is written before a path.
func server(base string) string { return link(strings.TrimRight(base, "/")) }
