package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"ingot/internal/ingot"
)

// display prints journal entries as they come. On a terminal the progress of an image is one
// line that renews itself; elsewhere it is a line at most every ten seconds.
type display struct {
	w        io.Writer
	terminal bool
	start    time.Time // entries show the seconds since then; zero shows the time of day
	open     bool      // the progress line is not closed yet
	last     time.Time // when progress was last printed
}

// newDisplay prints to w.
func newDisplay(w io.Writer) *display { return &display{w: w, terminal: isTerminal(w)} }

// isTerminal tells whether w is a terminal, where a line can be renewed.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// entry prints one entry.
func (d *display) entry(e ingot.Entry) {
	done, total := number(e.Data["bytes"]), number(e.Data["total"])
	progress := total > 0 && done < total
	if progress && !d.terminal && e.Time.Sub(d.last) < 10*time.Second {
		return
	}
	if progress {
		d.last = e.Time
	}
	if d.open {
		fmt.Fprint(d.w, "\r\033[K")
		d.open = false
	}
	mark := ""
	switch e.Level {
	case ingot.LevelWarning:
		mark = "! "
	case ingot.LevelError:
		mark = "!! "
	}
	fmt.Fprintf(d.w, "%s  %-7s %s%s", d.when(e.Time), e.Source, mark, printable(e.Text))
	if progress && d.terminal {
		fmt.Fprintf(d.w, "  %s", bar(done/total))
		d.open = true
		return
	}
	fmt.Fprintln(d.w)
}

// close ends an open progress line.
func (d *display) close() {
	if d.open {
		fmt.Fprintln(d.w)
		d.open = false
	}
}

func (d *display) when(t time.Time) string {
	if d.start.IsZero() {
		return t.Local().Format("15:04:05.000")
	}
	return fmt.Sprintf("%7.1fs", max(0, t.Sub(d.start).Seconds()))
}

// bar draws a share from 0 to 1.
func bar(share float64) string {
	const width = 20
	n := int(share * width)
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}

// number reads a JSON number as decoded by encoding/json.
func number(v any) float64 {
	f, _ := v.(float64)
	return f
}

// printable drops control characters: what machines sent may hold escape sequences.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, s)
}
