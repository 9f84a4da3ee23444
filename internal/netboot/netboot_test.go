package netboot_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/netboot"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func env() netboot.Env {
	return netboot.Env{
		BaseURLs:   []string{"http://10.77.0.1:8080", "http://10.77.0.2:8080/"},
		KernelArgs: "console=ttyS0 quiet panic=30",
		Driver:     "ipmi",
	}
}

// ask is the request of the machine of every test.
var ask = netboot.Request{MAC: "52:54:00:12:34:56", Trace: "0badcafe"}

func node(intent ingot.BootIntent, state string) *ingot.Node {
	n := &ingot.Node{
		UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Name: "rack1-u07", Driver: "ipmi",
		ProvisionState: state, BootIntent: intent,
	}
	switch intent {
	case ingot.BootInstance:
		n.Instance = &ingot.Instance{
			Kernel:     ingot.File{SHA256: strings.Repeat("c3", 32), Name: "vmlinuz-6.1", Size: 9},
			Ramdisk:    ingot.File{SHA256: strings.Repeat("d4", 32), Name: "initrd.img-6.1", Size: 9},
			RootUUID:   "7c0e5c6f-35a2-4f5f-8d8b-9f6f1c4f7a11",
			KernelArgs: "console=ttyS0 net.ifnames=0",
		}
	case ingot.BootDeploy, ingot.BootRescue, ingot.BootInspect:
		n.Attempt = &ingot.Attempt{
			ID: "5f3a9c01", Key: "K3yK3yK3yK3yK3yK3yK3yK3yK3yK3yK3",
			Kernel:  ingot.File{SHA256: strings.Repeat("a1", 32), Name: "vmlinuz", Size: 9},
			Ramdisk: ingot.File{SHA256: strings.Repeat("b2", 32), Name: "ramdisk.img", Size: 9},
		}
	case ingot.BootError:
		n.LastError = "write_image: image is larger than the disk\nsecond line"
	}
	return n
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; renew with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), renew with -update:\n%s", path, diff)
	}
}

func TestScriptsAreThoseOnRecord(t *testing.T) {
	t.Parallel()
	noFiles := node(ingot.BootDeploy, "deploying")
	noFiles.Attempt = nil
	noRoot := node(ingot.BootInstance, "active")
	noRoot.Instance.RootUUID = ""
	diskless := node(ingot.BootInstance, "active")
	diskless.Instance.Diskless, diskless.Instance.RootUUID = true, ""
	oneServer := env()
	oneServer.BaseURLs = oneServer.BaseURLs[:1]
	oneServer.APIURLs = []string{"http://10.77.0.1:6385", "http://10.77.0.2:6385"}
	own := node(ingot.BootDeploy, "wait call-back")
	own.DriverInfo = ingot.Object{"kernel_append_params": "%default% initrd=/etc/x debug=1"}
	retry := env()
	retry.Unknown = netboot.UnknownRetry
	waits := func(t netboot.Turn) string {
		r := ask
		r.Turn = t
		return netboot.Script(node(ingot.BootDeploy, "deploying"), env(), r)
	}
	for name, script := range map[string]string{
		"deploy-waits": waits(netboot.Turn{Place: 37, Sending: 256, Start: 13300 * time.Millisecond,
			Ask: 6650 * time.Millisecond}),
		"deploy-waits-without-place": waits(netboot.Turn{Sending: 256, Start: time.Hour,
			Ask: 30 * time.Second}),
		"deploy-elsewhere":      waits(netboot.Turn{Ask: time.Second}),
		"deploy-in-place":       waits(netboot.Turn{Tag: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123"}),
		"deploy-own-args":       netboot.Script(own, oneServer, ask),
		"deploy-no-files":       netboot.Script(noFiles, env(), ask),
		"instance-no-root":      netboot.Script(noRoot, env(), ask),
		"instance-diskless":     netboot.Script(diskless, env(), ask),
		"instance-iso":          netboot.Script(isoNode(ingot.ISO{File: diskless.Instance.Kernel}), env(), ask),
		"instance-iso-of-site":  netboot.Script(isoNode(ingot.ISO{URL: "http://site/a.iso?b=1&c=2"}), env(), ask),
		"unknown-state":         netboot.Script(node(ingot.BootDeploy, "dreaming"), env(), ask),
		"unknown-intent":        netboot.Script(node("odd", "active"), env(), ask),
		"unknown-machine":       netboot.Script(nil, env(), ask),
		"unknown-machine-retry": netboot.Script(nil, retry, ask),
		"unread":                netboot.IPXE.Unread(env(), ask),
		"unread-no-servers":     netboot.IPXE.Unread(netboot.Env{}, ask),
		"boot":                  netboot.BootIPXE(env()),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name+".ipxe", script)
		})
	}
}

