package ingot_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestADrainedConductorLeavesTheServiceAddressToOthers(t *testing.T) {
	t.Parallel()
	const url = "http://10.0.0.5:8080"
	one := func(host string, alive, draining bool, media string) *ingot.Conductor {
		return &ingot.Conductor{Hostname: host, Alive: alive, Draining: draining,
			Services: map[string]string{ingot.ServiceMedia: media}}
	}
	for what, c := range map[string]struct {
		others []*ingot.Conductor
		own    bool // draining
		want   bool
	}{
		"is not drained":                {nil, false, true},
		"drained and alone":             {nil, true, true},
		"drained, another can":          {[]*ingot.Conductor{one("b", true, false, url)}, true, false},
		"drained as all others":         {[]*ingot.Conductor{one("b", true, true, url)}, true, true},
		"drained, the other is dead":    {[]*ingot.Conductor{one("b", false, false, url)}, true, true},
		"drained, the other has no URL": {[]*ingot.Conductor{one("b", true, false, "")}, true, true},
	} {
		if got := ingot.Takes(append(c.others, one("a", true, c.own, url)), "a"); got != c.want {
			t.Errorf("%s: %t", what, got)
		}
	}
	if !ingot.Takes(nil, "a") {
		t.Error("one that knows of nobody yet does not")
	}
}
