package server

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ingot/internal/conductor"
	"ingot/internal/config"
	"ingot/internal/driver"
)

// Names of the metrics of sensors. Those that begin with baremetal are what ironic-prometheus-exporter calls them for
// Redfish (its parsers redfish.py and header.py); of the others it has none.
const (
	// metricTemperature has the place in it, in small letters.
	metricTemperature = "baremetal_temp_%_celsius"
	metricSensorsRead = "baremetal_last_payload_timestamp_seconds"
	metricFanSpeed    = "ingot_sensor_fan_rpm"
	metricFanPercent  = "ingot_sensor_fan_percent"
	metricPower       = "ingot_sensor_power_watts"
	metricVoltage     = "ingot_sensor_voltage_volts"
	metricPartHealth  = "ingot_sensor_health"
)

// metricStatus are 0 for OK and 1 for anything else.
var metricStatus = map[string]string{driver.Fan: "baremetal_fan_status", driver.PowerUse: "baremetal_power_status",
	driver.DriveHealth: "baremetal_drive_status"}

// metricValues are those of readings that are no temperatures, by unit.
var metricValues = map[string]struct{ name, help string }{
	driver.RPM:     {metricFanSpeed, "Speed of a fan."},
	driver.Percent: {metricFanPercent, "Speed of a fan whose BMC tells no other."},
	driver.Watt:    {metricPower, "Power that a power supply gives, or else takes, and that the chassis takes."},
	driver.Volt:    {metricVoltage, "Voltage, that of the input for power supplies."},
}

// healths are the values of metricPartHealth.
var healths = map[string]float64{"OK": 0, "Warning": 1, "Critical": 2}

// sensorOptions is what the configuration says of sensors.
func sensorOptions(s config.SensorData) conductor.SensorOptions {
	if !s.Send {
		return conductor.SensorOptions{}
	}
	return conductor.SensorOptions{Interval: time.Duration(s.Interval), Workers: s.Workers, Kinds: s.Types,
		Undeployed: s.Undeployed}
}

// sensors tells what the sensors of this conductor's machines told, when asked.
type sensors struct{ conductor *conductor.Conductor }

// Describe tells nothing: names have places in them that BMCs tell.
func (*sensors) Describe(chan<- *prometheus.Desc) {}

// Collect tells of all machines.
func (s *sensors) Collect(ch chan<- prometheus.Metric) {
	t := teller{ch, map[string]*prometheus.Desc{}}
	for _, m := range s.conductor.Sensors() {
		machine := labels{"node_name", m.Name, "node_uuid", m.Node, "instance_uuid", cmp.Or(m.Instance, m.Node)}
		read := 0.0
		if !m.At.IsZero() {
			read = float64(m.At.Unix())
		}
		t.tell(metricSensorsRead, "When sensors were read last, seconds since 1970; 0 is never.", machine, read)
		for _, r := range m.Readings {
			t.reading(machine, r)
		}
	}
}

// teller tells of samples, at one time.
type teller struct {
	ch chan<- prometheus.Metric
	// descs are by name: all samples of one have the same help and labels.
	descs map[string]*prometheus.Desc
}

func (t teller) reading(machine labels, r driver.Reading) {
	entity := r.Context
	switch {
	case r.Kind == driver.DriveHealth:
		entity = "HDD" // as the exporter has it, of all drives
	case r.Context == driver.PowerSupply && r.Kind == driver.PowerUse:
		entity = "PSU"
	}
	part := slices.Concat(machine, labels{"entity_id", entity, "sensor_id", r.ID, "sensor_name", r.Name})
	if r.Value != nil && r.Unit == driver.Celsius {
		t.tell(strings.Replace(metricTemperature, "%", place(r.Context), 1), "Temperature of a place.", part, *r.Value)
	}
	if m, known := metricValues[r.Unit]; known && r.Value != nil {
		t.tell(m.name, m.help, part, *r.Value)
	}
	if r.Health == "" {
		return
	}
	if name := metricStatus[r.Kind]; name != "" && (r.Kind != driver.PowerUse || entity == "PSU") {
		t.tell(name, "Health: 0 is OK, 1 is not.", part, min(healths[r.Health], 1))
	}
	t.tell(metricPartHealth, "Health: 0 is OK, 1 Warning, 2 Critical.", slices.Concat(part, labels{"kind", r.Kind}),
		healths[r.Health])
}

// labels are names and values in turn.
type labels []string

func (t teller) tell(name, help string, of labels, value float64) {
	var names, values []string
	for i := 0; i < len(of); i += 2 {
		names, values = append(names, of[i]), append(values, of[i+1])
	}
	desc := t.descs[name]
	if desc == nil {
		desc = prometheus.NewDesc(name, help, names, nil)
		t.descs[name] = desc
	}
	m, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, values...)
	if err != nil {
		m = prometheus.NewInvalidMetric(desc, err)
	}
	t.ch <- m
}

// place is a context as it may stand in the name of a metric.
func place(context string) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	context = strings.ToLower(context)
	if context == "" || len(context) > 32 || strings.Trim(context, letters) != "" {
		return "unknown"
	}
	return context
}
