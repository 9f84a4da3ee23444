package policy_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"testing"

	"ingot/internal/keystone"
	"ingot/internal/policy"
	"ingot/internal/testkit"
)

// question is who asks about an object of whom.
type question struct {
	Roles    []string `json:"roles"`
	System   bool     `json:"system"`
	Project  string   `json:"project"`
	Name     string   `json:"project_name"`
	Owner    string   `json:"owner"`
	Lessee   string   `json:"lessee"`
	Elevated bool     `json:"elevated"`
}

func (q question) subject() policy.Subject {
	var o policy.Options
	if q.Elevated {
		o.ServiceProject = "service"
	}
	return policy.New(&keystone.Identity{UserID: "u", Roles: q.Roles, System: q.System,
		ProjectID: q.Project, Project: q.Name}, o)
}

// questions are all roles at all scopes at all relations.
func questions() []question {
	var all []question
	for _, roles := range [][]string{nil, {"reader"}, {"member", "reader"}, {"manager", "member", "reader"},
		{"admin", "manager", "member", "reader"}, {"admin"}, {"member"}, {"manager"}, {"service"},
		{"service", "admin", "member", "reader"}, {"other"}, {"Reader"}} {
		for _, scope := range []question{{}, {System: true}, {Project: "mine", Name: "demo"},
			{Project: "mine", Name: "service"}, {Project: "mine", Name: "service", Elevated: true},
			{System: true, Elevated: true}} {
			for _, object := range []question{{}, {Owner: "mine"}, {Lessee: "mine"},
				{Owner: "mine", Lessee: "mine"}, {Owner: "theirs", Lessee: "others"}} {
				q := scope
				q.Roles, q.Owner, q.Lessee = roles, object.Owner, object.Lessee
				all = append(all, q)
			}
		}
	}
	return all
}

// newer are rules that Debian's Ironic (2023.1) does not have as they are since: whether it has them,
// and what differs where it does.
var newer = map[policy.Rule]string{
	"baremetal:node:set_provision_state:clean_steps":   "since 2024.2",
	"baremetal:node:set_provision_state:service_steps": "since 2024.2",
	"baremetal:node:update:parent_node":                "since 2023.2",
	"baremetal:node:firmware:get":                      "since 2023.2",
	"baremetal:node:vmedia:attach":                     "since 2024.1",
	"baremetal:node:vmedia:detach":                     "since 2024.1",
	"baremetal:node:vmedia:get":                        "since 2024.2",
	"baremetal:driver:ipa_continue_inspection":         "since 2023.2",
	"baremetal:inspection_rule:get":                    "since 2025.1",
	"baremetal:inspection_rule:list_all":               "since 2025.1",
	"baremetal:inspection_rule:create":                 "since 2025.1",
	"baremetal:inspection_rule:update":                 "since 2025.1",
	"baremetal:inspection_rule:delete":                 "since 2025.1",
	"baremetal:conductor:get":                          "tokens of projects count since",
	"baremetal:deploy_template:get":                    "tokens of projects count since",
	"baremetal:node:journal:get":                       "ours",
	"baremetal:conductor:drain":                        "ours",
	"baremetal:cluster:get":                            "ours",
	"baremetal:metrics:get":                            "ours",
}

// TestEveryRuleSaysWhatIronicsDoes asks Ironic itself, for every rule, about everybody and everything.
func TestEveryRuleSaysWhatIronicsDoes(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	all := questions()
	var input bytes.Buffer
	for _, q := range all {
		if err := json.NewEncoder(&input).Encode(q); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "testdata/theirs.py")
	var complaints bytes.Buffer
	cmd.Stdin, cmd.Stderr = &input, &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v; python3-ironic is installed by scripts/packages.sh\n%s", err, complaints.Bytes())
	}
	d := json.NewDecoder(bytes.NewReader(out))
	asked := map[policy.Rule]int{}
	for _, q := range all {
		var theirs map[policy.Rule]bool
		if err := d.Decode(&theirs); err != nil {
			t.Fatal(err)
		}
		who := q.subject()
		for rule, allowed := range theirs {
			if rule == "baremetal:allocation:create_pre_rbac" {
				continue // an old rule for those who have no scopes
			}
			asked[rule]++
			if allowed && q.System && (q.Owner == "" || q.Lessee == "") {
				continue // there no project is that of what nobody owns or leases, by accident
			}
			if ours := who.MayOn(rule, q.Owner, q.Lessee); ours != allowed && newer[rule] == "" {
				t.Errorf("%s for %+v: %v, Ironic says %v", rule, q, ours, allowed)
			}
		}
	}
	for _, rule := range policy.Rules() {
		if asked[rule] == 0 && newer[rule] == "" {
			t.Errorf("%s is not one of Ironic", rule)
		}
	}
}

