package conductor_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/direct"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/ipa/ipatest"
	"ingot/internal/rpc"
	"ingot/internal/testkit"
)

// ramdiskAgent is the part of a machine that speaks Ironic's agent protocol, for as long as it boots.
type ramdiskAgent struct {
	// write, if set, is called before the image is written; an error is that of the command.
	write func(ctx context.Context, progress func(bytes, total int64)) error
	// beat, if set, changes what a heartbeat says.
	beat func(*rpc.Heartbeat)
	// version is what it says of itself, 9.4.0 by default; load and execute, if set, are called when a kernel is to be
	// loaded and started, and stays that it does not go then.
	version       string
	load, execute func() error
	stays         bool
	// lose tells which requests of conductors the agent acts upon without an answer.
	lose func(*http.Request) bool
	// token is that of the agent that runs now, and agent is it.
	token string
	agent *ipatest.Agent
	// given are the parameters of each write.
	given []json.RawMessage
}

// newDirect is a metal whose node n1 is deployed by the interface direct.
func newDirect(t *testing.T) *metal {
	t.Helper()
	x := newMetal(t)
	x.m.ramdiskAgent = &ramdiskAgent{}
	x.o.LocalAgents = true
	dir := filepath.Dir(strings.TrimPrefix(x.info["image_source"].(string), "file://"))
	mux := http.NewServeMux()
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	d := direct.New(direct.Options{Local: true, URL: web.URL, Leaving: 2 * time.Second,
		Servers: func(string) []string { return []string{"http://127.0.0.1:1", web.URL} },
		Image:   image.Options{AllowedPaths: []string{dir}, SpoolDir: filepath.Join(dir, "spool")}})
	mux.Handle("GET "+direct.ImagePattern, &direct.Images{Deploy: d, Node: x.store.Node, Note: x.Add,
		Log: slog.New(slog.DiscardHandler)})
	x.o.Table.Deploy[direct.Name] = d
	n := x.node("n1")
	n.Interfaces["deploy"] = direct.Name
	if err := x.store.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return x
}