// isoNode is a node whose instance boots an ISO.
func isoNode(iso ingot.ISO) *ingot.Node {
	n := node(ingot.BootInstance, "active")
	n.Instance = &ingot.Instance{Diskless: true, ISO: iso}
	return n
}

// occurs are the boot intents that a node can have in each provision state, with the command that
// the script amounts to. It was written from the table of what Ironic has on disk at each moment,
// not from the code.
var occurs = map[lifecycle.State]map[ingot.BootIntent]string{
	"enroll":         {"none": "exit"},
	"verifying":      {"none": "exit"},
	"manageable":     {"none": "exit"},
	"available":      {"none": "exit"},
	"inspecting":     {"none": "exit", "inspect": "ramdisk"},
	"inspect wait":   {"inspect": "ramdisk"},
	"inspect failed": {"none": "exit"},
	"deploying": {"none": "exit", "error": "stop", "deploy": "ramdisk", "disk": "disk",
		"instance": "instance"},
	"wait call-back": {"deploy": "ramdisk", "disk": "disk", "instance": "instance"},
	"deploy hold":    {"deploy": "ramdisk", "disk": "disk", "instance": "instance"},
	"deploy failed":  {"error": "stop", "disk": "disk", "instance": "instance"},
	"active":         {"disk": "disk", "instance": "instance"},
	"adopting":       {"none": "exit", "disk": "disk", "instance": "instance"},
	"adopt failed":   {"none": "exit"},
	"deleting": {"none": "exit", "deploy": "exit", "disk": "disk", "instance": "exit",
		"error": "stop"},
	"error":           {"none": "exit"},
	"cleaning":        {"none": "exit", "deploy": "ramdisk"},
	"clean wait":      {"deploy": "ramdisk"},
	"clean hold":      {"deploy": "ramdisk"},
	"clean failed":    {"error": "stop"},
	"rescuing":        {"disk": "disk", "instance": "instance", "rescue": "ramdisk"},
	"rescue wait":     {"rescue": "ramdisk"},
	"rescue":          {"none": "exit"},
	"rescue failed":   {"none": "exit"},
	"unrescuing":      {"disk": "disk", "instance": "instance"},
	"unrescue failed": {"disk": "disk", "instance": "instance"},
	"servicing":       {"disk": "disk", "instance": "instance", "deploy": "ramdisk"},
	"service wait":    {"deploy": "ramdisk"},
	"service hold":    {"deploy": "ramdisk"},
	"service failed":  {"disk": "disk", "instance": "instance"},
}

var intents = []ingot.BootIntent{
	ingot.BootNone, ingot.BootDeploy, ingot.BootRescue, ingot.BootInspect, ingot.BootInstance,
	ingot.BootDisk, ingot.BootError,
}

// amounts tells what a script amounts to, in the words of occurs.
func amounts(script string) string {
	switch {
	case strings.Contains(script, "\nkernel ") && strings.Contains(script, " deployment_key="):
		return "ramdisk"
	case strings.Contains(script, "\nkernel ") && strings.Contains(script, " root=UUID="):
		return "instance"
	case strings.Contains(script, "\nsanboot "):
		return "disk"
	case strings.Contains(script, "\npoweroff "):
		return "stop"
	case strings.HasSuffix(script, "\nexit 0\n"):
		return "exit"
	}
	return "?"
}

