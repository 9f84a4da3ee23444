package ingot_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestAConductorLeavesTheServiceAddressToOthersThatDoBetter(t *testing.T) {
	t.Parallel()
	const url = "http://10.0.0.5:8080"
	one := func(host string, alive, draining bool, media string) *ingot.Conductor {
		return &ingot.Conductor{Hostname: host, Alive: alive, Draining: draining,
			Services: map[string]string{ingot.ServiceMedia: media}}
	}
	for what, c := range map[string]struct {
		others []*ingot.Conductor
		own    bool // draining
		unable bool // to make media
		want   bool
	}{
		"is not drained":                {nil, false, false, true},
		"drained and alone":             {nil, true, false, true},
		"drained, another can":          {[]*ingot.Conductor{one("b", true, false, url)}, true, false, false},
		"drained as all others":         {[]*ingot.Conductor{one("b", true, true, url)}, true, false, true},
		"drained, the other is dead":    {[]*ingot.Conductor{one("b", false, false, url)}, true, false, true},
		"drained, the other has no URL": {[]*ingot.Conductor{one("b", true, false, "")}, true, false, true},
		"unable and alone":              {nil, false, true, true},
		"unable, another can":           {[]*ingot.Conductor{one("b", true, false, url)}, false, true, false},
		"unable as all others":          {[]*ingot.Conductor{one("b", true, false, "")}, false, true, true},
		"can, another is unable":        {[]*ingot.Conductor{one("b", true, false, "")}, false, false, true},
	} {
		own := url
		if c.unable {
			own = ""
		}
		if got := ingot.Takes(append(c.others, one("a", true, c.own, own)), "a", url); got != c.want {
			t.Errorf("%s: %t", what, got)
		}
	}
	if !ingot.Takes(nil, "a", url) {
		t.Error("one that knows of nobody yet does not")
	}
}
