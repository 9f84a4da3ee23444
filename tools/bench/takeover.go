package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// takeoverTest kills a conductor before each of its writes.
const takeoverTest = "TestS0_2_WhateverADeadConductorLeavesAnotherEnds"

// measureTakeover counts at how many places a conductor may die.
func measureTakeover(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: "Deployments whose conductor dies",
		How: `A deployment (a raw image over iSCSI to tgt, a machine of software) is begun by one conductor while
a second one lives on the same store. The first dies before its 1st write, in the next deployment
before its 2nd, and so on, until it reaches the end alive; the machine calls the one or the other.
Dying is that of the tests of package conductor: nothing of it is written or sent any more, as
after kill -9; both are in one process. Continued: the node became active with the right image on
its disk, and nobody did anything but ask the second one again where the first had not even taken
the request. Once on each engine. No yardstick was run here: an Ironic fails a deployment whose
conductor died (deploy failed), which an operator starts again.
`,
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-json", "-run", "^"+takeoverTest+"$",
		"./internal/conductor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, failed := cmd.Output()
	killed, err := deaths(out)
	if err = errors.Join(failed, err); err != nil {
		return s, fmt.Errorf("%s: %w\n%s", takeoverTest, err, out[max(0, len(out)-2000):])
	}
	total := 0
	for _, n := range killed {
		total += n
	}
	if total == 0 {
		return s, fmt.Errorf("%s does not say how many writes there are", takeoverTest)
	}
	// It ended well, so each went on.
	s.Figures = []figure{
		{What: "deployments whose conductor died", Value: float64(total), Unit: "times", N: len(killed)},
		{What: "continued to active", Value: 100, Unit: "%", N: total},
	}
	return s, nil
}

var lessWrites = regexp.MustCompile(`it takes less than (\d+) writes`)

// deaths is how often a conductor died in each of the walks of the test, by what it prints.
func deaths(out []byte) (killed []int, err error) {
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var event struct{ Output string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("read what the test says: %w", err)
		}
		if m := lessWrites.FindStringSubmatch(event.Output); m != nil {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				return nil, err
			}
			killed = append(killed, n-1)
		}
	}
	return killed, lines.Err()
}
