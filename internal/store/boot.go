package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"ingot/internal/ingot"
)

// separator stands between the columns of machineColumns. JSON escapes it.
const separator = "\x1f"

// machineColumns reads a port and its node as one text: what the driver does for a column costs
// more than to find the rows. machines.parse is its counterpart.
var machineColumns = "SELECT concat_ws('" + separator + "', " + strings.Join([]string{
	"ports.id", "ports.generation", "nodes.id", "nodes.generation",
	"ports.address", "nodes.uuid", free("nodes.name"), free("nodes.last_error"),
	"nodes.driver_info", "nodes.instance_info", "nodes.properties", "ports.extra",
	"coalesce(nodes.instance, '')", "coalesce(nodes.attempt, '')",
	"ports.pxe_enabled", free("nodes.driver"), free("nodes.provision_state"),
	free("nodes.boot_intent"), "nodes.interfaces",
}, ", ") + ") FROM ports JOIN nodes ON nodes.id = ports.node_id "

// machineQuery reads one machine, machinesQuery the next ones in the order of ports.
var (
	machineQuery  = machineColumns + "WHERE ports.address = $1"
	machinesQuery = machineColumns + "WHERE ports.id > $1 ORDER BY ports.id LIMIT " +
		strconv.Itoa(machinesAhead)
)

// free is a column whose text anybody chose: a separator in it becomes a blank.
func free(column string) string {
	return "replace(coalesce(" + column + ", ''), '" + separator + "', ' ')"
}

// versionQuery reads the version of what machineQuery reads.
const versionQuery = `SELECT ports.id, ports.generation, nodes.id, nodes.generation
	FROM ports JOIN nodes ON nodes.id = ports.node_id WHERE ports.address = $1`

// machine is a port and its node, as far as boot answers need them, in a few hundred bytes. The
// zero value is none.
type machine struct {
	version version
	// own are the columns that few machines have in common, see parse.
	own  string
	like *likeness
	// moment is when the version was last known to be that of the rows.
	moment int64
}

func (m *machine) mac() string {
	mac, _, _ := strings.Cut(m.own, separator)
	return mac
}

// size is what a machine takes, with its place in the map.
func (m *machine) size() int { return 128 + len(m.own) }

// likeness is what many machines have in common.
type likeness struct {
	node            ingot.Node
	pxeEnabled      bool
	attempt         bool
	kernel, ramdisk ingot.File // of the attempt
	iso             ingot.ISO
}

// version is the state of a port's and its node's row. ids are never used again.
type version struct {
	port, portGeneration, node, nodeGeneration int64
}

// parse reads the text of machineColumns.
func (l *machines) parse(text string) (m machine, err error) {
	next := func() (column string) {
		column, text, _ = strings.Cut(text, separator)
		return column
	}
	for _, into := range []*int64{&m.version.port, &m.version.portGeneration, &m.version.node,
		&m.version.nodeGeneration} {
		if *into, err = strconv.ParseInt(next(), 10, 64); err != nil {
			return m, err
		}
	}
	own := []string{next(), next(), next(), next(), bootObject(next()), bootObject(next()),
		bootObject(next()), bootObject(next()), next()}
	var attempt struct {
		ID, Key         string
		Kernel, Ramdisk json.RawMessage
		ISO             json.RawMessage
	}
	if column := next(); column != "" {
		attempt.Kernel, attempt.Ramdisk, attempt.ISO = json.RawMessage("{}"), json.RawMessage("{}"), json.RawMessage("{}")
		if err := json.Unmarshal([]byte(column), &attempt); err != nil {
			return m, fmt.Errorf("decode attempt: %w", err)
		}
	}
	m.own = strings.Join(append(own, attempt.ID, attempt.Key), separator)
	m.like, err = l.likeness(text + separator + string(attempt.Kernel) + separator +
		string(attempt.Ramdisk) + separator + string(attempt.ISO))
	return m, err
}

// bootMembers are the members of objects that boot answers use, as they are in JSON.
var bootMembers = []string{`"kernel_append_params"`, `"root_device"`, `"ip_address"`}

// bootObject is the text of an object if it may have one of bootMembers. Few have, and to decode
// those of one node costs as much as to read it.
func bootObject(text string) string {
	if slices.ContainsFunc(bootMembers, func(name string) bool {
		return strings.Contains(text, name)
	}) {
		return text
	}
	return ""
}

// likeness decodes what machines have in common, once for all of them.
func (l *machines) likeness(text string) (*likeness, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.likenesses[text]; ok {
		return known, nil
	}
	column := strings.Split(text, separator)
	if len(column) != 8 {
		return nil, fmt.Errorf("%d columns", len(column))
	}
	v := &likeness{pxeEnabled: column[0] != "0" && column[0] != "f", attempt: column[5] != ""}
	v.node = ingot.Node{Driver: column[1], ProvisionState: column[2],
		BootIntent: ingot.BootIntent(column[3])}
	err := document[map[string]string]{v: &v.node.Interfaces}.Scan(column[4])
	if v.attempt {
		err = errors.Join(err, json.Unmarshal([]byte(column[5]), &v.kernel),
			json.Unmarshal([]byte(column[6]), &v.ramdisk), json.Unmarshal([]byte(column[7]), &v.iso))
	}
	if err != nil {
		return nil, err
	}
	if l.likenesses == nil || len(l.likenesses) >= maxLikenesses {
		// Those that are remembered hold theirs.
		l.likenesses = map[string]*likeness{}
		l.places, l.free, l.pages, l.size = nil, nil, nil, 0
	}
	l.likenesses[text] = v
	return v, nil
}

