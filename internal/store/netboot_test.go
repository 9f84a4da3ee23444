package store_test

import (
	"testing"

	"ingot/internal/ingot"
)

func TestWhatBootsFromTheNetworkHasAVersionThatEveryChangeChanges(t *testing.T) {
	t.Parallel()
	s := open(t)
	nodes := map[ingot.BootIntent]*ingot.Node{}
	for _, intent := range []ingot.BootIntent{ingot.BootNone, ingot.BootDeploy, ingot.BootInspect,
		ingot.BootInstance, ingot.BootRescue, ingot.BootDisk, ingot.BootError, ""} {
		nodes[intent] = &ingot.Node{UUID: ingot.NewUUID(), Driver: "ipmi", BootIntent: intent}
		if err := s.CreateNode(t.Context(), nodes[intent]); err != nil {
			t.Fatal(err)
		}
	}
	n := nodes[ingot.BootDeploy]
	seen := map[string]bool{}
	look := func(after string, count int) {
		t.Helper()
		all, err := s.NetbootVersions(t.Context())
		if err != nil || len(all) != count {
			t.Fatalf("after %s: %v, %v", after, all, err)
		}
		if v := all[n.UUID]; v == "" || seen[v] {
			t.Errorf("after %s the version is %q, as before", after, v)
		}
		seen[all[n.UUID]] = true
	}
	look("nothing", 4)
	first := &ingot.Port{UUID: ingot.NewUUID(), NodeUUID: n.UUID, Address: "52:54:00:00:00:01"}
	second := &ingot.Port{UUID: ingot.NewUUID(), NodeUUID: n.UUID, Address: "52:54:00:00:00:02"}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"a port", func() error { return s.CreatePort(t.Context(), first) }},
		{"another port", func() error { return s.CreatePort(t.Context(), second) }},
		{"a change of it", func() error {
			second.PXEEnabled = true
			return s.UpdatePort(t.Context(), second)
		}},
		{"the end of the first", func() error { return s.DeletePort(t.Context(), first) }},
		{"a change of the node", func() error { return s.UpdateNode(t.Context(), n) }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		look(step.name, 4)
	}
	nodes[ingot.BootInstance].BootIntent = ingot.BootDisk
	nodes[ingot.BootError].BootIntent = ingot.BootInstance
	nodes[ingot.BootRescue].BootIntent = ingot.BootNone
	n.Extra = ingot.Object{"a": "b"}
	for _, n := range nodes {
		if err := s.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	look("other intents", 3)
}
