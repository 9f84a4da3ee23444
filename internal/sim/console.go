package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// consolePoll is how often a console is looked at. A file tells nobody that it grew, apart from
// inotify, which saves nothing at this rate.
const consolePoll = 20 * time.Millisecond

// A Console reads the serial log of a machine, which holds everything since the machine was made,
// over all its lives. It remembers how far it was read. Its methods may be called concurrently.
type Console struct {
	path string

	mu     sync.Mutex // guards the field below
	offset int64      // of the first byte not yet waited past
}

// OpenConsole reads a serial log, also that of another process, from its start.
func OpenConsole(path string) *Console { return &Console{path: path} }

// Path is the file of the log: raw bytes with the terminal's escape sequences.
func (c *Console) Path() string { return c.path }

// Wait returns when the marker appears after the place where the last Wait or Skip ended. The
// error holds the last lines of the log.
func (c *Console) Wait(ctx context.Context, marker string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	log, err := os.Open(c.path)
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	defer log.Close()
	tick := time.NewTicker(consolePoll)
	defer tick.Stop()
	var text []byte // not yet passed: the log from c.offset on
	for {
		fresh, err := io.ReadAll(io.NewSectionReader(log, c.offset+int64(len(text)), maxRead))
		if err != nil {
			return fmt.Errorf("read console: %w", err)
		}
		text = append(text, fresh...)
		if at := bytes.Index(text, []byte(marker)); at >= 0 {
			c.offset += int64(at + len(marker))
			return nil
		}
		// The marker may have begun.
		if passed := len(text) - len(marker); passed > 0 {
			c.offset += int64(passed)
			text = text[passed:]
		}
		if len(fresh) == maxRead {
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %q on the console: %w; last lines of %s:\n%s", marker,
				ctx.Err(), c.path, tail(c.path, 20))
		}
	}
}

// Skip moves to the end of the log: the next Wait sees only what comes from now on.
func (c *Console) Skip() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.path)
	if err != nil {
		return fmt.Errorf("find the end of the console: %w", err)
	}
	c.offset = info.Size()
	return nil
}

// Follow copies the log to w, from its start and on and on as it grows, until ctx ends (then the
// error is nil) or the log is removed with its machine (then it is nil, too).
func (c *Console) Follow(ctx context.Context, w io.Writer) error {
	log, err := os.Open(c.path)
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	defer log.Close()
	tick := time.NewTicker(consolePoll)
	defer tick.Stop()
	for {
		if _, err := io.Copy(w, log); err != nil {
			return fmt.Errorf("follow console: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if _, err := os.Stat(c.path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
}

// maxRead bounds what is held of a log at a time.
const maxRead = 1 << 20

// escape matches what firmware paints with: control sequences (ECMA-48 section 5.4), the shorter
// escape sequences (ECMA-35 section 13), and control characters other than the line feed.
var escape = regexp.MustCompile(
	"\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]|[\x00-\x09\x0b-\x1f\x7f]")

// Plain is what stands on a console after its painting is taken off: lines of text.
func Plain(text string) string { return escape.ReplaceAllString(text, "") }

// tail is the last lines of a text file that have something on them, without control sequences.
func tail(path string, lines int) string {
	log, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return err.Error()
	}
	const most = 64 << 10 // of a boot loader that paints a menu
	text, err := io.ReadAll(io.NewSectionReader(log, max(0, info.Size()-most), most))
	if err != nil {
		return err.Error()
	}
	var kept []string
	for line := range strings.Lines(Plain(string(text))) {
		if line = strings.TrimSpace(line); line != "" {
			kept = append(kept, "  "+line)
		}
	}
	if len(kept) == 0 {
		return "  (nothing)"
	}
	return strings.Join(kept[max(0, len(kept)-lines):], "\n")
}