// noMembers is the value of all objects without any.
var noMembers = ingot.Object{}

// rows are the node and the port of a machine.
func (m *machine) rows() (*ingot.Node, *ingot.Port, error) {
	v := &struct {
		node    ingot.Node
		port    ingot.Port
		attempt ingot.Attempt
	}{node: m.like.node}
	n, p, text := &v.node, &v.port, m.own
	next := func() (column string) {
		column, text, _ = strings.Cut(text, separator)
		return column
	}
	p.Address, p.PXEEnabled = next(), m.like.pxeEnabled
	n.UUID, n.Name, n.LastError = next(), next(), next()
	for _, into := range []*ingot.Object{&n.DriverInfo, &n.InstanceInfo, &n.Properties, &p.Extra} {
		*into = noMembers
		if column := next(); column != "" {
			*into = nil
			if err := object(into).Scan(column); err != nil {
				return nil, nil, err
			}
		}
	}
	if column := next(); column != "" {
		if err := (instance{&n.Instance}).Scan(column); err != nil {
			return nil, nil, err
		}
	}
	if m.like.attempt {
		v.attempt = ingot.Attempt{ID: next(), Key: ingot.Secret(next()),
			Kernel: m.like.kernel, Ramdisk: m.like.ramdisk, ISO: m.like.iso}
		n.Attempt = &v.attempt
	}
	return n, p, nil
}

const (
	// maxMachines bounds what is remembered, in bytes: some 150,000 machines.
	maxMachines = 40 << 20
	// maxLikenesses bounds how many values machines have in common: fleets have few.
	maxLikenesses = 1024
	// machinesAhead is how many machines are read ahead with each that is not remembered. In the
	// order of the file one costs a fifth of one at random.
	machinesAhead = 128
	// machineGroups is in how many groups nodes are to tell which have been written.
	machineGroups = 4096
)

// machines remembers machines. What is remembered is as good as read if its version is what the
// rows have now, which costs a third of reading them to find out; and without any look while no
// transaction has written its node, or any port, since.
//
// That holds as long as this Store is the only one that writes the database and its transactions
// write one after the other, as in SQLite, whose file one process serves. Where others write, too,
// versions are compared each time: current is the only place that decides.
type machines struct {
	// shared tells that others write the rows, too.
	shared bool
	// started and ended count transactions that may have changed rows of nodes or ports: before
	// they commit, and when they have or could not. started numbers them in the order in which
	// they commit; ended is a moment of the rows: all up to that number are in them.
	started, ended atomic.Int64
	// written has the number of the last transaction that wrote a node of the group, and
	// writtenAny of the last one that may have written any.
	written    [machineGroups]atomic.Int64
	writtenAny atomic.Int64

	mu sync.Mutex // guards what follows
	// places tells where in pages the machine is whose MAC has that key. A map of pointers to
	// 100,000 machines took the garbage collector 43 ms each time, this takes it 9.
	places map[uint64]int32
	pages  [][]machine // of machinesAhead
	free   []int32     // places
	size   int         // of the machines, bytes
	// likenesses have the columns that they were made of as keys.
	likenesses map[string]*likeness

	ahead sync.Mutex // guards what follows; held while machines are read ahead
	// aheadAfter is the id of the port that was read ahead last; aheadDone that there are no more.
	aheadAfter int64
	aheadDone  bool
}

// group is the number of the last transaction that wrote one of a group of nodes.
func (l *machines) group(node int64) *atomic.Int64 {
	return &l.written[uint64(node)%machineGroups]
}

// writing is called before a transaction commits that writes a node, or with 0 any of them.
func (l *machines) writing(node int64) {
	number := l.started.Add(1)
	if node == 0 {
		l.writtenAny.Store(number)
		return
	}
	l.group(node).Store(number)
}

// now returns the moment of the rows.
func (l *machines) now() int64 { return l.ended.Load() }

// current tells whether a machine is what the rows have now.
func (l *machines) current(m machine) bool {
	return !l.shared && l.writtenAny.Load() <= m.moment &&
		l.group(m.version.node).Load() <= m.moment
}

// macSeed is for the keys of machines.places.
var macSeed = maphash.MakeSeed()

func macKey(mac string) uint64 { return maphash.String(macSeed, mac) }

// at is a place. Called with mu.
func (l *machines) at(place int32) *machine {
	return &l.pages[place/machinesAhead][place%machinesAhead]
}