// Every state that lifecycle has is asked with every intent: those that can occur have a golden
// file, and those that cannot never boot anything over the network and are someone's to look at.
func TestS1_4_EveryStateHasItsScript(t *testing.T) {
	t.Parallel()
	for _, state := range lifecycle.States() {
		if occurs[state] == nil {
			t.Errorf("provision state %q: decide what its machines boot, in netboot.booting and here",
				state)
		}
		for _, intent := range intents {
			n := node(intent, string(state))
			script := netboot.Script(n, env(), ask)
			got, problem := amounts(script), netboot.Decide(n).Problem
			want, can := occurs[state][intent]
			if can {
				golden(t, "state/"+strings.ReplaceAll(string(state), " ", "-")+"_"+string(intent)+
					".ipxe", script)
				if got != want || problem != "" {
					t.Errorf("%s, intent %s: %s, problem %q, want %s", state, intent, got, problem,
						want)
				}
				continue
			}
			if got == "ramdisk" || got == "instance" {
				t.Errorf("%s, intent %s: boots the %s", state, intent, got)
			}
		}
	}
}

func TestS1_4_WhatDoesNotBelongTogetherIsAProblem(t *testing.T) {
	t.Parallel()
	for state, intent := range map[string]ingot.BootIntent{
		"active": ingot.BootDeploy, "available": ingot.BootInstance, "dreaming": ingot.BootDisk,
		"": ingot.BootDeploy, "deploying": "odd", "rescue": ingot.BootRescue,
	} {
		d := netboot.Decide(node(intent, state))
		if d.Problem == "" || d.Intent != ingot.BootNone {
			t.Errorf("state %q, intent %q: %+v", state, intent, d)
		}
	}
}

func TestS2_5_AnInstanceBootsItsKernelFromAnyServer(t *testing.T) {
	t.Parallel()
	script := netboot.Script(node(ingot.BootInstance, "active"), env(), ask)
	for server, silence := range map[string]string{"http://10.77.0.1:8080": "10000",
		"http://10.77.0.2:8080": "30000"} {
		if !strings.Contains(script, "\nkernel --timeout "+silence+" "+server+"/files/"+
			strings.Repeat("c3", 32)+"/vmlinuz-6.1 ") || !strings.Contains(script, " "+server+
			"/files/"+strings.Repeat("d4", 32)+"/initrd.img-6.1 ") {
			t.Errorf("nothing from %s in\n%s", server, script)
		}
	}
	if !strings.Contains(script, " root=UUID=7c0e5c6f-35a2-4f5f-8d8b-9f6f1c4f7a11 ro "+
		"console=ttyS0 net.ifnames=0 ||") || strings.Contains(script, "deployment_key") {
		t.Errorf("kernel arguments in\n%s", script)
	}
}

func TestScriptsSayHowTheyAreFoundInTheJournal(t *testing.T) {
	t.Parallel()
	for intent, want := range map[ingot.BootIntent]string{
		ingot.BootDeploy: "attempt 5f3a9c01", ingot.BootDisk: "trace 0badcafe",
		ingot.BootNone: "trace 0badcafe",
	} {
		script := netboot.Script(node(intent, "deploying"), env(), ask)
		if first, _, _ := strings.Cut(script[len("#!ipxe\n"):], "\n"); !strings.HasSuffix(first,
			want) {
			t.Errorf("intent %s begins with %q", intent, first)
		}
	}
}

