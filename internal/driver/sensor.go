package driver

import "context"

// Sensors is an optional ability of Management: what the sensors of a machine tell, and its parts of their health, of
// some kinds; nil is all. It reads only, and may be called without a reservation.
type Sensors interface {
	Sensors(ctx context.Context, t *Task, kinds []string) (Readings, error)
}

// Kinds of readings, as Ironic names them.
const (
	Temperature = "Temperature"
	Fan         = "Fan"
	PowerUse    = "Power"
	Voltage     = "Voltage"
	DriveHealth = "Drive"
)

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

// Readings are those of one machine.
type Readings struct {
	All []Reading
	// Cut tells that there is more that could not be read now, or that there are too many.
	Cut bool
}

// Reading is what one sensor or part of a machine told. Texts are short and of one line.
type Reading struct {
	Kind string
	// ID is no other reading's of this kind on this machine, and the same at each reading.
	ID   string
	Name string
	// Context is the place, in the words of Redfish (PhysicalContext): CPU, Intake...; "" if it is not told.
	Context string
	Value   *float64 // nil if there is none now
	Unit    string
	// Health is OK, Warning or Critical; "" if it is not told.
	Health string
}
