package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/cli"
	"ingot/internal/lab"
	"ingot/internal/sim/fleet"
)

// site is where storms take place: machines, and servers that are asked for their deployment.
type site struct {
	fleet    *lab.Fleet
	machines int
	apis     []*cli.Client
	image    map[string]any // instance_info
	digest   string         // of a disk with the image; "" if the machines do not keep all of theirs
	timeout  time.Duration  // of a storm
	progress io.Writer
}

// say prints a line of progress.
func (p *site) say(format string, args ...any) {
	fmt.Fprintf(p.progress, format+"\n", args...)
}

// ident is what the API knows machine i by.
func (p *site) ident(i int) (uuid, name string) {
	node, _ := p.fleet.Node(i)
	return node.UUID, node.Name
}

// callTimeout is after how long a server that does not answer is given up: it may be stopped.
const callTimeout = 10 * time.Second

// ask calls the API, at one server after the other until one answers: what a balancer does for the
// clients of a site. try is told which call it is, from 0.
func (p *site) ask(ctx context.Context, fn func(ctx context.Context, try int, api *cli.Client) error) error {
	var last error
	for try := 0; ; try++ {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := fn(call, try, p.apis[try%len(p.apis)])
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w; the last answer was: %w", ctx.Err(), last)
		}
		if try%len(p.apis) == len(p.apis)-1 {
			_ = wait(ctx, 500*time.Millisecond) // its end is found above
		}
	}
}

// each calls fn for all machines, a few at a time.
func (p *site) each(fn func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(8)
	for i := range p.machines {
		g.Go(func() error { return fn(i) })
	}
	return g.Wait()
}

// Storm is how all machines fared that were deployed at once.
type Storm struct {
	// Arrivals are the seconds after which machines ran their image, ascending.
	Arrivals []float64 `json:"arrivals"`
	// Lost names the machines that did not arrive, each with where it was last seen.
	Lost []string `json:"lost"`
	// Refused is why a machine was not even promised; "" if all were.
	Refused string `json:"refused,omitempty"`
	// Received and Written are the bytes that machines fetched, and that were written to their disks.
	Received int64 `json:"received"`
	Written  int64 `json:"written"`
	// Boots is how often a machine asked the network what to boot, FailedBoots those that got nothing
	// to boot. The firmware, or the conductors, try again.
	Boots       int          `json:"boots"`
	FailedBoots []FailedBoot `json:"failed_boots,omitempty"`
	// Faults is what was done to servers, with the second in which it was; LastFault is the last of
	// those seconds.
	Faults    []string `json:"faults,omitempty"`
	LastFault float64  `json:"last_fault,omitempty"`
}

// FailedBoot is a boot that failed.
type FailedBoot struct {
	Machine string `json:"machine"`
	// Began is the second in which the machine asked.
	Began float64 `json:"began"`
	Why   string  `json:"why"`
}

// detection is how long after the death of a server machines may still be sent there.
const detection = 5

// failedLater counts the boots that failed though they began when those who live had known for some
// time what was done to the others.
func (s *Storm) failedLater() (n int) {
	for _, f := range s.FailedBoots {
		if f.Began > s.LastFault+detection {
			n++
		}
	}
	return n
}

// boots looks at the boots of all machines since begin.
func (p *site) boots(begin time.Time, s *Storm) {
	for i := range p.machines {
		_, name := p.ident(i)
		var began float64
		asked := false
		for _, a := range p.fleet.Trace(name) {
			switch {
			case a.At.Before(begin):
			case a.Stage == fleet.Firmware:
				s.Boots++
				began, asked = a.At.Sub(begin).Seconds(), true
			case a.Stage == fleet.Stuck && asked:
				s.FailedBoots = append(s.FailedBoots, FailedBoot{name, began, a.Text})
				asked = false
			}
		}
	}
}

