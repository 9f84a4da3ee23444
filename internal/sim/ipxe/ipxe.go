// Package ipxe executes iPXE scripts for simulated machines: the commands that boot scripts are
// made of, with iPXE's own rules for words, settings, labels and failure
// (https://ipxe.org/scripting). What the commands do to the world (fetch, boot, sleep) is the
// Host's.
//
// A command it does not know fails, as in iPXE. Read Run first, then command.go.
package ipxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// A Host is the machine that runs the script.
type Host interface {
	// Setting returns a setting that the script has not set itself ("net0/mac", "platform").
	Setting(name string) (value string, ok bool)
	// Fetch copies what is at a URL to w. idle is how long the server may be silent; 0 is the
	// host's choice.
	Fetch(ctx context.Context, url string, idle time.Duration, w io.Writer) error
	// Sleep pauses the script.
	Sleep(ctx context.Context, d time.Duration) error
	// Echo shows a line on the console.
	Echo(line string)
}

// Verb is how a script ended.
type Verb string

// The ends of a script. Failed is a script that ended with an error and left the machine to what
// its firmware does next, or to a prompt.
const (
	Boot     Verb = "boot"     // a kernel
	SANBoot  Verb = "sanboot"  // a local drive
	Exit     Verb = "exit"     // to the firmware
	PowerOff Verb = "poweroff" // the machine
	Reboot   Verb = "reboot"   // the machine
	Prompt   Verb = "prompt"   // a person has to come
	Failed   Verb = "failed"
)

// Image is a file that was fetched to be booted.
type Image struct {
	Name string // by which the kernel finds it
	URL  string
	Args string // command line of a kernel
}

// End is how a script ended.
type End struct {
	Verb    Verb
	Kernel  Image   // of Boot
	Initrds []Image // of Boot
	Drive   string  // of SANBoot: "0x80"
	Err     error   // of Failed
}

const (
	maxScript = 1 << 20
	maxDepth  = 16
	// maxCommands ends a script that goes round in circles without ever pausing.
	maxCommands = 1 << 16
)

// Run executes a script until the machine does something else. The context ends it with Failed.
func Run(ctx context.Context, h Host, text string) End {
	m := &machine{host: h, settings: map[string]string{}}
	return m.script(ctx, source{text: text}, 0)
}

// machine is what outlives one script of a chain: settings and images.
type machine struct {
	host     Host
	settings map[string]string
	images   []Image
	kernel   *Image
	commands int
}

// errEnd carries the end of a machine's scripts through the commands.
type errEnd struct{ end End }

func (e *errEnd) Error() string { return "script ended: " + string(e.end.Verb) }

// source is a script and where it came from: what it names without a server is there, too.
type source struct{ text, url string }

// script runs one script. A script that is done with its last line ends like exit 0.
func (m *machine) script(ctx context.Context, from source, depth int) End {
	if !strings.HasPrefix(from.text, "#!ipxe") || len(from.text) > maxScript {
		return End{Verb: Failed, Err: errors.New("not a script")}
	}
	s := &script{machine: m, lines: strings.Split(from.text, "\n"), url: from.url, depth: depth}
	for s.at = 0; s.at < len(s.lines); s.at++ {
		if err := ctx.Err(); err != nil {
			return End{Verb: Failed, Err: err}
		}
		err := s.line(ctx, s.lines[s.at])
		var end *errEnd
		switch {
		case errors.As(err, &end):
			return end.end
		case err != nil:
			return End{Verb: Failed, Err: fmt.Errorf("line %d, %s: %w", s.at+1,
				s.lines[s.at], err)}
		}
	}
	return End{Verb: Exit}
}

// script is the text that is executed now.
type script struct {
	*machine
	lines []string
	url   string
	at    int
	depth int
}

// line executes one line: commands joined by || and &&, from left to right. A command after ||
// runs when the one before failed, one after && when it succeeded.
func (s *script) line(ctx context.Context, line string) error {
	words := strings.Fields(line)
	var result error
	run := true
	for len(words) > 0 {
		n := 0
		for n < len(words) && words[n] != "||" && words[n] != "&&" &&
			!strings.HasPrefix(words[n], "#") {
			n++
		}
		comment := n < len(words) && strings.HasPrefix(words[n], "#")
		if run && n > 0 && !strings.HasPrefix(words[0], ":") {
			expanded := strings.Fields(s.expand(strings.Join(words[:n], " ")))
			if result = s.command(ctx, expanded); isEnd(result) {
				return result
			}
		}
		if comment || n >= len(words) {
			break
		}
		run = (result == nil) == (words[n] == "&&")
		words = words[n+1:]
	}
	return result
}

func isEnd(err error) bool {
	var end *errEnd
	return errors.As(err, &end)
}

// expand replaces ${name} and ${name:type}, the innermost first.
func (s *script) expand(line string) string {
	for range 64 {
		open := strings.LastIndex(line, "${")
		if open < 0 {
			return line
		}
		length := strings.IndexByte(line[open:], '}')
		if length < 0 {
			return line
		}
		line = line[:open] + s.setting(line[open+2:open+length]) + line[open+length+1:]
	}
	return line
}

// setting is the value of name or name:type, "" if there is none.
func (s *script) setting(name string) string {
	name, form, _ := strings.Cut(name, ":")
	value, ok := s.settings[name]
	if !ok {
		value, _ = s.host.Setting(name)
	}
	switch form {
	case "hexhyp":
		return strings.ReplaceAll(value, ":", "-")
	case "hexraw":
		return strings.ReplaceAll(value, ":", "")
	}
	return value
}