// A rack that got its power back must not ask in step.
func TestPausesDifferByMachine(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for i := range 64 {
		n := node(ingot.BootDeploy, "deploying")
		n.UUID = "1be26c0b-03f2-4d2e-ae87-c02d7f33c1" + strconv.Itoa(10+i)
		var list []string
		last := 0
		for line := range strings.Lines(netboot.Script(n, env(), ask)) {
			if !strings.HasPrefix(line, "set pause") {
				continue
			}
			list = append(list, line)
			p, err := strconv.Atoi(strings.TrimSpace(line[len("set pause0 "):]))
			if err != nil || p < last || p < 2 || p > 90 {
				t.Errorf("pause %q after %d", line, last)
			}
			last = p
		}
		seen[strings.Join(list, "")] = true
	}
	if len(seen) < 56 {
		t.Errorf("64 machines have %d lists of pauses", len(seen))
	}
}

func TestOnlyTheDeployScriptHoldsTheKey(t *testing.T) {
	t.Parallel()
	for _, intent := range []ingot.BootIntent{
		ingot.BootNone, ingot.BootDeploy, ingot.BootDisk, ingot.BootError, ingot.BootInstance,
	} {
		n := node(intent, "deploying")
		n.Attempt = node(ingot.BootDeploy, "deploying").Attempt
		has := strings.Contains(netboot.Script(n, env(), ask), n.Attempt.Key.Reveal())
		if has != (intent == ingot.BootDeploy) {
			t.Errorf("intent %s: key in the script: %v", intent, has)
		}
	}
}

func TestMACsAreReadInEverySpelling(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"52:54:00:ab:cd:ef", "52:54:00:AB:CD:EF", "52-54-00-ab-cd-ef", "01-52-54-00-AB-cd-ef",
		"5254.00ab.cdef", "525400ABCDEF", " 52:54:00:ab:cd:ef\n",
	} {
		got, err := netboot.ParseMAC(s)
		if err != nil || got != "52:54:00:ab:cd:ef" {
			t.Errorf("ParseMAC(%q) = %q, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:01", "52:54-00:ab:cd:ef", "5:254:00:ab:cd:ef",
		"52:54:00:ab:cd:eg", "02-52-54-00-ab-cd-ef", "5254:00ab:cdef", "..", "52540 0abcdef",
	} {
		if got, err := netboot.ParseMAC(s); ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("ParseMAC(%q) = %q, %v", s, got, err)
		}
	}
}

func FuzzParseMAC(f *testing.F) {
	f.Add("52:54:00:ab:cd:ef")
	f.Fuzz(func(t *testing.T, s string) {
		mac, err := netboot.ParseMAC(s)
		if err != nil {
			return
		}
		if again, err := netboot.ParseMAC(mac); err != nil || again != mac {
			t.Errorf("ParseMAC(%q) = %q, and that is read as %q, %v", s, mac, again, err)
		}
	})
}

// poison puts foreign text wherever a person or a machine can put text.
func poison(n *ingot.Node, s string) {
	n.Name, n.LastError, n.Driver, n.UUID = s, s, s, s
	if a := n.Attempt; a != nil {
		a.Key, a.ID = ingot.Secret(s), s
		a.Kernel.Name, a.Ramdisk.Name = s, s
	}
	if i := n.Instance; i != nil {
		i.Kernel.Name, i.Ramdisk.Name, i.KernelArgs = s, s, s
		i.RootUUID = "x" + s
	}
	n.DriverInfo = ingot.Object{"kernel_append_params": s}
}

// FuzzScript asks that the commands of a script with foreign text are those of an innocent one.
func FuzzScript(f *testing.F) {
	f.Add("rack1\nshell")
	f.Add("${password} || shell && #\\")
	f.Add("--name x")
	f.Fuzz(func(t *testing.T, s string) {
		for _, intent := range append([]ingot.BootIntent{"odd"}, intents...) {
			evil, good := node(intent, "deploying"), node(intent, "deploying")
			poison(evil, s)
			want := commands(netboot.Script(good, env(), ask))
			got := commands(netboot.Script(evil, env(), netboot.Request{MAC: s, Trace: s}))
			if !slices.Equal(want, got) {
				t.Errorf("intent %s: commands %q, want %q", intent, got, want)
			}
		}
		for _, script := range []string{
			netboot.Script(nil, env(), netboot.Request{MAC: s, Trace: s}),
			netboot.IPXE.Problem(s, s, netboot.Request{Trace: s}),
			netboot.IPXE.Unread(netboot.Env{}, netboot.Request{MAC: s, Trace: s}),
		} {
			if got := commands(script); !slices.Equal(got, []string{
				"#!ipxe", "echo", "echo", "echo", "sleep", "exit",
			}) {
				t.Errorf("commands %q", got)
			}
		}
	})
}

