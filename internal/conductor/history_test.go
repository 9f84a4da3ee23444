package conductor_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/store"
)

// history lists the entries of a node's history, one a line, oldest first.
func (w *world) history(ident string) []string {
	w.t.Helper()
	list, err := w.store.History(w.t.Context(), w.node(ident).ID, store.Page{})
	if err != nil {
		w.t.Fatal(err)
	}
	var lines []string
	for _, h := range list {
		if h.Conductor != "host1" {
			w.t.Errorf("entry of conductor %q", h.Conductor)
		}
		lines = append(lines, string(h.Severity)+" "+h.Type+": "+h.Event)
	}
	return lines
}

func TestErrorsAndEndsStayInTheHistory(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.m.set(func(m *machine) {
		m.tweak = func(_ string, args ingot.Object) ingot.Object {
			return ingot.Object{"key": args["key"], "error": "no disk"}
		}
	})
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("no disk")
	x.m.set(func(m *machine) { m.tweak = nil })
	x.provision(c, "n1", "deploy")
	x.deployed()
	x.provision(c, "n1", "delete")
	x.state("n1", "available")
	want := []string{"ERROR provisioning: step deploy: the deploy ramdisk reports: no disk",
		"INFO provisioning: deployed", "INFO provisioning: undeployed"}
	if got := x.history("n1"); !slices.Equal(got, want) {
		t.Errorf("history %q, want %q", got, want)
	}
}

func TestAnErrorOfPowerStaysInTheHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, _ := w.start()
	w.enroll(c, "n1", "active")
	w.power.set(func(p *power) { p.err = errors.New("no such BMC") })
	for range 2 { // each is asked for, so each is told
		if err := c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: "power on"}); err != nil {
			t.Fatal(err)
		}
		w.until("n1", "failed power action", func(n *ingot.Node) bool {
			return n.Reservation == "" && strings.Contains(n.LastError, "no such BMC")
		})
	}
	got := w.history("n1")
	if len(got) != 2 || !strings.HasPrefix(got[0], "ERROR power: Failed to change power state") {
		t.Errorf("history %q", got)
	}
}

// What an aborted deployment failed of is on record twice, before and after its machine was
// switched off; the history tells it once, also if the conductor is killed in between.
func TestAnAbortIsToldOnceInTheHistory(t *testing.T) {
	t.Parallel()
	x := newMetal(t)
	x.mute(1000)
	c, stop := x.start()
	x.provision(c, "n1", "deploy")
	x.state("n1", "wait call-back")
	stop()
	c, stop, died := x.mortal(3) // reservation, abort, its end
	x.provision(c, "n1", "abort")
	<-died
	stop()
	x.start()
	x.failed("aborted by request")
	if got := x.history("n1"); len(got) != 1 || !strings.Contains(got[0], "aborted by request") {
		t.Errorf("history %q", got)
	}
}
