package conductor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
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
	// Kinds are those of driver.SensorKinds that are read; nil is all.
	Kinds []string
	// Undeployed has machines without an instance asked, too.
	Undeployed bool
}

const (
	sensorWorkers = 4
	// sensorTimeout bounds the reading of one machine's sensors, with the wait for the turn at its BMC. What was
	// read of a slow one until then counts.
	sensorTimeout = 2 * time.Minute
	// sensorLives is for how many intervals a reading counts.
	sensorLives = 3
)

// Sensed is what the sensors of a node's machine told last. It must not be changed.
type Sensed struct {
	Node, Name, Instance string // UUID, name and UUID; the last two may be ""
	At                   time.Time
	Readings             []driver.Reading

	node *ingot.Node // as much of it as tells whose it is
}

// sensed are the readings of the machines of this conductor. They are in memory only: whoever owns a node next reads
// its sensors at once.
type sensed struct {
	mu    sync.Mutex         // guards nodes
	nodes map[string]*Sensed // by UUID
}

func (s *sensed) put(n *ingot.Node, all []driver.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes == nil {
		s.nodes = map[string]*Sensed{}
	}
	s.nodes[n.UUID] = &Sensed{Node: n.UUID, Name: n.Name, Instance: n.InstanceUUID, At: time.Now(), Readings: all,
		node: &ingot.Node{UUID: n.UUID, Driver: n.Driver, ConductorGroup: n.ConductorGroup}}
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
	if known := s.nodes[uuid]; known != nil {
		return known.At
	}
	return time.Time{}
}

// keep drops those that do not count any more, and returns the others.
func (s *sensed) keep(counts func(*Sensed) bool) (all []*Sensed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uuid, known := range s.nodes {
		if !counts(known) {
			delete(s.nodes, uuid)
			continue
		}
		all = append(all, known)
	}
	return all
}

// Sensors returns what the sensors of this conductor's machines told, as far as it is not too old.
func (c *Conductor) Sensors() []*Sensed {
	if c.leaving.Load() || c.lease.check() != nil {
		return nil // others may have its nodes
	}
	return c.sensed.keep(func(s *Sensed) bool {
		return time.Since(s.At) < sensorLives*c.o.Sensors.Interval && c.owns(s.node)
	})
}

// readSensors reads the sensors of the machines that are due. Those that were read a moment ago are not: a conductor
// that comes or goes has all look anew.
func (c *Conductor) readSensors(ctx context.Context) error {
	var mu sync.Mutex // guards there
	there := map[string]bool{}
	no := false
	err := c.eachNodeBy(ctx, cmp.Or(c.o.Sensors.Workers, sensorWorkers), store.NodeFilter{Maintenance: &no},
		func(n *ingot.Node) {
			mu.Lock()
			there[n.UUID] = true
			mu.Unlock()
			if c.senses(n) && time.Since(c.sensed.since(n.UUID)) > c.o.Sensors.Interval/2 {
				c.senseNode(ctx, n.UUID)
			}
		})
	if err != nil {
		return err
	}
	for _, s := range c.Sensors() {
		if there[s.Node] {
			continue
		}
		if _, err := c.o.Store.Node(ctx, s.Node); ingot.KindOf(err) == ingot.NotFound {
			c.sensed.forget(s.Node)
		}
	}
	return nil
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
	all, err := c.askSensors(ctx, n)
	if ctx.Err() != nil || errors.Is(err, driver.ErrUnsupported) {
		return
	}
	if err != nil {
		c.o.Log.Warn("read sensors failed", "node", uuid, "error", err)
		return
	}
	c.sensed.put(n, all)
	// After that, so that a node that is deleted at this moment is forgotten here or by who deletes it.
	n, err = c.o.Store.Node(ctx, uuid)
	if ingot.KindOf(err) == ingot.NotFound {
		c.sensed.forget(uuid)
	}
	if err != nil {
		return
	}
	if _, news := partNews(n, all); len(news) > 0 {
		c.change(ctx, n, func(t *task) { t.recordParts(all) })
	}
}

// askSensors asks the BMC; ErrUnsupported if the hardware type tells of no sensors.
func (c *Conductor) askSensors(ctx context.Context, n *ingot.Node) ([]driver.Reading, error) {
	t, err := c.newTask(ctx, n)
	if err != nil {
		return nil, err
	}
	if err := t.compose(); err != nil {
		return nil, err
	}
	s, able := t.driver().Management.(driver.Sensors)
	if !able {
		return nil, driver.ErrUnsupported
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
