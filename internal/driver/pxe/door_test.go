package pxe_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// door says what it is told to.
type door struct {
	turn netboot.Turn
	busy bool
	// asked is who asked for a turn.
	asked []string
}

func (d *door) Turn(node string) netboot.Turn {
	d.asked = append(d.asked, node)
	return d.turn
}

func (d *door) Busy() bool { return d.busy }

// loading is a world whose machine is to load the deploy ramdisk.
func loading(d *door, servers ...string) *world {
	w := newWorld(func(o *pxe.Options) {
		o.Door = d
		o.Servers = func(string) []string { return slices.Clone(servers) }
	})
	n := w.task.Node
	n.BootIntent = ingot.BootDeploy
	n.Attempt.Kernel = ingot.File{SHA256: strings.Repeat("a", 64), Name: "vmlinuz"}
	n.Attempt.Ramdisk = ingot.File{SHA256: strings.Repeat("b", 64), Name: "ramdisk"}
	return w
}

func TestAWaitForBootFilesIsToldOnceAndItsEnd(t *testing.T) {
	t.Parallel()
	d := &door{turn: netboot.Turn{Place: 37, Sending: 256, Start: 14 * time.Second,
		Ask: 7 * time.Second, News: true}}
	w := loading(d)
	args := ingot.Object{"port_address": mac}
	script := w.config(t, args)
	if !strings.Contains(script, "\nsleep 7\nchain ") || strings.Contains(script, "\nkernel ") ||
		!strings.Contains(script, "echo ingot: boot files are being sent to 256 machines; "+
			"you start in 14 s (place 37)\n") {
		t.Errorf("script is\n%s", script)
	}
	d.turn.News = false
	w.config(t, args)
	d.turn = netboot.Turn{Tag: uuid, Waited: 13 * time.Second}
	if script := w.config(t, args); !strings.Contains(script, "/vmlinuz?for="+uuid+" ") ||
		!strings.Contains(script, "/ramdisk?last-for="+uuid+" ") {
		t.Errorf("script is\n%s", script)
	}
	want := []string{"waits for its boot files: place 37, about 14s",
		"asked for its boot script: deploy, after 13s in the line"}
	var got []string
	for _, e := range w.notes {
		got = append(got, e.Text)
	}
	if !slices.Equal(got, want) || w.notes[0].Data[ingot.DataPlace] != 37 ||
		w.notes[1].Data[ingot.DataWaited] != 13.0 {
		t.Errorf("journal has %q, %v", got, w.notes)
	}
	if !slices.Equal(d.asked, []string{uuid, uuid, uuid}) {
		t.Errorf("asked for %q", d.asked)
	}
}

func TestOnlyWhoLoadsFilesAndCanWaitIsMadeToWait(t *testing.T) {
	t.Parallel()
	d := &door{busy: true, turn: netboot.Turn{Place: 1, Start: time.Second, Ask: time.Second}}
	w := loading(d)
	for _, l := range []netboot.Loader{netboot.PXELINUX, netboot.GRUB} {
		if text := w.boot.Answer(l, pxe.Machine{MAC: mac, Node: w.task.Node}); !strings.Contains(text,
			"vmlinuz") {
			t.Errorf("%s: %s", l.Asks, text)
		}
	}
	w.task.Node.BootIntent = ingot.BootDisk
	w.config(t, ingot.Object{"port_address": mac})
	if len(d.asked) > 0 {
		t.Errorf("%d turns were taken by machines that need none", len(d.asked))
	}
}

// TestThePlaceIsAtTheFirstServerOfTheScript: and a machine that would have to wait is sent to the
// server that the MAC decides, which knows itself as that one.
func TestThePlaceIsAtTheFirstServerOfTheScript(t *testing.T) {
	t.Parallel()
	const here = "http://10.0.0.1:8080"
	servers := []string{here, "http://10.0.0.2:8080", "http://10.0.0.3:8080"}
	d := &door{turn: netboot.Turn{Tag: "x"}}
	w := loading(d, servers...)
	first := func(mac string) (server, script string) {
		script = w.boot.Answer(netboot.IPXE, pxe.Machine{MAC: mac, Node: w.task.Node})
		_, rest, _ := strings.Cut(script, "http://")
		server, _, _ = strings.Cut(rest, "/")
		return "http://" + server, script
	}
	chosen := map[string]int{}
	for i := range 100 {
		mac := "52:54:00:00:00:" + string("0123456789"[i/10]) + string("0123456789"[i%10])
		d.busy = false
		server, script := first(mac)
		if server != here || strings.Count(script, "\nkernel ") != 3 {
			t.Fatalf("%s loads first from %s", mac, server)
		}
		d.busy = true
		asked := len(d.asked)
		server, script = first(mac)
		chosen[server]++
		if other := server != here; other != (len(d.asked) == asked) ||
			other == strings.Contains(script, "\nkernel ") {
			t.Fatalf("%s is sent to %s:\n%s", mac, server, script)
		}
	}
	for _, s := range servers {
		if chosen[s] < 15 {
			t.Errorf("of 100 machines %d are sent to %s", chosen[s], s)
		}
	}
}
