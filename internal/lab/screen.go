package lab

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"ingot/internal/sim"
)

// screen prints lines of several sources to one writer, each with the seconds since the start.
type screen struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
}

// line prints one line.
func (s *screen) line(source, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "%6.1fs  %-8s %s\n", time.Since(s.start).Seconds(), source, text)
}

// console returns a writer for a serial console: whole lines, without what firmware sends to
// paint its screen. seen is called, once, after a line with the marker was printed.
func (s *screen) console(marker string, seen func()) io.Writer {
	return &consoleWriter{screen: s, marker: marker, seen: sync.OnceFunc(seen)}
}

// consoleWriter cuts a byte stream into printable lines.
type consoleWriter struct {
	screen *screen
	marker string
	seen   func()
	rest   []byte
	last   string
}

// Write takes bytes as they come.
func (c *consoleWriter) Write(p []byte) (int, error) {
	c.rest = append(c.rest, p...)
	for {
		i := bytes.IndexAny(c.rest, "\r\n")
		if i < 0 {
			// A line without an end is not kept for ever.
			if len(c.rest) > 4096 {
				c.rest = c.rest[:0]
			}
			return len(p), nil
		}
		c.show(string(c.rest[:i]))
		c.rest = c.rest[i+1:]
	}
}

// show prints a line unless it is empty or was just printed: firmware repaints.
func (c *consoleWriter) show(line string) {
	line = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r > '~' {
			return -1
		}
		return r
	}, sim.Plain(line)))
	if line == "" || line == c.last {
		return
	}
	c.last = line
	c.screen.line("console", line)
	if strings.Contains(line, c.marker) {
		c.seen()
	}
}
