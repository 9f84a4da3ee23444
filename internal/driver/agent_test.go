package driver_test

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

func TestACallbackIsOfAMachine(t *testing.T) {
	t.Parallel()
	n := &ingot.Node{Attempt: &ingot.Attempt{Agent: &ingot.Agent{Token: "t"}}}
	for url, ok := range map[string]bool{
		"https://192.0.2.7:9999": true, "http://10.0.0.7:9999": true, "https://[fd00::7]:9999": true,
		"https://node7.example.org:9999/": true, "https://[::ffff:10.0.0.7]:9999": true,
		"": false, "192.0.2.7:9999": false, "ftp://192.0.2.7": false, "https://": false, "https:///x": false,
		"https://127.0.0.1:9999": false, "https://127.1.2.3": false, "https://[::1]:9999": false,
		"https://localhost:9999": false, "https://a.localhost:9999": false, "https://0.0.0.0:1": false,
		"https://[::]:1": false, "https://224.0.0.1": false, "https://[ff02::1]:9999": false,
		"https://255.255.255.255": false, "https://[::ffff:127.0.0.1]:1": false,
		"http://169.254.169.254/latest": false, "https://[fe80::1%25eth0]:9999": false,
		"https://user:pw@192.0.2.7": false, "https://192.0.2.7?x=1": false, "https://192.0.2.7#x": false,
		"https://192.0.2.7/" + strings.Repeat("x", 300): false, "https://192.0.2.7:x": false,
		"http://10.0.0.5:8080/any/path#": false, "http://10.0.0.5:8080/any/path?": false,
		"http://10.0.0.5:8080#": false, "http://10.0.0.5:8080/?": false, "http://10.0.0.5:8080/any/path": false,
		"http://10.0.0.5:8080//": false, "http://10.0.0.5:8080/%2e": false, "http://@10.0.0.5": false,
		"http:10.0.0.5": false, "https://localhost.:9999": false,
	} {
		err := driver.Heartbeat{Token: "t", URL: url, Version: "1"}.Check(n, false)
		if ok != (err == nil) || err != nil && ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%q: %v", url, err)
		}
	}
	if err := (driver.Heartbeat{Token: "t", URL: "https://127.0.0.1:9999"}).Check(n, true); err != nil {
		t.Errorf("where agents may be here: %v", err)
	}
	if err := (driver.Heartbeat{Token: "t", URL: "https://192.0.2.7",
		Version: strings.Repeat("1", 65)}).Check(n, false); err == nil {
		t.Error("a long version was taken")
	}
	// Without a token that was given out nobody is heard.
	for _, n := range []*ingot.Node{{}, {Attempt: &ingot.Attempt{}},
		{Attempt: &ingot.Attempt{Agent: &ingot.Agent{}}}} {
		if err := (driver.Heartbeat{URL: "https://192.0.2.7"}).Check(n, false); err == nil {
			t.Errorf("%+v: heard", n.Attempt)
		}
	}
}

// What this host has besides the loopback is this host, too.
func TestACallbackIsNotOfTheConductor(t *testing.T) {
	t.Parallel()
	n := &ingot.Node{Attempt: &ingot.Attempt{Agent: &ingot.Agent{Token: "t"}}}
	all, err := net.InterfaceAddrs()
	if err != nil || len(all) == 0 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, one := range all {
		prefix, err := netip.ParsePrefix(one.String())
		if err != nil {
			t.Fatal(err)
		}
		addresses := []netip.Addr{prefix.Addr()}
		if a := prefix.Addr(); a.Is4() {
			addresses = append(addresses, netip.AddrFrom16(a.As16())) // ::ffff:192.0.2.7
		}
		for _, a := range addresses {
			h := driver.Heartbeat{Token: "t", URL: "https://" + netip.AddrPortFrom(a, 9999).String()}
			if driver.Dialable(a) || h.Check(n, false) == nil {
				t.Errorf("%s was taken", h.URL)
			}
			if err := h.Check(n, true); err != nil {
				t.Errorf("where agents may be here: %v", err)
			}
		}
	}
}

func TestATokenIsOfIronicsForm(t *testing.T) {
	t.Parallel()
	a, b := driver.NewToken(), driver.NewToken()
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`).MatchString(a.Reveal()) || a == b {
		t.Errorf("%q, %q", a.Reveal(), b.Reveal())
	}
}

func TestAnAgentIsForgottenWithItsPower(t *testing.T) {
	t.Parallel()
	for _, onMedium := range []bool{false, true} {
		n := &ingot.Node{Attempt: &ingot.Attempt{Agent: &ingot.Agent{Token: "t", OnMedium: onMedium}}}
		tk := &driver.Task{Node: n}
		h := driver.Heartbeat{Token: "t", URL: "https://192.0.2.7:9999", Version: "9"}
		if !h.Record(tk) || h.Record(tk) || n.DriverInternalInfo["agent_url"] != h.URL || !n.Attempt.Called() {
			t.Errorf("%+v, %v", *n.Attempt.Agent, n.DriverInternalInfo)
		}
		if text := fmt.Sprintf("%v %+v %s", *n.Attempt.Agent, n.Attempt.Agent, n.Attempt); strings.Contains(text, "t ") &&
			strings.Contains(text, "Token") {
			t.Error(text)
		}
		driver.ForgetAgent(n)
		if (n.Attempt.Agent.Token != "") != onMedium || n.Attempt.Agent.URL != "" || len(n.DriverInternalInfo) != 0 {
			t.Errorf("on medium %v: %+v, %v", onMedium, *n.Attempt.Agent, n.DriverInternalInfo)
		}
	}
	driver.ForgetAgent(&ingot.Node{})
}
