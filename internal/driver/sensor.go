package driver

import "context"

// Sensors is an optional ability of Management: what the sensors of a machine tell, and its parts of their health, of
// some kinds; nil is all. It reads only, and may be called without a reservation.
type Sensors interface {
	Sensors(ctx context.Context, t *Task, kinds []string) ([]Reading, error)
}

// Kinds of readings, as Ironic names them.
const (
	Temperature = "Temperature"
	Fan         = "Fan"
	PowerUse    = "Power"
	Voltage     = "Voltage"
	DiskHealth  = "Drive"
)

// SensorKinds are all of them.
var SensorKinds = []string{Temperature, Fan, PowerUse, Voltage, DiskHealth}

// Units of readings.
const (
	Celsius = "Cel"
	RPM     = "RPM"
	Percent = "%"
	Watt    = "W"
	Volt    = "V"
)

// PowerSupply is the Context of readings of power supplies.
const PowerSupply = "PowerSupply"

// Reading is what one sensor or part of a machine told. Texts are short and of one line.
type Reading struct {
	Kind string
	// ID is no other reading's of this kind on this machine.
	ID   string
	Name string
	// Context is the place, in the words of Redfish (PhysicalContext): CPU, Intake...; "" if it is not told.
	Context string
	Value   *float64 // nil if there is none now
	Unit    string
	// Health is OK, Warning or Critical; "" if it is not told.
	Health string
}
