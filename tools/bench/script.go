package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

const (
	scriptRounds   = 5
	scriptRequests = 5000 // of a round
	// constantRequests is more, because the unit of processor time is 10 ms.
	constantRequests = 25000
	scriptClients    = 4
)

// measureScript measures what answering a machine that asks for its boot script costs.
func measureScript(ctx context.Context, b *bench) (section, error) {
	s := section{
		Title: "Boot script: processor time of one request",
		How: fmt.Sprintf(`Median of %d rounds of %d requests each (yardstick: %d), after a warm-up, over
%d kept connections on loopback, to bin/ingot serve:
GET /v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address=MAC, the MACs at random, all
nodes waiting for their deploy ramdisk. With the first thousand requests after a start the server
reads a large fleet ahead, once, some 10 µs a machine (BenchmarkMachine in internal/store): mostly
in the warm-up, and left out by the median. User and system time of the server's process divided by
the requests, until it is idle again: what they add to the journal is written by then.
Yardstick: a Go process that answers as many constant bytes, asked by the same client. With [ipxe]
use_swift each script has two fresh temporary URLs, signed by HMAC-SHA256 with a configured key; its
yardstick is the script without.
`, scriptRounds, scriptRequests, constantRequests, scriptClients),
	}
	sizes := []int{100, 10_000, 100_000}
	costs := make([]float64, len(sizes))
	var length int
	for i, size := range sizes {
		var err error
		if costs[i], length, err = b.scriptCost(ctx, size, deployingNode()); err != nil {
			return s, err
		}
	}
	swift, _, err := b.scriptCost(ctx, sizes[0], swiftNode(), useSwift...)
	if err != nil {
		return s, err
	}
	hello, err := b.startHello(ctx, length)
	if err != nil {
		return s, err
	}
	constant, err := requestCost(ctx, hello, constantRequests, func() string { return hello.url })
	if err := errors.Join(err, hello.stop()); err != nil {
		return s, err
	}
	for i, size := range sizes {
		s.Figures = append(s.Figures, figure{
			What: fmt.Sprintf("one of %d nodes", size), Value: costs[i], Unit: "µs CPU",
			Yardstick: constant, Beside: fmt.Sprintf("constant text of %d bytes", length),
			N: scriptRounds,
		})
	}
	s.Figures = append(s.Figures, figure{
		What: "growth, 100 to 100,000 nodes", Value: costs[len(costs)-1] / costs[0], Unit: "times",
		N: scriptRounds,
	}, figure{
		What: fmt.Sprintf("with two temporary URLs, one of %d nodes", sizes[0]), Value: swift,
		Unit: "µs CPU", Yardstick: costs[0], Beside: "without", N: scriptRounds,
	})
	return s, nil
}

// useSwift has scripts with temporary URLs; nothing is asked of the cloud for them.
var useSwift = []string{"INGOT_IPXE_USE_SWIFT=true", "INGOT_GLANCE_AUTH_TYPE=none",
	"INGOT_GLANCE_ENDPOINT_OVERRIDE=http://127.0.0.1:9",
	"INGOT_GLANCE_SWIFT_ENDPOINT_URL=http://127.0.0.1:9", "INGOT_GLANCE_SWIFT_ACCOUNT=AUTH_x",
	"INGOT_GLANCE_SWIFT_TEMP_URL_KEY=key"}

// swiftNode is a deployingNode whose kernel and ramdisk are in Swift.
func swiftNode() ingot.Node {
	n := deployingNode()
	n.Attempt.Kernel = ingot.File{Image: "11111111-2222-4333-8444-000000000001", Name: "vmlinuz"}
	n.Attempt.Ramdisk = ingot.File{Image: "11111111-2222-4333-8444-000000000002", Name: "initrd"}
	return n
}

