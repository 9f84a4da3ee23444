package drill

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"ingot/internal/cli"
	"ingot/internal/ingot"
)

// A schedule is a function of the options, leaves one server alone, and holds nothing longer than it
// may.
func TestASeedDecidesTheFaults(t *testing.T) {
	t.Parallel()
	kinds := map[kind]bool{}
	for seed := range uint64(200) {
		o := Options{Conductors: 3, Random: 8, Seed: seed, Hold: 15 * time.Second}
		all := plan(o)
		if !reflect.DeepEqual(all, plan(o)) {
			t.Fatalf("seed %d: two schedules", seed)
		}
		disturbed, last := map[int]bool{}, 0.0
		for _, f := range all {
			kinds[f.Kind] = true
			if disturbed[f.Server] = true; len(disturbed) > 2 {
				t.Fatalf("seed %d disturbs all servers", seed)
			}
			if f.Arrived < last || f.Arrived >= 1 || f.Hold < time.Second || f.Hold > 16*time.Second {
				t.Fatalf("seed %d: %+v after %v", seed, f, last)
			}
			last = f.Arrived
		}
	}
	if len(kinds) != 9 {
		t.Errorf("kinds %v", kinds)
	}
	asked := plan(Options{Conductors: 5, Kill: 1, Pause: 2, Partition: 1, Hold: time.Minute})
	servers := map[int]bool{}
	for _, f := range asked {
		servers[f.Server] = true
	}
	if len(asked) != 4 || len(servers) != 4 || asked[0].Hold != 0 || asked[1].Hold != time.Minute {
		t.Errorf("%+v", asked)
	}
}

func TestOptionsThatMakeNoDrillAreRefused(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]Options{
		"0 machines":            {},
		"1 conductors":          {Machines: 1, Conductors: 1},
		"no number of faults":   {Machines: 1, Kill: -1},
		"kinds themselves":      {Machines: 1, Kill: 1, Random: 1},
		"has to be left alone":  {Machines: 1, Kill: 2, Pause: 1},
		"3 servers are disturb": {Machines: 1, Kill: 1, Pause: 1, Partition: 1},
	} {
		_, err := Run(t.Context(), o)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestOptionsThatMakeNoDrillOfASiteAreRefused(t *testing.T) {
	t.Parallel()
	good := RunningOptions{Interface: "lo", Machines: 1, Seed: 1}
	for want, change := range map[string]func(o *RunningOptions){
		"no interface":     func(o *RunningOptions) { o.Interface = "" },
		"0 machines":       func(o *RunningOptions) { o.Machines = 0 },
		"10001 machines":   func(o *RunningOptions) { o.Machines = 10001 },
		"seed 0":           func(o *RunningOptions) { o.Seed = 0 },
		"seed 16777216":    func(o *RunningOptions) { o.Seed = 1 << 24 },
		"a deploy ramdisk": func(o *RunningOptions) { o.Kernel = "http://site.example/kernel" },
		`"nonesuch0"`:      func(o *RunningOptions) { o.Interface = "nonesuch0" },
	} {
		o := good
		change(&o)
		if _, err := RunOn(t.Context(), o); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
}

func TestAJournalHasEachChangeOfStateInOrder(t *testing.T) {
	t.Parallel()
	change := func(from, to string) cli.Entry {
		return cli.Entry{Source: "state", Text: from + " → " + to, Data: ingot.Object{"from": from, "to": to}}
	}
	whole := []cli.Entry{change("enroll", "manageable"), {Source: "dhcp", Text: "DISCOVER"},
		change("manageable", "available"), change("available", "active")}
	if text := hole(whole); text != "" {
		t.Errorf("a whole journal: %s", text)
	}
	for _, broken := range [][]cli.Entry{nil, whole[1:], whole[:3], append(whole[:2:2], whole[3]),
		append(whole[:3:3], whole[2], whole[3])} {
		if hole(broken) == "" {
			t.Errorf("%v has no hole", broken)
		}
	}
}

func TestTheReportComparesTheStorms(t *testing.T) {
	t.Parallel()
	r := &Report{Machines: 4, Undisturbed: &Storm{Arrivals: []float64{1, 2, 3, 4}, Received: 1e6},
		Disturbed: &Storm{Arrivals: []float64{1, 2, 8}, Lost: []string{"sim-4 (u): the node is error"},
			Received: 3e6, Faults: []string{"1.0 s  c killed"}},
		OriginSent: map[string]int{"ramdisk": 1, "kernel": 2}}
	if median, worst, last := r.Added(); median != 0 || worst != 5 || last != 5 {
		t.Errorf("added %v %v %v", median, worst, last)
	}
	if r.Passed() {
		t.Error("a lost machine is no failure")
	}
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1 of 4", "worst 5.0", "2.0 MB of boot files (of 1.0)",
		"kernel 2 times, ramdisk 1 times", "Lost:\n  sim-4", "c killed"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	r.Disturbed.Lost, r.Faults = nil, []string{"written by another"}
	if r.Passed() {
		t.Error("a write without a right is no failure")
	}
}
