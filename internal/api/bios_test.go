package api_test

import (
	"reflect"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

func TestBIOSSettingsAreShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.addNode(nil)
	const at = "/v1/nodes/n1/bios"
	if got := w.at("1.40", "GET", at, "").want(200).list("bios"); len(got) > 0 {
		t.Errorf("of a machine that was never asked: %v", got)
	}
	yes, low := true, int64(0)
	if err := w.store.SaveBIOS(w.Context(), n, []ingot.BIOSSetting{
		{Name: "Virtualization", Value: "Enabled", Type: "Enumeration", Allowed: []string{"Enabled", "Disabled"},
			ReadOnly: &yes}, {Name: "Cores", Value: 4.0, LowerBound: &low}, {Name: "Quiet", Value: true},
		{Name: "Password", Value: nil}}); err != nil {
		t.Fatal(err)
	}
	list := w.at("1.40", "GET", at, "").want(200).list("bios")
	var values []any
	for _, s := range list {
		s := s.(map[string]any)
		values = append(values, s["name"], s["value"])
		if len(s) != 5 || s["created_at"] == nil || s["links"] == nil {
			t.Errorf("list shows %v", s)
		}
	}
	if want := []any{"Cores", "4", "Password", nil, "Quiet", "True", "Virtualization", "Enabled"}; !reflect.DeepEqual(
		values, want) {
		t.Errorf("values %v", values)
	}
	detailed := w.at("1.74", "GET", at+"?detail=True", "").want(200).list("bios")
	if s := detailed[3].(map[string]any); s["attribute_type"] != "Enumeration" || s["read_only"] != true ||
		s["lower_bound"] != nil || len(s["allowable_values"].([]any)) != 2 {
		t.Errorf("details %v", s)
	}
	if s := detailed[0].(map[string]any); s["lower_bound"] != 0.0 || s["attribute_type"] != nil {
		t.Errorf("details %v", s)
	}
	if s := w.do("GET", at+"?fields=name", "").want(200).list("bios")[0].(map[string]any); len(s) != 1 {
		t.Errorf("one field: %v", s)
	}
	one := w.at("1.40", "GET", at+"/Virtualization", "").want(200).object()["Virtualization"].(map[string]any)
	if one["value"] != "Enabled" || one["attribute_type"] != nil {
		t.Errorf("one setting: %v", one)
	}
	one = w.at("1.74", "GET", at+"/Virtualization", "").want(200).object()["Virtualization"].(map[string]any)
	if one["attribute_type"] != "Enumeration" {
		t.Errorf("one setting: %v", one)
	}
	w.do("GET", at+"/None", "").refused(404, "Node "+nodeID+" doesn't have a BIOS setting 'None'.")
	w.at("1.39", "GET", at, "").want(404)
	w.at("1.73", "GET", at+"?detail=True", "").want(406)
}

func TestDeployStepsOfBIOSSettingsAreHandedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(available)
	const step = `{"interface": "bios", "step": "apply_configuration", "priority": 150,
		"args": {"settings": [{"name": "a", "value": "b"}]}}`
	w.at("1.69", "PUT", provisionPath, `{"target": "active", "deploy_steps": [`+step+`]}`).want(202)
	got, ok := w.conductor.last().(rpc.ProvisionRequest)
	if !ok || len(got.DeploySteps) != 1 || got.DeploySteps[0].Name != "apply_configuration" ||
		got.DeploySteps[0].Priority != 150 || got.DeploySteps[0].Args["settings"] == nil {
		t.Errorf("asked for %+v", got)
	}
	for _, steps := range []string{`{"interface": "bios"}`, strings.Replace(step, "150", `"1"`, 1),
		strings.Replace(step, "150", "-1", 1), strings.Replace(step, "150", "1.5", 1),
		strings.Replace(step, `"bios"`, `"bios", "more": 1`, 1), step + `, {"interface": "raid", "step": "x"}`,
		strings.Repeat(step+",", 64) + step} {
		w.do("PUT", provisionPath, `{"target": "active", "deploy_steps": [`+steps+`]}`).want(400)
	}
}

// Passwords of the firmware are values of settings, whose names tell that they are.
func TestDeployStepsDoNotShowPasswords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	setting := func(name, value string) any { return ingot.Object{"name": name, "value": value} }
	n := w.addNode(func(n *ingot.Node) {
		n.ProvisionState = "deploying"
		n.Steps = []ingot.Step{{Interface: "bios", Name: "apply_configuration", Priority: 1, Args: ingot.Object{
			"settings": []any{setting("AdminPassword", "topsecret1"), setting("SetupPwd", "topsecret2"),
				setting("QuietBoot", "Enabled")}}}}
	})
	step := w.do("GET", "/v1/nodes/"+n.UUID, "").want(200).object()["deploy_step"].(map[string]any)
	var values []any
	for _, s := range step["args"].(map[string]any)["settings"].([]any) {
		values = append(values, s.(map[string]any)["value"])
	}
	if want := []any{ingot.Masked, ingot.Masked, "Enabled"}; !reflect.DeepEqual(values, want) {
		t.Errorf("shown are %v", values)
	}
	if kept := w.node().Steps[0].Args["settings"].([]any)[0]; !reflect.DeepEqual(kept, setting("AdminPassword",
		"topsecret1")) {
		t.Errorf("the node has %v", kept)
	}
}
