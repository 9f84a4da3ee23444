package direct_test

import (
	"strings"
	"testing"

	"ingot/internal/driver/direct"
	"ingot/internal/ingot"
)

func TestWhatNeedsAStartOfTheFirmware(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change    func(*ingot.Node)
		networked bool
		want      string
	}{
		"nothing": {func(*ingot.Node) {}, false, ""},
		"networks": {func(n *ingot.Node) { n.Interfaces["network"] = "neutron" }, true,
			"its networks change while it is off (network interface neutron)"},
		"an instance from the network": {func(n *ingot.Node) {
			n.InstanceInfo = ingot.Object{"kernel": "http://k", "ramdisk": "http://r"}
		}, false, "boots from the network"},
		"a partition image that boots from its disk": {func(n *ingot.Node) {
			n.InstanceInfo = ingot.Object{"image_type": "partition", "capabilities": "boot_option:local"}
		}, false, ""},
		"Secure Boot": {func(n *ingot.Node) {
			n.InstanceInfo = ingot.Object{"capabilities": "secure_boot:true"}
		}, false, "Secure Boot is switched on"},
		"another boot mode":            {func(n *ingot.Node) { n.BootMode = "uefi" }, false, "boot mode bios is asked for, and the machine is in uefi"},
		"a boot mode that is not told": {func(n *ingot.Node) { n.BootMode = "" }, false, ""},
		"Ironic's agent":               {func(n *ingot.Node) { n.Attempt.Agent.Version = "9.4.0" }, false, "does not know kexec"},
		"an older agent":               {func(n *ingot.Node) { n.Attempt.Agent.Version = "9.4.0+ingot" }, false, "does not know kexec"},
		"no agent":                     {func(n *ingot.Node) { n.Attempt.Agent = nil }, false, "does not know kexec"},
		"no attempt":                   {func(n *ingot.Node) { n.Attempt = nil }, false, "does not know kexec"},
	} {
		n := &ingot.Node{Properties: ingot.Object{"capabilities": "boot_mode:bios"}, BootMode: "bios",
			Interfaces: map[string]string{}, Attempt: &ingot.Attempt{Agent: &ingot.Agent{Version: "9.4.0+ingot.kexec"}}}
		c.change(n)
		got := direct.NeedsFirmware(n, c.networked)
		if got != c.want && (c.want == "" || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// The node says whether it is allowed, and else the site; an agent is asked then alone.
func TestKexecIsForThoseForWhomItIsAllowed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		site           bool
		node           any
		loads, invalid bool
	}{
		"by default": {false, nil, false, false}, "site": {true, nil, true, false}, "node": {false, "True", true, false},
		"node, a boolean": {false, true, true, false}, "not this node": {true, "off", false, false},
		"another word": {true, "maybe", false, true},
	} {
		r := newRig(t, func(o *direct.Options) { o.Kexec = c.site })
		r.image([]byte("image"), true)
		n := r.task.Node
		n.Attempt.Agent.Version = "9.4.0+ingot.kexec"
		if c.node != nil {
			n.DriverInfo["deploy_kexec"] = c.node
		}
		err := r.Validate(t.Context(), r.task)
		if (err != nil) != c.invalid || err != nil && (ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), "deploy_kexec")) {
			t.Errorf("%s: %v", name, err)
		}
		if c.invalid {
			continue
		}
		if _, err := r.execute("prepare_instance_boot"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if names := strings.Join(r.agent.Names(), " "); (names == "load") != c.loads || (n.Attempt.Kexec == "loaded") != c.loads {
			t.Errorf("%s: %q, %q", name, names, n.Attempt.Kexec)
		}
	}
	if help := direct.New(direct.Options{}).Properties()["deploy_kexec"]; help == "" {
		t.Error("the key of driver_info is not told")
	}
}

// A conductor that does not know how far another one came restarts the machine.
func TestAMachineThatMayHaveGoneOnIsRestarted(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	a := r.task.Node.Attempt
	a.Written, a.Completed, a.Kexec = true, true, ingot.KexecOrdered
	for _, step := range []string{"tear_down_agent", "boot_instance"} {
		if _, err := r.execute(step); err != nil {
			t.Fatal(err)
		}
	}
	if names := r.agent.Names(); len(names) != 0 || r.task.Node.PowerState != ingot.PowerOn {
		t.Errorf("%v, %s", names, r.task.Node.PowerState)
	}
	if text := strings.Join(r.notes, "\n"); !strings.Contains(text, "it is not known whether the machine went on by kexec") ||
		!strings.Contains(text, "power off: done") || !strings.Contains(text, "power on: done") {
		t.Error(text)
	}
}

// What was loaded before counts no more when it is not, or may not be, loaded again.
func TestWhatWasLoadedBeforeIsForgotten(t *testing.T) {
	t.Parallel()
	for _, allowed := range []bool{true, false} {
		r := newRig(t, func(o *direct.Options) { o.Kexec = allowed })
		r.image([]byte("image"), true)
		a := r.task.Node.Attempt
		a.Agent.Version, a.Kexec = "9.4.0+ingot.kexec", ingot.KexecLoaded
		if allowed {
			r.task.Node.InstanceInfo["capabilities"] = "secure_boot:true"
		}
		if _, err := r.execute("prepare_instance_boot"); err != nil {
			t.Fatal(err)
		}
		if a.Kexec != "" {
			t.Errorf("allowed %v: %q", allowed, a.Kexec)
		}
	}
}

func TestTheOperatorMayForbidItUntilItGoesOn(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"false", "maybe"} {
		r := newRig(t, func(o *direct.Options) { o.Kexec = true })
		a := r.task.Node.Attempt
		a.Agent.Version, a.Written, a.Kexec = "9.4.0+ingot.kexec", true, ingot.KexecLoaded
		r.task.Node.DriverInfo["deploy_kexec"] = word
		if _, err := r.execute("tear_down_agent"); err != nil {
			t.Fatal(err)
		}
		if names := strings.Join(r.agent.Names(), " "); names != "sync" || r.task.Node.PowerState != ingot.PowerOff {
			t.Errorf("%s: %s, %s", word, names, r.task.Node.PowerState)
		}
	}
}
