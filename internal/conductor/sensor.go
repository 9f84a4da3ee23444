package conductor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/store"
)

// SensorOptions say which sensors are read, and how often; the zero value reads none.
type SensorOptions struct {
	// Interval is how often those of each machine are read; 0 is never. What was read counts for three times as long.
	Interval time.Duration
	// Workers is how many machines are asked at once; 0 is 4.
	Workers int
	// Kinds are those of readings (driver.Reading) that are read; nil is all.
	Kinds []string
	// Undeployed has machines without an instance asked, too.
	Undeployed bool
}

const (
	sensorWorkers = 4
	// sensorTimeout bounds the reading of one machine's sensors, with the wait for the turn at its BMC.
	sensorTimeout = 2 * time.Minute
	// sensorLives is for how many intervals a reading counts.
	sensorLives = 3
)

// Sensed is what the sensors of a node's machine told last.
type Sensed struct {
	Node, Name, Instance string    // UUID, name and UUID; the last two may be ""
	At                   time.Time // zero: they could not be read so far
	// Readings are nil if they are too old. They must not be changed.
	Readings []driver.Reading

	node *ingot.Node // as much of it as tells whose it is
	cut  bool        // there was more once, and the log has it
}

// sensed are the readings of the machines of this conductor. They are in memory only: whoever owns a node next reads
// its sensors anew.
type sensed struct {
	mu    sync.Mutex        // guards nodes
	nodes map[string]Sensed // by UUID
}

// put keeps what was read of a node, and returns what was there before.
func (s *sensed) put(n *ingot.Node, got driver.Readings) (before Sensed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.nodes[n.UUID]
	s.set(n, Sensed{At: time.Now(), Readings: got.All, cut: before.cut || got.Cut})
	return before
}

// lost keeps that a node is to be read, and was not.
func (s *sensed) lost(n *ingot.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(n, s.nodes[n.UUID])
}

// set tells under what a node is now; the caller holds mu.
func (s *sensed) set(n *ingot.Node, known Sensed) {
	if s.nodes == nil {
		s.nodes = map[string]Sensed{}
	}
	known.Node, known.Name, known.Instance = n.UUID, n.Name, n.InstanceUUID
	known.node = &ingot.Node{UUID: n.UUID, Driver: n.Driver, ConductorGroup: n.ConductorGroup}
	s.nodes[n.UUID] = known
}

// update tells under what a node is now, or forgets it: one with another driver is another machine.
func (s *sensed) update(n *ingot.Node, counts bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, is := s.nodes[n.UUID]
	switch {
	case !is:
	case !counts, known.node.Driver != n.Driver:
		delete(s.nodes, n.UUID)
	default:
		s.set(n, known)
	}
}

// forget drops those of a node that is no more.
func (s *sensed) forget(uuid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, uuid)
}

// since tells when those of a node were read, the zero time if they were not.
func (s *sensed) since(uuid string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[uuid].At
}

// all returns them, in no order; the readings from before a time are dropped.
func (s *sensed) all(oldest time.Time) (all []Sensed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uuid, known := range s.nodes {
		if known.At.Before(oldest) {
			known.Readings = nil
			s.nodes[uuid] = known
		}
		all = append(all, known)
	}
	return all
}

// Sensors returns what the sensors of this conductor's machines told; those that could not be read for long, or never,
// are there without readings.
func (c *Conductor) Sensors() []Sensed {
	if c.leaving.Load() || c.lease.check() != nil {
		return nil // others may have its nodes
	}
	all := c.sensed.all(time.Now().Add(-sensorLives * c.o.Sensors.Interval))
	return slices.DeleteFunc(all, func(s Sensed) bool { return !c.owns(s.node) })
}

// readSensors reads the sensors of the machines that are due. Those that were read a moment ago are not: a conductor
// that comes or goes has all look anew.
func (c *Conductor) readSensors(ctx context.Context) error {
	var mu sync.Mutex // guards there
	there := map[string]bool{}
	no, begun, interval := false, time.Now(), c.o.Sensors.Interval
	err := c.eachNodeBy(ctx, cmp.Or(c.o.Sensors.Workers, sensorWorkers), store.NodeFilter{Maintenance: &no},
		func(n *ingot.Node) {
			mu.Lock()
			there[n.UUID] = true
			mu.Unlock()
			c.sensed.update(n, c.senses(n))
			if c.senses(n) && time.Since(c.sensed.since(n.UUID)) > interval/2 {
				c.senseNode(ctx, n.UUID)
			}
		})
	if err != nil {
		return err
	}
	for _, s := range c.sensed.all(time.Time{}) {
		if !there[s.Node] {
			c.recall(ctx, s.Node)
		}
	}
	if took := time.Since(begun); took > interval {
		c.o.Log.Warn("it takes longer to read all sensors than they are to be read again; set more [sensor_data] workers, "+
			"or a longer interval", "took", took, "interval", interval)
	}
	return nil
}

