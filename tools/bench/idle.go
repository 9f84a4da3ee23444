package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

const (
	idleRuns  = 5
	idleNodes = 10_000
	// idleTime is how long a server is left alone before its memory is read.
	idleTime = 2 * time.Second
)

// measureIdle measures what a server costs that has nothing to do.
func measureIdle(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: "Idle server: memory and start",
		How: fmt.Sprintf(`Median of %d starts of bin/ingot serve. Start: from exec until GET /healthcheck
is answered by 200, asked every millisecond; the store exists. Memory: VmRSS %s later, of which
RssAnon is no file; the power states of all %d nodes (active, fake-hardware) were compared
in between.
Yardstick: a Go program that answers every request by "#", until its first 200.
`, idleRuns, idleTime, idleNodes),
	}
	hello, err := medianIdle(ctx, func() (*service, error) { return b.startHello(ctx, 1) })
	if err != nil {
		return s, err
	}
	for _, size := range []int{0, idleNodes} {
		dir := filepath.Join(b.temp, fmt.Sprintf("idle-%d", size))
		if err := makeFleet(ctx, dir, size, activeNode()); err != nil {
			return s, err
		}
		m, err := medianIdle(ctx, func() (*service, error) { return b.startIngot(ctx, dir) })
		if err != nil {
			return s, err
		}
		for i, f := range []figure{
			{What: "start", Unit: "ms"}, {What: "VmRSS", Unit: "MiB"}, {What: "RssAnon", Unit: "MiB"},
		} {
			f.What += fmt.Sprintf(", %d nodes", size)
			f.Value, f.Yardstick, f.Beside, f.N = m[i], hello[i], "hello-world server", idleRuns
			s.Figures = append(s.Figures, f)
		}
	}
	return s, nil
}

// activeNode is a node in use, without a real BMC.
func activeNode() ingot.Node {
	n := deployingNode()
	n.Driver = "fake-hardware"
	n.Interfaces = map[string]string{
		"power": "fake", "management": "fake", "boot": "fake", "deploy": "fake",
	}
	n.ProvisionState, n.TargetProvisionState = string(lifecycle.Active), ""
	n.BootIntent, n.Attempt, n.Steps = ingot.BootDisk, nil, nil
	return n
}

// medianIdle starts a server several times and returns milliseconds until it was ready, MiB
// resident, and MiB of that without files.
func medianIdle(ctx context.Context, start func() (*service, error)) (m [3]float64, err error) {
	var values [3][]float64
	for range idleRuns {
		one, err := idle(ctx, start)
		if err != nil {
			return m, err
		}
		for i, v := range one {
			values[i] = append(values[i], v)
		}
	}
	for i := range m {
		m[i] = median(values[i])
	}
	return m, nil
}

func idle(ctx context.Context, start func() (*service, error)) (m [3]float64, err error) {
	s, err := start()
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return m, ctx.Err()
	}
	m[0] = float64(s.ready.Microseconds()) / 1e3
	for i, key := range []string{"VmRSS", "RssAnon"} {
		n, err := memory(s.pid, key)
		if err != nil {
			return m, err
		}
		m[i+1] = float64(n) / mebi
	}
	return m, nil
}
