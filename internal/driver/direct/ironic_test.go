package direct_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ingot/internal/testkit"
)

// sent is a request to an agent.
type sent struct {
	Path  string            `json:"path"`
	Query map[string]string `json:"query"`
	Body  any               `json:"body"`
}

// What an agent is sent has all that Ironic's own client sends, in the same places.
func TestAgentsAreToldWhatIronicTellsThem(t *testing.T) {
	t.Parallel()
	var ours []sent
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprint(w, `{"commands": []}`)
			return
		}
		s := sent{Path: r.URL.Path, Query: map[string]string{}}
		for k := range r.URL.Query() {
			s.Query[k] = r.URL.Query().Get(k)
		}
		if err := json.NewDecoder(r.Body).Decode(&s.Body); err != nil {
			t.Error(err)
		}
		name := s.Body.(map[string]any)["name"]
		if name != "standby.get_partition_uuids" {
			ours = append(ours, s)
		}
		answer := map[string]any{"command_status": "SUCCEEDED"}
		if name == "deploy.get_deploy_steps" {
			answer["command_result"] = agentSteps
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(agent.Close)
	r := newRig(t, nil)
	r.image([]byte("image"), false)
	n := r.task.Node
	n.Attempt.Agent.URL, n.Attempt.Agent.CA = agent.URL, ""
	said := testkit.Run(t, "/usr/bin/python3", "testdata/ironic_commands.py", n.UUID, r.task.Ports[0].Address,
		n.Attempt.Agent.Token.Reveal())
	for _, step := range []string{"write_image", "tear_down_agent"} {
		if _, err := r.execute(step); err != nil {
			t.Fatal(err)
		}
	}
	var theirs []sent
	for line := range strings.Lines(said) {
		var s sent
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, s)
	}
	if len(theirs) != len(ours) || len(ours) != 3 {
		t.Fatalf("they send %d requests, we %d", len(theirs), len(ours))
	}
	for i, their := range theirs {
		our := ours[i]
		if our.Path != their.Path || fmt.Sprint(our.Query) != fmt.Sprint(their.Query) {
			t.Errorf("%s %v, theirs %s %v", our.Path, our.Query, their.Path, their.Query)
		}
		compare(t, "body", their.Body, our.Body)
	}
}

// compare looks whether all that is in theirs is in ours, by its type.
func compare(t *testing.T, where string, theirs, ours any) {
	t.Helper()
	switch their := theirs.(type) {
	case map[string]any:
		our, ok := ours.(map[string]any)
		if !ok {
			t.Errorf("%s is %v, theirs an object", where, ours)
		}
		for k, v := range their {
			own := strings.HasPrefix(k, "agent_") || k == "hardware_manager_version"
			if own && strings.HasSuffix(where, ".driver_internal_info") {
				continue // the agent knows where it is, its token and its versions
			}
			if _, ok := our[k]; !ok {
				t.Errorf("%s lacks %s", where, k)
				continue
			}
			compare(t, where+"."+k, v, our[k])
		}
	case []any:
		our, ok := ours.([]any)
		if !ok || len(our) < len(their) {
			t.Errorf("%s is %v, theirs %v", where, ours, theirs)
			return
		}
		for i, v := range their {
			compare(t, fmt.Sprintf("%s.%d", where, i), v, our[i])
		}
	default:
		if strings.HasSuffix(where, ".name") && theirs != ours || fmt.Sprintf("%T", theirs) != fmt.Sprintf("%T", ours) {
			t.Errorf("%s is %v, theirs %v", where, ours, theirs)
		}
	}
}
