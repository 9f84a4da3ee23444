package fleet

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"ingot/internal/agent"
	"ingot/internal/sim/target"
)

// runKernel is what a booted kernel does: the deploy ramdisk if its command line is of one, an
// instance otherwise.
func (m *Machine) runKernel(ctx context.Context, line string) ending {
	if !strings.Contains(" "+line, " deployment_id=") {
		m.arrive(Event{Stage: Instance, Text: line})
		<-ctx.Done()
		return ended
	}
	m.arrive(Event{Stage: Ramdisk})
	if err := m.deploy(ctx, line); err != nil {
		m.fail(ctx, err)
		return ended
	}
	return restart
}

// deploy is the life of the agent: lend the disk, report it, hear of the end, let go of it, say so
// and wait to be switched off and on.
func (m *Machine) deploy(ctx context.Context, line string) error {
	params, err := agent.ParseParams(line)
	if err != nil {
		return err
	}
	ack, err := m.lease(ctx, systemClient)
	if err != nil {
		return err
	}
	address := ack.YourIPAddr.String()
	caller := &agent.Caller{Node: params.Node, APIs: params.APIs}

	exported, withdraw := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer withdraw()
	outcomes, err := agent.Listen(net.JoinHostPort(address, "10000"))
	if err != nil {
		return err
	}
	hearing, deaf := context.WithCancel(ctx)
	defer deaf()
	running.Go(func() { _ = outcomes.Serve(hearing) })
	portal, err := net.Listen("tcp", net.JoinHostPort(address, "3260"))
	if err != nil {
		return err
	}
	login := agent.NewCredentials()
	t := &target.Target{Name: params.IQN, LUN: 1, Disk: m.disk, User: login.User,
		Secret: login.Secret, Serial: m.spec.Name}
	released := make(chan struct{})
	running.Go(func() {
		defer close(released)
		_ = t.Serve(exported, portal)
	})
	m.arrive(Event{Stage: Exported, Text: address})
	if err := caller.Post(ctx, "pass_deploy_info", agent.DeployInfo{Address: address,
		Port: "3260", IQN: params.IQN, LUN: "1", Key: params.Key, CHAPUsername: login.User,
		CHAPPassword: login.Secret}); err != nil {
		return err
	}
	var outcome agent.Outcome
	select {
	case outcome = <-outcomes.Outcome():
	case <-ctx.Done():
		return ctx.Err()
	}
	withdraw()
	<-released
	if !outcome.Done {
		return fmt.Errorf("the conductor gave up: %s", outcome.Reason)
	}
	m.arrive(Event{Stage: Written})
	if err := caller.Post(ctx, "pass_deploy_status",
		agent.DeployStatus{Key: params.Key, Status: "Completed"}); err != nil {
		return err
	}
	return pause(ctx, 2*time.Minute) // then it restarts by itself
}
