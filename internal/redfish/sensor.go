package redfish

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a sensor measures, or is part of; the words are those of Ironic's sensor data.
type Kind string

// The kinds.
const (
	Temperature Kind = "Temperature"
	Fan         Kind = "Fan"
	PowerUse    Kind = "Power"
	Voltage     Kind = "Voltage"
	DriveHealth Kind = "Drive"
)

// Kinds are all kinds.
var Kinds = []Kind{Temperature, Fan, PowerUse, Voltage, DriveHealth}

// Units of readings.
const (
	Celsius = "Cel"
	RPM     = "RPM"
	Percent = "%"
	Watt    = "W"
	Volt    = "V"
)

// PowerSupply is the Context of readings of power supplies (PhysicalContext of the schemas).
const PowerSupply = "PowerSupply"

// Reading is what a sensor, or a part with a health, told at one moment.
type Reading struct {
	Kind Kind
	// ID is no other reading's of this kind on this machine, and the same whether or not others have a value:
	// ARRAY/MEMBER@CHASSIS, or CONTROLLER/DRIVE@SYSTEM.
	ID   string
	Name string
	// Context is the place (PhysicalContext): CPU, Intake, SystemBoard...; "" if it is not told.
	Context string
	// Value is nil if there is none now: not a few sensors have one only while the machine is on.
	Value *float64
	Unit  string
	// Health is OK, Warning or Critical; "" if it is not told.
	Health string
}

// Readings are those of one machine.
type Readings struct {
	All []Reading
	// Cut tells that there is more: the bounds of Sensors were reached, the time was up, or a resource could not be
	// read now.
	Cut bool
}

const (
	// maxSensors bounds the readings of a machine, and maxSensorReads the requests for them.
	maxSensors     = 256
	maxSensorReads = 128
	// maxSensorParts bounds what may be a reading.
	maxSensorParts = 512
	// maxStrikes is how many resources may be silent or busy until the others are not asked for any more.
	maxStrikes = 2
	// maxChassis bounds the chassis of a machine.
	maxChassis = 8
	// maxSensorText bounds the texts of a reading, in bytes.
	maxSensorText = 64
)

// Sensors reads the sensors of a system's chassis and the health of its drives, those of some kinds; nil is all.
// What a chassis tells by ThermalSubsystem, PowerSubsystem and EnvironmentMetrics is not read from Thermal and Power,
// their predecessors, nor what it tells by any of those from its collection of Sensors. What a BMC does not have,
// refuses, or tells in words that cannot be is left out, and so is what it is silent or busy about, the second time
// with all that would come after it. If nothing was read what went wrong first is the error. What was read before the
// end of ctx is returned.
func (c *Client) Sensors(ctx context.Context, s *System, kinds []Kind) (Readings, error) {
	r := &sensorReader{c: c, kinds: kinds, left: maxSensorReads, read: map[string]bool{}, taken: map[string]bool{}}
	if kinds == nil {
		r.kinds, r.unasked = Kinds, true
	}
	for i, l := range s.Links.Chassis {
		if i == maxChassis {
			r.out.Cut = true
			break
		}
		if r.read[resource(l.ID)] {
			continue
		}
		r.read[resource(l.ID)] = true
		r.chassis(ctx, l)
	}
	r.drives(ctx, s)
	if len(r.out.All) == 0 && r.failed != nil {
		return Readings{}, r.failed
	}
	return r.out, nil
}

// sensorReader reads the sensors of one machine.
type sensorReader struct {
	c     *Client
	kinds []Kind
	// unasked tells that kinds are all because nobody named any.
	unasked bool
	left    int // requests
	strikes int // resources that were silent or busy
	out     Readings
	// owner is the last part of IDs, told what the chassis has told.
	owner string
	told  map[quantity]bool
	// read are the resources that were read, or that others have repeated; taken the IDs, with their kind.
	read, taken map[string]bool
	failed      error // the first one
}

// quantity is something of which a chassis tells in one way, and by older ones, too.
type quantity string

const (
	temperatures quantity = "temperatures"
	fanSpeeds    quantity = "fan speeds"
	fanHealth    quantity = "health of fans"
	supplies     quantity = "power supplies"
	consumption  quantity = "power consumption"
	voltages     quantity = "voltages"
)

func (r *sensorReader) wants(k Kind) bool { return slices.Contains(r.kinds, k) }

// lacks tells whether a chassis has told nothing of a quantity that is wanted.
func (r *sensorReader) lacks(k Kind, q quantity) bool { return r.wants(k) && !r.told[q] }

// number is a number that can be a reading; whatever else is there is none.
type number struct {
	value float64
	is    bool // a number
	told  bool // the property is there, perhaps as null
}

// maxReading bounds what is believed, in any unit.
const maxReading = 1e9

// UnmarshalJSON never fails.
func (n *number) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseFloat(string(text), 64)
	is := err == nil && math.Abs(v) <= maxReading
	*n = number{value: v, is: is, told: is || string(text) == "null"}
	return nil
}

// pointer is the value; nil if there is none, or if it is below least.
func (n number) pointer(least float64) *float64 {
	if !n.is || n.value < least {
		return nil
	}
	return &n.value
}

// absoluteZero is the least temperature, in degrees Celsius.
const absoluteZero = -273.15

