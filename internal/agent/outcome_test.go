package agent_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"ingot/internal/agent"
)

// listening starts a listener and stops it with the test.
func listening(t *testing.T) *agent.Listener {
	t.Helper()
	l, err := agent.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

// say sends text, closes that direction and returns everything that is answered.
func say(t *testing.T, l *agent.Listener, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, text)
	conn.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

func TestEveryRepetitionOfTheOutcomeIsAnswered(t *testing.T) {
	t.Parallel()
	l := listening(t)
	for _, text := range []string{"done\n", "done\r\n", "done", "failed too late\n"} {
		if got := say(t, l, text); got != "ok\n" {
			t.Errorf("answer to %q is %q, want ok", text, got)
		}
	}
	if got := <-l.Outcome(); !got.Done {
		t.Errorf("outcome is %v, want done: the first counts", got)
	}
}

func TestReasonOfAFailureArrives(t *testing.T) {
	t.Parallel()
	l := listening(t)
	if got := say(t, l, "failed image is too\x1b large\n"); got != "ok\n" {
		t.Errorf("answer is %q", got)
	}
	if got := <-l.Outcome(); got.Done || got.Reason != "image is too  large" {
		t.Errorf("outcome is %+v", got)
	}
}

func TestNoiseIsNoOutcome(t *testing.T) {
	t.Parallel()
	l := listening(t)
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "done now\n", "\n",
		strings.Repeat("x", 1<<16)} {
		if got := say(t, l, text); strings.Contains(got, "ok") {
			t.Errorf("%.20q was taken", text)
		}
	}
	select {
	case got := <-l.Outcome():
		t.Errorf("outcome is %v, want none", got)
	default:
	}
	if got := say(t, l, "done\n"); got != "ok\n" {
		t.Errorf("after noise the answer is %q, want ok", got)
	}
}

func FuzzParseOutcome(f *testing.F) {
	f.Add("done\n")
	f.Add("failed disk\n")
	f.Fuzz(func(t *testing.T, line string) {
		o, err := agent.ParseOutcome(line)
		if err == nil && o.Done && strings.TrimRight(line, "\r\n ") != "done" {
			t.Errorf("%q is done", line)
		}
	})
}
