package sim_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/sim"
)

func TestConsoleIsReadOnFromTheLastMarker(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	write(t, path, "one two one "+strings.Repeat(" ", 3<<20)+"three")
	c := sim.OpenConsole(path)
	for _, marker := range []string{"one", "one", "three"} {
		if err := c.Wait(limit(t), marker); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Wait(ctx, "one"); !errors.Is(err, context.Canceled) {
		t.Errorf("a third one: %v, want none", err)
	}
}

func TestConsoleWaitsForWhatIsYetToCome(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	write(t, path, "old mar")
	log, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := sim.OpenConsole(path)
	found := make(chan error, 1)
	go func() { found <- c.Wait(limit(t), "marker") }()
	if _, err := log.WriteString("ker new"); err != nil {
		t.Fatal(err)
	}
	if err := <-found; err != nil {
		t.Error(err)
	}
	if err := c.Skip(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Wait(ctx, "new"); err == nil {
		t.Error("text before Skip is found after it")
	}
}

func TestConsoleErrorHoldsTheLastLinesReadably(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	write(t, path, "first\r\n"+strings.Repeat("noise\r\n\r\n", 19)+"\x1b[1;31mKernel panic\x1b[0m")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := sim.OpenConsole(path).Wait(ctx, "login:")
	if err == nil {
		t.Fatal("found what is not there")
	}
	text := err.Error()
	for _, want := range []string{`"login:"`, path, "  Kernel panic", "  noise\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the error:\n%s", want, text)
		}
	}
	if strings.Contains(text, "first") || strings.Contains(text, "\x1b") {
		t.Errorf("the error has too much:\n%q", text)
	}
}

func TestConsoleIsFollowedUntilItsMachineIsGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	write(t, path, "hello")
	var out strings.Builder
	ended := make(chan error, 1)
	go func() { ended <- sim.OpenConsole(path).Follow(limit(t), &out) }()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// It may have come too late to open the file at all.
	if err := <-ended; err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if got := out.String(); got != "hello" && got != "" {
		t.Errorf("the console said %q", got)
	}
}
