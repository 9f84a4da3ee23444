package netboot_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func env() netboot.Env {
	return netboot.Env{
		BaseURLs:   []string{"http://10.77.0.1:8080", "http://10.77.0.2:8080/"},
		KernelArgs: "console=ttyS0 quiet panic=30",
	}
}

func node(intent ingot.BootIntent, state string) *ingot.Node {
	return &ingot.Node{
		UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", Name: "rack1-u07", Driver: "ipmi",
		ProvisionState: state, BootIntent: intent,
		Attempt: &ingot.Attempt{
			ID: "5f3a9c01", Key: "K3yK3yK3yK3yK3yK3yK3yK3yK3yK3yK3",
			Kernel:  ingot.File{SHA256: strings.Repeat("a1", 32), Name: "vmlinuz", Size: 9},
			Ramdisk: ingot.File{SHA256: strings.Repeat("b2", 32), Name: "ramdisk.img", Size: 9},
		},
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".ipxe")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), renew with -update:\n%s", path, diff)
	}
}

func TestScriptsAreThoseOnRecord(t *testing.T) {
	t.Parallel()
	failed := node(ingot.BootError, "deploy failed")
	failed.LastError = "write_image: image is larger than the disk\nsecond line"
	noFiles := node(ingot.BootDeploy, "deploying")
	noFiles.Attempt = nil
	oneServer := env()
	oneServer.BaseURLs = oneServer.BaseURLs[:1]
	oneServer.APIURLs = []string{"http://10.77.0.1:6385", "http://10.77.0.2:6385"}
	own := node(ingot.BootDeploy, "wait call-back")
	own.DriverInfo = ingot.Object{"kernel_append_params": "%default% debug=1"}
	for name, script := range map[string]string{
		"deploy":          netboot.Script(node(ingot.BootDeploy, "wait call-back"), env()),
		"deploy-own-args": netboot.Script(own, oneServer),
		"deploy-no-files": netboot.Script(noFiles, env()),
		"disk":            netboot.Script(node(ingot.BootDisk, "active"), env()),
		"none":            netboot.Script(node(ingot.BootNone, "available"), env()),
		"error":           netboot.Script(failed, env()),
		"unknown-state":   netboot.Script(node(ingot.BootDeploy, "dreaming"), env()),
		"unknown-intent":  netboot.Script(node(ingot.BootRescue, "rescuing"), env()),
		"unknown-machine": netboot.UnknownMachine("52:54:00:12:34:56"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name, script)
		})
	}
}

func TestS1_4_ScriptFollowsStateAndIntent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state  string
		intent ingot.BootIntent
		want   string
	}{
		{"deploying", ingot.BootDeploy, "kernel "},
		{"wait call-back", ingot.BootDeploy, "kernel "},
		// The same state after the image was written: the disk, not the ramdisk.
		{"deploying", ingot.BootDisk, "sanboot "},
		{"active", ingot.BootDisk, "sanboot "},
		{"available", ingot.BootNone, "exit 0"},
		{"enroll", "", "exit 0"},
		{"deploy failed", ingot.BootError, "poweroff "},
		{"no such state", ingot.BootDeploy, "echo ingot: provision state"},
	} {
		script := netboot.Script(node(c.intent, c.state), env())
		if !strings.Contains(script, "\n"+c.want) {
			t.Errorf("%s, intent %s: no line %q in\n%s", c.state, c.intent, c.want, script)
		}
		if d := netboot.Decide(node(c.intent, c.state)); (d.Problem != "") !=
			(c.state == "no such state") {
			t.Errorf("%s, intent %s: problem %q", c.state, c.intent, d.Problem)
		}
	}
}

func TestOnlyTheDeployScriptHoldsTheKey(t *testing.T) {
	t.Parallel()
	for _, intent := range []ingot.BootIntent{
		ingot.BootNone, ingot.BootDeploy, ingot.BootDisk, ingot.BootError,
	} {
		n := node(intent, "deploying")
		n.LastError = "broken"
		has := strings.Contains(netboot.Script(n, env()), n.Attempt.Key.Reveal())
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

// FuzzScript puts the same foreign text wherever a person or a machine can put text, and asks
// that the commands of the script are those of an innocent one.
func FuzzScript(f *testing.F) {
	f.Add("rack1\nshell")
	f.Add("${password} || shell && #\\")
	f.Add("--name x")
	f.Fuzz(func(t *testing.T, s string) {
		for _, intent := range []ingot.BootIntent{
			ingot.BootNone, ingot.BootDeploy, ingot.BootDisk, ingot.BootError, "odd",
		} {
			evil, good := node(intent, "deploying"), node(intent, "deploying")
			good.LastError = "reason"
			evil.Name, evil.LastError, evil.Driver, evil.UUID = s, s, s, s
			evil.Attempt.Key, evil.Attempt.ID = ingot.Secret(s), s
			evil.Attempt.Kernel.Name, evil.Attempt.Ramdisk.Name = s, s
			evil.DriverInfo = ingot.Object{"kernel_append_params": s}
			want, got := commands(netboot.Script(good, env())), commands(netboot.Script(evil, env()))
			if !slices.Equal(want, got) {
				t.Errorf("intent %s: commands %q, want %q", intent, got, want)
			}
		}
		for _, script := range []string{netboot.UnknownMachine(s), netboot.Problem(s, s)} {
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
		if got := netboot.Script(n, env()); !strings.Contains(got, want) {
			t.Errorf("script lacks %q:\n%s", want, got)
		}
	}
}
