package driver_test

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// FuzzHeartbeat: what is taken for an agent's is the URL of a machine.
func FuzzHeartbeat(f *testing.F) {
	for _, seed := range [][2]string{{"https://192.0.2.7:9999", ""}, {"https://[fe80::1%25eth0]:1", "x"},
		{"http://[::ffff:127.0.0.1]", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
		{"https://0x7f.1/", ""}, {"https://user@host", ""}, {"//host", ""}, {"https://LOCALHOST.", ""},
		{"http://10.0.0.5:8080/path#", ""}, {"http://10.0.0.5:8080?", ""}, {"http://10.0.0.5//", ""}} {
		f.Add(seed[0], seed[1])
	}
	n := &ingot.Node{Attempt: &ingot.Attempt{Agent: &ingot.Agent{Token: "t"}}}
	f.Fuzz(func(t *testing.T, text, ca string) {
		err := driver.Heartbeat{Token: "t", URL: text, Version: "1", CA: ca}.Check(n, false)
		if err != nil {
			if ingot.KindOf(err) != ingot.Invalid {
				t.Errorf("%q, %q: %v", text, ca, err)
			}
			return
		}
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" ||
			strings.TrimSuffix(text[strings.Index(text, ":"):], "/") != "://"+u.Host {
			t.Fatalf("%q was taken", text)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && (a.Unmap().IsLoopback() || a.IsMulticast()) {
			t.Errorf("%q was taken", text)
		}
		if (driver.Heartbeat{Token: "x", URL: text, CA: ca}).Check(n, false) == nil {
			t.Error("a wrong token was taken")
		}
	})
}
