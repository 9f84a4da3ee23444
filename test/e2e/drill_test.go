package e2e

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"ingot/internal/drill"
)

var (
	runs = flag.Int("drills", 1, "how many random drills are run, each with a seed of its own")
	seed = flag.Uint64("seed", 0, "seed of the first one; 0 draws one")

	machines = flag.Int("machines", 40, "how many machines are deployed in each")
	faults   = flag.Int("faults", 5, "how many faults there are in each")
)

// TestS0_2_MachinesArriveWhileConductorsDie has three conductors, one database and machines that are
// deployed while servers are killed, stopped, cut off, restarted and robbed of their files, at times
// and servers that a seed decides. Every machine has to arrive, and every write of a row to be by who had
// reserved it; journals with a hole are printed. `make soak` runs it for many seeds.
func TestS0_2_MachinesArriveWhileConductorsDie(t *testing.T) {
	requirements(t)
	path, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1_000_000)
	}
	for i := range *runs {
		o := drill.Options{Dir: buildDir(t, "e2e-drill"), Binary: path, Machines: *machines, Random: *faults,
			Seed: first + uint64(i), Once: true, Progress: testWriter{t}}
		t.Logf("drill %d of %d: ingot drill --machines %d --random %d --once --seed %d", i+1, *runs,
			o.Machines, o.Random, o.Seed)
		r, err := drill.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := r.Print(&text); err != nil {
			t.Fatal(err)
		}
		t.Log(text.String())
		if !r.Passed() {
			t.Fatalf("seed %d", o.Seed)
		}
	}
}