// agent is the deploy ramdisk with an agent.
func (m *machine) agent(ctx context.Context) {
	uuid := m.w.node("n1").UUID
	var token string
	if !m.call(ctx, func(c *conductor.Conductor) (err error) {
		token, err = c.AgentToken(ctx, uuid)
		return err
	}) || token == ingot.Masked {
		m.did("no token")
		return
	}
	r := m.ramdiskAgent
	again := make(chan struct{}, 1)
	wake := func() {
		select {
		case again <- struct{}{}:
		default:
		}
	}
	leave, left := make(chan struct{}, 1), make(chan struct{})
	a := ipatest.Start(m.w.t, func(ctx context.Context, name string, params json.RawMessage,
		progress func(int64, int64)) (any, error) {
		m.did(name)
		switch name {
		case "deploy.get_deploy_steps":
			return map[string]any{"deploy_steps": map[string]any{"generic": []any{map[string]any{
				"step": "write_image", "interface": "deploy"}}}}, nil
		case "deploy.execute_deploy_step":
			return m.write(ctx, params, progress)
		case "kexec.load":
			return map[string]any{"result": "vmlinuz, the default of grub.cfg"}, ask(r.load)
		case "kexec.execute":
			err := ask(r.execute)
			if err == nil && !r.stays {
				leave <- struct{}{}
			}
			return nil, err
		}
		return nil, nil
	})
	m.runs.Go(func() {
		select {
		case <-ctx.Done():
		case <-leave:
			a.Leave()
			close(left)
		}
	})
	a.SetToken(token)
	a.Ended(wake)
	m.set(func(*machine) { r.token, r.agent = token, a; a.Lose(r.lose) })
	defer a.Stop()
	for ctx.Err() == nil {
		h := rpc.Heartbeat{Token: token, URL: a.URL, Version: cmp.Or(r.version, "9.4.0"), CA: a.CA}
		m.set(func(*machine) {
			if r.beat != nil {
				r.beat(&h)
			}
		})
		m.call(ctx, func(c *conductor.Conductor) error {
			err := c.Heartbeat(ctx, uuid, h)
			if ingot.KindOf(err) == ingot.Invalid {
				m.did("refused: " + err.Error())
				return nil
			}
			return err
		})
		select {
		case <-ctx.Done():
		case <-left:
			m.did("kexec")
			m.did("disk")
			return
		case <-again:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ask(fn func() error) error {
	if fn == nil {
		return nil
	}
	return fn()
}

// write fetches the image from the first URL that has it, as agents do.
func (m *machine) write(ctx context.Context, params json.RawMessage, progress func(int64, int64)) (any,
	error) {
	var p struct {
		Step struct {
			Step string
			Args struct {
				Image struct {
					URLs []string
				} `json:"image_info"`
			}
		}
	}
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	var before func(context.Context, func(int64, int64)) error
	m.set(func(m *machine) {
		m.ramdiskAgent.given = append(m.ramdiskAgent.given, params)
		before = m.ramdiskAgent.write
	})
	if before != nil {
		if err := before(ctx, progress); err != nil {
			return nil, err
		}
	}
	for _, url := range p.Step.Args.Image.URLs {
		body, err := fetch(ctx, url)
		if err != nil {
			continue
		}
		f, err := os.OpenFile(m.target.Backing, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if _, err := f.Write(body); err != nil {
			return nil, err
		}
		return map[string]any{"deploy_result": "image written to /dev/sda", "deploy_step": p.Step.Step}, nil
	}
	return nil, fmt.Errorf("none of %v has the image", p.Step.Args.Image.URLs)
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := testkit.Web.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

func TestADirectDeploymentOverTheAgentProtocol(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	story := strings.Join(x.m.story(), ", ")
	if !strings.Contains(story, "rebooting, ramdisk, deploy.get_deploy_steps, deploy.execute_deploy_step, "+
		"standby.get_partition_uuids, "+
		"standby.sync, power off, power on, disk") {
		t.Errorf("the machine did: %s", story)
	}
	n := x.node("n1")
	if n.DriverInternalInfo["agent_url"] != nil || n.DriverInternalInfo["is_whole_disk_image"] != true {
		t.Errorf("driver_internal_info %v", n.DriverInternalInfo)
	}
	journal := x.journal("n1")
	for _, line := range []string{"first heartbeat of the agent", "told the agent to write the image",
		"image written and verified by the agent: image written to /dev/sda", "HTTP: the image sent to"} {
		if strings.Count(journal, line) != 1 {
			t.Errorf("%q is not once in\n%s", line, journal)
		}
	}
	// What the agent had is worth nothing any more.
	var h rpc.Heartbeat
	x.m.set(func(m *machine) {
		h = rpc.Heartbeat{Token: m.ramdiskAgent.token, URL: m.ramdiskAgent.agent.URL, Version: "9.4.0"}
	})
	if err := c.Heartbeat(t.Context(), n.UUID, h); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("a heartbeat of the past: %v", err)
	}
	if _, err := c.AgentToken(t.Context(), n.UUID); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("a look-up of an active node: %v", err)
	}
}

func TestADirectDeploymentWithEveryStepRunTwice(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	d := x.o.Table.Deploy[direct.Name].(*direct.Deploy)
	x.o.Table.Deploy[direct.Name] = &twice{d}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	if n := count(x.m.story(), "deploy.execute_deploy_step"); n != 1 {
		t.Errorf("the image was written %d times", n)
	}
}

// twice runs each step twice.
type twice struct{ *direct.Deploy }

func (d *twice) Execute(ctx context.Context, t *driver.Task, s ingot.Step) (driver.Outcome, error) {
	if out, err := d.Deploy.Execute(ctx, t, s); err != nil {
		return out, err
	}
	return d.Deploy.Execute(ctx, t, s)
}

func count(story []string, event string) (n int) {
	for _, e := range story {
		if e == event {
			n++
		}
	}
	return n
}

func TestADirectDeploymentSurvivesAKilledConductorAtEveryWrite(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	for _, first := range []int64{1, 2} { // two machines share the work
		t.Run(fmt.Sprintf("from %d", first), func(t *testing.T) {
			t.Parallel()
			newDirect(t).killedAtEveryOtherWrite(first)
		})
	}
}

// An answer that is lost says nothing of whether the agent has begun: it is asked, not told again.
func TestAnImageIsWrittenOnceThoughAnswersAreLost(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	var lost atomic.Int64
	x.m.ramdiskAgent.lose = func(r *http.Request) bool {
		return r.Method == http.MethodPost && r.URL.Query().Get("wait") == "false" && lost.Add(1) == 1 ||
			r.Method == http.MethodGet && lost.Load() == 1 && lost.Add(1) == 2
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.deployed()
	if n := count(x.m.story(), "deploy.execute_deploy_step"); n != 1 || lost.Load() < 2 {
		t.Errorf("the image was written %d times, %d answers were lost", n, lost.Load())
	}
}

func TestWhatFailsInTheAgentIsTheLastError(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	x.m.ramdiskAgent.write = func(context.Context, func(int64, int64)) error {
		return fmt.Errorf("no suitable device\n was found")
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("step deploy.write_image failed: the agent's command execute_deploy_step failed: no " +
		"suitable device was found")
	x.m.set(func(m *machine) { m.ramdiskAgent.write = nil })
	x.provision(c, "n1", "deploy")
	x.deployed()
}

func TestTheJournalTellsHowFarTheAgentIs(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	goOn := make(chan struct{})
	x.m.ramdiskAgent.write = func(ctx context.Context, progress func(int64, int64)) error {
		progress(1<<20, 3<<20)
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return nil
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.until("n1", "progress", func(n *ingot.Node) bool {
		return n.Attempt != nil && n.Attempt.Agent != nil && n.Attempt.Agent.Done == 1<<20
	})
	before := x.state("n1", "wait call-back")
	// Nothing is held, and a look-up of whoever comes now is told nothing.
	token, err := c.AgentToken(t.Context(), before.UUID)
	if err != nil || token != ingot.Masked {
		t.Errorf("a second look-up: %q, %v", token, err)
	}
	time.Sleep(200 * time.Millisecond)
	if n := strings.Count(x.journal("n1"), "image info 1 of 3 MiB written"); n != 1 {
		t.Errorf("an agent that stands still is told of %d times", n)
	}
	if x.node("n1").Attempt.Agent.HeardAt.IsZero() {
		t.Error("the time of the last heartbeat is not on record")
	}
	close(goOn)
	x.deployed()
}

// An agent that does not get on is given up though it sends heartbeats.
func TestAnAgentThatStandsStillIsGivenUp(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	d := direct.New(direct.Options{Local: true, Silence: time.Second, URL: "http://127.0.0.1:1",
		Image: image.Options{AllowedPaths: []string{filepath.Dir(strings.TrimPrefix(
			x.info["image_source"].(string), "file://"))}}})
	x.o.Table.Deploy[direct.Name] = d
	x.m.ramdiskAgent.write = func(ctx context.Context, progress func(int64, int64)) error {
		progress(1<<20, 3<<20)
		<-ctx.Done()
		return ctx.Err()
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.failed("waited")
	if e := x.node("n1").LastError; !strings.Contains(e, "the agent in the deploy ramdisk to write the image") ||
		!strings.Contains(e, "The last heartbeat of its agent came") {
		t.Error(e)
	}
}

func TestAnAgentIsWhoItWasForOneBoot(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	hold := make(chan struct{})
	x.m.ramdiskAgent.write = func(ctx context.Context, _ func(int64, int64)) error {
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.until("n1", "write", func(*ingot.Node) bool { return x.m.has("deploy.execute_deploy_step") })
	var good rpc.Heartbeat
	x.m.set(func(m *machine) {
		a := m.ramdiskAgent
		good = rpc.Heartbeat{Token: a.token, URL: a.agent.URL, Version: "9.4.0", CA: a.agent.CA}
	})
	n := x.node("n1")
	other := ipatest.Start(t, nil)
	for want, change := range map[string]func(h *rpc.Heartbeat){
		"Invalid or missing agent token":               func(h *rpc.Heartbeat) { h.Token = "x" },
		"Invalid or missing agent token ":              func(h *rpc.Heartbeat) { h.Token = "" },
		"Invalid or missing agent token received":      func(h *rpc.Heartbeat) { h.Token = ingot.Masked },
		`change in ramdisk provided "callback_url"`:    func(h *rpc.Heartbeat) { h.URL = other.URL },
		`change in ramdisk provided "agent_verify_ca"`: func(h *rpc.Heartbeat) { h.CA = other.CA },
		"agent_verify_ca is no certificate":            func(h *rpc.Heartbeat) { h.CA = "x" },
		"is neither https nor http":                    func(h *rpc.Heartbeat) { h.URL = "file:///etc/passwd" },
	} {
		h := good
		change(&h)
		err := c.Heartbeat(t.Context(), n.UUID, h)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	journal := x.journal("n1")
	for _, text := range []string{`a heartbeat was refused: Detected change in ramdisk provided "callback_url"`,
		`a heartbeat was refused: Detected change in ramdisk provided "agent_verify_ca"`} {
		if strings.Count(journal, text) != 1 {
			t.Errorf("%q is not once in\n%s", text, journal)
		}
	}
	now := x.node("n1").Attempt.Agent
	if now.URL != good.URL || now.CA != good.CA || now.Token.Reveal() != good.Token {
		t.Errorf("%+v", now)
	}
	if bytes.Contains([]byte(journal+x.log.String()), []byte(good.Token)) {
		t.Error("the token is in the journal or the log")
	}
	close(hold)
	x.deployed()
}

// Who restarts the machine by hand while it is deployed gets another agent, which may have a token of its
// own and goes on.
func TestAnotherAgentGoesOnAfterARestartByHand(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	var writes atomic.Int64
	x.m.ramdiskAgent.write = func(ctx context.Context, _ func(int64, int64)) error {
		if writes.Add(1) == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.until("n1", "write", func(*ingot.Node) bool { return writes.Load() == 1 })
	x.state("n1", "wait call-back")
	var first string
	x.m.set(func(m *machine) { first = m.ramdiskAgent.token })
	err := c.SetPower(t.Context(), "n1", rpc.PowerRequest{Target: ingot.Rebooting})
	if err != nil {
		t.Fatal(err)
	}
	x.deployed()
	x.m.set(func(m *machine) {
		if m.ramdiskAgent.token == first || writes.Load() != 2 {
			t.Errorf("token reused: %v, %d writes", m.ramdiskAgent.token == first, writes.Load())
		}
	})
}

func TestAnAgentThatLostItsTokenIsBootedAgain(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	x.o.BootRetryTimeout = 300 * time.Millisecond
	c, _ := x.start()
	stolen := make(chan error, 1)
	x.m.set(func(m *machine) { m.cond = nil }) // the machine boots later
	x.provision(c, "n1", "deploy")
	n := x.state("n1", "wait call-back")
	go func() {
		_, err := c.AgentToken(context.Background(), n.UUID)
		stolen <- err
	}()
	if err := <-stolen; err != nil {
		t.Fatal(err)
	}
	x.m.set(func(m *machine) { m.cond = c })
	x.deployed()
	if story := x.m.story(); !slices.Contains(story, "no token") || count(story, "ramdisk") < 2 {
		t.Errorf("%v", story)
	}
}

func TestAHeartbeatNeverFailsForALock(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	hold := make(chan struct{})
	x.m.ramdiskAgent.write = func(ctx context.Context, _ func(int64, int64)) error {
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil
	}
	c, _ := x.start()
	x.provision(c, "n1", "deploy")
	x.until("n1", "write", func(*ingot.Node) bool { return x.m.has("deploy.execute_deploy_step") })
	n := x.state("n1", "wait call-back")
	var h rpc.Heartbeat
	x.m.set(func(m *machine) {
		a := m.ramdiskAgent
		h = rpc.Heartbeat{Token: a.token, URL: a.agent.URL, Version: "9.4.0", CA: a.agent.CA}
	})
	var g sync.WaitGroup
	for range 16 {
		g.Go(func() {
			if err := c.Heartbeat(t.Context(), n.UUID, h); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	close(hold)
	x.deployed()
}

// attended is a deploy interface that shows when it asks an agent, and when it is at work.
type attended struct {
	*direct.Deploy
	// heard gets a channel for each question after a heartbeat, which is answered when that is closed; told
	// one each time that the step write_image was run.
	heard, told chan chan struct{}
}

func (d *attended) Heard(ctx context.Context, t *driver.Task) driver.Heard {
	h := d.Deploy.Heard(ctx, t)
	hold(ctx, d.heard)
	return h
}

func (d *attended) Execute(ctx context.Context, t *driver.Task, s ingot.Step) (driver.Outcome, error) {
	out, err := d.Deploy.Execute(ctx, t, s)
	if s.Name == "write_image" {
		hold(ctx, d.told)
	}
	return out, err
}

func hold(ctx context.Context, in chan chan struct{}) {
	end := make(chan struct{})
	select {
	case in <- end:
	case <-ctx.Done():
		return
	}
	select {
	case <-end:
	case <-ctx.Done():
	}
}

// next lets what is held next go on after something was done.
func next(t *testing.T, in chan chan struct{}, during func()) {
	t.Helper()
	select {
	case end := <-in:
		during()
		close(end)
	case <-time.After(20 * time.Second):
		t.Fatal("nothing happens")
	}
}

// Ironic's agent says once that it has written the image, and nothing more for minutes: whatever the conductor
// does at that moment, it looks after that heartbeat.
func TestNoHeartbeatIsLost(t *testing.T) {
	t.Parallel()
	x := newDirect(t)
	d := &attended{Deploy: x.o.Table.Deploy[direct.Name].(*direct.Deploy), heard: make(chan chan struct{}),
		told: make(chan chan struct{})}
	x.o.Table.Deploy[direct.Name] = d
	c, _ := x.start()
	x.m.set(func(m *machine) { m.cond = nil }) // its agent is this test
	x.provision(c, "n1", "deploy")
	n := x.state("n1", "wait call-back")
	token, err := c.AgentToken(t.Context(), n.UUID)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	ended := make(chan struct{})
	agent := ipatest.Start(t, func(ctx context.Context, name string, _ json.RawMessage, _ func(int64, int64)) (any,
		error) {
		switch name {
		case "deploy.get_deploy_steps":
			return map[string]any{"deploy_steps": map[string]any{"generic": []any{map[string]any{
				"step": "write_image", "interface": "deploy"}}}}, nil
		case "deploy.execute_deploy_step":
			select {
			case <-written:
			case <-ctx.Done():
			}
		}
		return nil, nil
	})
	agent.SetToken(token)
	agent.Ended(func() { ended <- struct{}{} })
	beat := func() {
		h := rpc.Heartbeat{Token: token, URL: agent.URL, Version: "9.4.0", CA: agent.CA}
		if err := c.Heartbeat(t.Context(), n.UUID, h); err != nil {
			t.Error(err)
		}
	}
	beat()
	next(t, d.heard, func() {})
	<-ended // the list of its steps
	// While the step has the node.
	next(t, d.told, beat)
	// While an earlier one is followed up, and the agent has told that it still writes.
	next(t, d.heard, func() {
		close(written)
		<-ended
		beat()
		beat()
	})
	next(t, d.heard, func() {})
	next(t, d.told, func() {})
	<-ended // what the partitions are
	go func() { <-ended }()
	x.state("n1", "active")
	testkit.Eventually(t, "nothing is left to do", func() bool { return conductor.Pending(c) == 0 })
}

func TestOnlySoManyAgentsAreAskedAtOnce(t *testing.T) {
	t.Parallel()
	a := conductor.NewAsked(2)
	var now, most, all atomic.Int64
	begun, goOn := make(chan struct{}, 5), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	var g sync.WaitGroup
	for range 5 {
		g.Go(func() {
			a.One(ctx, func() {
				most.Store(max(most.Load(), now.Add(1)))
				all.Add(1)
				begun <- struct{}{}
				<-goOn
				now.Add(-1)
			})
		})
	}
	<-begun
	<-begun
	goOn <- struct{}{} // one makes place for another
	<-begun
	stop() // who waits, waits no longer
	close(goOn)
	g.Wait()
	if most.Load() > 2 || all.Load() < 3 {
		t.Errorf("%d at once, %d in all", most.Load(), all.Load())
	}
}