// storm deploys all machines at once while disturb goes on, which ends with its context.
func (p *site) storm(ctx context.Context,
	disturb func(ctx context.Context, begin time.Time) error) (s *Storm, err error) {
	s = &Storm{}
	begin := time.Now()
	before := p.bytes()
	limit, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	limit, stop := context.WithCancel(limit) // ends what is done to servers
	defer stop()
	var disturbing errgroup.Group
	disturbing.Go(func() error { return disturb(limit, begin) })
	var asking errgroup.Group
	asking.Go(func() error { return p.request(limit) })
	err = p.follow(limit, begin)
	stop()
	refused := asking.Wait()
	if refused != nil {
		s.Refused = refused.Error()
	}
	err = errors.Join(err, refused)
	if failed := disturbing.Wait(); failed != nil && ctx.Err() == nil && !errors.Is(failed, context.Canceled) {
		return nil, failed
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && limit.Err() == nil {
		return nil, err
	}
	after := p.bytes()
	s.Received, s.Written = after.Received-before.Received, after.Written-before.Written
	p.boots(begin, s)
	return s, p.count(ctx, begin, s)
}

// undisturbed is what is done to servers when nothing is.
func undisturbed(context.Context, time.Time) error { return nil }

// bytes sums up what all machines have counted.
func (p *site) bytes() (sum fleet.Event) {
	for _, e := range p.fleet.Stages() {
		sum.Received += e.Received
		sum.Written += e.Written
	}
	return sum
}

// request asks for all deployments. A request whose answer was lost is repeated elsewhere unless the
// node shows that it was taken.
func (p *site) request(ctx context.Context) error {
	return p.each(func(i int) error {
		uuid, _ := p.ident(i)
		return p.ask(ctx, func(ctx context.Context, try int, api *cli.Client) error {
			if try > 0 {
				n, err := api.Node(ctx, uuid)
				if err != nil {
					return err
				}
				if n.ProvisionState != "available" {
					return nil
				}
			}
			if _, err := api.SetInstance(ctx, uuid, p.image); err != nil {
				return err
			}
			return api.Provision(ctx, uuid, "active")
		})
	})
}

// arrived counts the machines that run their image since begin.
func (p *site) arrived(begin time.Time) int {
	n := 0
	for i := range p.machines {
		if _, ok := p.arrival(i, begin); ok {
			n++
		}
	}
	return n
}

// arrival is when a machine began to run the right image for good.
func (p *site) arrival(i int, begin time.Time) (at time.Time, ok bool) {
	_, name := p.ident(i)
	a, ok := p.fleet.Last(name)
	return a.At, ok && a.Stage == fleet.Disk && a.SHA256 == p.digest && a.At.After(begin)
}

// follow returns when all machines have arrived, or when none has for so long that none will, or all
// others have failed.
func (p *site) follow(ctx context.Context, begin time.Time) error {
	const (
		silence = 90 * time.Second
		quiet   = 5 * time.Second // after which the servers are asked
	)
	last, since, told := 0, time.Now(), time.Now()
	for {
		n := p.arrived(begin)
		if n == p.machines {
			return nil
		}
		if n != last {
			last, since = n, time.Now()
		}
		if time.Since(told) >= 2*time.Second {
			told = time.Now()
			p.say("  %5.1f s  %d of %d machines run their image", time.Since(begin).Seconds(), n,
				p.machines)
			if time.Since(since) > quiet && p.over(ctx, begin) {
				return nil
			}
		}
		if time.Since(since) > silence {
			return nil
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// over tells whether no machine is on its way any more. Where nobody says so at once it is not.
func (p *site) over(ctx context.Context, begin time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	nodes, err := p.nodes(ctx)
	if err != nil {
		return false
	}
	for i := range p.machines {
		_, there := p.arrival(i, begin)
		uuid, _ := p.ident(i)
		if !there && nodes[uuid].ProvisionState != "deploy failed" {
			return false
		}
	}
	return true
}

// nodes are those of the machines, by UUID.
func (p *site) nodes(ctx context.Context) (all map[string]cli.Node, err error) {
	err = p.ask(ctx, func(ctx context.Context, _ int, api *cli.Client) error {
		all = make(map[string]cli.Node, p.machines)
		return api.Nodes(ctx, p.fleet.Owner, func(n cli.Node) error { all[n.UUID] = n; return nil })
	})
	return all, err
}

// settleTime is how long the rows may take to say what the machines do.
const settleTime = 30 * time.Second

// count sums up who has arrived: whose machine runs the image, and whose node is active.
func (p *site) count(ctx context.Context, begin time.Time, s *Storm) error {
	settle, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	var lost []string // UUIDs
	var nodes map[string]cli.Node
	for {
		now, err := p.nodes(settle)
		if err == nil {
			nodes = now // else what was known before
		}
		s.Lost, s.Arrivals, lost = nil, nil, nil
		waiting := false
		for i := range p.machines {
			uuid, name := p.ident(i)
			n := nodes[uuid]
			at, there := p.arrival(i, begin)
			if there && n.ProvisionState == "active" && n.PowerState == "power on" {
				s.Arrivals = append(s.Arrivals, at.Sub(begin).Seconds())
				continue
			}
			waiting = waiting || there || n.ProvisionState == "deploying" ||
				n.ProvisionState == "wait call-back"
			s.Lost = append(s.Lost, fmt.Sprintf("%s (%s): the node is %s, %s, reserved by %q; %s %s",
				name, uuid, n.ProvisionState, n.PowerState, n.Reservation, p.way(name, begin),
				n.LastError))
			lost = append(lost, uuid)
		}
		if !waiting && err == nil {
			break
		}
		if wait(settle, time.Second) != nil {
			break
		}
	}
	slices.Sort(s.Arrivals)
	told, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for i, uuid := range lost {
		s.Lost[i] += p.story(told, uuid)
	}
	return ctx.Err()
}

// way is what a machine went through since begin, newest last.
func (p *site) way(machine string, begin time.Time) string {
	var b strings.Builder
	b.WriteString("the machine was at")
	for _, a := range p.fleet.Trace(machine) {
		if a.At.After(begin) {
			fmt.Fprintf(&b, " %.1f s %s", a.At.Sub(begin).Seconds(), a.Stage)
			if a.Stage == fleet.Stuck {
				fmt.Fprintf(&b, " (%s)", a.Text)
			}
			b.WriteByte(';')
		}
	}
	return b.String()
}

// story is the end of a node's journal, a line each.
func (p *site) story(ctx context.Context, uuid string) string {
	entries, err := p.journal(ctx, uuid)
	if err != nil {
		return "\n    its journal cannot be read: " + err.Error()
	}
	const most = 12
	var b strings.Builder
	for _, e := range entries[max(0, len(entries)-most):] {
		fmt.Fprintf(&b, "\n    %s %s: %s", e.Time.Format("04:05.000"), e.Source, e.Text)
	}
	return b.String()
}

// journal is all that is on record of a node.
func (p *site) journal(ctx context.Context, uuid string) (all []cli.Entry, err error) {
	for {
		var page []cli.Entry
		err := p.ask(ctx, func(ctx context.Context, _ int, api *cli.Client) (err error) {
			var after int64
			if len(all) > 0 {
				after = all[len(all)-1].Seq
			}
			page, err = api.Journal(ctx, uuid, after, 0)
			return err
		})
		if err != nil || len(page) == 0 {
			return all, err
		}
		all = append(all, page...)
	}
}