// special is what iPXE gives a meaning inside a line.
var special = regexp.MustCompile(`\$\{[^}]*\}|\|\||&&|[$#\\]`)

// commands reduces a script to its commands: first word, operators and settings of each line.
func commands(script string) []string {
	var out []string
	for line := range strings.Lines(script) {
		first, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		out = append(out, strings.Join(append([]string{first},
			special.FindAllString(rest, -1)...), " "))
	}
	return out
}

func TestTheDeployScriptSaysWhichDiskIsMeant(t *testing.T) {
	t.Parallel()
	n := node(ingot.BootDeploy, "deploying")
	n.Properties = ingot.Object{"root_device": ingot.Object{"model": "<in> a b; ${x}"}}
	for want, change := range map[string]func(){
		" root_device=model=%3Cin%3E%20a%20b%3B%20%24%7Bx%7D ": func() {},
		" root_device=size=500 ": func() {
			n.InstanceInfo = ingot.Object{"root_device": ingot.Object{"size": 500.0}}
		},
		" root_device=invalid ": func() {
			n.InstanceInfo = ingot.Object{"root_device": "sda"}
		},
	} {
		n.InstanceInfo = nil
		change()
		if got := netboot.Script(n, env(), ask); !strings.Contains(got, want) {
			t.Errorf("script lacks %q:\n%s", want, got)
		}
	}
}

// The other boot loaders are told the same in their own words.
func TestConfigurationsOfOtherLoadersAreThoseOnRecord(t *testing.T) {
	t.Parallel()
	retry := env()
	retry.Unknown = netboot.UnknownRetry
	for name, loader := range map[string]netboot.Loader{
		"pxelinux.cfg": netboot.PXELINUX, "grub.cfg": netboot.GRUB,
	} {
		for _, c := range []struct {
			intent ingot.BootIntent
			state  string
		}{
			{ingot.BootDeploy, "wait call-back"}, {ingot.BootInstance, "active"},
			{ingot.BootDisk, "active"}, {ingot.BootNone, "available"},
			{ingot.BootError, "deploy failed"}, {ingot.BootDeploy, "dreaming"},
		} {
			golden(t, "loader/"+strings.ReplaceAll(c.state, " ", "-")+"_"+string(c.intent)+"."+name,
				loader.Render(node(c.intent, c.state), env(), ask))
		}
		golden(t, "loader/unread."+name, loader.Unread(env(), ask))
		golden(t, "loader/unknown-machine."+name, loader.Render(nil, env(), ask))
		golden(t, "loader/unknown-machine-retry."+name, loader.Render(nil, retry, ask))
	}
}

// pxelinuxWords are the keywords a configuration may have, at the beginning of a line.
var pxelinuxWords = map[string]bool{"SAY": true, "NOESCAPE": true, "ALLOWOPTIONS": true,
	"ONERROR": true, "PROMPT": true, "TIMEOUT": true, "DEFAULT": true, "LABEL": true,
	"KERNEL": true, "INITRD": true, "APPEND": true, "SYSAPPEND": true, "LOCALBOOT": true}

// grubLine is a line in which every value is within single quotes.
var grubLine = regexp.MustCompile(`^(echo '[^']*'|sleep [0-9]+|reboot|halt|boot|fi|exit 1|` +
	`if (linux|initrd)( '[^']*')+; then)$`)

