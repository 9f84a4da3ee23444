package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"ingot/internal/ingot"
)

// separator stands between the columns of machineQuery. JSON escapes it.
const separator = "\x1f"

// machineQuery reads a port and its node as one text: what the driver does for a column costs
// more than to find the rows. machines.parse is its counterpart.
var machineQuery = "SELECT concat_ws('" + separator + "', " + strings.Join([]string{
	"ports.id", "ports.generation", "nodes.id", "nodes.generation",
	"ports.address", "ports.pxe_enabled", "ports.extra",
	"nodes.uuid", free("nodes.name"), free("nodes.driver"), free("nodes.provision_state"),
	free("nodes.last_error"), free("nodes.boot_intent"),
	"nodes.driver_info", "nodes.instance_info", "nodes.properties", "nodes.interfaces",
	"coalesce(nodes.attempt, '')", "coalesce(nodes.instance, '')",
}, ", ") + ") FROM ports JOIN nodes ON nodes.id = ports.node_id WHERE ports.address = $1"

// free is a column whose text anybody chose: a separator in it becomes a blank.
func free(column string) string {
	return "replace(coalesce(" + column + ", ''), '" + separator + "', ' ')"
}

// versionQuery reads the version of what machineQuery reads.
const versionQuery = `SELECT ports.id, ports.generation, nodes.id, nodes.generation
	FROM ports JOIN nodes ON nodes.id = ports.node_id WHERE ports.address = $1`

// machine is a port and its node, as far as boot answers need them. It does not change.
type machine struct {
	version version
	port    *ingot.Port
	node    *ingot.Node
}

// version is the state of a port's and its node's row. ids are never used again.
type version struct {
	port, portGeneration, node, nodeGeneration int64
}

// parse reads the text of machineQuery.
func (l *machines) parse(text string) (machine, error) {
	n, p := new(ingot.Node), new(ingot.Port)
	m := machine{node: n, port: p}
	var column string
	next := func() string {
		column, text, _ = strings.Cut(text, separator)
		return column
	}
	for _, into := range []*int64{&m.version.port, &m.version.portGeneration, &m.version.node,
		&m.version.nodeGeneration} {
		var err error
		if *into, err = strconv.ParseInt(next(), 10, 64); err != nil {
			return m, err
		}
	}
	p.Address, p.PXEEnabled = next(), next() != "0"
	if err := bootObject(&p.Extra, next()); err != nil {
		return m, err
	}
	n.UUID, n.Name, n.Driver, n.ProvisionState = next(), next(), next(), next()
	n.LastError, n.BootIntent = next(), ingot.BootIntent(next())
	for _, into := range []*ingot.Object{&n.DriverInfo, &n.InstanceInfo, &n.Properties} {
		if err := bootObject(into, next()); err != nil {
			return m, err
		}
	}
	var err error
	if n.Interfaces, err = l.decodeInterfaces(next()); err != nil {
		return m, err
	}
	if next() != "" {
		if err := (attempt{&n.Attempt}).Scan(column); err != nil {
			return m, err
		}
	}
	if next() != "" {
		return m, document[*ingot.Instance]{v: &n.Instance}.Scan(column)
	}
	return m, nil
}

// bootMembers are the members of objects that boot answers use, as they are in JSON.
var bootMembers = []string{`"kernel_append_params"`, `"root_device"`, `"ip_address"`}

// bootObject decodes an object only if it may have one of bootMembers. Few have, and to decode
// those of one node costs as much as to read it.
func bootObject(into *ingot.Object, text string) error {
	if !slices.ContainsFunc(bootMembers, func(name string) bool {
		return strings.Contains(text, name)
	}) {
		*into = ingot.Object{}
		return nil
	}
	return object(into).Scan(text)
}

const (
	// maxMachines bounds how many machines are remembered, some 3 KB each.
	maxMachines = 16384
	// maxInterfaces bounds how many different values of Node.Interfaces are: fleets have few.
	maxInterfaces = 64
)

