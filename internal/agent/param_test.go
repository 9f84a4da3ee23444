package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/agent"
	"ingot/internal/roothint"
)

const fullLine = "quiet deployment_id=1be26c0b-03f2-4d2e-ae87-c02d7f33c781 deployment_key=abc " +
	"iscsi_target_iqn=iqn.2008-10.org.openstack:1be26c0b BOOTIF=01-52-54-00-77-00-09 " +
	"ironic_api_url=http://10.77.0.1:6385/,http://10.77.0.2:6385"

// byText compares hints, whose inside is not seen here.
var byText = cmp.Comparer(func(a, b roothint.Hints) bool { return a.String() == b.String() })

func TestHintsComeOnTheCommandLine(t *testing.T) {
	t.Parallel()
	want := hints(t, map[string]any{"model": "<in> a b", "size": ">= 100"})
	got, err := agent.ParseParams(fullLine + " root_device=" + want.Encode())
	if err != nil || got.Hints.String() != want.String() {
		t.Errorf("hints %v (%v), want %v", got.Hints, err, want)
	}
}

func TestParamsOfAnIngotCommandLineAreRead(t *testing.T) {
	t.Parallel()
	got, err := agent.ParseParams(fullLine + "\n")
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Params{
		Node: "1be26c0b-03f2-4d2e-ae87-c02d7f33c781", Key: "abc",
		IQN:     "iqn.2008-10.org.openstack:1be26c0b",
		APIs:    []string{"http://10.77.0.1:6385", "http://10.77.0.2:6385"},
		BootMAC: []byte{0x52, 0x54, 0, 0x77, 0, 9},
	}
	if diff := cmp.Diff(want, got, byText); diff != "" {
		t.Error(diff)
	}
}

func TestParamsHaveIronicsDefaultsAndAliases(t *testing.T) {
	t.Parallel()
	got, err := agent.ParseParams(`deployment_id=old deployment_id=NODE deployment_key="a b" ` +
		"ipa-api-url=http://[fd00::1]:80 BOOTIF=52:54:00:77:00:09 iscsi_chap=none")
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Params{
		Node: "NODE", Key: "a b", IQN: "iqn.2008-10.org.openstack:node",
		APIs:       []string{"http://[fd00::1]:80"},
		BootMAC:    []byte{0x52, 0x54, 0, 0x77, 0, 9},
		OpenTarget: true,
	}
	if diff := cmp.Diff(want, got, byText); diff != "" {
		t.Error(diff)
	}
}

func TestParamsOfACommandedAgentNeedNoKeyAndNoNode(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]agent.Params{
		"agent_protocol=ipa ipa-api-url=https://10.0.0.1/baremetal ipa-insecure=1 ipa-lookup-timeout=300": {
			Protocol: agent.IPA, APIs: []string{"https://10.0.0.1/baremetal"}, Insecure: true,
			LookupTimeout: 5 * time.Minute,
		},
		"agent_protocol=ipa deployment_id=NODE ironic_api_url=http://10.0.0.1,http://10.0.0.2 " +
			"ipa-api-url=http://10.0.0.1 ipa-agent-token=told-beforehand": {
			Protocol: agent.IPA, Node: "NODE", IQN: "iqn.2008-10.org.openstack:node",
			APIs: []string{"http://10.0.0.1", "http://10.0.0.2"}, Token: "told-beforehand",
		},
	} {
		got, err := agent.ParseParams(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if diff := cmp.Diff(want, got, byText); diff != "" {
			t.Error(diff)
		}
	}
}

func TestWrongParamIsNamed(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                                   "deployment_id",
		"deployment_id=a/b deployment_key=k": "deployment_id",
		"deployment_id=a":                    "deployment_key",
		fullLine + " iscsi_target_iqn=iqn.2008-10.org/../x": "iscsi_target_iqn",
		fullLine + " agent_protocol=carrier-pigeon":         "agent_protocol",
		fullLine + " ipa-lookup-timeout=soon":               "ipa-lookup-timeout",
		fullLine + " ironic_api_url=ftp://10.0.0.1":         "ironic_api_url",
		fullLine + " ironic_api_url=":                       "ironic_api_url",
		fullLine + " BOOTIF=01-52-54":                       "BOOTIF",
		fullLine + " root_device=colour=red":                "root_device",
	} {
		_, err := agent.ParseParams(line)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want one about %s", line, err, want)
		}
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add(fullLine)
	f.Add(`a="b c" deployment_id=" ironic_api_url=http://%zz`)
	f.Fuzz(func(t *testing.T, line string) {
		p, err := agent.ParseParams(line)
		if err != nil {
			return
		}
		if strings.ContainsAny(p.Node+p.IQN, "/ \t\n") || len(p.APIs) == 0 {
			t.Errorf("%q gave %+v", line, p)
		}
		if p.BootMAC != nil && len(p.BootMAC) != 6 {
			t.Errorf("%q gave a MAC of %d bytes", line, len(p.BootMAC))
		}
	})
}
