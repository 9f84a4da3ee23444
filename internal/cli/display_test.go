package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
)

// progress is the entry of an image that is being written.
func progress(at time.Time, done float64) ingot.Entry {
	return ingot.Entry{Time: at, Source: "image", Level: ingot.LevelInfo, Text: "writing",
		Data: ingot.Object{"bytes": done, "total": 100.0}}
}

func TestProgressIsOneRenewedLineOnATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := &display{w: &out, terminal: true, start: time.Unix(0, 0)}
	d.entry(progress(time.Unix(1, 0), 25))
	d.entry(progress(time.Unix(2, 0), 50))
	d.entry(ingot.Entry{Time: time.Unix(3, 0), Source: "step", Text: "done"})
	want := "    1.0s  image   writing  [#####...............]\r\x1b[K" +
		"    2.0s  image   writing  [##########..........]\r\x1b[K" +
		"    3.0s  step    done\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestProgressIsALineNowAndThenElsewhere(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := &display{w: &out}
	for second := range 25 {
		d.entry(progress(time.Unix(int64(second), 0), float64(second)))
	}
	if got := strings.Count(out.String(), "\n"); got != 3 {
		t.Errorf("%d lines in 25 seconds, want 3:\n%s", got, out.String())
	}
}

func TestWhatMachinesSentCannotPaintTheTerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := &display{w: &out}
	d.entry(ingot.Entry{Source: "agent", Level: ingot.LevelError, Text: "bad \x1b[2Jdisk\r\n\u009b1m"})
	if strings.ContainsAny(strings.TrimSuffix(out.String(), "\n"), "\x1b\r\n\u009b") {
		t.Errorf("control characters reach the terminal: %q", out.String())
	}
	if !strings.Contains(out.String(), "!! bad") {
		t.Errorf("an error is not marked: %q", out.String())
	}
}

func TestAddressOfABMCIsSplit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]string{
		"10.0.0.7": {"10.0.0.7", ""}, "10.0.0.7:6230": {"10.0.0.7", "6230"},
		"bmc7": {"bmc7", ""}, "fd00::7": {"fd00::7", ""}, "[fd00::7]:623": {"fd00::7", "623"},
		"": {"", ""},
	} {
		if host, port := splitPort(in); host != want[0] || port != want[1] {
			t.Errorf("%q is split into %q and %q, want %q", in, host, port, want)
		}
	}
}
