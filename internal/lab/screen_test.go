package lab

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"
)

// shown returns what a console's bytes look like on the screen, without the times.
func shown(chunks ...string) []string {
	var out bytes.Buffer
	s := &screen{w: &out, start: time.Now()}
	c := s.console("never", func() {})
	for _, chunk := range chunks {
		c.Write([]byte(chunk))
	}
	text := regexp.MustCompile(`(?m)^ *[0-9.]+s  console  `).ReplaceAllString(out.String(), "")
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func TestMarkerIsReportedAfterItsLineWasShown(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &screen{w: &out, start: time.Now()}
	var shown []string
	c := s.console("READY", func() { shown = append(shown, out.String()) })
	c.Write([]byte("booting\nREA"))
	c.Write([]byte("DY 1\nREADY 2\n"))
	if len(shown) != 1 || !strings.HasSuffix(shown[0], "READY 1\n") {
		t.Errorf("reported with %q on the screen, want once, after the first line", shown)
	}
}

func TestConsoleIsShownInWholeReadableLines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		chunks []string
		want   string
	}{
		"line in pieces":   {[]string{"iPXE initi", "alising\r", "\n"}, "iPXE initialising"},
		"character sets":   {[]string{"\x1b(B\x1b=\x1b7text\x1bc\n"}, "text"},
		"painting":         {[]string{"\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe\x1b[0m\r\n"}, "BdsDxe"},
		"repeated":         {[]string{"a\r\na\r\nb\n"}, "a b"},
		"no end yet":       {[]string{"one\ntwo"}, "one"},
		"control bytes":    {[]string{"x\x07\x00y\xff\n"}, "xy"},
		"endless nonsense": {[]string{strings.Repeat("z", 5000), "\nok\n"}, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := strings.Join(shown(c.chunks...), " "); got != c.want {
				t.Errorf("shown %q, want %q", got, c.want)
			}
		})
	}
}
