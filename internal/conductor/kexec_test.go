package conductor_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"ingot/internal/driver/direct"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
)

// newKexec is a metal whose node may go on by kexec, and whose agent knows how.
func newKexec(t *testing.T) *metal {
	t.Helper()
	x := newDirect(t)
	x.m.ramdiskAgent.version = "9.4.0+ingot.kexec"
	n := x.node("n1")
	n.DriverInfo = ingot.Object{"deploy_kexec": "true"}
	if err := x.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return x
}

// end is what the machine did from the flush of its disk on.
func (x *metal) end() string {
	_, end, _ := strings.Cut(strings.Join(x.m.story(), ", "), "standby.sync, ")
	return end
}

func TestADirectDeploymentGoesOnByKexec(t *testing.T) {
	t.Parallel()
	x := newKexec(t)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	if end := x.end(); end != "kexec.execute, kexec, disk" {
		t.Errorf("the machine did: %s", strings.Join(x.m.story(), ", "))
	}
	journal := x.journal("n1")
	for _, line := range []string{"loaded for kexec: vmlinuz, the default of grub.cfg",
		"the machine goes on by kexec, without a start of its firmware"} {
		if strings.Count(journal, line) != 1 {
			t.Errorf("%q is not once in\n%s", line, journal)
		}
	}
	if strings.Contains(journal, "power info power off") {
		t.Errorf("it was switched off:\n%s", journal)
	}
}

func TestADirectDeploymentByKexecWithEveryStepRunTwice(t *testing.T) {
	t.Parallel()
	x := newKexec(t)
	x.o.Table.Deploy[direct.Name] = &twice{x.o.Table.Deploy[direct.Name].(*direct.Deploy)}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	if end := x.end(); end != "kexec.execute, kexec, disk" || count(x.m.story(), "kexec.load") != 2 {
		t.Errorf("the machine did: %s", strings.Join(x.m.story(), ", "))
	}
}

func TestADirectDeploymentByKexecSurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	for _, first := range []int64{1, 2} {
		t.Run(fmt.Sprintf("from %d", first), func(t *testing.T) {
			t.Parallel()
			newKexec(t).killedAtEveryOtherWrite(first)
		})
	}
}

// Whatever is in the way of it ends in a restart by the firmware, and the journal tells why.
func TestWhatGoesWrongWithKexecEndsInARestartByTheFirmware(t *testing.T) {
	t.Parallel()
	const restarted = "power off, power on, disk"
	for name, c := range map[string]struct {
		change    func(*ramdiskAgent)
		end, tell string
	}{
		"an agent without": {func(r *ramdiskAgent) { r.version = "9.4.0" }, restarted,
			"restarted by its firmware, not by kexec: the agent of its ramdisk does not know kexec"},
		"not loaded": {func(r *ramdiskAgent) {
			r.load = func() error { return errors.New("grub.cfg: the default entry is a submenu") }
		}, restarted, "not by kexec: the agent's command load failed: grub.cfg: the default entry is a submenu"},
		"not started": {func(r *ramdiskAgent) { r.execute = func() error { return errors.New("nothing was loaded") } },
			"kexec.execute, " + restarted, "since it did not go on by kexec: the agent's command execute failed: nothing"},
		"it stays": {func(r *ramdiskAgent) { r.stays = true }, "kexec.execute, " + restarted,
			"whether or not it went on by kexec: the agent is not gone for certain 2s after it said"},
		"no answer": {func(r *ramdiskAgent) {
			var told atomic.Bool
			r.stays = true
			r.execute = func() error { told.Store(true); return nil }
			r.lose = func(q *http.Request) bool { return q.Method == http.MethodPost && told.CompareAndSwap(true, false) }
		}, "kexec.execute, " + restarted, "whether or not it went on by kexec: tell the agent kexec.execute"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newKexec(t)
			c.change(x.m.ramdiskAgent)
			one, _ := x.start()
			x.provision(one, "n1", "deploy")
			x.deployed()
			if end := x.end(); end != c.end {
				t.Errorf("the machine did: %s", strings.Join(x.m.story(), ", "))
			}
			if journal := x.journal("n1"); strings.Count(journal, c.tell) != 1 {
				t.Errorf("%q is not once in\n%s", c.tell, journal)
			}
		})
	}
}
