package conductor_test

import (
	"strings"
	"testing"

	"ingot/internal/ingot"
	sim "ingot/internal/sim/redfish"
)

func TestAMachineThatGetsCriticalIsToldOnce(t *testing.T) {
	t.Parallel()
	w, s, _ := withBMC(t, sim.Options{})
	c, _ := w.start()
	w.enrollBMC(c, s, "enroll")
	w.provision(c, "n1", "manage")
	w.state("n1", "manageable")
	health := func(want string) {
		t.Helper()
		c.Wake()
		w.until("n1", "health "+want, func(n *ingot.Node) bool {
			return n.DriverInternalInfo["health"] == want && n.Reservation == ""
		})
	}
	health("OK")
	for _, h := range []string{"Critical", "", "Warning", "OK"} {
		s.SetHealth(h)
		if h != "" {
			health(h)
		}
	}
	var told []string
	for line := range strings.Lines(w.journal("n1")) {
		if _, text, about := strings.Cut(line, "health of the machine is "); about {
			told = append(told, strings.Fields(line)[1]+" "+strings.TrimSpace(text))
		}
	}
	const tail = "; its log tells of what"
	if got := strings.Join(told, "\n"); got != "error Critical, before OK"+tail+"\nwarning Warning, before Critical"+
		tail+"\ninfo OK, before Warning"+tail {
		t.Errorf("told\n%s", got)
	}
}
