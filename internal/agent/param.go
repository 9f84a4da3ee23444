package agent

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot/internal/roothint"
)

// Params is what the conductor told the ramdisk on the kernel command line.
type Params struct {
	// Node is the UUID of the node: deployment_id.
	Node string
	// Key proves to the server that the call comes from this attempt: deployment_key.
	Key string
	// IQN names the target: iscsi_target_iqn, or Ironic's form of it made from Node.
	IQN string
	// APIs are base URLs of the server, tried in turn: ironic_api_url, or ipa-api-url.
	APIs []string
	// BootMAC is the interface that booted the machine: BOOTIF. Nil: any with a link.
	BootMAC net.HardwareAddr
	// Static is its address: agent_ip. None: DHCP is asked.
	Static Static
	// OpenTarget leaves the target without CHAP: iscsi_chap=none.
	OpenTarget bool
	// Hints say which disk is meant: root_device, as package roothint encodes them.
	Hints roothint.Hints
	// Protocol is who commands: agent_protocol. Key and, as the lookup tells it, Node may be missing
	// with ipa.
	Protocol Protocol
	// Token proves to this agent who commands it, and to the server who reports: ipa-agent-token. Empty:
	// the lookup tells it.
	Token string
	// LookupTimeout is how long the server is asked about this machine: ipa-lookup-timeout, in seconds.
	// 0: the default.
	LookupTimeout time.Duration
	// Insecure believes any certificate of API and image: ipa-insecure.
	Insecure bool
}

// Protocol is a way of working with the conductor.
type Protocol string

// The protocols. With the export, which is the default, the agent lends the disk and that is all.
const (
	Export Protocol = ""
	IPA    Protocol = "ipa" // of ironic-python-agent
)

var (
	// nodeName is what may stand in the path of a URL without escaping.
	nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$`)
	// targetName keeps to RFC 3722 in ASCII. It becomes a directory of configfs, so no slash;
	// Ironic 2014.1 sent iqn-<uuid>, hence the hyphen.
	targetName = regexp.MustCompile(`^(iqn|eui|naa)[.-][A-Za-z0-9.:-]{1,218}$`)
)

// ParseParams reads a kernel command line. Of a repeated parameter the last one counts, as in
// the kernel; unknown parameters belong to others. The error names the parameter that is wrong.
func ParseParams(line string) (Params, error) {
	arg := arguments(line)
	p := Params{
		Node:       arg["deployment_id"],
		Key:        arg["deployment_key"],
		IQN:        arg["iscsi_target_iqn"],
		OpenTarget: arg["iscsi_chap"] == "none",
		Protocol:   Protocol(arg["agent_protocol"]),
		Token:      arg["ipa-agent-token"],
		Insecure:   slices.Contains([]string{"1", "true", "True", "yes", "on"}, arg["ipa-insecure"]),
	}
	if p.Protocol != Export && p.Protocol != IPA {
		return Params{}, badParam("agent_protocol", arg["agent_protocol"], "ipa, or left out")
	}
	if !nodeName.MatchString(p.Node) && (p.Node != "" || p.Protocol != IPA) {
		return Params{}, badParam("deployment_id", p.Node, "the UUID of a node")
	}
	if p.Key == "" && p.Protocol != IPA {
		return Params{}, badParam("deployment_key", p.Key, "the key of this attempt")
	}
	var err error
	if p.LookupTimeout, err = parseSeconds("ipa-lookup-timeout", arg); err != nil {
		return Params{}, err
	}
	if p.IQN == "" && p.Node != "" {
		p.IQN = "iqn.2008-10.org.openstack:" + strings.ToLower(p.Node)
	}
	if !targetName.MatchString(p.IQN) && (p.IQN != "" || p.Protocol != IPA) {
		return Params{}, badParam("iscsi_target_iqn", p.IQN, "an iSCSI name such as iqn.2008-10.org:x")
	}
	if p.APIs, err = parseAPIs(arg); err != nil {
		return Params{}, err
	}
	if p.Hints, err = roothint.Decode(arg["root_device"]); err != nil {
		// Without them the wrong disk would be overwritten.
		return Params{}, fmt.Errorf("kernel parameter root_device is wrong: %w", err)
	}
	if p.Static, err = parseStatic(arg["agent_ip"]); err != nil {
		return Params{}, err
	}
	p.BootMAC, err = parseBootMAC(arg["BOOTIF"])
	return p, err
}

// arguments splits a command line as the kernel does: at white space outside double quotes.
func arguments(line string) map[string]string {
	arg := make(map[string]string)
	quoted := false
	fields := strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n')
	})
	for _, f := range fields {
		name, value, _ := strings.Cut(strings.ReplaceAll(f, `"`, ""), "=")
		arg[name] = value
	}
	return arg
}

func parseAPIs(arg map[string]string) ([]string, error) {
	name := "ironic_api_url"
	if arg[name] == "" {
		name = "ipa-api-url"
	}
	var apis []string
	for text := range strings.SplitSeq(arg[name], ",") {
		if text == "" {
			continue
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
			u.RawQuery != "" || u.Fragment != "" {
			return nil, badParam(name, text, "a URL such as http://10.0.0.1:6385")
		}
		apis = append(apis, strings.TrimRight(text, "/"))
	}
	if len(apis) == 0 {
		return nil, badParam("ironic_api_url", "", "a URL such as http://10.0.0.1:6385")
	}
	return apis, nil
}

// parseSeconds reads a number of seconds, 0 if there is none.
func parseSeconds(name string, arg map[string]string) (time.Duration, error) {
	if arg[name] == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(arg[name], 10, 31)
	if err != nil {
		return 0, badParam(name, arg[name], "a number of seconds")
	}
	return time.Duration(n) * time.Second, nil
}

// parseBootMAC takes what PXELINUX and iPXE's hexhyp write, 01-aa-bb-cc-dd-ee-ff with the
// hardware type in front, as well as the address alone.
func parseBootMAC(text string) (net.HardwareAddr, error) {
	if text == "" {
		return nil, nil
	}
	address := text
	if len(address) == len("01-aa-bb-cc-dd-ee-ff") {
		address = address[3:]
	}
	mac, err := net.ParseMAC(address)
	if err != nil || len(mac) != 6 {
		return nil, badParam("BOOTIF", text, "a MAC address such as 01-52-54-00-12-34-56")
	}
	return mac, nil
}

func badParam(name, value, want string) error {
	if value == "" {
		return fmt.Errorf("kernel parameter %s is missing: it must be %s", name, want)
	}
	return fmt.Errorf("kernel parameter %s=%s is wrong: it must be %s", name, value, want)
}
