package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/cli"
	"ingot/internal/sim/fleet"
)

// Storm is how all machines fared that were deployed at once.
type Storm struct {
	// Arrivals are the seconds after which machines ran their image, ascending.
	Arrivals []float64 `json:"arrivals"`
	// Lost names the machines that did not arrive, each with where it was last seen.
	Lost []string `json:"lost"`
	// Received and Written are the bytes that machines fetched, and that were written to their disks.
	Received int64 `json:"received"`
	Written  int64 `json:"written"`
	// Faults is what was done, with the second in which it was.
	Faults []string `json:"faults"`
}

// storm deploys all machines at once while the schedule is carried out.
func (c *cluster) storm(ctx context.Context, schedule []fault) (s *Storm, err error) {
	s = &Storm{}
	begin := time.Now()
	before := c.bytes()
	limit, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	limit, stop := context.WithCancel(limit) // ends what is done to servers
	defer stop()
	var disturbing errgroup.Group
	disturbing.Go(func() error { return c.disturb(limit, begin, schedule, s) })
	var asking errgroup.Group
	asking.Go(func() error { return c.request(limit) })
	err = c.follow(limit, begin)
	stop()
	err = errors.Join(err, asking.Wait())
	if failed := disturbing.Wait(); failed != nil && ctx.Err() == nil && !errors.Is(failed, context.Canceled) {
		return nil, failed
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && limit.Err() == nil {
		return nil, err
	}
	after := c.bytes()
	s.Received, s.Written = after.Received-before.Received, after.Written-before.Written
	return s, c.count(ctx, begin, s)
}

// bytes sums up what all machines have counted.
func (c *cluster) bytes() (sum fleet.Event) {
	for _, e := range c.Fleet.Stages() {
		sum.Received += e.Received
		sum.Written += e.Written
	}
	return sum
}

// request asks for all deployments. A request whose answer was lost is repeated elsewhere unless the
// node shows that it was taken.
func (c *cluster) request(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(8)
	for i := range c.o.Machines {
		node, _ := c.Fleet.Node(i)
		g.Go(func() error {
			return c.ask(ctx, func(ctx context.Context, try int, api *cli.Client) error {
				if try > 0 {
					n, err := api.Node(ctx, node.Name)
					if err != nil {
						return err
					}
					if n.ProvisionState != "available" {
						return nil
					}
				}
				if _, err := api.SetInstance(ctx, node.Name, c.image); err != nil {
					return err
				}
				return api.Provision(ctx, node.Name, "active")
			})
		})
	}
	return g.Wait()
}

// disturb carries out the schedule.
func (c *cluster) disturb(ctx context.Context, begin time.Time, schedule []fault, s *Storm) error {
	var g errgroup.Group
	busy := make([]chan struct{}, len(c.Servers))
	for i := range busy {
		busy[i] = make(chan struct{}, 1)
	}
	told := make(chan string, 2*len(schedule))
	for _, f := range schedule {
		for float64(c.arrived(begin)) < f.Arrived*float64(c.o.Machines) {
			if err := wait(ctx, 20*time.Millisecond); err != nil {
				break
			}
		}
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			select {
			case busy[f.Server] <- struct{}{}:
				defer func() { <-busy[f.Server] }()
			case <-ctx.Done():
				return nil
			}
			return c.apply(ctx, f, func(text string) {
				text = fmt.Sprintf("%5.1f s  %s", time.Since(begin).Seconds(), text)
				c.say("  %s", text)
				told <- text
			})
		})
	}
	err := g.Wait()
	close(told)
	for text := range told {
		s.Faults = append(s.Faults, text)
	}
	return err
}

// arrived counts the machines that run their image since begin.
func (c *cluster) arrived(begin time.Time) int {
	n := 0
	for i := range c.o.Machines {
		if _, ok := c.arrival(i, begin); ok {
			n++
		}
	}
	return n
}

// arrival is when a machine began to run the right image for good.
func (c *cluster) arrival(i int, begin time.Time) (at time.Time, ok bool) {
	node, _ := c.Fleet.Node(i)
	a, ok := c.Fleet.Last(node.Name)
	return a.At, ok && a.Stage == fleet.Disk && a.SHA256 == c.digest && a.At.After(begin)
}

// follow returns when all machines have arrived, or when none has for so long that none will.
func (c *cluster) follow(ctx context.Context, begin time.Time) error {
	const silence = 90 * time.Second
	last, since, told := 0, time.Now(), time.Now()
	for {
		n := c.arrived(begin)
		if n == c.o.Machines {
			return nil
		}
		if n != last {
			last, since = n, time.Now()
		}
		if time.Since(told) >= 2*time.Second {
			told = time.Now()
			c.say("  %5.1f s  %d of %d machines run their image", time.Since(begin).Seconds(), n,
				c.o.Machines)
		}
		if time.Since(since) > silence {
			return nil
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// settleTime is how long the rows may take to say what the machines do.
const settleTime = 30 * time.Second

// count sums up who has arrived: whose machine runs the image, and whose node is active.
func (c *cluster) count(ctx context.Context, begin time.Time, s *Storm) error {
	settle, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	states := map[string]cli.Node{}
	for {
		err := c.ask(settle, func(ctx context.Context, _ int, api *cli.Client) error {
			return api.Nodes(ctx, "", func(n cli.Node) error { states[n.Name] = n; return nil })
		})
		s.Lost, s.Arrivals = nil, nil
		waiting := false
		for i := range c.o.Machines {
			node, _ := c.Fleet.Node(i)
			n := states[node.Name]
			at, there := c.arrival(i, begin)
			if there && n.ProvisionState == "active" && n.PowerState == "power on" {
				s.Arrivals = append(s.Arrivals, at.Sub(begin).Seconds())
				continue
			}
			waiting = waiting || there || n.ProvisionState == "deploying" ||
				n.ProvisionState == "wait call-back"
			s.Lost = append(s.Lost, fmt.Sprintf("%s (%s): the node is %s, %s %s; %s", node.Name,
				n.UUID, n.ProvisionState, n.PowerState, n.LastError, c.way(node.Name, begin)))
		}
		if !waiting && err == nil {
			break
		}
		if wait(settle, time.Second) != nil {
			break
		}
	}
	slices.Sort(s.Arrivals)
	return ctx.Err()
}

// way is what a machine went through since begin, newest last.
func (c *cluster) way(machine string, begin time.Time) string {
	var b strings.Builder
	b.WriteString("the machine was at")
	for _, a := range c.Fleet.Trace(machine) {
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