// word is a text; BMCs write identifiers as numbers, too.
type word string

// UnmarshalJSON never fails.
func (w *word) UnmarshalJSON(text []byte) error {
	var s string
	var n json.Number
	switch {
	case json.Unmarshal(text, &s) == nil:
		*w = word(s)
	case json.Unmarshal(text, &n) == nil:
		*w = word(n)
	default:
		*w = ""
	}
	return nil
}

// part is what is common to all that is read.
type part struct {
	ID       word `json:"Id"`
	MemberID word `json:"MemberId"`
	Name     word `json:"Name"`
	Context  word `json:"PhysicalContext"`
	Status   struct {
		State  word `json:"State"`
		Health word `json:"Health"`
	} `json:"Status"`
}

// excerpt is the part of a sensor that other resources repeat (Sensor schema, Excerpt).
type excerpt struct {
	Reading number `json:"Reading"`
	Source  word   `json:"DataSourceUri"`
}

// there tells whether the part is: BMCs list empty bays.
func (p part) there() bool { return p.Status.State != "Absent" && p.Status.State != "Disabled" }

// resource is a path to compare with others: some write a slash at the end, and some do not.
func resource(at string) string { return strings.TrimRight(location(at), "/") }

// in is the part with an ID that says which array or collection it is in: members of two may have one number.
func (p part) in(array word) part {
	p.ID, p.MemberID = array+"/"+cmp.Or(p.MemberID, p.ID, p.Name), ""
	return p
}

// add keeps a reading; one with neither value nor health is none, and has an ID nevertheless, as it may be one later.
func (r *sensorReader) add(k Kind, p part, unit string, value *float64) {
	if !r.wants(k) {
		return
	}
	if len(r.out.All) == maxSensors || len(r.taken) == maxSensorParts {
		r.out.Cut = true
		return
	}
	id := r.identify(k, p)
	health := string(p.Status.Health)
	if !slices.Contains([]string{"OK", "Warning", "Critical"}, health) {
		health = ""
	}
	if !p.there() || value == nil && health == "" {
		return
	}
	if k == Fan && health != "" {
		r.told[fanHealth] = true
	}
	r.out.All = append(r.out.All, Reading{Kind: k, ID: id, Name: clip(string(p.Name)), Context: clip(string(p.Context)),
		Value: value, Unit: unit, Health: health})
}

// identify gives a part an ID that no other has.
func (r *sensorReader) identify(k Kind, p part) string {
	id := clip(string(p.ID))
	for base, n := id, 0; r.taken[string(k)+id+"@"+r.owner]; n++ {
		id = fmt.Sprintf("%s#%d", base, n)
	}
	id += "@" + r.owner
	r.taken[string(k)+id] = true
	return id
}

// clip is a text as it may stand in a log and beside many others. It is kept for long, and not with what it was cut
// from.
func clip(text string) string {
	text = oneLine(text)
	return strings.Clone(strings.ToValidUTF8(text[:min(len(text), maxSensorText)], ""))
}

// addExcerpt keeps what repeats a sensor, unless that was read.
func (r *sensorReader) addExcerpt(k Kind, p part, unit string, e excerpt, least float64) {
	source := resource(string(e.Source))
	if source != "" && r.read[source] {
		return
	}
	if source != "" {
		r.read[source] = true
	}
	r.add(k, p, unit, e.Reading.pointer(least))
}

// sensorID is the ID of a sensor by its path; "" if that is not told.
func sensorID(at word) word {
	if source := resource(string(at)); source != "" {
		return "Sensors/" + word(path.Base(source))
	}
	return ""
}

// readPart reads a resource; ok is false if there is none that can be read.
func readPart[T any](ctx context.Context, r *sensorReader, from link) (v T, ok bool) {
	at := location(from.ID)
	if at == "" {
		return v, false
	}
	if r.left == 0 || r.strikes == maxStrikes || ctx.Err() != nil {
		r.out.Cut = true
		return v, false
	}
	r.left--
	a, err := r.c.get(ctx, at)
	if err != nil {
		r.miss(at, err)
		return v, false
	}
	v, err = decode[T](a.body)
	return v, err == nil
}

// miss notes that a resource was not read.
func (r *sensorReader) miss(at string, err error) {
	var refused *StatusError
	said := errors.As(err, &refused) && !refused.Busy()
	if said && refused.Gone() {
		return
	}
	if !said {
		r.strikes++
		r.out.Cut = true
	}
	if r.failed == nil {
		r.failed = fmt.Errorf("read %s: %w", at, err)
	}
}

// readParts reads the resources of a collection and calls fn with each.
func readParts[T any](ctx context.Context, r *sensorReader, from link, fn func(at string, v T)) {
	list, _ := readPart[struct {
		Members []link `json:"Members"`
	}](ctx, r, from)
	readEach(ctx, r, list.Members, fn)
}

func readEach[T any](ctx context.Context, r *sensorReader, links []link, fn func(at string, v T)) {
	if len(links) > maxMembers {
		links, r.out.Cut = links[:maxMembers], true
	}
	for _, l := range links {
		at := resource(l.ID)
		if r.read[at] {
			continue
		}
		if v, ok := readPart[T](ctx, r, l); ok {
			fn(at, v)
		}
	}
}