// machines remembers machines. What is remembered is as good as read if its version is what the
// rows have now, which costs a third of reading them to find out; and without any look while no
// transaction has written rows of nodes or ports since.
//
// That holds as long as this Store is the only one that writes the database, as in SQLite, whose
// file one process serves. Who lets a second process write has to compare versions each time
// (Store.Client does), or has to be told of its writes before they return.
type machines struct {
	// started and ended count transactions that may have changed rows of nodes or ports: before
	// they commit, and when they have or could not. Equal, they are a moment of the rows.
	started, ended atomic.Int64

	mu    sync.Mutex // guards what follows
	known map[string]*remembered
	// interfaces are the values of Node.Interfaces, by their JSON.
	interfaces map[string]map[string]string
}

type remembered struct {
	machine
	moment atomic.Int64 // when its version was last known to be that of the rows
}

// never is the moment of what was read while somebody wrote.
const never = -1

// now returns the moment of the rows, never while somebody writes. Ended is read first: if no
// more have started after that, none is on its way.
func (l *machines) now() int64 {
	ended := l.ended.Load()
	if l.started.Load() != ended {
		return never
	}
	return ended
}

func (l *machines) get(mac string) *remembered {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[mac]
}

// put remembers what was read after that moment.
func (l *machines) put(mac string, m machine, moment int64) {
	r := &remembered{machine: m}
	r.moment.Store(moment)
	l.mu.Lock()
	defer l.mu.Unlock()
	bound(&l.known, maxMachines)
	l.known[mac] = r
}

// bound makes room for one more, if need be at the cost of any one.
func bound[V any](m *map[string]V, limit int) {
	if *m == nil {
		*m = map[string]V{}
	}
	if len(*m) < limit {
		return
	}
	for key := range *m {
		delete(*m, key)
		return
	}
}

// decodeInterfaces decodes what few nodes have for themselves.
func (l *machines) decodeInterfaces(text string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.interfaces[text]; ok {
		return known, nil
	}
	var v map[string]string
	if err := (document[map[string]string]{v: &v}).Scan(text); err != nil {
		return nil, err
	}
	bound(&l.interfaces, maxInterfaces)
	l.interfaces[strings.Clone(text)] = v // not the whole row
	return v, nil
}

// Machine returns the port with that address and its node, NotFound if there is none. Every DHCP
// packet and every boot script needs them, so they have only the fields that those use: of the
// node UUID, Name, Driver, DriverInfo, InstanceInfo, Properties, Interfaces, ProvisionState,
// LastError, BootIntent, Attempt and Instance; of the port Address, PXEEnabled and Extra. Objects have at
// least the members kernel_append_params, root_device and ip_address. They are shared by all
// callers, who must not change them, and cannot be stored again. They are never older than the
// last write that returned before the call, see machines.
func (s *Store) Machine(ctx context.Context, mac string) (*ingot.Node, *ingot.Port, error) {
	mac = strings.ToLower(mac)
	moment := s.machines.now()
	r := s.machines.get(mac)
	if r != nil && moment != never && r.moment.Load() == moment {
		return r.node, r.port, nil
	}
	if r != nil {
		var v version
		err := s.version.QueryRowContext(context.WithoutCancel(ctx), mac).Scan(&v.port,
			&v.portGeneration, &v.node, &v.nodeGeneration)
		if err == nil && v == r.version {
			r.moment.Store(moment)
			return r.node, r.port, nil
		}
	}
	m, err := s.readMachine(ctx, mac, moment)
	return m.node, m.port, err
}

// readMachine reads a machine and remembers it; moment was before. It is one prepared statement
// outside of a transaction, a snapshot by itself, and does not watch ctx, which would cost two
// more goroutines and a fifth of the time.
func (s *Store) readMachine(ctx context.Context, mac string, moment int64) (machine, error) {
	var text string
	err := s.machine.QueryRowContext(context.WithoutCancel(ctx), mac).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return machine{}, ingot.Errorf(ingot.NotFound,
			"No node has a port with MAC address %s.", mac)
	}
	if err != nil {
		return machine{}, explain("read machine "+mac, err)
	}
	m, err := s.machines.parse(text)
	if err != nil {
		return machine{}, fmt.Errorf("decode machine %s: %w", mac, err)
	}
	s.machines.put(mac, m, moment)
	return m, nil
}
