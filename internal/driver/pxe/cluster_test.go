package pxe_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

var (
	ramdiskBase = regexp.MustCompile(`(?m)^initrd .* (http://[0-9.:]+)/files/`)
	chainBase   = regexp.MustCompile(`(?m)^chain .* (http://[0-9.:]+)/v1/drivers/`)
	apiBases    = regexp.MustCompile(`ironic_api_url=(\S+)`)
)

// Scripts name up to four servers that live and can serve the driver, each machine's in an order of
// its own, and the one that answers among them; the ramdisk calls the same ones back.
func TestS0_1_ScriptsNameServersThatLive(t *testing.T) {
	t.Parallel()
	const here = "http://10.0.0.1:8080"
	var living []string // of driver ipmi
	w := newWorld(func(o *pxe.Options) {
		o.Env.BaseURLs = []string{here}
		o.Servers = func(driver string) []string {
			if driver != "ipmi" {
				return nil
			}
			return slices.Clone(living)
		}
	})
	n := *w.task.Node
	n.BootIntent, n.Attempt.Kernel.SHA256, n.Attempt.Ramdisk.SHA256 = ingot.BootDeploy,
		fmt.Sprintf("%064d", 1), fmt.Sprintf("%064d", 2)
	n.Attempt.Kernel.Name, n.Attempt.Ramdisk.Name = "vmlinuz", "ramdisk"
	told := func(mac string) (servers []string) {
		t.Helper()
		script := w.boot.Answer(netboot.IPXE, pxe.Machine{MAC: mac, Node: &n})
		for _, found := range ramdiskBase.FindAllStringSubmatch(script, -1) {
			servers = append(servers, found[1])
		}
		var chains []string
		for _, found := range chainBase.FindAllStringSubmatch(script, -1) {
			chains = append(chains, found[1])
		}
		apis := apiBases.FindStringSubmatch(script)
		if !slices.Equal(chains, servers) || len(apis) != 2 || apis[1] != join(servers) {
			t.Fatalf("ramdisk from %v, scripts from %v, calls to %v", servers, chains, apis)
		}
		return servers
	}
	macs := make([]string, 200)
	for i := range macs {
		macs[i] = fmt.Sprintf("52:54:00:00:00:%02x", i)
	}

	if got := told(macs[0]); !slices.Equal(got, []string{here}) {
		t.Errorf("alone: %v", got)
	}
	for i := range 3 {
		living = append(living, fmt.Sprintf("http://10.0.0.%d:8080", i+1))
	}
	orders := map[string]int{}
	for _, mac := range macs {
		got := told(mac)
		orders[join(got)]++
		if sorted := slices.Sorted(slices.Values(got)); !slices.Equal(sorted, living) {
			t.Fatalf("%s is told %v", mac, got)
		}
	}
	for order, n := range orders {
		if len(orders) != 6 || n < 15 {
			t.Errorf("of 6 orders there are %d, %s for %d of 200", len(orders), order, n)
		}
	}

	// A server that dies vanishes, and the order of the others stays.
	before := told(macs[7])
	dead := before[0]
	if dead == here {
		dead = before[1]
	}
	living = slices.DeleteFunc(living, func(s string) bool { return s == dead })
	if got := told(macs[7]); !slices.Equal(got, slices.DeleteFunc(before, func(s string) bool { return s == dead })) {
		t.Errorf("%s died: %v, before %v", dead, got, before)
	}

	for i := range 6 {
		living = append(living, fmt.Sprintf("http://10.0.1.%d:8080", i+1))
	}
	for _, mac := range macs {
		if got := told(mac); len(got) != 4 || !slices.Contains(got, here) {
			t.Errorf("of 8 servers %s is told %v", mac, got)
		}
	}
}

func join(servers []string) string { return strings.Join(servers, ",") }

// The machine's boot device is set, and so its restart begun, only when the switch is on record and
// shown by the trees on disk; if it cannot be, the step fails.
func TestS0_10_NothingIsDoneToTheMachineBeforeItsSwitchIsShown(t *testing.T) {
	t.Parallel()
	refuse := errors.New("r2 has no space")
	var shown []ingot.BootIntent
	var w *world
	w = newWorld(func(o *pxe.Options) {
		o.Switched = func(_ context.Context, n *ingot.Node, say func(level, text string)) error {
			if device, _ := (fake.Management{}).BootDevice(t.Context(), w.task); device != w.before {
				t.Errorf("the boot device is %+v already", device)
			}
			if len(w.saved) != len(shown)+1 || w.saved[len(shown)] != n.BootIntent {
				t.Errorf("shown is %s, on record are %v", n.BootIntent, w.saved)
			}
			shown = append(shown, n.BootIntent)
			say(ingot.LevelInfo, "waiting for r2")
			if len(shown) > 2 {
				return refuse
			}
			return nil
		}
	})
	step := func(do func(context.Context, *driver.Task) error, want error) {
		t.Helper()
		w.before, _ = fake.Management{}.BootDevice(t.Context(), w.task)
		if err := do(t.Context(), w.task); !errors.Is(err, want) {
			t.Errorf("ends with %v", err)
		}
	}
	step(w.boot.PrepareRamdisk, nil)
	step(w.boot.PrepareInstance, nil)
	step(w.boot.PrepareRamdisk, refuse)
	if device, _ := (fake.Management{}).BootDevice(t.Context(), w.task); device != w.before {
		t.Errorf("refused, and the boot device is %+v", device)
	}
	if len(shown) != 3 || !slices.ContainsFunc(w.notes, func(e ingot.Entry) bool {
		return e.Source == "step" && e.Text == "waiting for r2"
	}) {
		t.Errorf("shown %v, journal %v", shown, w.notes)
	}
}