// TestWhoMayDoWhat has the table again, as what a member of each kind may do; so a change is seen twice.
func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	who := func(q question) policy.Subject { return q.subject() }
	reader, member := []string{"reader"}, []string{"member", "reader"}
	admin := []string{"admin", "manager", "member", "reader"}
	kinds := map[string]struct {
		who           policy.Subject
		owner, lessee string
	}{
		"system admin":   {who: who(question{Roles: admin, System: true})},
		"system member":  {who: who(question{Roles: member, System: true})},
		"system reader":  {who: who(question{Roles: reader, System: true})},
		"service":        {who: who(question{Roles: []string{"service"}, Project: "s", Name: "service", Elevated: true})},
		"owner admin":    {who(question{Roles: admin, Project: "p"}), "p", ""},
		"owner member":   {who(question{Roles: member, Project: "p"}), "p", ""},
		"owner reader":   {who(question{Roles: reader, Project: "p"}), "p", ""},
		"lessee admin":   {who(question{Roles: admin, Project: "p"}), "o", "p"},
		"lessee member":  {who(question{Roles: member, Project: "p"}), "o", "p"},
		"lessee reader":  {who(question{Roles: reader, Project: "p"}), "o", "p"},
		"stranger admin": {who(question{Roles: admin, Project: "x"}), "o", "p"},
		"no project":     {who: who(question{Roles: admin}), owner: "", lessee: ""},
		"nobody":         {},
	}
	for rule, may := range map[policy.Rule][]string{
		policy.NodeGet: {"system admin", "system member", "system reader", "service", "owner admin",
			"owner member", "owner reader", "lessee admin", "lessee member", "lessee reader"},
		policy.NodeListAll: {"system admin", "system member", "system reader", "service"},
		policy.NodeCreate:  {"system admin"},
		"baremetal:node:set_power_state": {"system admin", "system member", "service", "owner admin",
			"owner member", "lessee admin", "lessee member"},
		"baremetal:node:set_provision_state": {"system admin", "system member", "service", "owner admin",
			"owner member", "lessee admin"},
		"baremetal:node:update:driver_info": {"system admin", "system member", "service", "owner admin",
			"owner member"},
		"baremetal:node:update:owner": {"system admin", "system member", "service"},
		"baremetal:node:history:get": {"system admin", "system member", "system reader", "service",
			"owner admin", "owner member", "owner reader"},
		"baremetal:node:journal:get": {"system admin", "system member", "system reader", "service",
			"owner admin", "owner member", "owner reader"},
		"baremetal:node:vendor_passthru": {"system admin"},
		"baremetal:conductor:drain":      {"system admin"},
		"baremetal:cluster:get":          {"system admin", "system member", "system reader", "service"},
		"baremetal:metrics:get":          {"system admin", "system member", "system reader", "service"},
		"baremetal:driver:get":           {"system admin", "system member", "system reader"},
		policy.PortCreate:                {"system admin", "owner admin"},
		policy.NodeDeleteOwn:             {"owner admin"},
		"baremetal:no:such:rule":         nil,
	} {
		for name, k := range kinds {
			if got := k.who.MayOn(rule, k.owner, k.lessee); got != slices.Contains(may, name) {
				t.Errorf("%s: %s: %v", rule, name, got)
			}
		}
	}
}

func TestEveryRuleLetsTheOperatorAndOldAdminsDoEverything(t *testing.T) {
	t.Parallel()
	old := policy.New(&keystone.Identity{ProjectID: "p", Roles: []string{"admin"}},
		policy.Options{Admins: true})
	others := policy.New(&keystone.Identity{ProjectID: "p", Roles: []string{"member", "service"}},
		policy.Options{Admins: true})
	for _, rule := range policy.Rules() {
		if !policy.Operator.May(rule) || !old.MayOn(rule, "o", "l") {
			t.Errorf("%s is not allowed", rule)
		}
	}
	if others.MayOn(policy.NodeGet, "o", "l") {
		t.Error("a member is one, too")
	}
}

func BenchmarkDecision(b *testing.B) {
	id := &keystone.Identity{ProjectID: "p", Roles: []string{"admin", "manager", "member", "reader"}}
	for b.Loop() {
		who := policy.New(id, policy.Options{})
		if !who.MayOn(policy.NodeGet, "o", "p") {
			b.Fatal("not allowed")
		}
	}
}