// get returns what is remembered of a MAC, the zero value if nothing is.
func (l *machines) get(mac string) machine {
	l.mu.Lock()
	defer l.mu.Unlock()
	if place, ok := l.places[macKey(mac)]; ok && l.at(place).mac() == mac {
		return *l.at(place)
	}
	return machine{}
}

// put remembers what was read, if need be at the cost of any others. It returns false if there is
// no more room.
func (l *machines) put(read ...machine) (room bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.places == nil {
		l.places = map[uint64]int32{}
	}
	for _, m := range read {
		key := macKey(m.mac())
		place, known := l.places[key]
		if known {
			l.size -= l.at(place).size()
		} else {
			place = l.place()
			l.places[key] = place
		}
		*l.at(place) = m
		l.size += m.size()
	}
	room = l.size <= maxMachines
	for key, place := range l.places {
		if l.size <= maxMachines {
			break
		}
		l.size -= l.at(place).size()
		*l.at(place) = machine{}
		l.free = append(l.free, place)
		delete(l.places, key)
	}
	return room
}

// place returns a free place. Called with mu.
func (l *machines) place() int32 {
	if len(l.free) == 0 {
		first := int32(len(l.pages) * machinesAhead)
		l.pages = append(l.pages, make([]machine, machinesAhead))
		for i := range int32(machinesAhead) {
			l.free = append(l.free, first+i)
		}
	}
	last := len(l.free) - 1
	place := l.free[last]
	l.free = l.free[:last]
	return place
}

// Machine returns the port with that address and its node, NotFound if there is none. Every DHCP
// packet and every boot script needs them, so they have only the fields that those use: of the
// node UUID, Name, Driver, DriverInfo, InstanceInfo, Properties, Interfaces, ProvisionState,
// LastError, BootIntent, Instance and of its Attempt ID, Key, Kernel, Ramdisk and ISO; of the port
// Address, PXEEnabled and Extra. Objects have at least the members kernel_append_params,
// root_device and ip_address. They share memory with those of other callers, so they must not be
// changed, and cannot be stored again. They are never older than the last write that returned
// before the call, see machines.
func (s *Store) Machine(ctx context.Context, mac string) (*ingot.Node, *ingot.Port, error) {
	mac = strings.ToLower(mac)
	m := s.machines.get(mac)
	if m.like != nil && s.machines.current(m) {
		return m.rows()
	}
	moment := s.machines.now()
	if m.like != nil {
		var v version
		err := s.version.QueryRowContext(context.WithoutCancel(ctx), mac).Scan(&v.port,
			&v.portGeneration, &v.node, &v.nodeGeneration)
		if err == nil && v == m.version {
			m.moment = moment
			s.machines.put(m)
			return m.rows()
		}
	}
	m, err := s.readMachine(ctx, mac, moment)
	if err != nil {
		return nil, nil, err
	}
	return m.rows()
}

// readMachine reads a machine and remembers it; moment was before. It is one prepared statement
// outside of a transaction, a snapshot by itself, and does not watch ctx, which would cost two
// more goroutines and a fifth of the time.
func (s *Store) readMachine(ctx context.Context, mac string, moment int64) (machine, error) {
	if !s.shared {
		s.readAhead(ctx)
	}
	if m := s.machines.get(mac); m.like != nil && s.machines.current(m) {
		return m, nil
	}
	var text string
	err := s.machine.QueryRowContext(context.WithoutCancel(ctx), mac).Scan(&text)
	for try := 0; s.shared && hungUp(err) && try <= s.connections; try++ { // see inTx
		err = s.machine.QueryRowContext(context.WithoutCancel(ctx), mac).Scan(&text)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return machine{}, ingot.Errorf(ingot.NotFound, "No node has a port with MAC address %s.", mac)
	}
	if err != nil {
		return machine{}, explain("read machine "+mac, err)
	}
	m, err := s.machines.parse(text)
	if err != nil {
		return machine{}, fmt.Errorf("decode machine %s: %w", mac, err)
	}
	m.moment = moment
	s.machines.put(m)
	return m, nil
}

// readAhead remembers some more machines, until all are or there is no room: where one asks, as
// after a start, others follow. What cannot be read is for who asks for it to be told.
func (s *Store) readAhead(ctx context.Context) {
	l := &s.machines
	if !l.ahead.TryLock() {
		return // one at a time is enough
	}
	defer l.ahead.Unlock()
	if l.aheadDone {
		return
	}
	moment := l.now()
	rows, err := s.ahead.QueryContext(context.WithoutCancel(ctx), l.aheadAfter)
	if err != nil {
		return
	}
	defer rows.Close()
	var page []machine
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return
		}
		m, err := l.parse(text)
		if err != nil {
			l.aheadDone = true
			return
		}
		m.moment = moment
		page = append(page, m)
	}
	if rows.Err() != nil {
		return
	}
	l.aheadDone = !l.put(page...) || len(page) < machinesAhead
	if len(page) > 0 {
		l.aheadAfter = page[len(page)-1].version.port
	}
}
