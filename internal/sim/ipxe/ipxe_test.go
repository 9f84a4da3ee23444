package ipxe_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"ingot/internal/sim/ipxe"
)

// host is a machine whose servers are a map.
type host struct {
	files   map[string]string
	console []string
	slept   time.Duration
}

func (h *host) Setting(name string) (string, bool) {
	v, ok := map[string]string{"platform": "pcbios", "netX/mac": "52:54:00:00:00:01"}[name]
	return v, ok
}

func (h *host) Fetch(_ context.Context, url string, _ time.Duration, w io.Writer) error {
	text, ok := h.files[url]
	if !ok {
		return errors.New("connection refused")
	}
	_, err := io.WriteString(w, text)
	return err
}

func (h *host) Sleep(_ context.Context, d time.Duration) error { h.slept += d; return nil }
func (h *host) Echo(line string)                               { h.console = append(h.console, line) }

func TestScriptsEndAsInIPXE(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"http://b/k": "kernel", "http://b/i": "initrd",
		"http://b/s":    "#!ipxe\nsanboot --no-describe --drive 0x80 || exit 0\n",
		"http://b/exit": "#!ipxe\necho inner\nexit 0\n", "http://b/fail": "#!ipxe\nexit 1\n",
		"http://b/d/r": "#!ipxe\nkernel ../k || chain ../nowhere\nchain ../s",
	}
	for name, c := range map[string]struct {
		script  string
		verb    ipxe.Verb
		console string
		slept   time.Duration
	}{
		"boot": {"kernel --timeout 30000 http://b/k a=${netX/mac:hexhyp}\n" +
			"initrd --name initrd http://b/i\nboot", ipxe.Boot, "", 0},
		"second server": {"kernel http://a/k || goto other\nboot\n:other\necho not a\n" +
			"kernel http://b/k && boot", ipxe.Boot, "not a", 0},
		"failure ends a script":    {"kernel http://a/k\necho unseen", ipxe.Failed, "", 0},
		"or after success":         {"echo a || echo b", ipxe.Exit, "a", 0},
		"and after failure":        {"isset ${none} && echo b || echo c", ipxe.Exit, "c", 0},
		"comment":                  {"echo a # exit 1\n# exit 1", ipxe.Exit, "a", 0},
		"unknown command":          {"frobnicate", ipxe.Failed, "", 0},
		"unknown label":            {"goto nowhere || echo b", ipxe.Failed, "", 0},
		"disk":                     {"chain --replace http://b/s", ipxe.SANBoot, "", 0},
		"chain comes back":         {"chain http://b/exit\necho outer\npoweroff", ipxe.PowerOff, "inner outer", 0},
		"replaced does not":        {"chain --replace http://b/exit\necho outer", ipxe.Exit, "inner", 0},
		"relative to the script":   {"chain http://b/d/r", ipxe.SANBoot, "", 0},
		"chain fails":              {"chain http://b/fail || echo failed\nreboot", ipxe.Reboot, "failed", 0},
		"counter":                  {"set n:int32 0\n:again\ninc n\nsleep ${n}\niseq ${n} 3 || goto again", ipxe.Exit, "", 6 * time.Second},
		"nested settings":          {"set a b\nset b c\necho ${${a}}", ipxe.Exit, "c", 0},
		"shell is a prompt":        {"shell", ipxe.Prompt, "", 0},
		"circle":                   {":a\ngoto a", ipxe.Failed, "", 0},
		"sanboot takes no command": {"sanboot --drive 0x80\necho unseen", ipxe.SANBoot, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &host{files: files}
			end := ipxe.Run(t.Context(), h, "#!ipxe\n"+c.script)
			if end.Verb != c.verb || strings.Join(h.console, " ") != c.console ||
				h.slept != c.slept {
				t.Errorf("%+v, console %q, slept %s", end, h.console, h.slept)
			}
			if name == "boot" && (end.Kernel.Args != "a=52-54-00-00-00-01" ||
				end.Initrds[0].Name != "initrd") {
				t.Errorf("boots %+v", end)
			}
		})
	}
}

func TestNoScriptIsNotRun(t *testing.T) {
	t.Parallel()
	if end := ipxe.Run(t.Context(), &host{}, "<html>"); end.Verb != ipxe.Failed {
		t.Errorf("%+v", end)
	}
}
