package lifecycle_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/lifecycle"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// reference returns the rows of a table in testdata, which was copied from Ironic's
// documentation and code, not made from ours.
func reference(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			rows = append(rows, strings.TrimSuffix(line, "\n"))
		}
	}
	slices.Sort(rows)
	return rows
}

func TestTransitionsAreThoseOfIronic(t *testing.T) {
	t.Parallel()
	var ours []string
	for _, tr := range lifecycle.Transitions() {
		ours = append(ours, strings.Join(
			[]string{string(tr.From), string(tr.Event), string(tr.To)}, "|"))
	}
	want := append(reference(t, "transitions.txt"), "deploying|delete|deleting") // our own
	slices.Sort(want)
	slices.Sort(ours)
	if diff := cmp.Diff(want, ours); diff != "" {
		t.Errorf("transitions differ (-Ironic +ours):\n%s", diff)
	}
}

func TestStatesAreThoseOfIronic(t *testing.T) {
	t.Parallel()
	yes := map[bool]string{true: "yes", false: "no"}
	var ours []string
	for _, s := range lifecycle.States() {
		i, _ := lifecycle.InfoOf(s)
		var targets, verbs []string
		for _, target := range i.Targets {
			targets = append(targets, string(target))
		}
		for _, v := range lifecycle.Accepted(s) {
			verbs = append(verbs, v.Name)
		}
		slices.Sort(verbs)
		ours = append(ours, strings.Join([]string{
			string(s), string(i.Kind), strings.Join(targets, ","), yes[i.Lookup],
			yes[i.FastTrackLookup], yes[i.Updatable], string(i.OnStart),
			strings.Join(verbs, ","),
		}, "|"))
	}
	slices.Sort(ours)
	want := reference(t, "states.txt")
	for i, row := range want {
		if strings.HasPrefix(row, "deploying|") {
			want[i] += "deleted,undeploy" // our own
		}
	}
	if diff := cmp.Diff(want, ours); diff != "" {
		t.Errorf("states differ (-Ironic +ours):\n%s", diff)
	}
}

func TestVerbsAreThoseOfIronic(t *testing.T) {
	t.Parallel()
	var ours []string
	for _, v := range lifecycle.Verbs() {
		ours = append(ours, v.Name+"|"+string(v.Event)+"|"+strconv.Itoa(v.MinorVersion))
	}
	slices.Sort(ours)
	if diff := cmp.Diff(reference(t, "verbs.txt"), ours); diff != "" {
		t.Errorf("verbs differ (-Ironic +ours):\n%s", diff)
	}
}

func TestAbortCameLaterWhileInspecting(t *testing.T) {
	t.Parallel()
	abort, ok := lifecycle.VerbByName("abort")
	if !ok {
		t.Fatal("no verb abort")
	}
	for state, want := range map[lifecycle.State]int{
		lifecycle.CleanWait:    13,
		lifecycle.InspectWait:  41,
		lifecycle.WaitCallBack: 13, // 110 in Ironic
	} {
		if got := abort.VersionIn(state); got != want {
			t.Errorf("abort in %q needs 1.%d, want 1.%d", state, got, want)
		}
	}
	if _, ok := lifecycle.VerbByName("fail"); ok {
		t.Error("the internal event fail is a verb")
	}
}

