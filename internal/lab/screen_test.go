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
	c := s.console()
	for _, chunk := range chunks {
		c.Write([]byte(chunk))
	}
	text := regexp.MustCompile(`(?m)^ *[0-9.]+s  console  `).ReplaceAllString(out.String(), "")
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func TestConsoleIsShownInWholeReadableLines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		chunks []string
		want   string
	}{
		"line in pieces":   {[]string{"iPXE initi", "alising\r", "\n"}, "iPXE initialising"},
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