// recall compares what is known of a node with its row, which it returns; nil if that could not be read.
func (c *Conductor) recall(ctx context.Context, uuid string) *ingot.Node {
	n, err := c.o.Store.Node(ctx, uuid)
	if ingot.KindOf(err) == ingot.NotFound {
		c.sensed.forget(uuid)
	}
	if err != nil {
		return nil
	}
	c.sensed.update(n, c.senses(n) && c.owns(n))
	return n
}

// senses tells whether the sensors of a node's machine are read. While a deployment goes on they are not: it needs
// the BMC itself.
func (c *Conductor) senses(n *ingot.Node) bool {
	deployed := n.InstanceUUID != "" || n.ProvisionState == string(lifecycle.Active)
	return n.ProvisionState != string(lifecycle.Enroll) && !n.Maintenance && !n.Deploying() &&
		(deployed || c.o.Sensors.Undeployed)
}

// senseNode reads the sensors of one machine, without a reservation, and tells of parts that are not well. What is
// known of a BMC that does not answer grows old.
func (c *Conductor) senseNode(ctx context.Context, uuid string) {
	n, err := c.o.Store.Node(ctx, uuid) // its turn may have come minutes after it was listed
	if err != nil || !c.senses(n) {
		return
	}
	got, err := c.askSensors(ctx, n)
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, driver.ErrUnsupported):
		c.sensed.forget(uuid)
		return
	case err != nil:
		c.o.Log.Warn("read sensors failed", "node", uuid, "error", err)
		c.sensed.lost(n)
	default:
		if before := c.sensed.put(n, got); got.Cut && !before.cut {
			c.o.Log.Warn("not all sensors could be read; this is not told again", "node", uuid, "read", len(got.All))
		}
	}
	// After that, so that a node that is deleted at this moment is forgotten here or by who deletes it.
	if n = c.recall(ctx, uuid); n == nil {
		return
	}
	if _, news := partNews(n, got.All); len(news) > 0 {
		c.change(ctx, n, func(t *task) { t.recordParts(got.All) })
	}
}

// askSensors asks the BMC; ErrUnsupported if the hardware type tells of no sensors.
func (c *Conductor) askSensors(ctx context.Context, n *ingot.Node) (driver.Readings, error) {
	t, err := c.newTask(ctx, n)
	if err != nil {
		return driver.Readings{}, err
	}
	if err := t.compose(); err != nil {
		return driver.Readings{}, err
	}
	s, able := t.driver().Management.(driver.Sensors)
	if !able {
		return driver.Readings{}, driver.ErrUnsupported
	}
	ctx, cancel := context.WithTimeout(ctx, sensorTimeout)
	defer cancel()
	return s.Sensors(ctx, t.dt, c.o.Sensors.Kinds)
}

const (
	// partsKey is where driver_internal_info has the parts that are not well, by kind and ID, with their health.
	partsKey = "sensor_health"
	// maxParts bounds them; of more nothing is told.
	maxParts = 32
)

// partNews compares the health of parts with what is on record: what is to be on record, and what there is to tell.
// A part of which nothing is told now is as before.
func partNews(n *ingot.Node, all []driver.Reading) (unwell ingot.Object, news []ingot.Entry) {
	before, _ := n.DriverInternalInfo[partsKey].(ingot.Object)
	unwell = maps.Clone(before)
	if unwell == nil {
		unwell = ingot.Object{}
	}
	for _, r := range all {
		key := r.Kind + " " + r.ID
		was := driver.Text(before, key)
		if r.Health == "" || r.Health == cmp.Or(was, "OK") || was == "" && len(unwell) >= maxParts {
			continue
		}
		text := fmt.Sprintf("the BMC tells that the health of %s %q (%s) is %s", r.Kind, r.Name, r.ID, r.Health)
		if was != "" {
			text += ", before " + was
		}
		if unwell[key] = r.Health; r.Health == "OK" {
			delete(unwell, key)
		}
		news = append(news, ingot.Entry{Source: "bmc", Level: healthLevels[r.Health], Text: text})
	}
	return unwell, news
}

// recordParts puts the health of parts on record, and tells of what has changed.
func (t *task) recordParts(all []driver.Reading) {
	unwell, news := partNews(t.node, all)
	if len(news) == 0 {
		return
	}
	if t.node.DriverInternalInfo == nil {
		t.node.DriverInternalInfo = ingot.Object{}
	}
	if t.node.DriverInternalInfo[partsKey] = unwell; len(unwell) == 0 {
		delete(t.node.DriverInternalInfo, partsKey)
	}
	for _, e := range news {
		t.later(e)
		if e.Level != ingot.LevelInfo {
			t.log.Warn("health of a part", "text", e.Text)
		}
	}
}
