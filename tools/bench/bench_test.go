package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
)

func TestTheMedianIsAValueThatOccurred(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{8, 2, 4, 6}, 4},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
}

func TestAmountsHaveThreeDigits(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{
		0.0123: "0.012 s", 1.234: "1.23 s", 12.34: "12.3 s", 123.4: "123 s", 1234: "1234 s", 0: "0 s",
	} {
		if got := amount(v, "s"); got != want {
			t.Errorf("%v is printed %q, want %q", v, got, want)
		}
	}
}

func TestProcessorTimeOfThisProcessGrows(t *testing.T) {
	t.Parallel()
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for {
		now, err := cpuTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			return
		}
	}
}

// story is a journal in which each phase takes a second, with an entry of no phase before each.
func story() (entries []ingot.Entry, end time.Time) {
	now := time.Unix(1_000_000, 0)
	add := func(source, text string) {
		entries = append(entries, ingot.Entry{Time: now, Source: "dhcp", Text: "offer"},
			ingot.Entry{Time: now, Source: source, Text: "so: " + text + "."})
	}
	add("state", deployBegins)
	for _, p := range phases {
		now = now.Add(time.Second)
		add(p.source, p.text)
	}
	return entries, now.Add(5 * time.Second)
}

func TestADeploymentIsSplitWhereTheJournalSaysSo(t *testing.T) {
	t.Parallel()
	entries, booted := story()
	line, err := split(entries, booted)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range phases {
		if got := line.length(i); got != time.Second {
			t.Errorf("phase %q took %s, want 1s", p.name, got)
		}
	}
	if line.boot() != 5*time.Second {
		t.Errorf("the image took %s to boot, want 5s", line.boot())
	}
	total := line.sum(ours, power, machine, content) + line.boot()
	if total != line.booted {
		t.Errorf("the parts are %s, the whole is %s", total, line.booted)
	}
}

func TestAPhaseWithoutAnEndIsNamed(t *testing.T) {
	t.Parallel()
	entries, booted := story()
	last := phases[len(phases)-1]
	_, err := split(entries[:len(entries)-1], booted)
	if err == nil || !strings.Contains(err.Error(), last.name) {
		t.Errorf("error %v does not name phase %q", err, last.name)
	}
}
