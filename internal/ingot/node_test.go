package ingot_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestCurrentStepIsTheOneThatIsNotDone(t *testing.T) {
	t.Parallel()
	n := &ingot.Node{}
	if n.Deploying() || n.CurrentStep() != nil {
		t.Error("a node without a plan runs a step")
	}
	n.Steps = []ingot.Step{{Name: "deploy"}, {Name: "write_image"}}
	for step, want := range map[int]string{-1: "", 0: "deploy", 1: "write_image", 2: "", 9: ""} {
		n.Step = step
		got := ""
		if s := n.CurrentStep(); s != nil {
			got = s.Name
		}
		if got != want {
			t.Errorf("with %d steps done, %q is current, want %q", step, got, want)
		}
		if !n.Deploying() {
			t.Errorf("with %d steps done, nothing runs", step)
		}
	}
	n.Step = 0
	n.CurrentStep().Priority = 7
	if n.Steps[0].Priority != 7 {
		t.Error("the current step is a copy")
	}
}

func TestANodeIsCalledByItsNameIfItHasOne(t *testing.T) {
	t.Parallel()
	n := &ingot.Node{UUID: "u"}
	if n.Label() != "u" {
		t.Errorf("label %q, want the UUID", n.Label())
	}
	if n.Name = "r1-n1"; n.Label() != "r1-n1" {
		t.Errorf("label %q, want the name", n.Label())
	}
}
