package agent_test

import (
	"fmt"
	"strings"
	"testing"

	"ingot/internal/agent"
)

func join(parts ...any) string { return strings.TrimSpace(fmt.Sprintln(parts...)) }

func TestAnAddressComesOnTheCommandLine(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{
		"10.0.0.5/24,10.0.0.1": "10.0.0.5 24 10.0.0.1",
		"10.0.0.5/32":          "10.0.0.5 32 <nil>",
		"":                     "<nil> 0 <nil>",
	} {
		p, err := agent.ParseParams(fullLine + " agent_ip=" + arg)
		if err != nil {
			t.Fatal(err)
		}
		if got := join(p.Static.IP, p.Static.Bits, p.Static.Gateway); got != want {
			t.Errorf("%s: %s", arg, got)
		}
	}
	for _, wrong := range []string{"10.0.0.5", "10.0.0.5/33", "fd00::5/64", "10.0.0.5/24,", "10.0.0.5/24,fd00::1",
		"10.0.0.5/24,10.0.0.1,10.0.0.2", "dhcp"} {
		_, err := agent.ParseParams(fullLine + " agent_ip=" + wrong)
		if err == nil || !strings.Contains(err.Error(), "kernel parameter agent_ip="+wrong+" is wrong") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}