// FuzzLoaders asks that foreign text adds no command and no keyword to a configuration.
func FuzzLoaders(f *testing.F) {
	f.Add("rack1\nAPPEND init=/bin/sh")
	f.Add("'; reboot; echo '")
	f.Add("a\\ \r\x00\xffLABEL x")
	f.Fuzz(func(t *testing.T, s string) {
		var nodes []*ingot.Node
		for _, intent := range append([]ingot.BootIntent{"odd"}, intents...) {
			evil := node(intent, "deploying")
			poison(evil, s)
			nodes = append(nodes, evil)
		}
		r := netboot.Request{MAC: s, Trace: s}
		for _, n := range append(nodes, nil) {
			for line := range strings.Lines(netboot.GRUB.Render(n, env(), r)) {
				if !grubLine.MatchString(strings.TrimSuffix(line, "\n")) {
					t.Errorf("GRUB: %q", line)
				}
			}
			for line := range strings.Lines(netboot.PXELINUX.Render(n, env(), r)) {
				word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
				if !pxelinuxWords[word] || strings.ContainsAny(line, "\r\x00") {
					t.Errorf("PXELINUX: %q", line)
				}
			}
		}
	})
}

// GRUB and PXELINUX stop at a prompt when a configuration ends without an end.
func TestNoConfigurationEndsAtAPrompt(t *testing.T) {
	t.Parallel()
	retry := env()
	retry.Unknown = netboot.UnknownRetry
	for _, e := range []netboot.Env{env(), retry, {}} {
		for _, intent := range append([]ingot.BootIntent{"odd", "unknown"}, intents...) {
			n := node(intent, "deploying")
			if intent == "unknown" {
				n = nil
			}
			grub := netboot.GRUB.Render(n, e, ask)
			if last := grub[strings.LastIndex(strings.TrimSpace(grub), "\n")+1:]; last != "reboot\n" &&
				last != "halt\n" && last != "exit 1\n" {
				t.Errorf("intent %s: GRUB ends with %q", intent, last)
			}
			p := netboot.PXELINUX.Render(n, e, ask)
			_, rest, _ := strings.Cut(p, "\nDEFAULT ")
			label, _, _ := strings.Cut(rest, "\n")
			if label == "" || !strings.Contains(p, "\nLABEL "+label+"\n") ||
				!strings.Contains(p, "\nONERROR again\n") || !strings.Contains(p, "\nLABEL again\n") ||
				strings.Contains(p, "PROMPT 1") != strings.Contains(p, "\nTIMEOUT ") {
				t.Errorf("intent %s: PXELINUX\n%s", intent, p)
			}
		}
	}
}

func TestTheTokenOfAnAgentIsOnAMediumAlone(t *testing.T) {
	t.Parallel()
	n := node(ingot.BootDeploy, "deploying")
	n.Interfaces = map[string]string{"deploy": "direct"}
	n.Attempt.Agent = &ingot.Agent{Token: "looked-up"}
	args := func() string {
		m, ok := netboot.MediumOf(n, ask.MAC, env())
		if !ok {
			t.Fatal("no medium")
		}
		return strings.Join(m.Args, " ")
	}
	if text := args(); strings.Contains(text, "token") || !strings.Contains(text, "agent_protocol=ipa") {
		t.Errorf("a token that is looked up is on the medium: %s", text)
	}
	n.Attempt.Agent = &ingot.Agent{Token: "t0-k_en", OnMedium: true}
	if text := args(); !strings.Contains(text, " ipa-agent-token=t0-k_en ") {
		t.Error(text)
	}
	for _, l := range []netboot.Loader{netboot.IPXE, netboot.PXELINUX, netboot.GRUB} {
		text := l.Render(n, env(), ask)
		if strings.Contains(text, "t0-k_en") || !strings.Contains(text, "agent_protocol=ipa") {
			t.Errorf("%s", text)
		}
	}
	n.Interfaces["deploy"] = "iscsi"
	if text := netboot.Script(n, env(), ask); strings.Contains(text, "agent_protocol") {
		t.Error(text)
	}
}