// scriptCost returns microseconds of a request and the length of its answer, with that many nodes.
func (b *bench) scriptCost(ctx context.Context, size int, node ingot.Node, settings ...string) (
	cost float64, length int, err error) {
	fmt.Fprintf(b.progress, "  %d nodes\n", size)
	dir, err := os.MkdirTemp(b.temp, "fleet")
	if err != nil {
		return 0, 0, err
	}
	if err := makeFleet(ctx, dir, size, node); err != nil {
		return 0, 0, err
	}
	// What conductors do beside the requests is not what is measured here.
	server, err := b.startIngot(ctx, dir, append(settings, "INGOT_CONDUCTOR_SYNC_POWER_STATE_INTERVAL=0s",
		"INGOT_CONDUCTOR_BOOT_RETRY_TIMEOUT=0s",
		// These machines ask and never load: soon all would wait in line.
		"INGOT_BOOT_MAX_TRANSFERS=1000000")...)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	random := rand.New(rand.NewPCG(1, uint64(size)))
	link := func() string {
		return server.url + "/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address=" +
			mac(1+random.IntN(size))
	}
	script, err := fetch(ctx, http.DefaultClient, link())
	if err != nil {
		return 0, 0, err
	}
	if !strings.HasPrefix(script, "#!ipxe") || !strings.Contains(script, "iscsi_target_iqn=") {
		return 0, 0, fmt.Errorf("the answer is not the script of a deployment: %.200s", script)
	}
	cost, err = requestCost(ctx, server, scriptRequests, link)
	return cost, len(script), err
}

// deployingNode is a node whose machine is about to boot the deploy ramdisk.
func deployingNode() ingot.Node {
	return ingot.Node{
		Driver: "ipmi", ProvisionState: string(lifecycle.WaitCallBack),
		TargetProvisionState: string(lifecycle.Active), PowerState: ingot.PowerOn,
		DriverInfo: ingot.Object{"ipmi_address": "10.0.0.1", "ipmi_username": "admin",
			"ipmi_password": "secret"},
		Properties: ingot.Object{"cpus": 8, "memory_mb": 65536, "local_gb": 200,
			"capabilities": "boot_mode:uefi"},
		InstanceInfo: ingot.Object{"image_source": "http://images.example.com/debian.qcow2",
			"image_os_hash_algo": "sha256", "image_os_hash_value": strings.Repeat("0", 64)},
		Interfaces: map[string]string{"power": "ipmitool", "management": "ipmitool",
			"boot": "ipxe", "deploy": "iscsi"},
		BootIntent: ingot.BootDeploy,
		Steps: []ingot.Step{{Interface: "deploy", Name: "deploy", Priority: 100},
			{Interface: "deploy", Name: "write_image", Priority: 80}},
		Attempt: &ingot.Attempt{
			ID: "0123abcd", Key: ingot.Secret(strings.Repeat("k", 32)),
			Kernel:  ingot.File{SHA256: strings.Repeat("1", 64), Name: "vmlinuz", Size: 7 << 20},
			Ramdisk: ingot.File{SHA256: strings.Repeat("2", 64), Name: "initrd", Size: 5 << 20},
		},
	}
}

// requestCost is the median of the processor time of a request, in microseconds.
func requestCost(ctx context.Context, s *service, requests int, link func() string) (
	float64, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: scriptClients}}
	defer client.CloseIdleConnections()
	if err := ask(ctx, client, requests/5, link); err != nil {
		return 0, err
	}
	var costs []float64
	for range scriptRounds {
		before, err := settledCPU(ctx, s.pid)
		if err != nil {
			return 0, err
		}
		if err := ask(ctx, client, requests, link); err != nil {
			return 0, err
		}
		after, err := settledCPU(ctx, s.pid)
		if err != nil {
			return 0, err
		}
		costs = append(costs, float64((after-before).Microseconds())/float64(requests))
	}
	return median(costs), nil
}

// settledCPU is the processor time of a process once it does nothing any more: what it puts off,
// such as writing its journal, belongs to what caused it.
func settledCPU(ctx context.Context, pid int) (time.Duration, error) {
	last := time.Duration(-1)
	for {
		now, err := cpuTime(pid)
		if err != nil || now == last {
			return now, err
		}
		last = now
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// ask sends requests over scriptClients connections.
func ask(ctx context.Context, client *http.Client, requests int, link func() string) error {
	links := make(chan string, scriptClients)
	group, ctx := errgroup.WithContext(ctx)
	for range scriptClients {
		group.Go(func() error {
			for l := range links {
				if _, err := fetch(ctx, client, l); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(links)
		for range requests {
			select {
			case links <- link():
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return group.Wait()
}

// fetch returns the text at a URL.
func fetch(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %.200s", url, resp.Status, text)
	}
	return string(text), err
}