func TestEnterRecordsTargets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cur, target lifecycle.State
		event       lifecycle.Event
		next, want  lifecycle.State
	}{
		{"available", "", "deploy", "deploying", "active"},
		{"deploying", "active", "wait", "wait call-back", "active"},
		{"deploying", "active", "done", "active", ""},
		{"deploying", "active", "fail", "deploy failed", "active"},
		{"deploy failed", "active", "delete", "deleting", "available"},
		{"deleting", "available", "clean", "cleaning", "available"},
		{"cleaning", "available", "done", "available", ""},
		{"enroll", "", "manage", "verifying", "manageable"},
		{"verifying", "manageable", "fail", "enroll", ""},
		{"manageable", "", "provide", "cleaning", "available"},
		// Manual cleaning aims at manageable through every state of cleaning.
		{"manageable", "", "clean", "cleaning", "manageable"},
		{"cleaning", "manageable", "wait", "clean wait", "manageable"},
		{"clean wait", "manageable", "resume", "cleaning", "manageable"},
		{"clean wait", "manageable", "hold", "clean hold", "manageable"},
		{"clean wait", "manageable", "abort", "clean failed", "manageable"},
		{"cleaning", "manageable", "manage", "manageable", ""},
		{"rescue", "", "unrescue", "unrescuing", "active"},
		{"rescuing", "rescue", "done", "rescue", ""},
		{"service failed", "active", "abort", "active", ""},
		// A target nobody could have recorded is not kept.
		{"deploying", "manageable", "wait", "wait call-back", "active"},
	} {
		next, target, ok := lifecycle.Enter(c.cur, c.target, c.event)
		if !ok || next != c.next || target != c.want {
			t.Errorf("Enter(%q, %q, %q) = %q, %q, %v, want %q, %q",
				c.cur, c.target, c.event, next, target, ok, c.next, c.want)
		}
	}
}

func TestWhatIsNotInTheTableIsRefused(t *testing.T) {
	t.Parallel()
	if _, _, ok := lifecycle.Enter("active", "", "deploy"); ok {
		t.Error("an active node can be deployed")
	}
	if _, ok := lifecycle.Next("no such state", "manage"); ok {
		t.Error("an unknown state has a transition")
	}
	if k := lifecycle.KindOf("no such state"); k != "" {
		t.Errorf("an unknown state has kind %q", k)
	}
	if lifecycle.Updatable("") || lifecycle.Deletable("") {
		t.Error("no state at all allows something")
	}
}

func TestEveryStateIsReachableAndCanBeLeft(t *testing.T) {
	t.Parallel()
	seen := map[lifecycle.State]bool{lifecycle.Enroll: true}
	left := map[lifecycle.State]bool{}
	for range lifecycle.States() {
		for _, tr := range lifecycle.Transitions() {
			left[tr.From] = true
			if seen[tr.From] {
				seen[tr.To] = true
			}
		}
	}
	for _, s := range lifecycle.States() {
		if !seen[s] || !left[s] {
			t.Errorf("state %q: reachable %v, can be left %v", s, seen[s], left[s])
		}
		if len(s) > 15 {
			t.Errorf("state %q is longer than 15 characters", s)
		}
	}
}

func TestOnlyThreeStatesAreDeletable(t *testing.T) {
	t.Parallel()
	var got []lifecycle.State
	for _, s := range lifecycle.States() {
		if lifecycle.Deletable(s) {
			got = append(got, s)
		}
	}
	want := []lifecycle.State{"enroll", "manageable", "adopt failed"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deletable states (-want +got):\n%s", diff)
	}
}

func TestARestartedConductorLeavesNoTransientState(t *testing.T) {
	t.Parallel()
	for _, s := range lifecycle.States() {
		i, _ := lifecycle.InfoOf(s)
		if (i.Kind == lifecycle.Transient) != (i.OnStart != "") {
			t.Errorf("state %q is %s but goes to %q on start", s, i.Kind, i.OnStart)
		}
		if i.OnStart == "" {
			continue
		}
		if next, ok := lifecycle.Next(s, lifecycle.Fail); !ok || next != i.OnStart {
			t.Errorf("state %q goes to %q on start, but fails into %q", s, i.OnStart, next)
		}
	}
}

func TestPrintedFormsAreGolden(t *testing.T) {
	t.Parallel()
	for _, f := range lifecycle.Formats() {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			var got bytes.Buffer
			if err := lifecycle.Print(&got, f); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "lifecycle."+string(f))
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s differs, renew with -update (-want +got):\n%s", path, diff)
			}
		})
	}
	if err := lifecycle.Print(&bytes.Buffer{}, "svg"); err == nil {
		t.Error("an unknown format is printed")
	}
}
